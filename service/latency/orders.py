"""Measurements that queries ask for: queued once, joined by whoever asks for the same while they last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from devices.measurement import Level, MeasurementPlan
from service.db import tables
from service.jobs import queue
from service.jobs.states import JobKind, JobState
from service.latency.decision import LEVELS
from service.latency.findings import AskedModel
from service.profiling import ProfilePayload, submit_profile


@dataclass(frozen=True, slots=True)
class Order:
    """Measure this model on this target, for the answer at this position."""

    answer: int
    model: AskedModel
    target_id: str
    level: Level


def place(session: Session, project_id: str, orders: Sequence[Order]) -> dict[int, str]:
    """Queue each measurement, or join the job that is to make it already; the job's id by the answer's
    position.

    The targets' rows are locked meanwhile, in one order, so that two queries at once queue one job.
    """
    targets = _locked_targets(session, project_id, sorted({order.target_id for order in orders}))
    placed: dict[int, str] = {}
    for order in orders:
        target = targets[order.target_id]
        job_id = _live_job(session, order)
        if job_id is None:
            model = session.get_one(tables.Model, order.model.id)
            plan = MeasurementPlan(level=order.level)
            shapes = order.model.input_shapes
            job_id = submit_profile(session, target=target, model=model, input_shapes=shapes, plan=plan).id
        placed[order.answer] = job_id
    return placed


def _locked_targets(session: Session, project_id: str, ids: Sequence[str]) -> dict[str, tables.Target]:
    target = tables.Target
    statement = (
        select(target)
        .where(target.project_id == project_id, target.id.in_(ids))
        .order_by(target.id)
        .with_for_update(key_share=True)
    )
    return {row.id: row for row in session.scalars(statement)}


def _live_job(session: Session, order: Order) -> str | None:
    """The job that measures the same at this level or a higher one, and is not being cancelled."""
    job = tables.Job
    statement = select(job.id, job.payload).where(
        job.target_id == order.target_id,
        job.kind == JobKind.PROFILE.value,
        job.state.not_in((*queue.ENDED_STATES, JobState.CANCELLING.value)),
        job.payload["model_id"].as_string() == order.model.id,
    )
    for job_id, document in session.execute(statement.order_by(job.id)):
        payload = ProfilePayload.model_validate(document)
        is_same = payload.input_shapes == order.model.input_shapes
        if is_same and LEVELS.index(payload.plan.level) >= LEVELS.index(order.level):
            return str(job_id)
    return None
