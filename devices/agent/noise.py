"""How steady this machine is: a fixed small workload, timed in rounds spread over two seconds.

A machine's speed drifts over seconds (a laptop's governor, a virtual machine's neighbours), so one burst says
nothing; what counts is how the medians of bursts differ. The advice follows `docs/measuring.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from devices.engine import Clock
from devices.statistics import coefficient_of_variation, median, spread
from devices.vocabulary import Value

ROUNDS = 20
RUNS_PER_ROUND = 200
PAUSE_S = 0.08  # between rounds
QUIET_VARIATION = 0.02
NOISY_VARIATION = 0.06
STOLEN_RATIO = 1.05  # wall over processor time of a single-threaded workload: above it, something else ran


class NoiseEstimate(Value):
    """`variation`: coefficient of variation of the rounds' medians.

    `spread`: slowest over fastest round, minus 1.
    """

    variation: float
    spread: float
    wall_over_cpu: float
    round_count: int

    @property
    def advice(self) -> str | None:
        """What to do about it; None on a quiet machine."""
        if self.wall_over_cpu > STOLEN_RATIO:
            return "other programs take processor time: stop them, or measure when the machine is idle"
        if self.variation > NOISY_VARIATION:
            return (
                "the speed drifts (frequency scaling, heat or a shared host): set the governor to "
                "performance where there is one, use level standard or certified, and compare only "
                "measurements whose verdict is valid"
            )
        if self.variation > QUIET_VARIATION:
            return "level quick is only good for rough numbers here: use standard or certified"
        return None


def estimate_noise(
    workload: Callable[[], None], clock: Clock, *, rounds: int = ROUNDS, runs_per_round: int = RUNS_PER_ROUND
) -> NoiseEstimate:
    """Time the workload; takes about two seconds with the defaults."""
    medians: list[float] = []
    ratios: list[float] = []
    workload()
    for _ in range(rounds):
        clock.sleep_s(PAUSE_S)
        cpu_before_ns, wall_before_ns = clock.cpu_ns(), clock.wall_ns()
        medians.append(median(_samples_ns(workload, clock, runs_per_round)))
        cpu_ns, wall_ns = clock.cpu_ns() - cpu_before_ns, clock.wall_ns() - wall_before_ns
        if cpu_ns > 0:
            ratios.append(wall_ns / cpu_ns)
    return NoiseEstimate(
        variation=coefficient_of_variation(medians),
        spread=spread(medians),
        wall_over_cpu=median(ratios) if ratios else 1.0,
        round_count=rounds,
    )


def clock_step_ns(clock: Clock, *, readings: int = 2000) -> int:
    """The smallest step of the clock that two readings in a row can see."""
    times_ns = [clock.wall_ns() for _ in range(readings)]
    steps_ns = [later - earlier for earlier, later in pairwise(times_ns) if later > earlier]
    return min(steps_ns, default=0)


def _samples_ns(workload: Callable[[], None], clock: Clock, runs: int) -> Sequence[int]:
    samples_ns = []
    for _ in range(runs):
        start_ns = clock.wall_ns()
        workload()
        samples_ns.append(clock.wall_ns() - start_ns)
    return samples_ns
