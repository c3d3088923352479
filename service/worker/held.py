"""A job in the worker's hands: renewed by a thread beside the work, written to only under its fence.

Work is never stopped in the middle: it asks `is_cancelled` and `is_draining` between its steps. A lease that
was lost (the worker was suspended, or the database away, for longer than the lease) shows at the next write,
which is refused and rolled back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import structlog
from sqlalchemy.orm import Session

from service.db import tables
from service.db.session import Database
from service.errors import LeaseLost
from service.jobs import queue
from service.jobs.queue import Lease
from service.jobs.states import JobState
from service.worker.outages import DATABASE_AWAY, outlast, report_outage
from service.worker.stopping import StopRequest

RENEWALS_PER_LEASE = 3

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """What the row of a claimed job says."""

    id: str
    kind: str
    project_id: str
    target_id: str | None
    payload: dict[str, Any]

    @classmethod
    def of(cls, job: tables.Job) -> ClaimedJob:
        """From the row."""
        return cls(job.id, job.kind, job.project_id, job.target_id, job.payload)


class HeldJob:
    """One lease, as a context in which it is kept alive."""

    def __init__(self, database: Database, job: tables.Job, *, lease_s: float, stop: StopRequest) -> None:
        self.job = ClaimedJob.of(job)
        self.lease: Lease = queue.lease_of(job)
        self.lease_s = lease_s
        self._database = database
        self._stop = stop
        self._done = threading.Event()
        self._cancelled = threading.Event()
        self._lost = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name=f"renew-{job.id}", daemon=True)

    def __enter__(self) -> HeldJob:
        self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._renewer.join()

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody wants this job no longer."""
        return self._cancelled.is_set()

    @property
    def is_draining(self) -> bool:
        """Whether the worker was told to stop: give the job back at the next step."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raises `LeaseLost` where a renewal was refused, or found the job ended: what follows would be in
        vain.
        """
        if self._lost.is_set():
            raise LeaseLost(f"job {self.job.id} is this worker's no longer: its lease ran out meanwhile")

    def read(self, look: Callable[[Session], T]) -> T:
        """One snapshot of the database; waits out an outage."""
        return outlast(self._database.read, look, stop=self._stop)

    def write(self, change: Callable[[Session], T]) -> T:
        """One transaction; waits out an outage, so `change` must be repeatable. Raises `LeaseLost`, as does
        `change`.
        """
        self.check()
        return outlast(self._database.write, change, stop=self._stop)

    def start(self) -> None:
        """Say that the work begins."""
        self._note(self.write(lambda session: queue.start(session, self.lease)))
        self.check()

    def checkpoint(self, session: Session, progress: float) -> None:
        """Within the transaction that stores a checkpoint: renew the lease, and learn of a cancel. Raises
        `LeaseLost`.
        """
        self._note(queue.checkpoint(session, self.lease, lease_s=self.lease_s, progress=progress))
        self.check()

    def fail(self, *, code: str, detail: str, is_retryable: bool) -> str:
        """Give the work up; the state in which that leaves the job."""

        def change(session: Session) -> str:
            return queue.fail(session, self.lease, code=code, detail=detail, is_retryable=is_retryable).state

        return self.write(change)

    def _renew(self) -> None:
        pause_s = self.lease_s / RENEWALS_PER_LEASE
        while not self._done.wait(pause_s):
            try:
                with self._database.write() as session:
                    self._note(queue.renew(session, self.lease, lease_s=self.lease_s))
            except LeaseLost:
                self._lost.set()
                return
            except DATABASE_AWAY as error:
                report_outage(error, pause_s)

    def _note(self, job: tables.Job) -> None:
        if JobState(job.state).is_ended:  # given up for good meanwhile: a renewal then is no error
            self._lost.set()
        elif job.state == JobState.CANCELLING.value and not self._cancelled.is_set():
            log.info("cancel_requested", job=self.job.id)
            self._cancelled.set()
