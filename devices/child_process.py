"""Run one request in a fresh child process that cannot outlive, outgrow or outwait its box.

The child gets an empty environment, a scratch folder of its own, its input on stdin as length-prefixed
frames, and one pipe to reply on. From here it is stopped by the clock, by cancellation, by the size of its
reply and, where its address space cannot be limited, by its resident memory. What it forbids itself (memory,
processor time, files) is in `devices.child`.

The calling thread must live as long as the call: the kernel kills the child when the thread that started it
ends.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from devices.errors import FailureCode, WorkFailed
from devices.scratch import scratch_folder

FRAME_HEADER_BYTES = 8  # big-endian length of what follows
MAX_REPLY_BYTES = 64 << 20
STDERR_TAIL_BYTES = 4096
CHUNK_BYTES = 1 << 18  # more than a pipe holds
POLL_S = 0.2
EXIT_POLL_S = 0.005
TERMINATE_GRACE_S = 2.0  # between asking and killing, when cancelled
EXIT_GRACE_S = 10.0  # between the end of the reply and the end of the process

# The child finds modules exactly where its parent does, whether installed or in a checkout; -I keeps
# everything else out.
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from devices.child import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
# Numeric libraries start a thread per core on import unless told otherwise; runtimes get their thread count
# from the request.
FIXED_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
PASSED_VARIABLES = (
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
)  # where libraries and GPUs are; nothing else gets in


@dataclass(frozen=True, slots=True)
class Box:
    """Limits that are enforced from outside. `resident_bytes`: watched where the child cannot limit its
    address space.
    """

    wall_s: float
    resident_bytes: int | None = None
    max_reply_bytes: int = MAX_REPLY_BYTES


@dataclass(slots=True)
class _Exchange:
    """The bytes still to be sent, and those that came back."""

    outgoing: memoryview
    reply: bytearray = field(default_factory=bytearray)
    stderr_tail: bytes = b""


def run_in_child(
    frames: Sequence[bytes],
    box: Box,
    *,
    on_start: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> bytes:
    """The child's reply. `on_start` is told the child's process id, `cancelled` is asked a few times a
    second.

    Raises `WorkFailed`: timed_out, cancelled, out_of_memory, out_of_disk, internal where no child can be
    started, or crashed with the end of what it wrote to stderr.
    """
    deadline_s = time.monotonic() + box.wall_s
    with scratch_folder() as scratch, _child(scratch) as (child, reply_fd):
        if on_start is not None:
            on_start(child.pid)
        exchange = _Exchange(memoryview(_framed(frames)))
        _converse(child, reply_fd, exchange, box=box, deadline_s=deadline_s, cancelled=cancelled)
        has_ended = _ends_within(child.pid, EXIT_GRACE_S)
    returncode = child.returncode if has_ended else None
    if returncode != 0 or not exchange.reply:
        raise failure_of_exit(returncode, exchange.stderr_tail.decode(errors="replace"))
    return bytes(exchange.reply)


def failure_of_exit(returncode: int | None, stderr: str) -> WorkFailed:
    """What a child's end without a reply means. `returncode`: negative is a signal, None a process that would
    not end.
    """
    tail = stderr.strip()[-STDERR_TAIL_BYTES // 2 :] or "it wrote nothing to stderr"
    if any(sign in stderr for sign in ("bad_alloc", "MemoryError", "Cannot allocate memory")):
        return WorkFailed(
            FailureCode.OUT_OF_MEMORY, f"the model needs more memory than its limit allows; {tail}"
        )
    if "No space left on device" in stderr:
        return WorkFailed(FailureCode.OUT_OF_DISK, f"no room on the disk; {tail}")
    if returncode is None:
        return WorkFailed(FailureCode.TIMED_OUT, f"the child closed its reply but did not end; {tail}")
    if returncode == -signal.SIGXCPU:
        return WorkFailed(FailureCode.TIMED_OUT, "the child used up its processor time; raise max_duration_s")
    if returncode == -signal.SIGKILL:
        return WorkFailed(
            FailureCode.OUT_OF_MEMORY,
            f"the child was killed from outside, as a system short of memory does; {tail}",
        )
    if returncode < 0:
        name = {known.value: known.name for known in signal.Signals}.get(-returncode, f"signal {-returncode}")
        return WorkFailed(FailureCode.CRASHED, f"the child died of {name}; {tail}")
    return WorkFailed(
        FailureCode.CRASHED, f"the child ended with status {returncode} and no usable reply; {tail}"
    )


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process (Linux); None where it cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None


@contextmanager
def _child(scratch: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A started child and the reading end of its reply pipe. At the end its whole process group is gone."""
    reply_fd, child_fd = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", "-c", BOOT, _import_path(), str(child_fd), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # native libraries print; the reply has a pipe of its own
            stderr=subprocess.PIPE,
            env=_environment(scratch),
            cwd=scratch,
            pass_fds=(child_fd,),
            start_new_session=True,
        )
    except OSError as error:
        os.close(reply_fd)
        raise WorkFailed(FailureCode.INTERNAL, f"cannot start a child process: {error}") from error
    finally:
        os.close(child_fd)
    try:
        yield child, reply_fd
    finally:
        _kill_group(child, signal.SIGKILL)
        child.wait()
        os.close(reply_fd)
        for pipe in (child.stdin, child.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _converse(
    child: subprocess.Popen[bytes],
    reply_fd: int,
    exchange: _Exchange,
    *,
    box: Box,
    deadline_s: float,
    cancelled: Callable[[], bool],
) -> None:
    """Send and receive until the child closes its reply pipe. No call blocks: a child that never reads is
    stopped too.
    """
    assert child.stdin is not None
    assert child.stderr is not None
    with selectors.DefaultSelector() as selector:
        for pipe, event in (
            (child.stdin.fileno(), selectors.EVENT_WRITE),
            (child.stderr.fileno(), selectors.EVENT_READ),
            (reply_fd, selectors.EVENT_READ),
        ):
            os.set_blocking(pipe, False)
            selector.register(pipe, event)
        is_open = True
        while is_open:
            _check_limits(child, box, deadline_s=deadline_s, cancelled=cancelled)
            for key, _ in selector.select(timeout=POLL_S):
                if key.fd == reply_fd:
                    is_open = _receive_reply(reply_fd, exchange, box.max_reply_bytes)
                elif key.fd == child.stderr.fileno():
                    _receive_stderr(selector, key.fd, exchange)
                else:
                    _send(selector, child, exchange)
        _drain_stderr(child.stderr.fileno(), exchange)


def _check_limits(
    child: subprocess.Popen[bytes], box: Box, *, deadline_s: float, cancelled: Callable[[], bool]
) -> None:
    if cancelled():
        _kill_group(child, signal.SIGTERM)
        _ends_within(child.pid, TERMINATE_GRACE_S)
        raise WorkFailed(FailureCode.CANCELLED, "the measurement was cancelled")
    if time.monotonic() >= deadline_s:
        raise WorkFailed(
            FailureCode.TIMED_OUT,
            f"the model did not end within {box.wall_s:.1f} s and was killed: it may never end, "
            "or max_duration_s is too small",
        )
    if box.resident_bytes is not None and (resident_bytes(child.pid) or 0) > box.resident_bytes:
        raise WorkFailed(
            FailureCode.OUT_OF_MEMORY,
            f"the model used more than {box.resident_bytes} bytes and was killed; raise memory_limit_bytes",
        )


def _receive_reply(reply_fd: int, exchange: _Exchange, limit: int) -> bool:
    """False at the end of the reply."""
    chunk = os.read(reply_fd, CHUNK_BYTES)
    exchange.reply += chunk
    if len(exchange.reply) > limit:
        raise WorkFailed(FailureCode.CRASHED, f"the child's reply is over {limit} bytes and was cut off")
    return bool(chunk)


def _receive_stderr(selector: selectors.BaseSelector, fd: int, exchange: _Exchange) -> None:
    chunk = os.read(fd, CHUNK_BYTES)
    exchange.stderr_tail = (exchange.stderr_tail + chunk)[-STDERR_TAIL_BYTES:]
    if not chunk:
        selector.unregister(fd)


def _drain_stderr(fd: int, exchange: _Exchange) -> None:
    """What is left in the pipe, once: a child that goes on writing must not hold up its end."""
    with suppress(BlockingIOError):
        exchange.stderr_tail = (exchange.stderr_tail + os.read(fd, CHUNK_BYTES))[-STDERR_TAIL_BYTES:]


def _send(selector: selectors.BaseSelector, child: subprocess.Popen[bytes], exchange: _Exchange) -> None:
    assert child.stdin is not None
    try:
        sent = os.write(child.stdin.fileno(), exchange.outgoing[:CHUNK_BYTES])
        exchange.outgoing = exchange.outgoing[sent:]
    except BlockingIOError:
        return
    except BrokenPipeError:  # it died early: its exit status tells the story
        exchange.outgoing = exchange.outgoing[:0]
    if not exchange.outgoing:
        selector.unregister(child.stdin.fileno())
        child.stdin.close()


def _ends_within(pid: int, duration_s: float) -> bool:
    """Wait for a child's end without reaping it: as long as it is a zombie, nothing else can get its
    number.
    """
    deadline_s = time.monotonic() + duration_s
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(EXIT_POLL_S)
    return True


def _kill_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _framed(frames: Sequence[bytes]) -> bytes:
    return b"".join(len(frame).to_bytes(FRAME_HEADER_BYTES, "big") + frame for frame in frames)


def _import_path() -> str:
    return json.dumps([str(Path(entry).resolve()) for entry in sys.path])


def _environment(scratch: str) -> dict[str, str]:
    passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return {**FIXED_ENVIRONMENT, **passed, "TMPDIR": scratch}
