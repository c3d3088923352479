"""What measuring on a device would take, from its queue, its agent and its latest jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median

from sqlalchemy import false, func, or_, select
from sqlalchemy.orm import Session

from devices.measurement import Level
from devices.wire import AgentState
from service.db import tables
from service.db.clock import now_plus
from service.jobs import queue
from service.jobs.states import JobKind, JobState
from service.latency.decision import LEVELS
from service.latency.repository import Place
from service.measurements import shapes_sha256

LATEST_JOBS = 60
VAIN_S = 600.0  # a measurement that came to nothing is not tried again for so long
LATEST_VAIN = 1000
MIN_HISTORY = 3  # jobs of a level that make up a usual time, or a usual error
DEFAULT_JOB_S = {Level.QUICK: 8.0, Level.STANDARD: 20.0, Level.CERTIFIED: 120.0}
_IS_LEAVING = (AgentState.DRAINING.value, AgentState.STOPPED.value, AgentState.LOST.value)


@dataclass(frozen=True, slots=True)
class Outlook:
    """Of one device. `job_s`: the usual time of a job by level; `ahead_s`: that of all jobs which come before
    one that is queued now.
    """

    is_agent_alive: bool
    ahead_s: float
    job_s: dict[Level, float]


NOBODY = Outlook(is_agent_alive=False, ahead_s=0.0, job_s=DEFAULT_JOB_S)  # of a device that was not looked at


def outlooks(session: Session, device_ids: Collection[str], *, silent_after_s: float) -> dict[str, Outlook]:
    """By device id."""
    alive = _alive(session, device_ids, silent_after_s)
    found: dict[str, Outlook] = {}
    for device_id in device_ids:
        job_s = _usual_times(session, device_id)
        ahead_s = sum(job_s.get(level, job_s[Level.STANDARD]) for level in _levels_ahead(session, device_id))
        found[device_id] = Outlook(device_id in alive, ahead_s, job_s)
    return found


def usual_errors(session: Session, target_id: str) -> dict[Level, float]:
    """Standard errors of the target's latest valid measurements, as a fraction of their median, by level;
    levels with too few are left out.
    """
    row = tables.Measurement
    statement = (
        select(row.level, row.standard_error_ms / row.median_ms)
        .where(row.target_id == target_id, row.is_valid)
        .order_by(row.created_at.desc())
        .limit(LATEST_JOBS)
    )
    return _medians(session.execute(statement).all())


def vain_tries(session: Session, target_ids: Collection[str]) -> dict[Place, str]:
    """What was measured a short while ago and gave no valid measurement, with the reason. Whoever asks until
    there is an answer shall not measure without end.
    """
    job = tables.Job
    was_valid = func.coalesce(job.result["is_valid"].as_boolean(), false())
    statement = (
        select(job.target_id, job.payload, job.failure_code)
        .where(
            job.target_id.in_(target_ids),
            job.kind == JobKind.PROFILE.value,
            job.finished_at >= now_plus(-VAIN_S),
            or_(
                job.state == JobState.FAILED.value,
                (job.state == JobState.SUCCEEDED.value) & ~was_valid,
            ),
        )
        .order_by(job.id.desc())
        .limit(LATEST_VAIN)
    )
    return {
        (target_id, payload["model_id"], shapes_sha256(payload["input_shapes"])): code or "it was not valid"
        for target_id, payload, code in session.execute(statement)
        if target_id is not None
    }


def _alive(session: Session, device_ids: Collection[str], silent_after_s: float) -> frozenset[str]:
    agent = tables.Agent
    statement = select(agent.device_id).where(
        agent.device_id.in_(device_ids),
        agent.state.not_in(_IS_LEAVING),
        agent.last_seen_at >= now_plus(-silent_after_s),
    )
    return frozenset(session.scalars(statement))


def _usual_times(session: Session, device_id: str) -> dict[Level, float]:
    job, row = tables.Job, tables.Measurement
    statement = (
        select(row.level, job.started_at, job.finished_at)
        .join(row, row.job_id == job.id)
        .where(job.device_id == device_id, job.state == JobState.SUCCEEDED.value)
        .order_by(job.id.desc())
        .limit(LATEST_JOBS)
    )
    spans = [
        (level, (finished - started).total_seconds())
        for level, started, finished in session.execute(statement)
        if started is not None and finished is not None
    ]
    return DEFAULT_JOB_S | _medians(spans)


def _levels_ahead(session: Session, device_id: str) -> list[Level]:
    """Of the jobs that are under way on the device, and of those queued that come before a new one. What
    onboards a target gives way (`service.profiling`).
    """
    job = tables.Job
    statement = select(job.payload["plan"]["level"].as_string()).where(
        job.device_id == device_id,
        job.kind == JobKind.PROFILE.value,
        or_(
            job.state.in_(queue.LIVE_STATES),
            (job.state == JobState.QUEUED.value) & (job.priority <= 0),
        ),
    )
    return [Level(level) for level in session.scalars(statement)]


def _medians(pairs: Collection[tuple[str, float]]) -> dict[Level, float]:
    by_level: defaultdict[str, list[float]] = defaultdict(list)
    for level, value in pairs:
        by_level[level].append(value)
    return {
        level: median(by_level[level.value]) for level in LEVELS if len(by_level[level.value]) >= MIN_HISTORY
    }
