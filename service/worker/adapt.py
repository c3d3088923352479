"""An adapt job: when the reference set has been measured on a target, make its predictor.

Where reference models gave no valid measurement, stand-ins are measured first, and the job waits for them.
The few-shot predictor adapts the shipped checkpoint to all valid measurements of the target, its reference
measurements first, and the project's other targets are further sources (the pool). The predictor, its
accuracy card, the target's state and the job's end are stored together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from devices.target import Hardware, Runtime
from predictor.adapt import TargetFacts, adapt
from predictor.evaluate import AccuracyCard, accuracy_card
from predictor.reference_set import reference_models
from service import predictors
from service.artifacts import Stored
from service.db import tables
from service.dependencies import Services
from service.fleet.onboarding import ReferenceEntry, ask_for, stored_stand_ins
from service.jobs import queue
from service.jobs.states import JobKind, JobState
from service.worker.failures import WorkRefused
from service.worker.held import HeldJob
from service.worker.observations import ObservationReader, observed_rows

_ASKED_SHARE = 0.5  # of an onboarding, when the reference models are measured and stand-ins are asked for
MIN_REFERENCES = 6  # of ten: below this a fit over physical features is a guess

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReferenceReport:
    """How the reference measurements of one adapt job went."""

    asked: int  # of reference models and stand-ins
    shortfalls: tuple[str, ...]  # one sentence for each that did not give a valid measurement

    @property
    def valid(self) -> int:
        """How many gave one."""
        return self.asked - len(self.shortfalls)

    @property
    def summary(self) -> str | None:
        """What to tell of those that are missing; None if none is."""
        if not self.shortfalls:
            return None
        return f"{self.valid} of {self.asked} reference models gave a valid measurement: " + "; ".join(
            self.shortfalls
        )


def run(held: HeldJob, services: Services) -> str:
    """Adapt and publish; how it ended, for the log. Raises `WorkRefused` where there is too little to learn
    from.
    """
    target, report = held.read(lambda session: (_target(session, held), _report(session, held.job.id)))
    missing = _stand_ins_for(report, services)
    if missing:
        return held.write(lambda session: _ask_and_park(session, held, missing))
    own, pool = held.read(lambda session: observed_rows(session, target))
    reference_count = len({row.model_id for row in own if row.is_reference})
    if reference_count < MIN_REFERENCES:
        return _give_up(held, target, reference_count, report)
    reader = ObservationReader(services.artifacts)
    observations, pooled = reader.read(own), reader.read(pool)
    facts = _facts(held, target)
    card = accuracy_card(facts, observations, pooled)
    stored = services.artifacts.put_bytes(adapt(facts, observations, pooled).to_bytes())
    state = held.write(lambda session: _publish(session, held, stored, card, report))
    log.info(
        "adapted", target=target.key, observations=len(observations), pool=len(pooled), error=card.median_ape
    )
    return state


def _stand_ins_for(report: ReferenceReport, services: Services) -> Sequence[ReferenceEntry]:
    """The next ones that were not asked for yet, as many as models are missing; none of a job that asked for
    no references.
    """
    if not report.shortfalls:
        return ()
    wanted = len(reference_models())  # onboarding asked for all of them
    left = stored_stand_ins(services.artifacts)[report.asked - wanted :]
    return left[: wanted - report.valid]


def _ask_and_park(session: Session, held: HeldJob, missing: Sequence[ReferenceEntry]) -> str:
    queue.hold(session, held.lease)
    target = _target(session, held)
    ask_for(session, target, missing, adapt_id=held.job.id)
    job = queue.park(session, held.lease, progress=_ASKED_SHARE)
    log.info("stand_ins_asked", target=target.key, models=[one.name for one in missing])
    return "parked" if job.state == JobState.QUEUED.value else job.state


def fail_abandoned_targets(session: Session) -> int:
    """Targets that wait for an adapt job which has failed or was cancelled become `failed`; how many.

    This is where every unplanned end of onboarding arrives: a crash, a cancel, a worker that was lost too
    often.
    """
    job, later = tables.Job, aliased(tables.Job)
    newest = (
        select(func.max(later.id))
        .where(later.target_id == tables.Target.id, later.kind == JobKind.ADAPT.value)
        .scalar_subquery()
    )
    ended = session.execute(
        select(tables.Target.id, tables.Target.key, job.state, job.failure_detail)
        .join(job, job.id == newest)
        .where(
            tables.Target.state == "onboarding",
            job.state.in_((JobState.FAILED.value, JobState.CANCELLED.value)),
        )
    ).all()
    for row in ended:
        reason = f"onboarding {row.state}: {row.failure_detail or 'its job was cancelled'}"
        _set_failed(session, row.id, reason)
        log.warning("target_failed", target=row.key, reason=reason)
    return len(ended)


def _set_failed(session: Session, target_id: str, reason: str) -> None:
    session.execute(
        update(tables.Target)
        .where(tables.Target.id == target_id, tables.Target.state == "onboarding")
        .values(state="failed", state_reason=reason)
    )


def _target(session: Session, held: HeldJob) -> tables.Target:
    target = session.get(tables.Target, held.job.target_id)
    if target is None:
        raise WorkRefused("target_missing", f"target {held.job.target_id} of adapt job {held.job.id} is gone")
    return target


def _facts(held: HeldJob, target: tables.Target) -> TargetFacts:
    device = held.read(lambda session: session.get_one(tables.Device, target.device_id))
    return TargetFacts(
        key=target.key,
        runtime=Runtime.model_validate(target.runtime),
        hardware=Hardware.model_validate(device.hardware),
    )


def _give_up(held: HeldJob, target: tables.Target, reference_count: int, report: ReferenceReport) -> str:
    detail = (
        f"{reference_count} reference models have a valid measurement on {target.key}, {MIN_REFERENCES} are "
        f"needed: {'; '.join(report.shortfalls) or 'too few were asked for'}; "
        "onboard the target again when the cause is mended"
    )

    def change(session: Session) -> None:
        queue.fail(session, held.lease, code="too_few_measurements", detail=detail, is_retryable=False)
        _set_failed(session, target.id, detail)

    held.write(change)
    log.warning("target_failed", target=target.key, reason=detail)
    return JobState.FAILED.value


def _publish(
    session: Session, held: HeldJob, stored: Stored, card: AccuracyCard, report: ReferenceReport
) -> str:
    """Predictor, target and the job's end; the job's state. Repeatable: where a try was stored after all,
    the job has ended.
    """
    job = queue.hold(session, held.lease)
    if JobState(job.state).is_ended:
        return job.state
    if job.state == JobState.CANCELLING.value:
        # perhaps because the target was retired meanwhile: it must not become ready
        return queue.complete(session, held.lease, {}).state
    target_id = held.job.target_id
    assert target_id is not None
    row = predictors.publish(session, stored, target_id=target_id, job_id=job.id, accuracy=card)
    if not job.payload.get("is_refresh"):  # a refresh measured no references, so it has nothing new to say
        session.get_one(tables.Target, target_id).state_reason = report.summary
    accuracy = card.model_dump(mode="json")
    queue.emit(
        session, job.id, "adapted", {"predictor_id": row.id, "accuracy": accuracy, "note": report.summary}
    )
    return queue.complete(session, held.lease, {"predictor_id": row.id, "note": report.summary}).state


def _report(session: Session, job_id: str) -> ReferenceReport:
    children = session.execute(
        select(tables.Job, tables.Measurement.is_valid, tables.Measurement.reasons, tables.Model.name)
        .outerjoin(tables.Measurement, tables.Measurement.job_id == tables.Job.id)
        .outerjoin(tables.Model, tables.Model.id == tables.Job.payload["model_id"].as_string())
        .where(tables.Job.parent_id == job_id)
        .order_by(tables.Job.id)
    ).all()
    shortfalls = [
        f"{name}: {_shortfall(job, reasons)}" for job, is_valid, reasons, name in children if not is_valid
    ]
    return ReferenceReport(len(children), tuple(shortfalls))


def _shortfall(job: tables.Job, reasons: Sequence[str] | None) -> str:
    if reasons:
        return ", ".join(reasons)
    if job.state == JobState.CANCELLED.value:
        return "cancelled"
    return f"{job.failure_code} ({job.failure_detail})"
