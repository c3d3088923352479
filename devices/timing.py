"""Timing one model in one process: load, first run, warm-up, then rounds of samples spread over seconds.

This is what runs inside the box, so it knows an engine and its clock and nothing else. `devices.profile`
decides what to ask of it, `devices.verdict` judges the samples.

A round takes one slot of the span: one discarded warm-up run (the caches hold what ran in between), samples
in bursts with a canary after each, then the rest of the slot asleep. Rounds exist because a machine's speed
drifts over seconds: samples in a row see one moment of it.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from devices.engine import Clock, Engine, Session, Tensors
from devices.errors import FailureCode, WorkFailed
from devices.inputs import make_tensors
from devices.measurement import ColdStart, Round
from devices.model_ref import resolve_input_shapes
from devices.speed import time_canary
from devices.statistics import median, windows_agree
from devices.target import Runtime
from devices.vocabulary import Value

WARMUP_WINDOW_NS = 50_000_000  # a window of warm-up runs lasts this long,
MIN_WINDOW_RUNS, MAX_WINDOW_RUNS = 3, 50  # within these numbers of runs: a median needs three
MAX_WINDOWS = 40  # then the warm-up gives up and says so
WARMUP_TOLERANCE = 0.10
WARMUP_BUDGET_SHARE = 0.25
MAX_ROUND_SAMPLES = 512
SLOW_RUN_NS = 50_000_000  # a run this long fills the caches itself: no warm-up run per round
BURST_NS = 20_000_000  # samples in a row last about this long, then the canary has its turn
CANARY_RUNS = 5
CANARY_SIZE = 16_384  # floats: 64 KiB in, 64 KiB out, in any second-level cache
CANARY_REPEATS = 20
NS_PER_S = 1_000_000_000


class TimingTask(Value):
    """What one process is to time."""

    runtime: Runtime
    input_shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    input_seed: int = 0
    process: int = Field(default=0, ge=0)
    rounds: int = Field(ge=1)
    min_samples: int = Field(ge=1)  # over all rounds
    span_s: float = Field(gt=0)  # time over which the rounds are spread
    duty: float = Field(gt=0, le=1)  # share of a round's slot that samples fill, where the model is fast
    warmup_windows: int = Field(ge=1)  # consecutive windows whose medians must agree
    budget_s: float = Field(gt=0)  # from the start of loading, by the engine's clock; wins over the rest


class TimingReport(Value):
    """What one process did. `is_settled`: the warm-up ended because its windows agreed."""

    clock: str
    input_shapes: dict[str, tuple[int, ...]]
    cold_start: ColdStart
    rounds: tuple[Round, ...] = Field(min_length=1)
    is_settled: bool
    is_complete: bool  # all rounds with all samples that were asked for; false where the budget ended first
    peak_memory_bytes: int | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_samples(self) -> Self:
        for one in self.rounds:
            if (
                not one.samples_ns
                or min(one.samples_ns) < 0
                or len(one.cpu_ns) not in (0, len(one.samples_ns))
            ):
                raise ValueError("a round needs samples, none negative, and as many processor times or none")
        return self


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The warm-up runs of a process, the first run of all not among them."""

    times_ns: tuple[int, ...]
    run_ns: float  # median of the last window: what one run takes once warm
    is_settled: bool


def numpy_canary() -> Callable[[], None]:
    """The default canary: one vectorised exponential over an array that fits the caches, single-threaded,
    some 0.1 to 1 ms.
    """
    source = np.linspace(0.1, 1.0, CANARY_SIZE, dtype=np.float32)  # (CANARY_SIZE,)
    target = np.empty_like(source)

    def run_canary() -> None:
        for _ in range(CANARY_REPEATS):
            np.exp(source, out=target)

    return run_canary


def time_model(engine: Engine, model: bytes, task: TimingTask, canary: Callable[[], None]) -> TimingReport:
    """Load `model`, warm it up and time it. Raises what the engine raises, and `WorkFailed` where not one
    sample fits the budget.
    """
    clock = engine.clock
    started_ns = clock.wall_ns()
    deadline_ns = started_ns + int(task.budget_s * NS_PER_S)
    session = engine.load(model, task.runtime, task.input_shapes)
    load_ns = clock.wall_ns() - started_ns
    shapes = resolve_input_shapes(session.inputs, task.input_shapes)
    tensors = make_tensors(session.inputs, shapes, seed=task.input_seed)
    first_run_ns = timed_run(session, tensors, clock)
    gc.collect()
    gc.disable()
    try:
        warm_up = warm_up_session(
            session, tensors, clock, windows=task.warmup_windows, deadline_ns=deadline_ns
        )
        rounds, is_complete = time_rounds(
            session, tensors, clock, task=task, warm_up=warm_up, deadline_ns=deadline_ns, canary=canary
        )
    finally:
        gc.enable()
    return TimingReport(
        clock=clock.name,
        input_shapes=shapes,
        cold_start=ColdStart(load_ns=load_ns, first_run_ns=first_run_ns),
        rounds=tuple(rounds),
        is_settled=warm_up.is_settled,
        is_complete=is_complete,
        notes=tuple(session.notes),
    )


