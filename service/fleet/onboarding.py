"""Onboarding: what a new target measures first. One adapt job waits for one quick measurement of each
reference model, and then of stand-ins for those that gave none. Later measurements let a ready target's
predictor be adapted again, in the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy.orm import Session

from devices.measurement import Level, MeasurementPlan
from devices.model_ref import resolve_input_shapes
from predictor.reference_set import ReferenceModel, reference_models, stand_ins
from service import models
from service.artifacts import ArtifactStore
from service.db import tables
from service.fleet import repository
from service.fleet.schemas import TargetState
from service.jobs import queue
from service.jobs.states import JobKind
from service.models import ModelFacts
from service.profiling import submit_profile

MEASURING = "it measures the reference set; its onboarding job tells how far it is"
NOT_ANNOUNCED = "the device's agent no longer offers this runtime"
REFRESH = {"is_refresh": True}  # payload of an adapt job that no onboarding asked for
REFRESH_DELAY_S = 20.0  # measurements that come meanwhile are learned from together
REFRESH_PRIORITY = 20  # after onboarding and searches: the live predictor answers meanwhile
_PLAN = MeasurementPlan(level=Level.QUICK)


@dataclass(frozen=True, slots=True)
class ReferenceEntry:
    """A reference model whose bytes are in the store."""

    name: str
    facts: ModelFacts
    input_shapes: Mapping[str, tuple[int, ...]]


@lru_cache(maxsize=8)
def stored_reference_set(store: ArtifactStore) -> tuple[ReferenceEntry, ...]:
    """The reference set, parsed and stored once per process and store. Call it outside a transaction."""
    return _stored(store, reference_models())


@lru_cache(maxsize=8)
def stored_stand_ins(store: ArtifactStore) -> tuple[ReferenceEntry, ...]:
    """Those of the reference set, likewise."""
    return _stored(store, stand_ins())


def _stored(store: ArtifactStore, references: Sequence[ReferenceModel]) -> tuple[ReferenceEntry, ...]:
    entries: list[ReferenceEntry] = []
    for reference in references:
        facts = models.inspect_model(store, reference.model)
        shapes = resolve_input_shapes(facts.inputs, reference.input_shapes)
        entries.append(ReferenceEntry(reference.name, facts, shapes))
    return tuple(entries)


def onboard(session: Session, target: tables.Target, reference_set: Sequence[ReferenceEntry]) -> tables.Job:
    """Queue a target's onboarding; the adapt job. A target with a live predictor stays ready meanwhile."""
    adapt = queue.submit(
        session, project_id=target.project_id, kind=JobKind.ADAPT, payload={}, target_id=target.id
    )
    ask_for(session, target, reference_set, adapt_id=adapt.id)
    if target.live_predictor_id is None:
        target.state, target.state_reason = TargetState.ONBOARDING.value, MEASURING
    else:
        target.state, target.state_reason = TargetState.READY.value, None
    session.flush()
    return adapt


def ask_for(
    session: Session, target: tables.Target, references: Sequence[ReferenceEntry], *, adapt_id: str
) -> None:
    """Queue a quick measurement of each, which the adapt job waits for."""
    for entry in references:
        model = models.register(
            session, entry.facts, project_id=target.project_id, name=entry.name, origin="reference"
        )
        submit_profile(
            session,
            target=target,
            model=model,
            input_shapes=entry.input_shapes,
            plan=_PLAN,
            is_reference=True,
            parent_id=adapt_id,
        )


def refresh(session: Session, target_id: str) -> tables.Job | None:
    """A ready target has a new measurement: adapt its predictor again soon. None where an adapt job is queued
    already, or where the target is not ready. One that runs may have missed the measurement, so it does not
    count.
    """
    target = session.get_one(tables.Target, target_id)
    if target.state != TargetState.READY.value or target.live_predictor_id is None:
        return None
    if repository.has_queued_adaptation(session, target.id):
        return None
    return queue.submit(
        session,
        project_id=target.project_id,
        kind=JobKind.ADAPT,
        payload=REFRESH,
        target_id=target.id,
        priority=REFRESH_PRIORITY,
        delay_s=REFRESH_DELAY_S,
    )


def retire(session: Session, target: tables.Target) -> None:
    """The runtime is gone: its queued work can never be done, so it ends now, and its events say why."""
    job_ids = repository.unfinished_jobs(session, target.id, [JobKind.ADAPT, JobKind.PROFILE])
    for job_id in job_ids:
        queue.emit(session, job_id, "target_retired", {"target": target.key, "detail": NOT_ANNOUNCED})
    for job_id in job_ids:
        queue.cancel(session, project_id=target.project_id, job_id=job_id)
    target.state, target.state_reason = TargetState.RETIRED.value, NOT_ANNOUNCED
    session.flush()


def restore(session: Session, target: tables.Target, reference_set: Sequence[ReferenceEntry]) -> None:
    """The runtime is back: a target with a predictor is ready again, any other starts its onboarding anew."""
    if target.live_predictor_id is None:
        onboard(session, target, reference_set)
    else:
        target.state, target.state_reason = TargetState.READY.value, None
        session.flush()
