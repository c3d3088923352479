"""The fleet's rows. Every query names the project, or the device that an agent's token is bound to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, false, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from devices.wire import AgentState, HeartbeatRequest
from service.db import tables
from service.db.clock import now_plus
from service.errors import NotFound
from service.jobs import queue
from service.jobs.states import JobKind, JobState
from service.paging import PageRequest, Rows, paginate


@dataclass(frozen=True, slots=True)
class SeenAgent:
    """An agent's row, and whether the database's clock says that it has been silent for too long."""

    row: tables.Agent
    is_silent: bool


def lock_project(session: Session, project_id: str) -> None:
    """Registrations and announcements of one project happen one after the other: keys are chosen under
    this lock.

    It is one that rows may be added under, which refer to the project: whoever holds a job that an
    announcement waits for may have to add some before it lets go.
    """
    locked = select(tables.Project.id).where(tables.Project.id == project_id)
    session.scalars(locked.with_for_update(key_share=True)).one()


def device(session: Session, project_id: str, name: str) -> tables.Device:
    """By id or key. Raises `NotFound`."""
    is_named = or_(tables.Device.id == name, tables.Device.key == name)
    row = session.scalar(select(tables.Device).where(tables.Device.project_id == project_id, is_named))
    if row is None:
        raise NotFound("device", name)
    return row


def device_with_fingerprint(session: Session, project_id: str, fingerprint: str) -> tables.Device | None:
    """The machine itself, whatever it is called."""
    return session.scalar(
        select(tables.Device).where(
            tables.Device.project_id == project_id, tables.Device.fingerprint == fingerprint
        )
    )


def device_keys(session: Session, project_id: str) -> frozenset[str]:
    """All keys in use."""
    return frozenset(session.scalars(select(tables.Device.key).where(tables.Device.project_id == project_id)))


def devices(session: Session, project_id: str, page: PageRequest) -> Rows[tables.Device]:
    """Newest first."""
    statement = select(tables.Device).where(tables.Device.project_id == project_id)
    return paginate(session, statement, page, key=tables.Device.id)


def devices_by_id(session: Session, project_id: str, ids: Collection[str]) -> dict[str, tables.Device]:
    """Those of the ids that are the project's."""
    statement = select(tables.Device).where(tables.Device.project_id == project_id, tables.Device.id.in_(ids))
    return {row.id: row for row in session.scalars(statement)}


def agents(session: Session, device_ids: Collection[str], *, silent_after_s: float) -> dict[str, SeenAgent]:
    """The agents of these devices, by device id."""
    is_silent = tables.Agent.last_seen_at < now_plus(-silent_after_s)
    statement = select(tables.Agent, is_silent).where(tables.Agent.device_id.in_(device_ids))
    return {row.device_id: SeenAgent(row, bool(silent)) for row, silent in session.execute(statement)}


def remove_agent(session: Session, device_id: str) -> None:
    """The agent of a device, if there is one: its token dies with it.

    What it held is not given back: it may still be measuring until its leases end, and would disturb others.
    """
    session.execute(delete(tables.Agent).where(tables.Agent.device_id == device_id))


def agent_state(session: Session, agent_id: str, *, is_locked: bool = False) -> AgentState | None:
    """What an agent last said of itself; None for one that was replaced. If locked, it says nothing else
    before the transaction ends.
    """
    statement = select(tables.Agent.state).where(tables.Agent.id == agent_id)
    state = session.scalar(statement.with_for_update() if is_locked else statement)
    return None if state is None else AgentState(state)


def note_announcement(session: Session, agent_id: str, *, version: str) -> bool:
    """The agent has just started. False for one that was replaced."""
    values = {"last_seen_at": now_plus(), "version": version, "state": AgentState.IDLE.value}
    statement = update(tables.Agent).where(tables.Agent.id == agent_id).values(values)
    return session.scalar(statement.returning(tables.Agent.id)) is not None


def note_heartbeat(session: Session, agent_id: str, heartbeat: HeartbeatRequest) -> None:
    """The agent is there and says how it is. Where it says nothing of conditions the last known ones stay."""
    values: dict[str, object] = {"last_seen_at": now_plus(), "state": heartbeat.state.value}
    if heartbeat.conditions is not None:
        values["conditions"] = heartbeat.conditions.model_dump(mode="json")
    session.execute(update(tables.Agent).where(tables.Agent.id == agent_id).values(values))


def target(session: Session, project_id: str, target_id: str) -> tables.Target:
    """By id: keys hold slashes. Raises `NotFound`."""
    row = session.scalar(
        select(tables.Target).where(tables.Target.project_id == project_id, tables.Target.id == target_id)
    )
    if row is None:
        raise NotFound("target", target_id)
    return row


def targets_of_device(session: Session, device_id: str) -> Sequence[tables.Target]:
    """Oldest first."""
    statement = select(tables.Target).where(tables.Target.device_id == device_id).order_by(tables.Target.id)
    return session.scalars(statement).all()


