"""Child processes of the demo: each with a log file, watched, and stopped in the reverse order of their
start.

No child outlives the supervisor. Each gets a session of its own, so that Ctrl-C in a terminal reaches the
supervisor alone, which then stops its children in order; and the kernel tells each child when the supervisor
dies (`PR_SET_PDEATHSIG`), however it dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from service.demo.errors import ChildDied

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_S = 0.2
_GRACE_S = 2.5  # after the first SIGTERM, and after the second
_SHOWN_LINES = 12


@dataclass(frozen=True, slots=True)
class Child:
    """One running child and where it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def last_lines(self, count: int = _SHOWN_LINES) -> list[str]:
        """The end of the log."""
        return self.log.read_text(errors="replace").splitlines()[-count:]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child's process group; a child that has just ended is left alone."""
        if self.is_alive:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return


class Household:
    """The children of one supervisor, as a context: leaving it stops them all."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []

    def __enter__(self) -> Household:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Run `python ARGUMENTS` in this environment; its output is appended to `logs/NAME.log`."""
        log = self._logs / f"{name}.log"
        with (
            log.open("ab") as output,
            _uninterrupted(),
        ):  # a child that is not in the list would be left behind
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**environment, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
            child = Child(name, process, log)
            self._children.append(child)
        return child

    def check(self) -> None:
        """Raise `ChildDied` for the first child that no longer runs."""
        for child in self._children:
            if not child.is_alive:
                raise ChildDied(child.name, child.process.returncode, child.log, child.last_lines())

    def wait(self, duration_s: float) -> None:
        """Let time pass under watch. Raises `ChildDied`."""
        end = time.monotonic() + duration_s
        self.check()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(_POLL_S, left))
            self.check()

    def wait_until(self, is_done: Callable[[], bool], *, timeout_s: float) -> bool:
        """Watch until `is_done`; False if that took longer than `timeout_s`. Raises `ChildDied`."""
        end = time.monotonic() + timeout_s
        while not is_done():
            if time.monotonic() > end:
                return False
            self.wait(_POLL_S)
        return True

    def stop(self) -> None:
        """End every child, last started first, so that whoever reports still finds whom to report to.

        Not interruptible, but bounded.
        """
        former = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
        try:
            for child in reversed(self._children):
                _end(child)
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _end(child: Child) -> None:
    """Ask it to end, then not to finish what it is at, then do not ask."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        child.signal(number)
        try:
            child.process.wait(None if number == signal.SIGKILL else _GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        return


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Stop signals that come meanwhile take effect afterwards."""
    received: list[int] = []
    former = {
        number: signal.signal(number, lambda number, _frame: received.append(number))
        for number in STOP_SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def interrupt_on_stop_signals() -> None:
    """Make SIGTERM and SIGHUP end the demo as Ctrl-C does: through `KeyboardInterrupt` and every `with`
    block on the way.
    """

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in STOP_SIGNALS:
        signal.signal(number, interrupt)


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does between fork and exec: ask the kernel for SIGTERM at its parent's death."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the kernel knew
            os._exit(1)

    return arrange
