"""The fleet as API clients see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from devices.measurement import Conditions
from devices.target import Hardware, Runtime
from devices.wire import AgentState
from predictor.evaluate import AccuracyCard
from service.db import tables
from service.dependencies import Services
from service.errors import Conflict
from service.fleet import repository
from service.fleet.onboarding import ReferenceEntry, onboard
from service.fleet.repository import SeenAgent
from service.fleet.schemas import (
    AgentView,
    DeviceView,
    LivePredictor,
    TargetAccuracy,
    TargetState,
    TargetView,
)
from service.jobs import queue
from service.jobs.schemas import JobView, job_view
from service.paging import PageOf, PageRequest


def list_devices(services: Services, project_id: str, page: PageRequest) -> PageOf[DeviceView]:
    """Newest first."""
    with services.database.read() as session:
        rows = repository.devices(session, project_id, page)
        return rows.shown(_device_viewer(services, session, rows.rows))


def get_device(services: Services, project_id: str, name: str) -> DeviceView:
    """By id or key. Raises `NotFound`."""
    with services.database.read() as session:
        row = repository.device(session, project_id, name)
        return _device_viewer(services, session, [row])(row)


def list_targets(
    services: Services, project_id: str, page: PageRequest, *, state: TargetState | None, device: str | None
) -> PageOf[TargetView]:
    """Newest first. `device` is an id or key. Raises `NotFound` for a device that the project has not."""
    with services.database.read() as session:
        device_id = None if device is None else repository.device(session, project_id, device).id
        rows = repository.targets(session, project_id, page, state=state, device_id=device_id)
        return rows.shown(_target_viewer(session, project_id, rows.rows))


def get_target(services: Services, project_id: str, target_id: str) -> TargetView:
    """Raises `NotFound`."""
    with services.database.read() as session:
        row = repository.target(session, project_id, target_id)
        return _target_viewer(session, project_id, [row])(row)


def get_accuracy(services: Services, project_id: str, target_id: str) -> TargetAccuracy:
    """Raises `NotFound`, or `Conflict` (target_not_ready) where nothing was adapted yet."""
    with services.database.read() as session:
        target = repository.target(session, project_id, target_id)
        if target.live_predictor_id is None:
            reason = target.state_reason or "its predictor is not adapted yet"
            raise Conflict("target_not_ready", f"target {target.key} is {target.state}: {reason}")
        row = session.get_one(tables.Predictor, target.live_predictor_id)
        return TargetAccuracy(
            target_id=target.id,
            target_key=target.key,
            predictor_id=row.id,
            adapted_at=row.created_at,
            measured_since=repository.measured_since(session, target.id, row.created_at),
            accuracy=AccuracyCard.model_validate(row.accuracy),
        )


def onboard_again(
    session: Session, project_id: str, target_id: str, *, reference_set: Sequence[ReferenceEntry]
) -> JobView:
    """Measure the reference set once more and adapt a fresh predictor to it; the adapt job.

    Raises `NotFound`, or `Conflict` (onboarding_in_progress, target_retired).
    """
    repository.lock_project(session, project_id)
    target = repository.target(session, project_id, target_id)
    if target.state == TargetState.RETIRED.value:
        detail = f"target {target.key} is retired: {target.state_reason}; start an agent that offers it"
        raise Conflict("target_retired", detail)
    unfinished = repository.unfinished_onboarding(session, target.id)
    if unfinished is not None:
        detail = f"job {unfinished} onboards target {target.key} already; wait for it, or cancel it"
        raise Conflict("onboarding_in_progress", detail, job_id=unfinished)
    refresh = repository.unfinished_refresh(session, target.id)
    if refresh is not None:  # what it would make, the onboarding makes from more
        queue.cancel(session, project_id=project_id, job_id=refresh)
    return job_view(onboard(session, target, reference_set))


def _device_viewer(
    services: Services, session: Session, rows: Sequence[tables.Device]
) -> Callable[[tables.Device], DeviceView]:
    agents = repository.agents(
        session, [row.id for row in rows], silent_after_s=services.settings.silent_after_s
    )

    def view(row: tables.Device) -> DeviceView:
        agent = agents.get(row.id)
        return DeviceView(
            id=row.id,
            key=row.key,
            fingerprint=row.fingerprint,
            hardware=Hardware.model_validate(row.hardware),
            agent=None if agent is None else _agent_view(agent),
            created_at=row.created_at,
        )

    return view


def _agent_view(agent: SeenAgent) -> AgentView:
    row = agent.row
    state = AgentState(row.state)
    if agent.is_silent and state is not AgentState.STOPPED:  # who said that he stops is expected to be silent
        state = AgentState.LOST
    return AgentView(
        id=row.id,
        version=row.version,
        state=state,
        conditions=None if row.conditions is None else Conditions.model_validate(row.conditions),
        last_seen_at=row.last_seen_at,
    )


def _target_viewer(
    session: Session, project_id: str, rows: Sequence[tables.Target]
) -> Callable[[tables.Target], TargetView]:
    devices = repository.devices_by_id(session, project_id, {row.device_id for row in rows})
    predictors = repository.predictors(
        session, {row.live_predictor_id for row in rows if row.live_predictor_id}
    )
    onboarding = repository.newest_onboarding_jobs(session, project_id, [row.id for row in rows])

    def view(row: tables.Target) -> TargetView:
        return TargetView(
            id=row.id,
            key=row.key,
            device_id=row.device_id,
            device_key=devices[row.device_id].key,
            runtime=Runtime.model_validate(row.runtime),
            state=TargetState(row.state),
            state_reason=row.state_reason,
            predictor=None
            if row.live_predictor_id is None
            else _live_predictor(predictors[row.live_predictor_id]),
            onboarding_job_id=onboarding.get(row.id),
            created_at=row.created_at,
        )

    return view


def _live_predictor(row: tables.Predictor) -> LivePredictor:
    return LivePredictor(
        id=row.id, accuracy=AccuracyCard.model_validate(row.accuracy), created_at=row.created_at
    )
