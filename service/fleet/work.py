"""The agents' daily round: heartbeats, leases and results. An agent reaches the jobs of its own device and
nothing else.

Waiting for work holds neither a thread nor a transaction: `wait_for_work` looks into the database now and
then, each look a short one in a thread, and sleeps on the event loop between them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from devices.measurement import Measurement
from devices.target import Runtime
from devices.vocabulary import Value
from devices.wire import (
    AgentState,
    CompleteRequest,
    FailRequest,
    HeartbeatReply,
    HeartbeatRequest,
    LeaseReply,
    LeaseState,
    LeaseWrite,
    ProfileWork,
)
from service import measurements
from service.db import tables
from service.dependencies import Services
from service.errors import Invalid, LeaseLost, NotFound, Unauthenticated
from service.fleet import repository
from service.fleet.onboarding import refresh
from service.fleet.registration import cadence_of
from service.jobs import queue
from service.jobs.queue import Lease
from service.jobs.states import JobKind, JobState
from service.profiling import ProfilePayload
from service.security import AgentPrincipal

POLL_S = 0.5  # between two looks for work
RESULT_REFUSED = "result_refused"  # failure code of a job whose agent reported what was not asked for
_MAX_FENCE = 2**31 - 1


def heartbeat(services: Services, caller: AgentPrincipal, request: HeartbeatRequest) -> HeartbeatReply:
    """Note that the agent is there, and tell it the cadence. One that stops gives back what it holds."""
    conditions = request.conditions
    if conditions is not None and not _is_finite(conditions):
        request = request.model_copy(update={"conditions": None})
    with services.database.write() as session:
        repository.note_heartbeat(session, caller.agent_id, request)
        if request.state is AgentState.STOPPED:
            queue.release(session, holder=caller.agent_id, device_id=caller.device_id)
    return HeartbeatReply(cadence=cadence_of(services.settings))


async def wait_for_work(
    services: Services, caller: AgentPrincipal, wait_s: float, *, is_gone: Callable[[], Awaitable[bool]]
) -> LeaseReply:
    """The next job of this device, or none after `wait_s`, or once the agent leaves or has hung up
    (`is_gone`).
    """
    deadline = time.monotonic() + min(wait_s, services.settings.agent_lease_wait_s)
    while True:
        reply = await run_in_threadpool(lease_work, services, caller)
        left_s = deadline - time.monotonic()
        if reply is not None or left_s <= 0:
            return reply or LeaseReply()
        await anyio.sleep(min(POLL_S, left_s))
        if await is_gone():  # what is claimed for nobody lies idle until its lease ends
            return LeaseReply()


def lease_work(services: Services, caller: AgentPrincipal) -> LeaseReply | None:
    """Claim one job of the agent's device; None where none is waiting. An agent that said that it leaves is
    told at once that there is none.

    Raises `Unauthenticated` for an agent that was replaced while it waited.
    """
    with services.database.read() as session:
        if _is_leaving(repository.agent_state(session, caller.agent_id)):
            return LeaseReply()
        if not repository.has_claimable(session, caller.device_id):
            return None
    lease_s = services.settings.agent_lease_s
    with services.database.write() as session:
        # locked: what the agent says of itself meanwhile counts before this claim, or frees the job after it
        if _is_leaving(repository.agent_state(session, caller.agent_id, is_locked=True)):
            return LeaseReply()
        job = queue.claim(
            session,
            kinds=[JobKind.PROFILE],
            holder=caller.agent_id,
            lease_s=lease_s,
            device_id=caller.device_id,
        )
        return None if job is None else LeaseReply(work=_work(session, job, lease_s))


def _is_leaving(state: AgentState | None) -> bool:
    if state is None:
        raise Unauthenticated("another agent has registered for this device")
    return state in {AgentState.DRAINING, AgentState.STOPPED}


def _work(session: Session, job: tables.Job, lease_s: float) -> ProfileWork:
    target = session.get_one(tables.Target, job.target_id)
    device = session.get_one(tables.Device, job.device_id)
    payload = ProfilePayload.model_validate(job.payload)
    return ProfileWork(
        job_id=job.id,
        fence=job.fence,
        lease_s=lease_s,
        runtime=Runtime.model_validate(target.runtime),
        device_key=device.key,
        model=payload.model,
        model_bytes=payload.model_bytes,
        plan=payload.plan,
    )


def start(services: Services, caller: AgentPrincipal, job_id: str, request: LeaseWrite) -> LeaseState:
    """The agent begins to measure. Raises `NotFound`, `LeaseLost`."""
    with services.database.write() as session:
        repository.job_of_device(session, caller.device_id, job_id)
        return _state(queue.start(session, _lease(caller, job_id, request.fence)))


def renew(services: Services, caller: AgentPrincipal, job_id: str, request: LeaseWrite) -> LeaseState:
    """The agent still measures; harmless after the end. Raises `NotFound`, `LeaseLost`."""
    lease_s = services.settings.agent_lease_s
    with services.database.write() as session:
        repository.job_of_device(session, caller.device_id, job_id)
        lease = _lease(caller, job_id, request.fence)
        return _state(queue.renew(session, lease, lease_s=lease_s, progress=request.progress))


def complete(services: Services, caller: AgentPrincipal, job_id: str, request: CompleteRequest) -> LeaseState:
    """Record a measurement and end its job, in one transaction; again when it is resent, without effect.

    What was not asked for, or cannot be a latency, ends the job as failed, for the agent would do no
    better next time. Raises `Invalid` then, and `NotFound` or `LeaseLost`.
    """
    refused: Invalid | None = None
    with services.database.write() as session:
        repository.job_of_device(session, caller.device_id, job_id)
        lease = _lease(caller, job_id, request.fence)
        job = queue.hold(session, lease)
        try:
            _check_plausible(session.get_one(tables.Device, caller.device_id), request.measurement)
            row = measurements.record(session, job=job, measurement=request.measurement)
        except Invalid as error:
            refused = error
            queue.fail(session, lease, code=RESULT_REFUSED, detail=error.detail, is_retryable=False)
        else:
            is_first = not JobState(job.state).is_ended
            job = queue.complete(session, lease, {"measurement_id": row.id, "is_valid": row.is_valid})
            if is_first and row.is_valid and not row.is_reference:
                refresh(session, row.target_id)
    if refused is not None:
        raise refused
    return _state(job)


def fail(services: Services, caller: AgentPrincipal, job_id: str, request: FailRequest) -> LeaseState:
    """The measurement came to no end; queued again where another try can succeed. Raises `NotFound`,
    `LeaseLost`.
    """
    with services.database.write() as session:
        repository.job_of_device(session, caller.device_id, job_id)
        job = queue.fail(
            session,
            _lease(caller, job_id, request.fence),
            code=request.code.value,
            detail=request.detail.replace("\x00", "\ufffd"),
            is_retryable=request.code.is_retryable,
        )
        return _state(job)


def model_file(services: Services, caller: AgentPrincipal, sha256: str) -> Path:
    """Where the bytes are of a model that this agent is to measure now. Raises `NotFound` for every other."""
    with services.database.read() as session:
        held = repository.jobs_held(session, device_id=caller.device_id, agent_id=caller.agent_id)
    if sha256 not in {ProfilePayload.model_validate(job.payload).sha256 for job in held}:
        raise NotFound("model in a job that this agent holds", sha256)
    return services.artifacts.path(sha256)


def _lease(caller: AgentPrincipal, job_id: str, fence: int) -> Lease:
    if not 0 <= fence <= _MAX_FENCE:
        raise LeaseLost(f"no lease on job {job_id} ever had the fence {fence}")
    return Lease(job_id, caller.agent_id, fence)


def _state(job: tables.Job) -> LeaseState:
    return LeaseState(job_id=job.id, state=job.state, cancel_requested=job.state == JobState.CANCELLING.value)


def _check_plausible(device: tables.Device, measurement: Measurement) -> None:
    """What no clock can have said. Whether it is what the job asked for is checked where it is recorded."""
    if measurement.device_key != device.key:
        detail = f"the measurement is of device {measurement.device_key!r}, the job is for {device.key!r}"
        raise Invalid("measurement_mismatch", detail)
    estimate = measurement.estimate
    if not all(_is_finite(part) for part in (estimate, measurement.before, measurement.after)):
        raise Invalid(
            "measurement_implausible",
            "estimate and conditions must be finite numbers, some are NaN or infinite",
        )
    if estimate.median_ms <= 0 or estimate.standard_error_ms < 0:
        raise Invalid(
            "measurement_implausible",
            f"median_ms must be above 0 and standard_error_ms at least 0, got {estimate.median_ms} and "
            f"{estimate.standard_error_ms}",
        )


def _is_finite(value: Value) -> bool:
    """Whether all numbers of a flat value are; JSON as stored has neither NaN nor infinity."""
    return all(
        math.isfinite(number) for number in value.model_dump().values() if isinstance(number, int | float)
    )
