"""One log line when something stops answering and one when it answers again, however often it is tried in
between.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from devices.agent.logs import event

log = logging.getLogger(__name__)


class OutageLog:
    """What is out at the moment, by name. Safe to use from several threads."""

    def __init__(self, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._since_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def failed(self, what: str, reason: str) -> None:
        """Another failure: a line is written for the first one only."""
        with self._lock:
            is_new = what not in self._since_s
            self._since_s.setdefault(what, self._monotonic_s())
        if is_new:
            log.warning(event("outage_began", what=what, reason=reason, then="retrying until it answers"))

    def worked(self, what: str) -> None:
        """A success: a line is written if it ends an outage."""
        with self._lock:
            since_s = self._since_s.pop(what, None)
        if since_s is not None:
            log.info(event("outage_ended", what=what, after_s=round(self._monotonic_s() - since_s, 1)))
