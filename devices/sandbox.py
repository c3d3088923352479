"""Measure a foreign model without trusting it: every process that touches its bytes is a boxed child.

What holds, on Linux: a fresh interpreter per process with an empty environment and a scratch folder; limits
on memory, processor time, file size and open files that the child sets on itself before it touches the model;
its own process group, killed whole at the end; death with its parent; a wall clock kill; a reply of limited
size that must fit its schema. Memory: the address space is limited for CPU providers. Runtimes of
accelerators reserve far more address space than they use, so there the resident memory is watched instead, a
few times a second. Not yet: file system and network are still open to the child (`docs/measuring.md`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from pydantic import ValidationError

from devices.boxed_work import BoxedReply, BoxedRequest, LayerTask, ResourceLimits
from devices.child_process import Box, run_in_child
from devices.clock import SystemClock
from devices.conditions import read_conditions, read_throttle_count
from devices.engines.registry import CONVERTING_ENGINES
from devices.errors import FailureCode, ModelRejected, WorkFailed
from devices.measurement import LayerProfile, Measurement
from devices.model_ref import sha256_of
from devices.profile import Machine, MeasurementRequest, measure
from devices.target import Runtime
from devices.timing import TimingReport, TimingTask

__all__ = ["MeasurementRequest", "run_measurement"]

PROFILE_FILE_BYTES = 64 << 20  # what ONNX Runtime may write as its profile
ACCELERATOR_FILE_BYTES = 256 << 20  # CUDA and TensorRT spill to temporary files
ENGINE_RESIDENT_BYTES = 2 << 30  # libraries of an accelerator's runtime, on top of the model's own limit
PROCESSOR_SLACK_S = 30
WATCHED_MEMORY = (
    "provider {provider!r} cannot run under an address space limit: "
    "memory was watched from outside and not limited"
)


def run_measurement(
    request: MeasurementRequest,
    model: bytes,
    *,
    on_start: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Measurement:
    """Measure `model` as the request says, in one boxed child process after the other.

    `on_start` is told each child's process id, which is also its process group; `cancelled` is asked a few
    times a second. Call it from a thread that outlives the call. Raises `ModelRejected`, `EngineUnavailable`,
    or `WorkFailed`: timed_out, cancelled, out_of_memory, out_of_disk, crashed, inputs_invalid, internal.
    """
    if (actual := sha256_of(model)) != request.model.sha256:
        raise ModelRejected(
            f"the model's bytes have the SHA-256 {actual}, the request says {request.model.sha256}; "
            "send the right file"
        )
    provider = request.runtime.provider
    processes = BoxedProcesses(
        request=request,
        model=model,
        deadline_s=monotonic() + request.plan.max_duration_s,
        on_start=on_start,
        cancelled=cancelled,
    )
    machine = Machine(
        clock=SystemClock(),
        read_conditions=read_conditions,
        read_throttle_count=read_throttle_count,
        sandbox="rlimits",
        notes=() if provider == "cpu" else (WATCHED_MEMORY.format(provider=provider),),
    )
    return measure(request, processes, machine)


def file_limit_bytes(runtime: Runtime, memory_limit_bytes: int) -> int:
    """How large a file a runtime may write: none, except where its engine converts the model through files,
    or spills from an accelerator.
    """
    if runtime.engine in CONVERTING_ENGINES:
        return memory_limit_bytes
    return 0 if runtime.provider == "cpu" else ACCELERATOR_FILE_BYTES


@dataclass(frozen=True, slots=True)
class BoxedProcesses:
    """Satisfies `devices.profile.ProcessRunner`. All processes of a measurement share one deadline
    (`time.monotonic`).
    """

    request: MeasurementRequest
    model: bytes
    deadline_s: float
    on_start: Callable[[int], None] | None
    cancelled: Callable[[], bool]

    def time(self, task: TimingTask) -> TimingReport:
        """Time the model in a fresh boxed process."""
        reply = self._ask(BoxedRequest(limits=self._limits(), timing=task))
        if reply.timing is None:
            raise WorkFailed(FailureCode.CRASHED, "the child replied without a timing report")
        return reply.timing

    def profile_layers(self, runs: int) -> LayerProfile | None:
        """Profile the model's layers in a fresh boxed process, which may write a file into its scratch
        folder.
        """
        task = LayerTask(
            runtime=self.request.runtime,
            input_shapes=self.request.model.input_shapes,
            input_seed=self.request.plan.input_seed,
            runs=runs,
        )
        limits = self._limits()
        limits = limits.model_copy(update={"file_bytes": max(limits.file_bytes, PROFILE_FILE_BYTES)})
        return self._ask(BoxedRequest(limits=limits, layers=task)).layers

    def _ask(self, boxed: BoxedRequest) -> BoxedReply:
        frames = [boxed.model_dump_json().encode(), self.model]
        raw = run_in_child(frames, self._box(), on_start=self.on_start, cancelled=self.cancelled)
        try:
            reply = BoxedReply.model_validate_json(raw)
        except ValidationError as error:
            raise WorkFailed(
                FailureCode.CRASHED,
                f"the child's reply does not fit its schema: {error.error_count()} errors",
            ) from error
        if reply.failure is not None:
            raise reply.failure.to_error()
        return reply

    def _limits(self) -> ResourceLimits:
        plan, is_cpu = self.request.plan, self.request.runtime.provider == "cpu"
        return ResourceLimits(
            memory_bytes=plan.memory_limit_bytes if is_cpu else None,
            processor_s=int(plan.max_duration_s * (os.cpu_count() or 1)) + PROCESSOR_SLACK_S,
            file_bytes=file_limit_bytes(self.request.runtime, plan.memory_limit_bytes),
        )

    def _box(self) -> Box:
        is_cpu = self.request.runtime.provider == "cpu"
        watched = None if is_cpu else self.request.plan.memory_limit_bytes + ENGINE_RESIDENT_BYTES
        return Box(wall_s=max(0.1, self.deadline_s - monotonic()), resident_bytes=watched)
