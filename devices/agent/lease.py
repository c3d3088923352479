"""Keeping a lease: renewing beside the work, and noticing when the work is no longer wanted or no longer
ours.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from devices.agent.client import AgentClient, ServerUnavailable, TokenRefused
from devices.agent.logs import event
from devices.errors import ServerRefused
from devices.wire import LeaseState, LeaseWrite, ProfileWork

log = logging.getLogger(__name__)

ENDED_STATES = frozenset({"succeeded", "failed", "cancelled"})


class LeaseKeeper:
    """Renews every third of the lease time, in its own thread, from `__enter__` to `__exit__`.

    Time is this machine's monotonic clock, and a renewal counts from when it was sent, so the agent gives its
    lease up before the server does. (Two exceptions, harmless because the fence decides: the very first
    period counts from the reply's arrival, and the clock stands still while a machine is suspended.)
    """

    def __init__(
        self,
        client: AgentClient,
        work: ProfileWork,
        *,
        leased_at_s: float,
        on_fatal: Callable[[Exception], None],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._work = work
        self._renewed_at_s = leased_at_s
        self._on_fatal = on_fatal
        self._monotonic_s = monotonic_s
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._cancel_requested = threading.Event()
        self._is_reported = False
        self._thread = threading.Thread(target=self._keep, name=f"renew-{work.job_id}")

    @property
    def is_lost(self) -> bool:
        """Another holder may have the job: whatever this one does for it counts no more."""
        return self._lost.is_set() or self._unrenewed_s() >= self._work.lease_s

    @property
    def is_cancel_requested(self) -> bool:
        """The job's owner wants it no more; the lease still holds, and the end must be reported."""
        return self._cancel_requested.is_set()

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def reported(self) -> None:
        """The report is on its way. The lease is kept until it arrives; that the job then ends is no news."""
        self._is_reported = True

    def lose(self, why: str) -> None:
        """The lease is gone."""
        if not self._lost.is_set() and not self._is_reported:
            log.warning(
                event(
                    "lease_lost",
                    job=self._work.job_id,
                    fence=self._work.fence,
                    why=why,
                    then="dropping the work",
                )
            )
        self._lost.set()

    def observe(self, state: LeaseState) -> None:
        """Take in what the server says about the job in answer to a write."""
        if state.state in ENDED_STATES:
            self.lose(f"the job is {state.state}")
        elif state.cancel_requested and not self._cancel_requested.is_set():
            log.info(event("cancel_requested", job=self._work.job_id))
            self._cancel_requested.set()

    def _unrenewed_s(self) -> float:
        return self._monotonic_s() - self._renewed_at_s

    def _keep(self) -> None:
        period_s = self._work.lease_s / 3
        pause_s = period_s
        while not self._ended.wait(pause_s) and not self._lost.is_set():
            is_renewed = self._renew(timeout_s=period_s)
            unrenewed_s = self._unrenewed_s()
            if not is_renewed and unrenewed_s >= self._work.lease_s:
                self.lose(f"not renewed for {unrenewed_s:.1f} s of a lease of {self._work.lease_s:g} s")
            pause_s = period_s if is_renewed else period_s / 4

    def _renew(self, *, timeout_s: float) -> bool:
        sent_at_s = self._monotonic_s()
        try:
            state = self._client.renew(
                self._work.job_id, LeaseWrite(fence=self._work.fence), timeout_s=timeout_s
            )
        except ServerUnavailable:
            return False
        except TokenRefused as error:
            self.lose(str(error))
            self._on_fatal(error)
            return False
        except ServerRefused as error:
            self.lose(str(error))
            return False
        self._renewed_at_s = sent_at_s
        self.observe(state)
        return True
