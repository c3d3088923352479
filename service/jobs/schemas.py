"""What API clients see of jobs."""

from __future__ import annotations

import datetime as dt

from pydantic import BaseModel, Field, JsonValue

from service.db import tables
from service.jobs.states import JobKind, JobState


class JobFailure(BaseModel):
    """Why a job failed. Codes are stable."""

    code: str = Field(examples=["out_of_memory"])
    detail: str


class JobView(BaseModel):
    """A piece of work: a measurement (profile), the adaptation of a predictor (adapt) or a search."""

    id: str = Field(examples=["job_01k9m2x7wq4v0r8t6y5h3n1b2c"])
    kind: JobKind
    state: JobState
    progress: float = Field(ge=0, le=1)
    target_id: str | None
    device_id: str | None
    parent_id: str | None = Field(description="The job that waits for this one.")
    waiting_for: int = Field(
        description="Children that have not ended; the job is taken up when there are none."
    )
    attempt: int = Field(description="How often the work was begun since it last proved progress.")
    max_attempts: int
    result: dict[str, JsonValue] | None
    failure: JobFailure | None
    cancel_requested_at: dt.datetime | None
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None


class JobEventView(BaseModel):
    """One entry of a job's history. The type of the last is the state in which the job ended."""

    seq: int = Field(description="1, 2, 3 ... without gaps.")
    at: dt.datetime
    type: str = Field(examples=["progress"])
    data: dict[str, JsonValue]


class JobEvents(BaseModel):
    """Some of a job's history, oldest first. Ask again with `after=next_after`."""

    items: list[JobEventView]
    next_after: int
    has_ended: bool = Field(description="Whether the job has ended and these are its last events.")


def job_view(job: tables.Job) -> JobView:
    """The row as it is shown."""
    failure = None
    if job.failure_code is not None:
        failure = JobFailure(code=job.failure_code, detail=job.failure_detail or "")
    return JobView(
        id=job.id,
        kind=JobKind(job.kind),
        state=JobState(job.state),
        progress=job.progress,
        target_id=job.target_id,
        device_id=job.device_id,
        parent_id=job.parent_id,
        waiting_for=job.waiting_for,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        result=job.result,
        failure=failure,
        cancel_requested_at=job.cancel_requested_at,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def event_view(event: tables.JobEvent) -> JobEventView:
    """The row as it is shown."""
    return JobEventView(seq=event.seq, at=event.at, type=event.type, data=event.data)
