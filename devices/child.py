"""The inside of the box: read a request, forbid oneself what it does not need, do it, reply, end.

Started by `devices.child_process` as a fresh interpreter; it imports the one engine it is asked for and
nothing of the agent.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from devices.batch_timing import BatchTask, TimedModel, time_batch
from devices.boxed_work import (
    BoxedFailure,
    BoxedOutcome,
    BoxedReply,
    BoxedRequest,
    LayerTask,
    ResourceLimits,
)
from devices.child_process import FRAME_HEADER_BYTES
from devices.engine import Engine
from devices.engines.registry import create_engine, offered_runtimes
from devices.errors import DevicesError, FailureCode, WorkFailed
from devices.inputs import make_tensors
from devices.measurement import LayerProfile
from devices.model_ref import resolve_input_shapes
from devices.timing import TimingReport, TimingTask, numpy_canary, time_model

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
PR_SET_NO_NEW_PRIVS = 38
PROCESSOR_GRACE_S = 5  # between the signal and the kill
# Each thread of a runtime reserves address space that no model uses: an 8 MiB stack and glibc's 128 MiB for a
# heap of its own.
THREAD_ADDRESS_BYTES = 136 << 20
ENGINE_ADDRESS_BYTES = 256 << 20  # libraries that an engine loads only with its first model


def main(reply_fd: int, parent_pid: int) -> None:
    """Entry of the child. An error that is not floor 0's ends it with a traceback on stderr and no reply."""
    die_with_parent(parent_pid)
    request = BoxedRequest.model_validate_json(read_frame(sys.stdin.buffer))
    models = [read_frame(sys.stdin.buffer) for _ in range(request.model_count)]
    try:
        reply = answer(request, models)
    except DevicesError as error:
        reply = BoxedReply(failure=BoxedFailure.from_error(error))
    except MemoryError as error:
        needed = WorkFailed(
            FailureCode.OUT_OF_MEMORY, f"the model needs more memory than its limit allows: {error}"
        )
        reply = BoxedReply(failure=BoxedFailure.from_error(needed))
    with os.fdopen(reply_fd, "wb") as pipe:
        pipe.write(reply.model_dump_json().encode())
    os._exit(0)  # runtimes that crash while they are torn down must not spoil a reply that is complete


def answer(request: BoxedRequest, models: Sequence[bytes]) -> BoxedReply:
    """Do the one task of the request. Engines are imported before the memory limit, models touched after
    it; a probe touches none and is not limited.
    """
    if request.probe is not None:
        probe = request.probe
        return BoxedReply(runtimes=offered_runtimes(probe.engines, probe.thread_counts, probe.optimizations))
    task = request.timing or request.batch or request.layers
    if task is None:
        raise WorkFailed(FailureCode.INTERNAL, "the request sets no task")
    engine = create_engine(task.runtime.engine)
    limit_resources(request.limits, task.runtime.threads)
    if isinstance(task, TimingTask):
        return BoxedReply(timing=_time(engine, models[0], task))
    if isinstance(task, BatchTask):
        return BoxedReply(batch=tuple(map(_outcome, time_batch(engine, models, task, numpy_canary()))))
    return BoxedReply(layers=_profile_layers(engine, models[0], task))


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the parent ends, gain no privileges, leave no core file. Linux; elsewhere only the
    last.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before the call above
        os._exit(1)


def limit_resources(limits: ResourceLimits, threads: int) -> None:
    """Forbid this process what the limits forbid; cannot be undone.

    The memory limit is the address space that the model may add to what interpreter and engine already
    occupy, plus what each thread reserves.
    """
    _lower(resource.RLIMIT_CPU, limits.processor_s, grace=PROCESSOR_GRACE_S)
    _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    if limits.memory_bytes is not None:
        reserved = address_space_bytes() + threads * THREAD_ADDRESS_BYTES + ENGINE_ADDRESS_BYTES
        _lower(resource.RLIMIT_AS, reserved + limits.memory_bytes)


def address_space_bytes() -> int:
    """Virtual memory of this process; 0 where the kernel does not tell."""
    return _status_field("VmSize") or 0


def peak_memory_bytes() -> int | None:
    """The most resident memory this process has had. Not `ru_maxrss`: that one inherits the parent's peak
    through exec.
    """
    return _status_field("VmHWM")


def read_frame(stream: BinaryIO) -> bytes:
    """One length-prefixed frame. Raises `EOFError` when the stream ends within it."""
    size = int.from_bytes(_read_exactly(stream, FRAME_HEADER_BYTES), "big")
    return _read_exactly(stream, size)


def _time(engine: Engine, model: bytes, task: TimingTask) -> TimingReport:
    report = time_model(engine, model, task, numpy_canary())
    return report.model_copy(update={"peak_memory_bytes": peak_memory_bytes()})


def _outcome(result: TimedModel | DevicesError) -> BoxedOutcome:
    if isinstance(result, DevicesError):
        return BoxedOutcome(failure=BoxedFailure.from_error(result))
    return BoxedOutcome(timing=result.report, layers=result.layers)


def _profile_layers(engine: Engine, model: bytes, task: LayerTask) -> LayerProfile | None:
    session = engine.load(model, task.runtime, task.input_shapes)
    shapes = resolve_input_shapes(session.inputs, task.input_shapes)
    tensors = make_tensors(session.inputs, shapes, seed=task.input_seed)
    del session
    return engine.profile_layers(model, task.runtime, tensors, task.runs)


def _lower(kind: int, wanted: int, *, grace: int = 0) -> None:
    """Set a limit, but never above the hard limit that this process already has."""
    _, hard = resource.getrlimit(kind)
    ceiling = wanted + grace if hard == resource.RLIM_INFINITY else min(wanted + grace, hard)
    resource.setrlimit(kind, (min(wanted, ceiling), ceiling))


def _status_field(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError(f"the request ended after {len(data)} of {size} bytes")
    return data
