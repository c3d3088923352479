"""A request to stop that a signal handler may make.

A handler runs between any two instructions of the main thread. `threading.Event.set` takes a lock there,
which that same thread may hold at that moment and then waits for itself for ever. So the request is a flag
and a byte in a pipe.
"""

from __future__ import annotations

import os
import select
import signal

EXIT_FORCED = 130


class StopRequest:
    """Set once, by anybody; waited for by any thread."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        self._is_set = False

    def set(self) -> None:
        """Ask everybody to stop. Safe within a signal handler."""
        if not self._is_set:
            self._is_set = True
            os.write(self._writing, b"\0")  # never read: the pipe stays readable

    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._is_set

    def wait(self, duration_s: float) -> bool:
        """Let time pass, or return early when asked to stop; whether that was so."""
        select.select([self._reading], [], [], duration_s)
        return self._is_set


def stop_on_signals() -> StopRequest:
    """A request that SIGTERM and SIGINT make; the second of them ends the process on the spot."""
    stop = StopRequest()

    def on_signal(_number: int, _frame: object) -> None:
        if stop.is_set():
            os.write(2, b"worker: second signal, leaving at once\n")
            os._exit(EXIT_FORCED)
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop
