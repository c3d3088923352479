"""Rows of searches and their trials. Every query is the project's, or of a search that was found as the
project's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from service.db import tables
from service.errors import NotFound
from service.paging import PageRequest, Rows, paginate


def search(session: Session, project_id: str, search_id: str) -> tables.Search:
    """Raises `NotFound`."""
    row = session.scalar(
        select(tables.Search).where(tables.Search.project_id == project_id, tables.Search.id == search_id)
    )
    if row is None:
        raise NotFound("search", search_id)
    return row


def searches(
    session: Session, project_id: str, page: PageRequest, *, target_id: str | None
) -> Rows[tables.Search]:
    """Newest first."""
    statement = select(tables.Search).where(tables.Search.project_id == project_id)
    if target_id is not None:
        statement = statement.where(tables.Search.target_id == target_id)
    return paginate(session, statement, page, key=tables.Search.id)


def target_keys(session: Session, project_id: str, ids: Collection[str]) -> dict[str, str]:
    """Keys of the project's targets by id."""
    statement = select(tables.Target.id, tables.Target.key).where(
        tables.Target.project_id == project_id, tables.Target.id.in_(ids)
    )
    return {row.id: row.key for row in session.execute(statement)}


def jobs(session: Session, project_id: str, ids: Collection[str]) -> dict[str, tables.Job]:
    """The project's jobs by id."""
    statement = select(tables.Job).where(tables.Job.project_id == project_id, tables.Job.id.in_(ids))
    return {row.id: row for row in session.scalars(statement)}


def trial_counts(session: Session, search_ids: Collection[str]) -> dict[str, int]:
    """How many trials each search has so far; none is left out."""
    statement = (
        select(tables.Trial.search_id, func.count().label("trial_count"))
        .where(tables.Trial.search_id.in_(search_ids))
        .group_by(tables.Trial.search_id)
    )
    return {row.search_id: row.trial_count for row in session.execute(statement)}


def trials(session: Session, search_id: str, page: PageRequest) -> Rows[tables.Trial]:
    """In the order of their numbers."""
    statement = select(tables.Trial).where(tables.Trial.search_id == search_id)
    return paginate(session, statement, page, key=tables.Trial.number, is_newest_first=False)


def front_members(session: Session, search_id: str) -> Sequence[tables.Trial]:
    """Trials on either front, in the order of their numbers."""
    is_member = or_(tables.Trial.on_predicted_front, tables.Trial.on_verified_front)
    statement = select(tables.Trial).where(tables.Trial.search_id == search_id, is_member)
    return session.scalars(statement.order_by(tables.Trial.number)).all()


def measurements(session: Session, project_id: str, ids: Collection[str]) -> dict[str, tables.Measurement]:
    """The project's measurements by id, without their documents."""
    statement = select(tables.Measurement).where(
        tables.Measurement.project_id == project_id, tables.Measurement.id.in_(ids)
    )
    return {row.id: row for row in session.scalars(statement)}
