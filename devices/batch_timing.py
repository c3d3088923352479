"""Timing many models in one process, in turn: a campaign's way to measure hundreds of models in minutes.

Every round passes through all models, so the samples of each are spread over the whole batch, and a slow
moment of the machine touches all of them alike. A model costs little more than its own samples, where a
process of its own would cost a second. What it gives up: models of a batch share one process, whose placement
in memory moves them together; a second pass in other batches shows by how much.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from devices.engine import Clock, Engine, Session, Tensors
from devices.errors import DevicesError
from devices.inputs import make_tensors
from devices.measurement import ColdStart, LayerProfile, Round
from devices.model_ref import resolve_input_shapes
from devices.target import Runtime
from devices.timing import NS_PER_S, TimingReport, WarmUp, take_round, timed_run, warm_up_session
from devices.turns import alone, among_others
from devices.vocabulary import Value

MIN_ROUND_SAMPLES, MAX_ROUND_SAMPLES = 2, 64
LEAST_ROUND_S = 0.1  # so that the samples of fast models are spread too
REST_S = 0.004  # worker threads of the model before wait busily for this long before they sleep


class BatchTask(Value):
    """What one process is to time: as many models as there are `input_shapes`."""

    runtime: Runtime
    input_shapes: tuple[dict[str, tuple[int, ...]], ...] = Field(min_length=1)
    input_seed: int = 0
    rounds: int = Field(ge=1)
    share_s: float = Field(gt=0)  # time that the samples of one model take together, where it is fast
    budget_s: float = Field(gt=0)  # for loading and warming up one model
    layer_runs: int = Field(default=0, ge=0)  # profiled runs of each model once all are timed; 0: none
    turns: str = ""  # a file to take turns by (`devices.turns`), where several processes share a device


@dataclass(slots=True)
class _Loaded:
    session: Session
    tensors: Tensors
    shapes: dict[str, tuple[int, ...]]
    cold_start: ColdStart
    warm_up: WarmUp
    rounds: list[Round] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TimedModel:
    """One model's report, and its layers where they were asked for and the runtime can tell."""

    report: TimingReport
    layers: LayerProfile | None


def time_batch(
    engine: Engine, models: Sequence[bytes], task: BatchTask, canary: Callable[[], None]
) -> list[TimedModel | DevicesError]:
    """For each model what was timed, or why it could not be loaded and run."""
    gc.collect()
    gc.disable()
    try:
        entries = [
            _load(engine, model, task, shapes)
            for model, shapes in zip(models, task.input_shapes, strict=True)
        ]
        with alone(task.turns):
            _time_rounds(engine.clock, entries, task, canary)
    finally:
        gc.enable()
    return [
        TimedModel(_report(entry, engine.clock), _layers(engine, model, task, entry))
        if isinstance(entry, _Loaded)
        else entry
        for entry, model in zip(entries, models, strict=True)
    ]


def _time_rounds(
    clock: Clock, entries: list[_Loaded | DevicesError], task: BatchTask, canary: Callable[[], None]
) -> None:
    """Round after round through all that loaded; what fails on the way becomes its error."""
    started_ns = clock.wall_ns()
    for number in range(task.rounds):
        due_ns = started_ns + int(number * LEAST_ROUND_S * NS_PER_S)
        clock.sleep_s(max(0.0, (due_ns - clock.wall_ns()) / NS_PER_S))
        for index, entry in enumerate(entries):
            if isinstance(entry, _Loaded):
                try:
                    _add_round(entry, clock, task, canary=canary, started_ns=started_ns)
                except DevicesError as error:
                    entries[index] = error


def _load(
    engine: Engine, model: bytes, task: BatchTask, given: dict[str, tuple[int, ...]]
) -> _Loaded | DevicesError:
    clock = engine.clock
    try:
        with among_others(task.turns):
            started_ns = clock.wall_ns()
            session = engine.load(model, task.runtime, given)
            load_ns = clock.wall_ns() - started_ns
            shapes = resolve_input_shapes(session.inputs, given)
            tensors = make_tensors(session.inputs, shapes, seed=task.input_seed)
            first_run_ns = timed_run(session, tensors, clock)
            deadline_ns = clock.wall_ns() + int(task.budget_s * NS_PER_S)
            warm_up = warm_up_session(session, tensors, clock, windows=1, deadline_ns=deadline_ns)
    except DevicesError as error:
        return error
    return _Loaded(session, tensors, shapes, ColdStart(load_ns=load_ns, first_run_ns=first_run_ns), warm_up)


def _add_round(
    entry: _Loaded, clock: Clock, task: BatchTask, *, canary: Callable[[], None], started_ns: int
) -> None:
    """One discarded run, because another model's data fills the caches, then samples and canaries."""
    if task.runtime.threads > 1:
        clock.sleep_s(REST_S)
    run_ns = entry.warm_up.run_ns
    count = int(task.share_s * NS_PER_S / task.rounds / run_ns)
    count = min(max(count, MIN_ROUND_SAMPLES), MAX_ROUND_SAMPLES)
    warmup_ns = (timed_run(entry.session, entry.tensors, clock),)
    round_start_ns = clock.wall_ns()
    wall_ns, cpu_ns, canary_ns = take_round(
        entry.session, entry.tensors, clock, count=count, run_ns=run_ns, canary=canary
    )
    entry.rounds.append(
        Round(
            started_at_ns=round_start_ns - started_ns,
            warmup_ns=warmup_ns if entry.rounds else entry.warm_up.times_ns + warmup_ns,
            samples_ns=tuple(wall_ns),
            cpu_ns=tuple(cpu_ns),
            canary_ns=tuple(canary_ns),
        )
    )


def _layers(engine: Engine, model: bytes, task: BatchTask, entry: _Loaded) -> LayerProfile | None:
    """Profiling disturbs timing, so it comes last; where it fails, the timing stands."""
    if not task.layer_runs:
        return None
    try:
        return engine.profile_layers(model, task.runtime, entry.tensors, task.layer_runs)
    except DevicesError:
        return None


def _report(entry: _Loaded, clock: Clock) -> TimingReport:
    return TimingReport(
        clock=clock.name,
        input_shapes=entry.shapes,
        cold_start=entry.cold_start,
        rounds=tuple(entry.rounds),
        is_settled=entry.warm_up.is_settled,
        is_complete=True,
        notes=tuple(entry.session.notes),
    )
