"""Delivery, at least once: a report is sent until the server accepts it or refuses it for good."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from devices.agent.client import AgentClient, LeaseLost, ServerUnavailable, TokenRefused
from devices.agent.logs import event
from devices.agent.retry import Backoff, RetryPolicy
from devices.agent.spool import Report, Spool
from devices.agent.work import MAX_DETAIL_CHARACTERS
from devices.errors import FailureCode, ServerRefused
from devices.wire import FailRequest

log = logging.getLogger(__name__)

GONE_STATUSES = frozenset({404, 409, 410})  # the job is no longer this agent's: nothing more to say about it


@dataclass(slots=True)
class _Parcel:
    """A report under way."""

    report: Report
    backoff: Backoff
    due_s: float


class Courier:
    """Sends reports through one client.

    Used by one thread; a report that cannot be sent does not hold up the others.
    """

    def __init__(
        self,
        client: AgentClient,
        spool: Spool,
        *,
        policy: RetryPolicy,
        rng: random.Random,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._spool = spool
        self._policy = policy
        self._rng = rng
        self._monotonic_s = monotonic_s
        self._parcels = [self._parcel(report) for report in spool.reports()]

    def __len__(self) -> int:
        """How many reports have not been answered for good."""
        return len(self._parcels)

    @property
    def next_due_s(self) -> float | None:
        """Seconds until the next try is due; None when there is nothing to send."""
        if not self._parcels:
            return None
        return max(0.0, min(parcel.due_s for parcel in self._parcels) - self._monotonic_s())

    def accept(self, report: Report) -> None:
        """Take responsibility for a report: on disk before it is sent.

        A full disk costs durability, not the result.
        """
        try:
            self._spool.put(report)
        except OSError as error:
            log.error(
                event(
                    "spool_failed", job=report.job_id, error=error, then="sending it without a copy on disk"
                )
            )
        self._parcels.append(self._parcel(report))

    def hurry(self) -> None:
        """Everything is due now: the server has just been heard of."""
        for parcel in self._parcels:
            parcel.due_s = self._monotonic_s()

    def send_due(self) -> None:
        """Try once each report whose time has come. Raises `TokenRefused`, with the reports kept."""
        now_s = self._monotonic_s()
        for parcel in [parcel for parcel in self._parcels if parcel.due_s <= now_s]:
            self._try(parcel)

    def send_all(self, *, give_up: threading.Event, patience_s: float) -> None:
        """Send until all is answered, until `give_up` or until patience ends.

        What is left stays in the spool.
        """
        deadline_s = self._monotonic_s() + patience_s
        while True:
            self.send_due()
            wait_s = self.next_due_s
            if wait_s is None or self._monotonic_s() + wait_s > deadline_s or give_up.wait(wait_s):
                return

    def _parcel(self, report: Report) -> _Parcel:
        return _Parcel(report, Backoff(self._policy, self._rng), self._monotonic_s())

    def _try(self, parcel: _Parcel) -> None:
        report = parcel.report
        try:
            if report.complete is not None:
                state = self._client.complete(report.job_id, report.complete)
            else:
                assert report.fail is not None
                state = self._client.fail(report.job_id, report.fail)
        except ServerUnavailable as error:
            parcel.due_s = self._monotonic_s() + parcel.backoff.next_s(error.retry_after_s)
            return
        except TokenRefused:
            raise
        except ServerRefused as refusal:
            self._settle(parcel)
            self._after_refusal(report, refusal)
            return
        self._settle(parcel)
        log.info(event("report_accepted", job=report.job_id, fence=report.fence, state=state.state))

    def _settle(self, parcel: _Parcel) -> None:
        self._parcels.remove(parcel)
        try:
            self._spool.remove(parcel.report)
        except OSError as error:  # the next start sends it once more, and the server accepts it once
            log.error(event("spool_failed", job=parcel.report.job_id, error=error, then="leaving the file"))

    def _after_refusal(self, report: Report, refusal: ServerRefused) -> None:
        """The result is dropped.

        A job that is still ours is failed with the reason, or it would be measured again for nothing.
        """
        is_gone = isinstance(refusal, LeaseLost) or refusal.status in GONE_STATUSES
        level = logging.WARNING if is_gone else logging.ERROR
        log.log(
            level,
            event("report_refused", job=report.job_id, fence=report.fence, answer=refusal, then="dropped"),
        )
        if report.complete is not None and not is_gone:
            detail = f"the server refused the measurement: {refusal}"[:MAX_DETAIL_CHARACTERS]
            fail = FailRequest(fence=report.fence, code=FailureCode.INTERNAL, detail=detail)
            self.accept(Report.of(report.job_id, fail))
