"""A search job: trial after trial, each stored before the next; then the front is measured, and compared.

The search's state is a checkpoint in the artifact store. State, trials, models and progress are committed
together after every trial (every few in a long search), so a worker that takes over repeats at most those,
and by the loop's determinism with the same outcome. Measuring is the device's work: the candidates become
profile jobs below the search, which gives its worker back until they have ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session

from devices.errors import EngineUnavailable
from devices.measurement import MeasurementPlan
from devices.target import Hardware
from search import loop
from search.catalogue import scorer_for
from search.loop import Candidate, Phase, SearchRequest, SearchState, Step
from search.scoring import Scorer
from service import artifacts, models
from service.artifacts import Stored
from service.db import tables
from service.dependencies import Services
from service.jobs import queue
from service.jobs.states import JobState
from service.models import ModelFacts
from service.profiling import submit_profile
from service.worker import checkpoints
from service.worker.failures import WorkRefused
from service.worker.held import HeldJob
from service.worker.trials import store_trials
from service.worker.verification import Verification, has_children, verifications

PROPOSING_SHARE = 0.8  # of the progress; the rest is measuring the front

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database says of one search."""

    search: tables.Search
    target: tables.Target
    device: tables.Device
    predictor: tables.Predictor


def run(held: HeldJob, services: Services) -> str:
    """Carry the search as far as it goes now; how that ended, for the log."""
    facts = held.read(lambda session: _facts(session, held))
    state = _restored(facts.search, services)
    if state.phase is Phase.PROPOSING:
        state = _propose(state, held, services, facts)
    if held.is_cancelled:
        return held.write(lambda session: _complete(session, held, state))
    if state.phase is Phase.PROPOSING:
        return held.write(lambda session: queue.park(session, held.lease, progress=_progress(state)).state)
    return _verify(state, held, services, facts)


def _facts(session: Session, held: HeldJob) -> Facts:
    search = session.get(tables.Search, held.job.payload["search_id"])
    if search is None:
        raise WorkRefused("search_missing", f"search {held.job.payload['search_id']} is gone")
    target = session.get_one(tables.Target, search.target_id)
    predictor_id = search.pinned_predictor_id or target.live_predictor_id
    if predictor_id is None:
        reason = target.state_reason or "its predictor is not adapted yet"
        raise WorkRefused("target_not_ready", f"target {target.key} is {target.state}: {reason}")
    device = session.get_one(tables.Device, target.device_id)
    return Facts(search, target, device, session.get_one(tables.Predictor, predictor_id))


def _restored(search: tables.Search, services: Services) -> SearchState:
    if search.checkpoint_sha256 is None:
        return loop.start(SearchRequest.model_validate(search.request))
    return checkpoints.unpack(services.artifacts.read(search.checkpoint_sha256))


def _progress(state: SearchState) -> float:
    return PROPOSING_SHARE * state.progress


# ---- proposing -----------------------------------------------------------------------------------


def _propose(state: SearchState, held: HeldJob, services: Services, facts: Facts) -> SearchState:
    """Trial after trial until the budget is spent, or the job is to be given back or given up."""
    scorer = _scorer(state.request, services, facts)
    count = checkpoints.trials_per_step(state.request)
    while state.phase is Phase.PROPOSING and not held.is_cancelled and not held.is_draining:
        step = loop.advance(state, scorer, max_trials=count)
        _store_step(step, held, services, facts)
        state = step.state
        log.info("trial_scored", job=held.job.id, trials=len(state.trials), of=state.request.trial_count)
    return state


def _scorer(request: SearchRequest, services: Services, facts: Facts) -> Scorer:
    """Everything that scores genomes, with the predictor that the search is pinned to."""
    checkpoint_sha256 = facts.predictor.checkpoint_sha256
    try:
        return scorer_for(
            request.space,
            hardware=Hardware.model_validate(facts.device.hardware),
            predictor=services.predictors.load(checkpoint_sha256),
            predictor_key=checkpoint_sha256,
        )
    except EngineUnavailable as error:
        raise WorkRefused("engine_unavailable", str(error)) from error


