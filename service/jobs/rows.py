"""Rows of jobs, as `service.jobs.queue` handles them: locked in one order, and told of in one numbering."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, func, insert, select
from sqlalchemy.orm import Session

from service.db.clock import now_plus
from service.db.tables import Job, JobEvent
from service.errors import NotFound


def lock(session: Session, job_id: str, *, project_id: str | None = None) -> Job:
    """The job as it is now; its parent and it stay locked until the transaction ends. Raises `NotFound`."""
    found = select(Job.parent_id).where(Job.id == job_id)
    row = session.execute(
        found if project_id is None else found.where(Job.project_id == project_id)
    ).one_or_none()
    if row is None:
        raise NotFound("job", job_id)
    if row.parent_id is not None:
        session.scalars(locking(row.parent_id)).one()
    return session.scalars(locking(job_id)).one()


def locking(job_id: str, *, skip_locked: bool = False) -> Select[Job]:
    """Selects one job, fresh from the database and locked; with `skip_locked` nothing, where it is locked."""
    return (
        select(Job)
        .where(Job.id == job_id)
        .with_for_update(skip_locked=skip_locked, key_share=True)
        .execution_options(populate_existing=True)
    )


def append_event(session: Session, job_id: str, type: str, data: Mapping[str, Any]) -> int:
    """The number of a new event of a job that is locked, so that numbers have no gaps and no duplicates."""
    last = select(func.coalesce(func.max(JobEvent.seq), 0)).where(JobEvent.job_id == job_id).scalar_subquery()
    statement = (
        insert(JobEvent)
        .values(job_id=job_id, seq=last + 1, type=type, data=dict(data))
        .returning(JobEvent.seq)
    )
    return session.scalars(statement).one()


def database_now(session: Session) -> dt.datetime:
    """The database's clock."""
    with session.no_autoflush:  # what was changed so far is stored together with what follows
        return session.scalars(select(now_plus())).one()
