"""Reading jobs and their events. Writing is `service.jobs.queue`'s."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db.tables import Job, JobEvent
from service.errors import NotFound
from service.jobs.states import JobKind, JobState
from service.paging import PageRequest, Rows, paginate


def get_job(session: Session, project_id: str, job_id: str) -> Job:
    """Raises `NotFound`."""
    job = session.scalar(select(Job).where(Job.project_id == project_id, Job.id == job_id))
    if job is None:
        raise NotFound("job", job_id)
    return job


def list_jobs(
    session: Session,
    project_id: str,
    page: PageRequest,
    *,
    states: Sequence[JobState] = (),
    kind: JobKind | None = None,
    parent_id: str | None = None,
) -> Rows[Job]:
    """Newest first."""
    statement = select(Job).where(Job.project_id == project_id)
    if states:
        statement = statement.where(Job.state.in_([state.value for state in states]))
    if kind is not None:
        statement = statement.where(Job.kind == kind.value)
    if parent_id is not None:
        statement = statement.where(Job.parent_id == parent_id)
    return paginate(session, statement, page, key=Job.id)


def events_after(session: Session, job_id: str, seq: int, limit: int) -> Sequence[JobEvent]:
    """Oldest first, of a job that the caller may see."""
    statement = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > seq)
    return session.scalars(statement.order_by(JobEvent.seq).limit(limit)).all()
