"""Telling the server, beside all work, that this agent is alive and what it does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from devices.agent.client import AgentClient, ServerUnavailable, TokenRefused
from devices.agent.logs import event
from devices.errors import ServerRefused
from devices.wire import Cadence, HeartbeatRequest

log = logging.getLogger(__name__)

MIN_TIMEOUT_S, MAX_TIMEOUT_S = 1.0, 10.0  # a heartbeat that takes longer than the pace is late anyway
LAST_TIMEOUT_S = 3.0  # for the farewell: leaving must not take long


class Heartbeat:
    """A thread that sends what `compose` makes, at the pace the server asked for, and at once after
    `beat_now`.
    """

    def __init__(
        self,
        client: AgentClient,
        *,
        cadence: Cadence,
        compose: Callable[[], HeartbeatRequest],
        on_fatal: Callable[[Exception], None],
    ) -> None:
        self._client = client
        self.cadence = cadence  # the newest that the server gave
        self._compose = compose
        self._on_fatal = on_fatal
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._is_refused = False
        self._thread = threading.Thread(target=self._beat, name="heartbeat")

    def start(self) -> None:
        """Begin, with a first heartbeat at once."""
        self._thread.start()

    def beat_now(self) -> None:
        """Something changed that the server should know before the next heartbeat is due."""
        self._wake.set()

    def end(self, farewell: HeartbeatRequest | None) -> None:
        """Stop the thread, then say farewell, once: if it does not arrive, the server learns the same from
        silence.
        """
        self._ended.set()
        self._wake.set()
        self._thread.join()
        if farewell is not None:
            self._send(farewell, timeout_s=LAST_TIMEOUT_S)

    def _beat(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            try:
                timeout_s = max(MIN_TIMEOUT_S, min(self.cadence.heartbeat_s, MAX_TIMEOUT_S))
                self._send(self._compose(), timeout_s=timeout_s)
            except Exception as error:  # a bug: an agent without a heartbeat must not work on unnoticed
                log.exception(event("heartbeat_broke", error=repr(error)))
                self._on_fatal(error)
                return
            if not self._ended.is_set():
                self._wake.wait(self.cadence.heartbeat_s)

    def _send(self, request: HeartbeatRequest, *, timeout_s: float) -> None:
        try:
            self.cadence = self._client.heartbeat(request, timeout_s=timeout_s).cadence
            self._is_refused = False
        except ServerUnavailable:
            return  # logged once by the client; the next heartbeat is the retry
        except TokenRefused as error:
            self._ended.set()
            self._on_fatal(error)
        except ServerRefused as error:
            if not self._is_refused:
                log.error(event("heartbeat_refused", answer=error, then="going on"))
            self._is_refused = True