def _store_step(step: Step, held: HeldJob, services: Services, facts: Facts) -> None:
    """Bytes first, then one transaction for everything that points at them."""
    store = services.artifacts
    stored_models = [store.put_bytes(data) for data in step.models.values()]
    checkpoint = store.put_bytes(checkpoints.pack(step.state))

    def change(session: Session) -> None:
        held.checkpoint(session, _progress(step.state))
        for stored in stored_models:
            artifacts.record(session, stored, media_type=models.MEDIA_TYPE)
        search = _store_checkpoint(session, facts.search.id, checkpoint)
        search.pinned_predictor_id = facts.predictor.id
        store_trials(session, search.id, step.new_trials)

    held.write(change)


def _store_checkpoint(session: Session, search_id: str, checkpoint: Stored) -> tables.Search:
    artifacts.record(session, checkpoint, media_type=checkpoints.MEDIA_TYPE)
    search = session.get_one(tables.Search, search_id)
    search.checkpoint_sha256 = checkpoint.sha256
    return search


# ---- verifying -----------------------------------------------------------------------------------


def _verify(state: SearchState, held: HeldJob, services: Services, facts: Facts) -> str:
    """Submit the front's members for measuring, or, where they have been measured, finish."""
    candidates = loop.candidates(state)
    if candidates and not held.read(lambda session: has_children(session, held.job.id)):
        inspected = [
            (
                candidate,
                models.inspect_model(services.artifacts, services.artifacts.read(candidate.model_sha256)),
            )
            for candidate in candidates
        ]
        return held.write(lambda session: _submit_and_park(session, held, state, facts, inspected))
    measured = held.read(lambda session: verifications(session, held.job.id, candidates))
    step = loop.finish(state, {number: one.latency for number, one in measured.items()})
    checkpoint = services.artifacts.put_bytes(checkpoints.pack(step.state))
    return held.write(lambda session: _finish(session, held, step, checkpoint, measured))


def _submit_and_park(
    session: Session,
    held: HeldJob,
    state: SearchState,
    facts: Facts,
    inspected: list[tuple[Candidate, ModelFacts]],
) -> str:
    """Models, trials that name them, profile jobs and the parked search, all at once: a crash leaves all or
    nothing.
    """
    queue.hold(session, held.lease)
    plan = MeasurementPlan(level=state.request.verify_level)
    target = session.get_one(tables.Target, facts.target.id)
    submitted: set[str] = set()
    for candidate, found in inspected:
        name = f"{facts.search.name or facts.search.id} trial {candidate.trial_number}"
        model = models.register(session, found, project_id=held.job.project_id, name=name, origin="search")
        trial = session.get_one(tables.Trial, (facts.search.id, candidate.trial_number))
        trial.model_id = model.id
        if model.id not in submitted:
            submitted.add(model.id)
            submit_profile(
                session,
                target=target,
                model=model,
                input_shapes=candidate.input_shapes,
                plan=plan,
                parent_id=held.job.id,
            )
    job = queue.park(session, held.lease, progress=PROPOSING_SHARE)
    log.info("search_parked", job=job.id, state=job.state, waiting_for=job.waiting_for)
    return "parked" if job.state == JobState.QUEUED.value else job.state


def _finish(
    session: Session, held: HeldJob, step: Step, checkpoint: Stored, measured: dict[int, Verification]
) -> str:
    job = queue.hold(session, held.lease)
    if not JobState(job.state).is_ended:
        search = _store_checkpoint(session, held.job.payload["search_id"], checkpoint)
        store_trials(session, search.id, step.new_trials)
        for number, verification in measured.items():
            trial = session.get_one(tables.Trial, (search.id, number))
            trial.measurement_id = verification.measurement_id
        summary = step.state.summary
        search.summary = None if summary is None else summary.model_dump(mode="json")
    return _complete(session, held, step.state)


def _complete(session: Session, held: HeldJob, state: SearchState) -> str:
    """The job's end; a search that was cancelled keeps the trials that it has."""
    result = {
        "trials": len(state.trials),
        "failed_trials": sum(trial.failure is not None for trial in state.trials),
        "predicted_front": len(loop.predicted_front(state)),
        "verified_front": len(loop.verified_front(state)),
    }
    return queue.complete(session, held.lease, result).state