def warm_up_session(
    session: Session, tensors: Tensors, clock: Clock, *, windows: int, deadline_ns: int
) -> WarmUp:
    """Run until `windows` consecutive windows agree, `MAX_WINDOWS` have passed, or a quarter of the budget is
    spent.
    """
    start_ns = clock.wall_ns()
    stop_ns = start_ns + int((deadline_ns - start_ns) * WARMUP_BUDGET_SHARE)
    times_ns: list[int] = []
    medians: list[float] = []
    is_settled = False
    while not is_settled and len(medians) < MAX_WINDOWS:
        window_ns = _run_window(session, tensors, clock)
        times_ns += window_ns
        medians.append(median(window_ns))
        is_settled = windows_agree(medians, count=windows, tolerance=WARMUP_TOLERANCE)
        if clock.wall_ns() >= stop_ns:
            break
    return WarmUp(tuple(times_ns), run_ns=max(medians[-1], 1.0), is_settled=is_settled)


def time_rounds(
    session: Session,
    tensors: Tensors,
    clock: Clock,
    *,
    task: TimingTask,
    warm_up: WarmUp,
    deadline_ns: int,
    canary: Callable[[], None],
) -> tuple[list[Round], bool]:
    """The rounds, and whether they are all that was asked for. The first round carries the process's warm-up
    runs too.
    """
    slot_ns = task.span_s * NS_PER_S / task.rounds
    wanted = samples_per_round(task, warm_up.run_ns)
    first_start_ns = clock.wall_ns()
    rounds: list[Round] = []
    for index in range(task.rounds):
        count = min(wanted, int((deadline_ns - clock.wall_ns()) / warm_up.run_ns) - 1)
        if count < 1:
            break
        warmup_ns = () if warm_up.run_ns >= SLOW_RUN_NS else (timed_run(session, tensors, clock),)
        round_start_ns = clock.wall_ns()
        wall_ns, cpu_ns, canary_ns = take_round(
            session, tensors, clock, count=count, run_ns=warm_up.run_ns, canary=canary
        )
        rounds.append(
            Round(
                started_at_ns=round_start_ns - first_start_ns,
                process=task.process,
                warmup_ns=warmup_ns if rounds else warm_up.times_ns + warmup_ns,
                samples_ns=tuple(wall_ns),
                cpu_ns=tuple(cpu_ns),
                canary_ns=tuple(canary_ns),
            )
        )
        if index + 1 < task.rounds:
            next_start_ns = min(first_start_ns + (index + 1) * slot_ns, deadline_ns)
            clock.sleep_s(max(0.0, next_start_ns - clock.wall_ns()) / NS_PER_S)
    if not rounds:
        raise _no_time_left(warm_up.run_ns, task.budget_s)
    is_complete = len(rounds) == task.rounds and all(len(r.samples_ns) == wanted for r in rounds)
    return rounds, is_complete


def samples_per_round(task: TimingTask, run_ns: float) -> int:
    """Enough for the level's minimum, and as many as fill the duty share of a slot, within
    `MAX_ROUND_SAMPLES`.
    """
    needed = math.ceil(task.min_samples / task.rounds)
    fitting = int(task.duty * task.span_s * NS_PER_S / task.rounds / run_ns)
    return max(needed, min(fitting, MAX_ROUND_SAMPLES))


def take_round(
    session: Session, tensors: Tensors, clock: Clock, *, count: int, run_ns: float, canary: Callable[[], None]
) -> tuple[list[int], list[int], list[int]]:
    """`count` samples in bursts, each followed by the canary: both must see the same moments."""
    wall_ns: list[int] = []
    cpu_ns: list[int] = []
    canary_ns: list[int] = []
    burst = max(1, int(BURST_NS / run_ns))
    while len(wall_ns) < count:
        walls, cpus = _take_samples(session, tensors, clock, count=min(burst, count - len(wall_ns)))
        wall_ns += walls
        cpu_ns += cpus
        canary_ns += time_canary(canary, clock, runs=CANARY_RUNS)
    return wall_ns, cpu_ns, canary_ns


def _take_samples(
    session: Session, tensors: Tensors, clock: Clock, *, count: int
) -> tuple[list[int], list[int]]:
    """`count` runs in a row: wall and processor time of each. Nothing happens in between but reading
    clocks.
    """
    run, wall, cpu = session.run, clock.wall_ns, clock.cpu_ns
    wall_ns, cpu_ns = [0] * count, [0] * count
    for index in range(count):
        cpu_before = cpu()
        before = wall()
        run(tensors)
        wall_ns[index] = wall() - before
        cpu_ns[index] = cpu() - cpu_before
    return wall_ns, cpu_ns


def _run_window(session: Session, tensors: Tensors, clock: Clock) -> list[int]:
    """One window of warm-up runs; a single run where that is slow."""
    times_ns = [timed_run(session, tensors, clock)]
    if times_ns[0] >= SLOW_RUN_NS:
        return times_ns
    while len(times_ns) < MAX_WINDOW_RUNS and (
        len(times_ns) < MIN_WINDOW_RUNS or sum(times_ns) < WARMUP_WINDOW_NS
    ):
        times_ns.append(timed_run(session, tensors, clock))
    return times_ns


def timed_run(session: Session, tensors: Tensors, clock: Clock) -> int:
    """Wall time of one run, in nanoseconds."""
    before = clock.wall_ns()
    session.run(tensors)
    return clock.wall_ns() - before


def _no_time_left(run_ns: float, budget_s: float) -> WorkFailed:
    return WorkFailed(
        FailureCode.TIMED_OUT,
        f"one run takes {run_ns / NS_PER_S:.1f} s, and {budget_s:.1f} s leave no room for a sample "
        "after the first runs; raise the plan's max_duration_s",
    )
