"""Searches as API clients see them. Carrying them out is the worker's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from search.loop import SearchRequest
from search.trial import TrialState
from search.verification import VerificationSummary
from service.db import tables
from service.dependencies import Services
from service.errors import Conflict
from service.ids import new_id
from service.jobs import queue
from service.jobs.schemas import job_view
from service.jobs.states import JobKind
from service.paging import PageOf, PageRequest
from service.searches import repository
from service.searches.schemas import FrontView, SearchCreate, SearchView, TrialView
from service.targets import find_target


def submit_search(session: Session, project_id: str, wanted: SearchCreate) -> SearchView:
    """Store a search and queue its job. Raises `NotFound`, `Conflict` (target_not_ready)."""
    target = find_target(session, project_id, wanted.target)
    if target.state != "ready" or target.live_predictor_id is None:
        reason = target.state_reason or "it has no predictor"
        detail = f"target {target.key} is {target.state}: {reason}; a search needs a target that is ready"
        raise Conflict("target_not_ready", detail)
    search_id = new_id("sea")
    job = queue.submit(
        session,
        project_id=project_id,
        kind=JobKind.SEARCH,
        payload={"search_id": search_id},
        target_id=target.id,
    )
    row = tables.Search(
        id=search_id,
        project_id=project_id,
        name=wanted.name,
        target_id=target.id,
        job_id=job.id,
        request=wanted.request.model_dump(mode="json"),
        pinned_predictor_id=None,
        checkpoint_sha256=None,
        summary=None,
    )
    session.add(row)
    session.flush()
    return _search_viewer(session, project_id, [row])(row)


def list_searches(
    services: Services, project_id: str, page: PageRequest, *, target: str | None
) -> PageOf[SearchView]:
    """Newest first. `target` is an id or key. Raises `NotFound` for an unknown one."""
    with services.database.read() as session:
        target_id = None if target is None else find_target(session, project_id, target).id
        rows = repository.searches(session, project_id, page, target_id=target_id)
        return rows.shown(_search_viewer(session, project_id, rows.rows))


def get_search(services: Services, project_id: str, search_id: str) -> SearchView:
    """Raises `NotFound`."""
    with services.database.read() as session:
        row = repository.search(session, project_id, search_id)
        return _search_viewer(session, project_id, [row])(row)


def list_trials(services: Services, project_id: str, search_id: str, page: PageRequest) -> PageOf[TrialView]:
    """In the order of their numbers. Raises `NotFound`."""
    with services.database.read() as session:
        repository.search(session, project_id, search_id)
        rows = repository.trials(session, search_id, page)
        return rows.shown(_trial_viewer(session, project_id, rows.rows))


def get_front(services: Services, project_id: str, search_id: str) -> FrontView:
    """Both fronts as far as the search has come. Raises `NotFound`."""
    with services.database.read() as session:
        row = repository.search(session, project_id, search_id)
        members = repository.front_members(session, search_id)
        view = _trial_viewer(session, project_id, members)
        shown = [view(trial) for trial in members]
    return FrontView(
        predicted=sorted(
            (t for t in shown if t.on_predicted_front), key=lambda t: (t.predicted_ms or 0.0, t.number)
        ),
        verified=sorted(
            (t for t in shown if t.on_verified_front), key=lambda t: (t.measured_ms or 0.0, t.number)
        ),
        summary=_summary(row),
    )


def _search_viewer(
    session: Session, project_id: str, rows: Sequence[tables.Search]
) -> Callable[[tables.Search], SearchView]:
    target_keys = repository.target_keys(session, project_id, {row.target_id for row in rows})
    jobs = repository.jobs(session, project_id, [row.job_id for row in rows])
    trial_counts = repository.trial_counts(session, [row.id for row in rows])

    def view(row: tables.Search) -> SearchView:
        return SearchView(
            id=row.id,
            name=row.name,
            target_id=row.target_id,
            target_key=target_keys[row.target_id],
            request=SearchRequest.model_validate(row.request),
            job=job_view(jobs[row.job_id]),
            trial_count=trial_counts.get(row.id, 0),
            predictor_id=row.pinned_predictor_id,
            summary=_summary(row),
            created_at=row.created_at,
        )

    return view


def _trial_viewer(
    session: Session, project_id: str, rows: Sequence[tables.Trial]
) -> Callable[[tables.Trial], TrialView]:
    ids = {row.measurement_id for row in rows if row.measurement_id is not None}
    measurements = repository.measurements(session, project_id, ids)

    def view(row: tables.Trial) -> TrialView:
        measured = None if row.measurement_id is None else measurements.get(row.measurement_id)
        return TrialView(
            number=row.number,
            genome=row.genome,
            state=TrialState(row.state),
            objectives=row.objectives,
            predicted_ms=row.predicted_ms,
            predicted_lower_ms=row.predicted_lower_ms,
            predicted_upper_ms=row.predicted_upper_ms,
            on_predicted_front=row.on_predicted_front,
            on_verified_front=row.on_verified_front,
            measurement_id=row.measurement_id,
            measured_ms=None if measured is None else measured.median_ms,
            measured_standard_error_ms=None if measured is None else measured.standard_error_ms,
            measured_is_valid=None if measured is None else measured.is_valid,
            model_id=row.model_id,
            model_href=None if row.model_id is None else f"/v1/models/{row.model_id}/content",
            failure=row.failure,
        )

    return view


def _summary(row: tables.Search) -> VerificationSummary | None:
    return None if row.summary is None else VerificationSummary.model_validate(row.summary)
