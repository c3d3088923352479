"""Measurement: what a device did, with everything needed to judge it later.

Raw samples are kept in integer nanoseconds and statistics are chosen late (`devices.statistics`,
`docs/measuring.md`). A measurement that fails its validity check is still a result: `verdict.is_valid` is
false, the reasons say why, and it never trains a predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import chain
from typing import Literal

from pydantic import Field

from devices.model_ref import ModelRef
from devices.target import Runtime
from devices.vocabulary import Value

PROTOCOL_VERSION = 1  # raise it when numbers made before and after a change must not be mixed


class Level(StrEnum):
    """How much a measurement is worth, and costs."""

    QUICK = "quick"  # trains predictors, onboards targets
    STANDARD = "standard"  # answers queries, verifies a front
    CERTIFIED = "certified"  # gates and published tables


class Conditions(Value):
    """The state of the machine at one moment. None: this machine does not tell."""

    at_unix_s: float
    load_1m: float | None = None
    governor: str | None = None
    frequency_mhz: float | None = None
    temperature_c: float | None = None
    affinity: tuple[int, ...] = ()
    memory_available_bytes: int | None = None
    steal_fraction: float | None = (
        None  # share of processor time that the hypervisor gave to others since boot
    )
    is_throttled: bool | None = None


class Round(Value):
    """A burst of consecutive samples. Rounds are spread over seconds, because a machine's speed drifts.

    All times are of the engine's clock, in nanoseconds. `warmup_ns` were run first in this round and
    are no samples.
    """

    started_at_ns: int = Field(ge=0)  # since the first round began
    process: int = Field(default=0, ge=0)  # number of the fresh process that ran it
    warmup_ns: tuple[int, ...] = ()
    samples_ns: tuple[int, ...]
    cpu_ns: tuple[int, ...] = ()  # processor time of the process during each sample, all threads together
    canary_ns: tuple[int, ...] = ()  # a fixed small workload, timed in the same round
    discarded: str | None = None  # why this round does not count, if it does not


def by_process(rounds: Sequence[Round]) -> dict[int, list[Round]]:
    """The rounds of each fresh process, the processes in their order; no process is without a round."""
    groups: dict[int, list[Round]] = {process: [] for process in sorted({r.process for r in rounds})}
    for one in rounds:
        groups[one.process].append(one)
    return groups


class ColdStart(Value):
    """What the first use costs, per fresh process."""

    load_ns: int = Field(ge=0)  # from the file's bytes to a session
    first_run_ns: int = Field(ge=0)


class LayerTime(Value):
    """Time of one executed node, from a run of its own: profiling disturbs timing."""

    name: str
    kind: str
    provider: str
    median_ns: int = Field(ge=0)


class LayerProfile(Value):
    """Per-layer times. `coverage` is their sum over the end-to-end median of the same (profiled) run."""

    layers: tuple[LayerTime, ...]
    coverage: float


class UsualSpeed(Value):
    """How long the canary usually takes on one machine, by one clock. Comparable only within that clock."""

    canary_ns: float = Field(gt=0)
    clock: str


class Estimate(Value):
    """Statistics of the samples that count. Percentiles that the sample count cannot support are None.

    Where the machine's usual speed is known, all times are at that speed (`devices.speed`): `speed` is the
    one during the measurement over the usual one, and `observed_median_ms` the median as it passed.
    """

    median_ms: float
    observed_median_ms: float | None = None
    speed: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    cpu_median_ms: float | None = None
    mad_ms: float  # median absolute deviation
    standard_error_ms: float  # of the median, from the spread between rounds and processes
    sample_count: int
    round_count: int


class Verdict(Value):
    """Whether the measurement satisfies the rules of its level, and if not, each rule that it breaks."""

    is_valid: bool
    reasons: tuple[str, ...] = ()


class MeasurementPlan(Value):
    """What to measure and how far to go. The constants of the protocol are in `devices.levels`."""

    level: Level = Level.STANDARD
    with_layers: bool = False
    input_seed: int = Field(default=0, ge=0)
    # Over all processes; the box kills what lasts longer. A day is more than any level can use.
    max_duration_s: float = Field(default=180.0, gt=0, le=86_400)
    memory_limit_bytes: int = Field(default=4 << 30, ge=64 << 20)


class Measurement(Value):
    """One target, one model, raw samples, conditions and a verdict. Immutable."""

    protocol_version: int = PROTOCOL_VERSION
    agent_version: str
    device_key: str
    runtime: Runtime
    model: ModelRef
    plan: MeasurementPlan
    clock: str  # what the samples were timed with
    sandbox: Literal["none", "rlimits"]
    cold_starts: tuple[ColdStart, ...]
    rounds: tuple[Round, ...]
    before: Conditions
    after: Conditions
    usual_speed: UsualSpeed | None = None  # what the estimate's times are relative to
    estimate: Estimate
    verdict: Verdict
    peak_memory_bytes: int | None = None
    layer_profile: LayerProfile | None = None
    notes: tuple[str, ...] = ()  # findings for the user: what makes this model slower than it need be

    @property
    def counted_rounds(self) -> tuple[Round, ...]:
        """The rounds that were not discarded."""
        return tuple(r for r in self.rounds if r.discarded is None)

    @property
    def samples_ns(self) -> tuple[int, ...]:
        """All samples that count, in the order they were taken."""
        return tuple(chain.from_iterable(r.samples_ns for r in self.counted_rounds))
