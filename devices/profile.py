"""The measurement protocol: from a plan to a Measurement with a verdict.

`devices.levels` says what a level asks for, `devices.timing` is what each process does, `devices.verdict`
judges the outcome. Nothing here knows of real processes: they are passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, Protocol

from devices.engine import Clock
from devices.errors import EngineUnavailable, FailureCode, ModelRejected, WorkFailed
from devices.levels import RULES, Rules
from devices.measurement import (
    Conditions,
    Estimate,
    LayerProfile,
    Measurement,
    MeasurementPlan,
    Round,
    UsualSpeed,
    Verdict,
    by_process,
)
from devices.model_ref import ModelRef
from devices.speed import at_usual_speed, speed_of
from devices.statistics import (
    early_stopping_percentile,
    median,
    median_absolute_deviation,
    standard_error_of_median,
)
from devices.target import Runtime
from devices.timing import NS_PER_S, TimingReport, TimingTask
from devices.verdict import Evidence, broken_rules, discard_preempted, median_occupancy
from devices.version import agent_version
from devices.vocabulary import Value

NS_PER_MS = 1_000_000
PROFILED_RUNS = 10
MIN_PROCESSES_TO_COMPARE = 3
# Of the time that is left, for a child's own plan: the rest is its start, its last run and its reply.
BUDGET_SHARE = 0.85
LEFT_FOR_ANOTHER = 0.5  # start no further process with less time than this share of what the last one took
SURPLUS = 1.25  # samples asked for over samples needed: rounds may be discarded


class MeasurementRequest(Value):
    """Measure this model on this target."""

    device_key: str
    runtime: Runtime
    model: ModelRef
    plan: MeasurementPlan = MeasurementPlan()
    usual_speed: UsualSpeed | None = None  # of this machine; None: times are reported as they passed


class ProcessRunner(Protocol):
    """Runs tasks in fresh processes. Raises `ModelRejected`, `EngineUnavailable` or `WorkFailed`."""

    def time(self, task: TimingTask) -> TimingReport:
        """Time the model in a fresh process."""
        ...

    def profile_layers(self, runs: int) -> LayerProfile | None:
        """Profile the model's layers in another fresh process; None where the runtime cannot tell."""
        ...


@dataclass(frozen=True, slots=True)
class Machine:
    """What a measurement sees of the machine outside its processes."""

    clock: Clock
    read_conditions: Callable[[], Conditions]
    read_throttle_count: Callable[[], int | None]
    sandbox: Literal["none", "rlimits"]
    notes: tuple[str, ...] = ()


def measure(request: MeasurementRequest, processes: ProcessRunner, machine: Machine) -> Measurement:
    """Measure as the request's plan says. Raises what `processes` raises; a bad measurement is returned with
    its verdict.
    """
    rules = RULES[request.plan.level]
    before, counted_before = machine.read_conditions(), machine.read_throttle_count()
    started_ns = machine.clock.wall_ns()
    reports, rounds, usual_speed = _run_processes(request, rules, processes, machine.clock)
    after, counted_after = machine.read_conditions(), machine.read_throttle_count()
    rounds = discard_preempted(rounds, request.runtime, min_samples=rules.min_samples)
    evidence = Evidence(
        runtime=request.runtime,
        max_duration_s=request.plan.max_duration_s,
        rounds=rounds,
        estimate=estimate_of(rounds, rules, usual_speed),
        process_count=len(reports),
        is_settled=all(report.is_settled for report in reports),
        is_complete=all(report.is_complete for report in reports),
        before=before,
        after=after,
        is_throttled=counted_before != counted_after or bool(before.is_throttled or after.is_throttled),
    )
    left_s = request.plan.max_duration_s - (machine.clock.wall_ns() - started_ns) / NS_PER_S
    layers, layer_notes = _profile_layers(request.plan, processes, left_s)
    return _assemble(
        request,
        machine,
        evidence,
        reports=reports,
        usual_speed=usual_speed,
        rules=rules,
        layers=layers,
        notes=layer_notes,
    )


def estimate_of(rounds: Sequence[Round], rules: Rules, usual_speed: UsualSpeed | None = None) -> Estimate:
    """Statistics of the rounds that count, in milliseconds at the usual speed, where that is given."""
    observed = [r for r in rounds if r.discarded is None]
    counted = observed if usual_speed is None else at_usual_speed(observed, usual_speed)
    samples = list(chain.from_iterable(r.samples_ns for r in counted))
    cpu_ns = list(chain.from_iterable(r.cpu_ns for r in counted))
    bounds = {
        p: early_stopping_percentile(samples, p) if p in rules.percentiles else None for p in (0.9, 0.99)
    }
    return Estimate(
        median_ms=median(samples) / NS_PER_MS,
        observed_median_ms=median(list(chain.from_iterable(r.samples_ns for r in observed))) / NS_PER_MS,
        speed=None if usual_speed is None else speed_of(observed, usual_speed),
        p90_ms=_milliseconds(bounds[0.9]),
        p99_ms=_milliseconds(bounds[0.99]),
        cpu_median_ms=median(cpu_ns) / NS_PER_MS if cpu_ns else None,
        mad_ms=median_absolute_deviation(samples) / NS_PER_MS,
        standard_error_ms=_standard_error_ns(counted) / NS_PER_MS,
        sample_count=len(samples),
        round_count=len(counted),
    )


