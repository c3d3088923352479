"""Measure many models on one target at once: one boxed process times all of them in turn
(`devices.batch_timing`), and each gets a Measurement of level quick with a verdict of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from devices.batch_timing import BatchTask
from devices.boxed_work import BoxedFailure, BoxedOutcome, BoxedReply, BoxedRequest, ResourceLimits
from devices.child_process import Box, run_in_child
from devices.clock import SystemClock
from devices.conditions import read_conditions, read_throttle_count
from devices.errors import DevicesError, FailureCode, WorkFailed
from devices.measurement import Conditions, LayerProfile, Measurement
from devices.profile import Machine, MeasurementRequest, measure
from devices.sandbox import PROFILE_FILE_BYTES, file_limit_bytes
from devices.target import Runtime
from devices.timing import TimingReport, TimingTask

ROUNDS = 5
SHARE_S = 0.08
LAYER_RUNS = 7
MODEL_BUDGET_S = 20.0
MEMORY_BYTES = 12 << 30


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A model of a batch. All requests of one batch are of one target."""

    request: MeasurementRequest
    model: bytes


def run_batch(
    entries: Sequence[BatchEntry], *, resident_bytes: int | None = None
) -> list[Measurement | DevicesError]:
    """For each entry its measurement (whose verdict may be invalid), or why there is none.

    A model that takes the whole process with it is found by halving the batch: the others are measured again
    without it. `resident_bytes`: watched from outside, for engines that reserve address space.
    """
    before, throttled_before = read_conditions(), read_throttle_count()
    try:
        outcomes = _ask(entries, resident_bytes)
    except WorkFailed as error:
        if len(entries) == 1:
            return [error]
        half = len(entries) // 2
        return [
            *run_batch(entries[:half], resident_bytes=resident_bytes),
            *run_batch(entries[half:], resident_bytes=resident_bytes),
        ]
    after = read_conditions()
    is_throttled = throttled_before != read_throttle_count()
    return [
        _measured(entry, outcome, before=before, after=after, is_throttled=is_throttled)
        for entry, outcome in zip(entries, outcomes, strict=True)
    ]


def _turns_of(runtime: Runtime) -> str:
    """Where batches take turns on an accelerator; several may load at once. A processor serves one."""
    if runtime.provider == "cpu":
        return ""
    return str(Path(tempfile.gettempdir()) / f"laptime-turns-{os.getuid()}-{runtime.provider}")


def _ask(entries: Sequence[BatchEntry], resident_bytes: int | None) -> Sequence[BoxedOutcome]:
    runtime = entries[0].request.runtime
    with_layers = entries[0].request.plan.with_layers
    wall_s = MODEL_BUDGET_S * len(entries)
    task = BatchTask(
        runtime=runtime,
        input_shapes=tuple(entry.request.model.input_shapes for entry in entries),
        input_seed=entries[0].request.plan.input_seed,
        rounds=ROUNDS,
        share_s=SHARE_S,
        budget_s=MODEL_BUDGET_S,
        layer_runs=LAYER_RUNS if with_layers else 0,
        turns=_turns_of(runtime),
    )
    limits = ResourceLimits(
        memory_bytes=MEMORY_BYTES if runtime.provider == "cpu" else None,
        processor_s=int(wall_s * (os.cpu_count() or 1)),
        file_bytes=max(file_limit_bytes(runtime, MEMORY_BYTES), PROFILE_FILE_BYTES if with_layers else 0),
    )
    boxed = BoxedRequest(limits=limits, batch=task)
    frames = [boxed.model_dump_json().encode(), *(entry.model for entry in entries)]
    raw = run_in_child(frames, Box(wall_s=wall_s, resident_bytes=resident_bytes))
    try:
        outcomes = BoxedReply.model_validate_json(raw)
    except ValidationError as error:
        raise WorkFailed(
            FailureCode.CRASHED, f"the child's reply does not fit its schema: {error.error_count()} errors"
        ) from error
    if outcomes.failure is not None:
        raise outcomes.failure.to_error()
    return outcomes.batch


def _measured(
    entry: BatchEntry,
    outcome: BoxedOutcome,
    *,
    before: Conditions,
    after: Conditions,
    is_throttled: bool,
) -> Measurement | DevicesError:
    if outcome.timing is None:
        failure = outcome.failure or BoxedFailure.from_error(
            WorkFailed(FailureCode.CRASHED, "the child replied without a timing report")
        )
        return failure.to_error()
    conditions, throttles = iter((before, after)), iter((0, int(is_throttled)))
    machine = Machine(
        clock=SystemClock(),
        read_conditions=lambda: next(conditions),
        read_throttle_count=lambda: next(throttles),
        sandbox="rlimits",
    )
    try:
        return measure(entry.request, _Timed([outcome.timing], outcome.layers), machine)
    except DevicesError as error:
        return error


@dataclass(slots=True)
class _Timed:
    """Satisfies `devices.profile.ProcessRunner` with processes that have run already."""

    reports: list[TimingReport]
    layers: LayerProfile | None

    def time(self, task: TimingTask) -> TimingReport:
        """The next report; then time is up."""
        del task
        if not self.reports:
            raise WorkFailed(FailureCode.TIMED_OUT, "a batch runs each model in one process")
        return self.reports.pop(0)

    def profile_layers(self, runs: int) -> LayerProfile | None:
        """The layers that were profiled, if any."""
        del runs
        return self.layers
