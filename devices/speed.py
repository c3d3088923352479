"""The usual speed of a machine, told by a canary: a fixed small workload timed beside every measurement.

A processor's speed drifts by some per cent over minutes (heat, a governor, a virtual machine's host), and a
model's latency drifts with it, whatever the number of samples. The canary drifts alike. So a machine keeps
what its canary took during its first measurements, and a later measurement reports milliseconds at that usual
speed: every sample times (usual canary time / canary time of the same process). What was observed stays
beside it, and the raw samples are never touched. `docs/measuring.md` has the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from devices.engine import Clock
from devices.measurement import Round, UsualSpeed, by_process
from devices.statistics import median


def process_canaries_ns(rounds: Sequence[Round]) -> list[float]:
    """The median canary time of each process, in the order of the processes."""
    of_each = (list(chain.from_iterable(r.canary_ns for r in own)) for own in by_process(rounds).values())
    return [median(times_ns) for times_ns in of_each if times_ns]


def time_canary(canary: Callable[[], None], clock: Clock, *, runs: int) -> list[int]:
    """Wall time of each of `runs` runs in a row, in nanoseconds."""
    times_ns = []
    for _ in range(runs):
        before = clock.wall_ns()
        canary()
        times_ns.append(clock.wall_ns() - before)
    return times_ns


def speed_of(rounds: Sequence[Round], usual: UsualSpeed) -> float:
    """The machine's speed during the rounds, 1 being the usual one; 1 where no canary was timed."""
    times_ns = list(chain.from_iterable(r.canary_ns for r in rounds))
    return usual.canary_ns / median(times_ns) if times_ns else 1.0


def at_usual_speed(rounds: Sequence[Round], usual: UsualSpeed) -> tuple[Round, ...]:
    """The rounds as they would have been: what ran at 0.9 of the usual speed takes 0.9 of its time.

    By process, because speed differs between processes as it drifts within one, and a process has enough
    canaries for a median. The canary times themselves stay.
    """
    speeds = {process: speed_of(own, usual) for process, own in by_process(rounds).items()}
    return tuple(
        r.model_copy(
            update={
                "samples_ns": tuple(round(t * speeds[r.process]) for t in r.samples_ns),
                "cpu_ns": tuple(round(t * speeds[r.process]) for t in r.cpu_ns),
            }
        )
        for r in rounds
    )
