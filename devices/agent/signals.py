"""Signals as messages. A handler runs between any two instructions of the main thread, where taking a lock
may deadlock and logging may corrupt; so the handlers do nothing, and the interpreter writes the signal's
number to a socket that the main thread reads.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from types import FrameType, TracebackType

Handler = (
    Callable[[int, FrameType | None], object] | int | signal.Handlers | None
)  # as `signal.signal` has it
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
WOKEN = 0  # what `wait` returns after `wake`: no signal has this number


class SignalInbox:
    """While entered, by the main thread, SIGTERM and SIGINT end nothing; `wait` returns them one by one."""

    def __init__(self) -> None:
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._previous: dict[signal.Signals, Handler] = {}
        self._previous_fd = -1

    def __enter__(self) -> SignalInbox:
        self._previous_fd = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, _ignore)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._reading.close()
        self._writing.close()

    def wait(self) -> int:
        """The number of the next signal, or `WOKEN`."""
        return self._reading.recv(1)[0]

    def wake(self) -> None:
        """Make `wait` return, from any thread."""
        self._writing.send(bytes([WOKEN]))

    def let_through(self) -> None:
        """From now on the signals do what they do by default: end the process at once."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The number travels through the socket."""
