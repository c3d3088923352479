"""Rows of models, targets and measurements. Every query is the project's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import BindParameter, Connection, Select, bindparam, case, func, or_, select
from sqlalchemy.orm import Session, aliased

from devices.measurement import Estimate
from devices.vocabulary import Value
from service.db import tables
from service.errors import NotFound
from service.latency.decision import LEVELS
from service.measurements import decompressed
from service.paging import PageRequest, Rows, paginate

DOCUMENTS_AT_ONCE = 100  # with all their samples in memory
Row = TypeVar("Row")
Place = tuple[str, str, str]  # target id, model id, SHA-256 of the shapes


class _Estimated(Value):
    """The part of a measurement's document that answers need."""

    estimate: Estimate


@dataclass(frozen=True, slots=True)
class TargetNow:
    """A target as it is in this moment; `revision` rises with every measurement."""

    id: str
    key: str
    device_id: str
    state: str
    state_reason: str | None
    live_predictor_id: str | None
    revision: int


# Of the table, not of the class: every query asks this, and neither objects nor a session are made for it.
_TARGETS = tables.Target.__table__.c
_NOW = select(
    _TARGETS.id,
    _TARGETS.key,
    _TARGETS.device_id,
    _TARGETS.state,
    _TARGETS.state_reason,
    _TARGETS.live_predictor_id,
    _TARGETS.revision,
).where(_TARGETS.project_id == bindparam("project_id"))
_READY = _NOW.where(_TARGETS.state == "ready").order_by(_TARGETS.key)


def models(session: Session, project_id: str, page: PageRequest, *, origin: str | None) -> Rows[tables.Model]:
    """Newest first."""
    statement = select(tables.Model).where(tables.Model.project_id == project_id)
    if origin is not None:
        statement = statement.where(tables.Model.origin == origin)
    return paginate(session, statement, page, key=tables.Model.id)


def models_by_name(session: Session, project_id: str, names: Collection[str]) -> dict[str, tables.Model]:
    """By id and by SHA-256, whichever was asked. Raises `NotFound` for the first that the project lacks."""
    is_named = or_(tables.Model.id.in_(names), tables.Model.sha256.in_(names))
    rows = session.scalars(select(tables.Model).where(tables.Model.project_id == project_id, is_named)).all()
    return _all_found("model", names, ((name, row) for row in rows for name in (row.id, row.sha256)))


def targets_now(connection: Connection, project_id: str, names: Sequence[str]) -> list[TargetNow]:
    """By id or by key, whichever was asked, in the order of the names. Raises `NotFound` for the first that
    the project lacks.
    """
    parameters = {_name(index): name for index, name in enumerate(names)}
    rows = connection.execute(_named(len(names)), {"project_id": project_id, **parameters})
    found = [TargetNow(*row) for row in rows]
    named = _all_found("target", names, ((name, row) for row in found for name in (row.id, row.key)))
    return [named[name] for name in names]


def ready_targets(connection: Connection, project_id: str) -> list[TargetNow]:
    """All of a project that are ready, in the order of their keys."""
    return [TargetNow(*row) for row in connection.execute(_READY, {"project_id": project_id})]


def targets_by_id(session: Session, project_id: str, ids: Collection[str]) -> dict[str, tables.Target]:
    """Those of the ids that are the project's."""
    statement = select(tables.Target).where(tables.Target.project_id == project_id, tables.Target.id.in_(ids))
    return {row.id: row for row in session.scalars(statement)}


def models_by_id(session: Session, project_id: str, ids: Collection[str]) -> dict[str, tables.Model]:
    """Those of the ids that are the project's."""
    statement = select(tables.Model).where(tables.Model.project_id == project_id, tables.Model.id.in_(ids))
    return {row.id: row for row in session.scalars(statement)}


