"""Jobs over HTTP: look, list, cancel, and follow the events by pages or as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import anyio
from fastapi import APIRouter, Depends, Header, Path, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from service.db import tables
from service.db.session import Database
from service.dependencies import Caller, DatabaseDep, Reader, require
from service.errors import problem_responses
from service.idempotency import IdempotentRoute, RequestKeyDep
from service.jobs import queue, repository
from service.jobs.schemas import JobEvents, JobEventView, JobView, event_view, job_view
from service.jobs.states import JobKind, JobState
from service.paging import PageDep, PageOf
from service.security import Scope

POLL_S = 0.5  # how often a stream looks for new events
STREAM_BATCH = 100
MAX_SEQ = 2**31 - 1

router = APIRouter(
    prefix="/v1/jobs", tags=["jobs"], route_class=IdempotentRoute, responses=problem_responses(401, 403, 422)
)
JobId = Annotated[
    str, Path(max_length=40, description="a job's id", examples=["job_01k9m2x7wq4v0r8t6y5h3n1b2c"])
]


@router.get("", summary="List jobs, newest first")
def list_jobs(
    caller: Reader,
    database: DatabaseDep,
    page: PageDep,
    state: Annotated[list[JobState] | None, Query(description="only these states")] = None,
    kind: JobKind | None = None,
    parent_id: Annotated[
        str | None, Query(max_length=40, description="only the children of this job")
    ] = None,
) -> PageOf[JobView]:
    """Jobs of the caller's project."""
    with database.read() as session:
        rows = repository.list_jobs(
            session, caller.project_id, page, states=state or (), kind=kind, parent_id=parent_id
        )
    return rows.shown(job_view)


@router.get("/{job_id}", summary="One job", responses=problem_responses(404))
def get_job(caller: Reader, database: DatabaseDep, job_id: JobId) -> JobView:
    """The job as it stands."""
    with database.read() as session:
        return job_view(repository.get_job(session, caller.project_id, job_id))


@router.post(
    "/{job_id}/cancel", summary="Cancel a job and its children", responses=problem_responses(404, 409)
)
def cancel_job(caller: Caller, database: DatabaseDep, key: RequestKeyDep, job_id: JobId) -> JobView:
    """A queued job is cancelled at once, one at work as soon as its holder hears of it; one that has ended
    stays as it is.

    Needs the scope `search` for a search, `measure` for other jobs.
    """
    with database.write() as session:
        job = repository.get_job(session, caller.project_id, job_id)
        require(caller, Scope.SEARCH if job.kind == JobKind.SEARCH else Scope.MEASURE)
        cancelled = queue.cancel(session, project_id=caller.project_id, job_id=job_id)
        return key.answer(session, job_view(cancelled))


@router.get("/{job_id}/events", summary="A job's history, by pages", responses=problem_responses(404))
def list_events(
    caller: Reader,
    database: DatabaseDep,
    job_id: JobId,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ, description="only events with a larger `seq`")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> JobEvents:
    """Events, oldest first."""
    with database.read() as session:
        job = repository.get_job(session, caller.project_id, job_id)
        rows = repository.events_after(session, job_id, after, limit)
    items = [event_view(row) for row in rows]
    is_last = JobState(job.state).is_ended and len(items) < limit
    return JobEvents(items=items, next_after=items[-1].seq if items else after, has_ended=is_last)


def _visible_job(caller: Reader, database: DatabaseDep, job_id: JobId) -> tables.Job:
    with database.read() as session:
        return repository.get_job(session, caller.project_id, job_id)


@router.get(
    "/{job_id}/events/stream",
    summary="A job's history, as server-sent events",
    response_class=EventSourceResponse,
    responses=problem_responses(404),
)
async def stream_events(
    database: DatabaseDep,
    job: Annotated[tables.Job, Depends(_visible_job)],
    last_event_id: Annotated[
        int, Header(ge=0, le=MAX_SEQ, description="`id` of the last event that was received")
    ] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Every event since `Last-Event-ID`, then each as it happens; the stream ends when the job has ended.

    `id` is the event's `seq`, `event` its type, `data` the whole event as JSON.
    """
    seen = last_event_id
    while True:
        views, has_ended = await run_in_threadpool(_read_on, database, job.id, seen)
        for view in views:
            seen = view.seq
            yield ServerSentEvent(id=str(view.seq), event=view.type, data=view)
        if has_ended:
            return
        if len(views) < STREAM_BATCH:
            await anyio.sleep(POLL_S)


def _read_on(database: Database, job_id: str, seq: int) -> tuple[Sequence[JobEventView], bool]:
    """The next events, and whether they are the job's last; both from one snapshot."""
    with database.read() as session:
        views = [event_view(row) for row in repository.events_after(session, job_id, seq, STREAM_BATCH)]
        is_ended = JobState(session.get_one(tables.Job, job_id).state).is_ended
    return views, is_ended and len(views) < STREAM_BATCH
