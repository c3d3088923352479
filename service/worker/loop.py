"""Claim, work, commit, again. Any number of workers run side by side on one database: the queue gives each
job to one of them.

Told to stop, a worker gives what it holds back to the queue at the next step of the work, with no attempt
lost. Killed, it holds its jobs until their leases run out, and another worker goes on from their last
checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import MappingProxyType

import structlog
from sqlalchemy.orm import Session

from predictor.errors import PredictorError
from search.errors import SearchError
from service.db import tables
from service.dependencies import Services
from service.errors import LeaseLost
from service.jobs import queue
from service.jobs.states import JobKind
from service.worker import adapt, search
from service.worker.failures import WorkRefused
from service.worker.held import HeldJob
from service.worker.outages import Interrupted, outlast
from service.worker.stopping import StopRequest

WORK: MappingProxyType[str, Callable[[HeldJob, Services], str]] = MappingProxyType(
    {JobKind.ADAPT.value: adapt.run, JobKind.SEARCH.value: search.run}
)
IDLE_PAUSE_S = 0.3  # between two looks at an empty queue
SWEEP_PAUSE_S = 5.0  # between two looks for targets whose onboarding came to nothing

log = structlog.get_logger(__name__)


class Worker:
    """One process's loop. `stop` ends it at the next step of whatever it does."""

    def __init__(self, services: Services, *, name: str, stop: StopRequest) -> None:
        self._services = services
        self._name = name
        self._stop = stop
        self._next_sweep_s = time.monotonic()

    def run(self) -> None:
        """Work until told to stop."""
        log.info(
            "worker_started",
            worker=self._name,
            database=self._services.database.engine.url.render_as_string(),
        )
        try:
            while not self._stop.is_set():
                self.sweep()
                if not self.run_once():
                    self._stop.wait(IDLE_PAUSE_S)
        except Interrupted as interrupted:
            log.warning("worker_interrupted", worker=self._name, reason=str(interrupted))
        log.info("worker_stopped", worker=self._name)

    def run_once(self) -> bool:
        """Do the next job, if there is one; whether there was."""
        job = outlast(self._services.database.write, self._claim, stop=self._stop)
        if job is None:
            return False
        lease_s = self._services.settings.worker_lease_s
        with HeldJob(self._services.database, job, lease_s=lease_s, stop=self._stop) as held:
            log.info("job_claimed", job=job.id, kind=job.kind, attempt=job.attempt, fence=job.fence)
            log.info("job_left", job=job.id, kind=job.kind, outcome=self._do(held))
        return True

    def sweep(self) -> None:
        """Settle targets whose onboarding came to nothing; at most once in `SWEEP_PAUSE_S`."""
        if time.monotonic() >= self._next_sweep_s:
            outlast(self._services.database.write, adapt.fail_abandoned_targets, stop=self._stop)
            self._next_sweep_s = time.monotonic() + SWEEP_PAUSE_S

    def _claim(self, session: Session) -> tables.Job | None:
        return queue.claim(
            session, kinds=tuple(WORK), holder=self._name, lease_s=self._services.settings.worker_lease_s
        )

    def _do(self, held: HeldJob) -> str:
        """Work on one job to one of its ends; which it was, for the log."""
        try:
            try:
                held.start()
                return WORK[held.job.kind](held, self._services)
            except WorkRefused as refused:
                return held.fail(code=refused.code, detail=refused.detail, is_retryable=refused.is_retryable)
            except (PredictorError, SearchError) as error:
                log.warning("work_failed", job=held.job.id, error=str(error))
                return held.fail(code="work_failed", detail=str(error), is_retryable=False)
            except OSError as error:  # a full disk, a lost mount: another try may find it mended
                log.error("work_failed", job=held.job.id, error=str(error))
                return held.fail(code="storage_failed", detail=str(error), is_retryable=True)
            except (LeaseLost, Interrupted):
                raise
            except Exception as error:
                log.error("unexpected_error", job=held.job.id, exc_info=error)
                detail = f"{type(error).__name__}: {error}; the worker's log has the details"
                return held.fail(code="internal", detail=detail, is_retryable=False)
        except LeaseLost as lost:
            log.warning("lease_lost", job=held.job.id, reason=str(lost))
            return "lease_lost"