def best_measurements(
    session: Session,
    project_id: str,
    *,
    target_ids: Collection[str],
    model_ids: Collection[str],
    shapes: Collection[str],
) -> dict[Place, tables.Measurement]:
    """For each target, model and shapes the valid measurement of the highest level, and of those the
    newest.
    """
    measurement = tables.Measurement
    worth = case({level.value: rank for rank, level in enumerate(LEVELS)}, value=measurement.level, else_=-1)
    place = (measurement.target_id, measurement.model_id, measurement.shapes_sha256)
    order = (worth.desc(), measurement.created_at.desc(), measurement.id.desc())
    ranked = (
        select(measurement.id, func.row_number().over(partition_by=place, order_by=order).label("place"))
        .where(
            measurement.project_id == project_id,
            measurement.is_valid,
            measurement.target_id.in_(target_ids),
            measurement.model_id.in_(model_ids),
            measurement.shapes_sha256.in_(shapes),
        )
        .subquery()
    )
    best = select(measurement).join(ranked, ranked.c.id == measurement.id).where(ranked.c.place == 1)
    return {(row.target_id, row.model_id, row.shapes_sha256): row for row in session.scalars(best)}


def measured_since(
    session: Session, target_id: str, predictor_id: str, *, limit: int
) -> list[tuple[tables.Measurement, str]]:
    """The newest valid measurement of each model that a target measured after this predictor was made, and
    not before, newest first, with the model's SHA-256. What was measured before, the predictor has learned
    from: it tells nothing of how well others are predicted.
    """
    row, other = tables.Measurement, aliased(tables.Measurement)
    made_at = select(tables.Predictor.created_at).where(tables.Predictor.id == predictor_id).scalar_subquery()
    same = (
        other.target_id == row.target_id,
        other.model_id == row.model_id,
        other.shapes_sha256 == row.shapes_sha256,
        other.is_valid,
    )
    is_learned = select(other.id).where(*same, other.created_at <= made_at).exists()
    is_repeated = select(other.id).where(*same, other.id > row.id).exists()
    statement = (
        select(row, tables.Model.sha256)
        .join(tables.Model, tables.Model.id == row.model_id)
        .where(row.target_id == target_id, row.is_valid, ~row.is_reference)
        .where(row.created_at > made_at, ~is_learned, ~is_repeated)
        .order_by(row.id.desc())
        .limit(limit)
    )
    return [(found, sha256) for found, sha256 in session.execute(statement)]


def round_counts(session: Session, project_id: str, ids: Sequence[str]) -> dict[str, int]:
    """From how many rounds each measurement's standard error comes, by its id."""
    measurement = tables.Measurement
    counts: dict[str, int] = {}
    for start in range(0, len(ids), DOCUMENTS_AT_ONCE):
        statement = select(measurement.id, measurement.document).where(
            measurement.project_id == project_id, measurement.id.in_(ids[start : start + DOCUMENTS_AT_ONCE])
        )
        for row_id, document in session.execute(statement):
            counts[row_id] = _Estimated.model_validate_json(decompressed(document)).estimate.round_count
    return counts


def measurements(
    session: Session,
    project_id: str,
    page: PageRequest,
    *,
    target_id: str | None,
    model_id: str | None,
    job_id: str | None,
) -> Rows[tables.Measurement]:
    """Newest first, filtered by what is given."""
    measurement = tables.Measurement
    statement = select(measurement).where(measurement.project_id == project_id)
    for column, wanted in (
        (measurement.target_id, target_id),
        (measurement.model_id, model_id),
        (measurement.job_id, job_id),
    ):
        if wanted is not None:
            statement = statement.where(column == wanted)
    return paginate(session, statement, page, key=measurement.id)


def measurement(session: Session, project_id: str, measurement_id: str) -> tables.Measurement:
    """Raises `NotFound`."""
    row = session.scalar(
        select(tables.Measurement).where(
            tables.Measurement.project_id == project_id, tables.Measurement.id == measurement_id
        )
    )
    if row is None:
        raise NotFound("measurement", measurement_id)
    return row


@cache
def _named(count: int) -> Select[Any]:
    """A parameter for each name, since one for all of them would be spelled out anew for every query."""
    names: list[BindParameter[str]] = [bindparam(_name(index)) for index in range(count)]
    return _NOW.where(or_(_TARGETS.id.in_(names), _TARGETS.key.in_(names)))


def _name(index: int) -> str:
    return f"name_{index}"


def _all_found(what: str, names: Iterable[str], found: Iterable[tuple[str, Row]]) -> dict[str, Row]:
    rows = dict(found)
    for name in names:
        if name not in rows:
            raise NotFound(what, name)
    return rows
