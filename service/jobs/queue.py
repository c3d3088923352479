"""The queue: `service.jobs.states` applied to rows. Nobody else writes the tables `jobs` and `job_events`.

Every function works inside the caller's transaction (`Database.write()`), so that a job's end, its result and
its event are stored together or not at all. Rows are locked parent before child, everywhere, so that a
child's end and a parent's cancel cannot wait for each other. `claim` waits for nobody but a rival for the
same device, and belongs in a transaction of its own.

`waiting_for` of a parent is the number of its children that have not ended: counted up by `submit`, down by
the child's end, each in the transaction of that event. A job with unfinished children is not claimed. When a
parent ends, however it ends, its unfinished children are cancelled: nobody would use their results.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from service.db.clock import now_plus
from service.db.tables import Job
from service.errors import Conflict, LeaseLost
from service.ids import new_id
from service.jobs import states
from service.jobs.rows import append_event, database_now, lock, locking
from service.jobs.states import JobKind, JobState, StaleWrite, Status

LIVE_STATES = tuple(state.value for state in JobState if state.is_live)
ENDED_STATES = tuple(state.value for state in JobState if state.is_ended)
END_EVENTS = frozenset(ENDED_STATES)  # the type of a job's last event is the state it ended in
HOLDER_LOST = "holder_lost"  # failure code of a job whose agent or worker fell silent or left too often
_CLAIM_TRIES = 5
_ONE_LEASE_INDEX = "uq_jobs_live_device"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to one job, as long as the fence is the job's. `holder` is for people: it proves
    nothing.
    """

    job_id: str
    holder: str
    fence: int


def lease_of(job: Job) -> Lease:
    """The lease that a claim just gave."""
    if job.holder is None:
        raise ValueError(f"job {job.id} is {job.state} and held by nobody")
    return Lease(job.id, job.holder, job.fence)


def submit(
    session: Session,
    *,
    project_id: str,
    kind: JobKind | str,
    payload: Mapping[str, Any],
    device_id: str | None = None,
    target_id: str | None = None,
    parent_id: str | None = None,
    priority: int = 0,
    max_attempts: int = 3,
    delay_s: float = 0.0,
) -> Job:
    """A new job, queued; it is not claimed before `delay_s` from now. A child makes its parent wait for it.
    Raises `Conflict` (parent_ended) where that is too late.
    """
    parent = None if parent_id is None else _locked_parent(session, parent_id)
    job = Job(
        id=new_id("job"),
        project_id=project_id,
        kind=JobKind(kind).value,
        state=JobState.QUEUED.value,
        priority=priority,
        device_id=device_id,
        target_id=target_id,
        parent_id=parent_id,
        waiting_for=0,
        payload=dict(payload),
        attempt=0,
        max_attempts=max_attempts,
        fence=0,
        progress=0.0,
        not_before=now_plus(delay_s) if delay_s else None,
    )
    session.add(job)
    if parent is not None:
        parent.waiting_for += 1
    session.flush()
    append_event(session, job.id, "submitted", {"kind": job.kind})
    return job


def claim(
    session: Session,
    *,
    kinds: Collection[JobKind | str],
    holder: str,
    lease_s: float,
    device_id: str | None = None,
) -> Job | None:
    """Lease the next job of these kinds for `device_id` (None: the jobs that need no device), or None if
    there is none.

    Reaps expired leases first. A device has at most one live lease, which a unique index enforces: where two
    claims for one device race on PostgreSQL, the loser looks again.
    """
    reap(session)
    names = [JobKind(kind).value for kind in kinds]
    if device_id is None:
        job = _claim_once(session, names, holder, lease_s, None)
    else:
        job = _claim_for_device(session, names, holder, lease_s, device_id)
    if job is not None:
        append_event(
            session, job.id, "leased", {"holder": holder, "fence": job.fence, "attempt": job.attempt}
        )
    return job


def _claim_for_device(
    session: Session, kinds: list[str], holder: str, lease_s: float, device_id: str
) -> Job | None:
    for _ in range(_CLAIM_TRIES):
        try:
            with session.begin_nested():
                return _claim_once(session, kinds, holder, lease_s, device_id)
        except IntegrityError as error:  # another claim for this device was committed meanwhile: look again
            if _ONE_LEASE_INDEX not in str(error.orig):
                raise
    return None