def targets(
    session: Session, project_id: str, page: PageRequest, *, state: str | None, device_id: str | None
) -> Rows[tables.Target]:
    """Newest first, filtered by what is given."""
    statement = select(tables.Target).where(tables.Target.project_id == project_id)
    if state is not None:
        statement = statement.where(tables.Target.state == state)
    if device_id is not None:
        statement = statement.where(tables.Target.device_id == device_id)
    return paginate(session, statement, page, key=tables.Target.id)


def predictors(session: Session, ids: Collection[str]) -> Mapping[str, tables.Predictor]:
    """Predictors that targets of the project point at, by id."""
    statement = select(tables.Predictor).where(tables.Predictor.id.in_(ids))
    return {row.id: row for row in session.scalars(statement)}


def measured_since(session: Session, target_id: str, at: dt.datetime) -> int:
    """How many valid measurements a target got after a moment."""
    row = tables.Measurement
    statement = select(func.count()).where(row.target_id == target_id, row.is_valid, row.created_at > at)
    return session.scalars(statement).one()


def newest_onboarding_jobs(session: Session, project_id: str, target_ids: Collection[str]) -> dict[str, str]:
    """The id of each target's newest adapt job that an onboarding asked for, by target id."""
    job = tables.Job
    statement = (
        select(job.target_id, func.max(job.id))
        .where(job.project_id == project_id, job.kind == JobKind.ADAPT.value, job.target_id.in_(target_ids))
        .where(~_is_refresh())
        .group_by(job.target_id)
    )
    return {target_id: job_id for target_id, job_id in session.execute(statement) if target_id is not None}


def unfinished_onboarding(session: Session, target_id: str) -> str | None:
    """The adapt job that an onboarding under way waits for."""
    return _unfinished_adaptation(session, target_id, ~_is_refresh())


def unfinished_refresh(session: Session, target_id: str) -> str | None:
    """The adapt job that newer measurements asked for, if it has not ended."""
    return _unfinished_adaptation(session, target_id, _is_refresh())


def has_queued_adaptation(session: Session, target_id: str) -> bool:
    """Whether an adapt job is still to begin, and so will see every measurement that there is now."""
    is_queued = tables.Job.state == JobState.QUEUED.value
    return _unfinished_adaptation(session, target_id, is_queued) is not None


def _unfinished_adaptation(session: Session, target_id: str, condition: ColumnElement[bool]) -> str | None:
    job = tables.Job
    statement = select(job.id).where(
        job.target_id == target_id,
        job.kind == JobKind.ADAPT.value,
        job.state.not_in(queue.ENDED_STATES),
        condition,
    )
    return session.scalar(statement.order_by(job.id).limit(1))


def _is_refresh() -> ColumnElement[bool]:
    return func.coalesce(tables.Job.payload["is_refresh"].as_boolean(), false())


def unfinished_jobs(session: Session, target_id: str, kinds: Collection[JobKind]) -> Sequence[str]:
    """Ids of a target's jobs of these kinds that have not ended, oldest first: parents before their
    children.
    """
    job = tables.Job
    statement = (
        select(job.id)
        .where(
            job.target_id == target_id,
            job.kind.in_([kind.value for kind in kinds]),
            job.state.not_in(queue.ENDED_STATES),
        )
        .order_by(job.id)
    )
    return session.scalars(statement).all()


def has_claimable(session: Session, device_id: str) -> bool:
    """Whether a claim for this device may succeed: cheap enough to ask again and again while an agent waits.

    A lease that ran out counts, because claiming reaps it.
    """
    job, other = tables.Job, aliased(tables.Job)
    is_busy = select(other.id).where(
        other.device_id == device_id, other.state.in_(queue.LIVE_STATES), other.lease_until >= now_plus()
    )
    is_due = or_(job.not_before.is_(None), job.not_before <= now_plus())
    is_expired = job.state.in_(queue.LIVE_STATES) & (job.lease_until < now_plus())
    is_ready = (job.state == JobState.QUEUED.value) & (job.waiting_for == 0) & is_due
    found = (
        select(job.id).where(job.device_id == device_id, is_ready | is_expired, ~is_busy.exists()).limit(1)
    )
    return session.scalar(found) is not None


def job_of_device(session: Session, device_id: str, job_id: str) -> tables.Job:
    """A measurement for this device, whoever holds it. Raises `NotFound`."""
    row = session.scalar(select(tables.Job).where(tables.Job.id == job_id, tables.Job.device_id == device_id))
    if row is None:
        raise NotFound("job", job_id)
    return row


def jobs_held(session: Session, *, device_id: str, agent_id: str) -> Sequence[tables.Job]:
    """The live jobs that an agent holds: one at most, by the unique index."""
    job = tables.Job
    statement = select(job).where(
        job.device_id == device_id, job.holder == agent_id, job.state.in_(queue.LIVE_STATES)
    )
    return session.scalars(statement).all()