def _assemble(
    request: MeasurementRequest,
    machine: Machine,
    evidence: Evidence,
    *,
    reports: Sequence[TimingReport],
    usual_speed: UsualSpeed | None,
    rules: Rules,
    layers: LayerProfile | None,
    notes: Sequence[str],
) -> Measurement:
    reasons = broken_rules(rules, evidence)
    peaks = [report.peak_memory_bytes for report in reports if report.peak_memory_bytes is not None]
    all_notes = (*machine.notes, *chain.from_iterable(report.notes for report in reports), *notes)
    return Measurement(
        agent_version=agent_version(),
        device_key=request.device_key,
        runtime=request.runtime,
        model=ModelRef(sha256=request.model.sha256, input_shapes=reports[0].input_shapes),
        plan=request.plan,
        clock=reports[0].clock,
        sandbox=machine.sandbox,
        cold_starts=tuple(report.cold_start for report in reports),
        rounds=tuple(evidence.rounds),
        before=evidence.before,
        after=evidence.after,
        usual_speed=usual_speed,
        estimate=evidence.estimate,
        verdict=Verdict(is_valid=not reasons, reasons=reasons),
        peak_memory_bytes=max(peaks, default=None),
        layer_profile=layers,
        notes=tuple(dict.fromkeys(all_notes)),
    )


def _run_processes(
    request: MeasurementRequest, rules: Rules, processes: ProcessRunner, clock: Clock
) -> tuple[list[TimingReport], tuple[Round, ...], UsualSpeed | None]:
    """The reports of one process after the other, all their rounds on one time line, and the machine's usual
    speed where they can be compared with it.
    """
    reports: list[TimingReport] = []
    rounds: list[Round] = []
    usual_speed: UsualSpeed | None = None
    started_ns, last_took_s = clock.wall_ns(), 0.0
    for process in range(rules.max_processes):
        if process >= rules.processes and _is_accurate(rounds, rules, request.runtime, usual_speed):
            break
        offset_ns = clock.wall_ns() - started_ns
        left_s = request.plan.max_duration_s - offset_ns / NS_PER_S
        if left_s < LEFT_FOR_ANOTHER * last_took_s:
            break
        # Where processes are compared all must run; elsewhere one good look at a slow model is worth more.
        shares = 1 if rules.max_disagreement is None else rules.processes - process
        try:
            report = processes.time(_task(request, rules, process=process, left_s=left_s / shares))
        except WorkFailed as error:
            if error.code is FailureCode.TIMED_OUT and reports:
                break  # what the earlier processes measured still counts
            raise
        last_took_s = (clock.wall_ns() - started_ns - offset_ns) / NS_PER_S
        if not reports:
            usual_speed = _comparable_speed(request, report)
        reports.append(report)
        rounds += [
            r.model_copy(update={"started_at_ns": r.started_at_ns + offset_ns, "process": process})
            for r in report.rounds
        ]
    return reports, tuple(rounds), usual_speed


def _comparable_speed(request: MeasurementRequest, report: TimingReport) -> UsualSpeed | None:
    """The machine's usual speed, if the report was timed by the same clock, on the processor it tells of."""
    usual = request.usual_speed
    is_comparable = usual is not None and usual.clock == report.clock and request.runtime.provider == "cpu"
    return usual if is_comparable else None


def _is_accurate(
    rounds: Sequence[Round], rules: Rules, runtime: Runtime, usual_speed: UsualSpeed | None
) -> bool:
    if rules.target_error is None:
        return True
    kept = discard_preempted(rounds, runtime, min_samples=rules.min_samples)
    estimate = estimate_of(kept, rules, usual_speed)
    share = median_occupancy(estimate, runtime)
    if share is not None and share < rules.min_occupancy:
        return False
    return estimate.standard_error_ms <= rules.target_error * estimate.median_ms


def _task(request: MeasurementRequest, rules: Rules, *, process: int, left_s: float) -> TimingTask:
    return TimingTask(
        runtime=request.runtime,
        input_shapes=request.model.input_shapes,
        input_seed=request.plan.input_seed,
        process=process,
        rounds=rules.rounds,
        min_samples=math.ceil(SURPLUS * rules.min_samples / rules.processes),
        span_s=rules.span_s,
        duty=rules.duty,
        warmup_windows=rules.warmup_windows,
        budget_s=max(BUDGET_SHARE * left_s, 1e-3),
    )


def _profile_layers(
    plan: MeasurementPlan, processes: ProcessRunner, left_s: float
) -> tuple[LayerProfile | None, tuple[str, ...]]:
    """Layers are an extra: where only they fail, the measurement stands, with a note."""
    if not plan.with_layers:
        return None, ()
    if left_s <= 0:
        return None, (f"no layer profile: the time limit of {plan.max_duration_s:g} s was used up",)
    try:
        profile = processes.profile_layers(PROFILED_RUNS)
    except (EngineUnavailable, ModelRejected, WorkFailed) as error:
        if isinstance(error, WorkFailed) and error.code is FailureCode.CANCELLED:
            raise
        return None, (f"no layer profile: {error}",)
    return profile, () if profile is not None else ("no layer profile: this runtime does not tell",)


def _standard_error_ns(counted: Sequence[Round]) -> float:
    """From the spread between rounds, and between processes where there are three: the larger of the two.

    The rounds of one process share where it was placed and what the machine did in its second or two, so on
    their own they understate the error (threefold, on a shared virtual machine).
    """
    between_rounds = standard_error_of_median([r.samples_ns for r in counted])
    of_processes = [
        list(chain.from_iterable(r.samples_ns for r in own)) for own in by_process(counted).values()
    ]
    if len(of_processes) < MIN_PROCESSES_TO_COMPARE:
        return between_rounds
    return max(between_rounds, standard_error_of_median(of_processes))


def _milliseconds(value_ns: int | None) -> float | None:
    return None if value_ns is None else value_ns / NS_PER_MS