def _claim_once(
    session: Session, kinds: list[str], holder: str, lease_s: float, device_id: str | None
) -> Job | None:
    if device_id is None:
        is_for_device: tuple[ColumnElement[bool], ...] = (Job.device_id.is_(None),)
    else:
        other = aliased(Job)
        live = select(other.id).where(other.device_id == device_id, other.state.in_(LIVE_STATES))
        is_for_device = (Job.device_id == device_id, ~live.exists())
    ready = (
        select(Job.id)
        .where(
            Job.state == JobState.QUEUED.value,
            Job.kind.in_(kinds),
            Job.waiting_for == 0,
            or_(Job.not_before.is_(None), Job.not_before <= now_plus()),
            *is_for_device,
        )
        .order_by(Job.priority, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
    )
    statement = (
        update(Job)
        .where(Job.id == ready.scalar_subquery())
        .values(
            state=JobState.LEASED.value,
            fence=Job.fence + 1,
            attempt=Job.attempt + 1,
            holder=holder,
            lease_until=now_plus(lease_s),
            not_before=None,
        )
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    return session.scalars(statement).one_or_none()


def hold(session: Session, lease: Lease) -> Job:
    """The job, locked, if the lease still holds it or its last holder asks after the end. Raises `LeaseLost`,
    `NotFound`.

    For a transaction that stores a result before it says `complete`: whoever comes second then finds the
    first one's result.
    """
    job = lock(session, lease.job_id)
    if job.fence != lease.fence or job.state == JobState.QUEUED.value:
        raise LeaseLost(f"the lease on job {job.id} with fence {lease.fence} is lost: it is {job.state}")
    return job


def start(session: Session, lease: Lease) -> Job:
    """The work begins."""
    job, before = _open(session, lease)
    after = _decide(states.start, before, lease)
    if before.state is JobState.LEASED:
        job.started_at = job.started_at or database_now(session)
        _store(session, job, after)
        append_event(session, job.id, "started", {"attempt": job.attempt})
    return job


def renew(session: Session, lease: Lease, *, lease_s: float, progress: float | None = None) -> Job:
    """The holder is alive and the lease lasts `lease_s` from now. After the end this is harmless."""
    return _renewed(session, lease, lease_s, progress, has_progressed=False)


def checkpoint(session: Session, lease: Lease, *, lease_s: float, progress: float) -> Job:
    """As `renew`, in the transaction that stores a checkpoint: what was done is kept, so attempts are
    forgiven.
    """
    return _renewed(session, lease, lease_s, progress, has_progressed=True)


def _renewed(
    session: Session, lease: Lease, lease_s: float, progress: float | None, *, has_progressed: bool
) -> Job:
    job, before = _open(session, lease)
    after = _decide(
        lambda status, fence: states.renew(status, fence, has_progressed=has_progressed), before, lease
    )
    if after.state.is_live:
        _store(session, job, after)
        session.execute(update(Job).where(Job.id == job.id).values(lease_until=now_plus(lease_s)))
        session.refresh(job)
        if progress is not None and progress != job.progress:
            job.progress = progress
            append_event(session, job.id, "progress", {"progress": progress})
    return job


def complete(session: Session, lease: Lease, result: Mapping[str, Any]) -> Job:
    """The work is done. Where a cancel came first the job ends cancelled, with its result kept. Repeating it
    is harmless.
    """
    job, before = _open(session, lease)
    after = _decide(states.complete, before, lease)
    if after != before:
        job.result = dict(result)
        _end(session, job, after, {"result": dict(result)})
    return job


def fail(session: Session, lease: Lease, *, code: str, detail: str, is_retryable: bool) -> Job:
    """The work came to nothing: queued again after a pause if a retry can succeed, else failed."""
    job, before = _open(session, lease)
    after = _decide(
        lambda status, fence: states.fail(status, fence, is_retryable=is_retryable), before, lease
    )
    if after != before:
        delay_s = states.retry_delay_s(before.attempt)
        _give_up(session, job, after, code=code, detail=detail, delay_s=delay_s)
    return job


def park(session: Session, lease: Lease, *, progress: float) -> Job:
    """Hand the job back: it is claimed again when its children have ended. A cancel that came first takes
    effect now.
    """
    job, before = _open(session, lease)
    after = _decide(states.park, before, lease)
    job.progress = progress
    if after.state.is_ended:
        _end(session, job, after, {})
    else:
        _store(session, job, after)
        append_event(session, job.id, "parked", {"waiting_for": job.waiting_for, "progress": progress})
    return job


def cancel(session: Session, *, project_id: str, job_id: str) -> Job:
    """Cancel a job and its children: at once what nobody holds, the rest when its holder hears of it. Raises
    `NotFound`.
    """
    job = lock(session, job_id, project_id=project_id)
    _cancel(session, job)
    return job


def emit(session: Session, job_id: str, type: str, data: Mapping[str, Any]) -> int | None:
    """Append an event to a job's history; its number. None where the job has ended, and its history with it.

    Raises `NotFound`, and ValueError for a type that would look like the job's end.
    """
    if type in END_EVENTS:
        raise ValueError(
            f"an event of type {type!r} ends a job's history; {sorted(END_EVENTS)} are the queue's own"
        )
    job = lock(session, job_id)
    return None if JobState(job.state).is_ended else append_event(session, job_id, type, data)


def reap(session: Session) -> int:
    """Give up the leases that ran out: queued again, failed after too many attempts, or cancelled. How many
    there were.
    """
    is_expired = (Job.state.in_(LIVE_STATES), Job.lease_until < now_plus())
    candidates = session.execute(
        select(Job.id, Job.parent_id)
        .where(*is_expired)
        .order_by(func.coalesce(Job.parent_id, Job.id), Job.id)
    ).all()
    reaped = 0
    for job_id, parent_id in candidates:
        # whoever writes to it now has either renewed it, or leaves it to the next claim
        if parent_id is not None and session.scalar(locking(parent_id, skip_locked=True)) is None:
            continue
        job = session.scalar(locking(job_id, skip_locked=True).where(*is_expired))
        if job is not None:
            _lose_holder(session, job, f"{job.holder} was silent until its lease ran out")
            reaped += 1
    return reaped


def release(session: Session, *, holder: str, device_id: str) -> int:
    """Give up the leases of a holder that is gone, as if they had run out: nothing waits for that. How many
    there were.
    """
    is_held = (Job.holder == holder, Job.device_id == device_id, Job.state.in_(LIVE_STATES))
    released = 0
    for job_id in session.scalars(select(Job.id).where(*is_held)).all():
        job = lock(session, job_id)
        if job.holder == holder:  # it may have come to an end before it was locked
            _lose_holder(session, job, f"{holder} left before it was done")
            released += 1
    return released


def _locked_parent(session: Session, parent_id: str) -> Job:
    parent = lock(session, parent_id)
    if JobState(parent.state).is_ended:
        raise Conflict("parent_ended", f"job {parent_id} is {parent.state}: it can have no more children")
    return parent


def _open(session: Session, lease: Lease) -> tuple[Job, Status]:
    job = lock(session, lease.job_id)
    return job, _status(job)


def _status(job: Job) -> Status:
    return Status(
        state=JobState(job.state),
        fence=job.fence,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        waiting_for=job.waiting_for,
        has_result=job.result is not None,
    )


def _decide(act: Any, before: Status, lease: Lease) -> Status:
    try:
        decided: Status = act(before, lease.fence)
    except StaleWrite as error:
        raise LeaseLost(f"job {lease.job_id}: {error}") from None
    return decided


def _store(session: Session, job: Job, after: Status) -> None:
    job.state = after.state.value
    job.attempt = after.attempt
    if not after.state.is_live:
        job.holder = None
        job.lease_until = None
    session.flush()


def _lose_holder(session: Session, job: Job, detail: str) -> None:
    _give_up(session, job, states.expire(_status(job)), code=HOLDER_LOST, detail=detail, delay_s=None)


def _give_up(
    session: Session, job: Job, after: Status, *, code: str, detail: str, delay_s: float | None
) -> None:
    if after.state is JobState.QUEUED:
        _store(session, job, after)
        if delay_s is not None:
            session.execute(update(Job).where(Job.id == job.id).values(not_before=now_plus(delay_s)))
            session.refresh(job)
        append_event(session, job.id, "requeued", {"code": code, "detail": detail, "attempt": job.attempt})
    else:
        if after.state is JobState.FAILED:
            job.failure_code = code
            job.failure_detail = detail
        _end(session, job, after, {"code": code, "detail": detail})


def _cancel(session: Session, job: Job) -> None:
    """Of a locked job; its children follow it."""
    before = _status(job)
    after = states.cancel(before)
    if after == before:
        return
    job.cancel_requested_at = database_now(session)
    if after.state.is_ended:
        _end(session, job, after, {})
    else:
        _store(session, job, after)
        append_event(session, job.id, "cancel_requested", {})
        _cancel_children(session, job)


def _cancel_children(session: Session, parent: Job) -> None:
    children = (
        select(Job.id).where(Job.parent_id == parent.id, Job.state.not_in(ENDED_STATES)).order_by(Job.id)
    )
    for child_id in session.scalars(children).all():
        _cancel(session, session.scalars(locking(child_id)).one())


def _end(session: Session, job: Job, after: Status, data: Mapping[str, Any]) -> None:
    """The one way into an ended state: event, parent's count and orphans in the same transaction."""
    job.finished_at = database_now(session)
    if after.state is JobState.SUCCEEDED:
        job.progress = 1.0
    _store(session, job, after)
    append_event(session, job.id, after.state.value, data)
    if job.parent_id is not None:
        _child_ended(session, job)
    if job.waiting_for:
        _cancel_children(session, job)


def _child_ended(session: Session, child: Job) -> None:
    parent = session.get_one(Job, child.parent_id)  # locked: every way here locks it before the child
    parent.waiting_for -= 1
    session.flush()
    if not JobState(parent.state).is_ended:
        data = {"job_id": child.id, "state": child.state, "waiting_for": parent.waiting_for}
        append_event(session, parent.id, "child_ended", data)
