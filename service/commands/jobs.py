"""`laptime jobs list | show | watch | cancel`."""

from __future__ import annotations

from typing import Annotated

import typer

from service.commands.connection import connect
from service.commands.errors import CommandFailed
from service.commands.options import AsJson
from service.jobs.states import JobKind, JobState
from service.presentation import failure_of, job_table, progress_of
from service.terminal import Terminal

JobArgument = Annotated[str, typer.Argument(help="A job's id.", metavar="JOB")]


def list_jobs(
    state: Annotated[JobState | None, typer.Option(help="Only these.")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only these.")] = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    filters = {"state": state, "kind": kind}
    with connect() as client:
        jobs = list(
            client.jobs(**{name: value.value for name, value in filters.items() if value is not None})
        )
    Terminal(as_json=as_json).result({"jobs": jobs}, job_table(jobs))


def show_job(job: JobArgument, as_json: AsJson = False) -> None:
    """Show one job."""
    with connect() as client:
        found = client.job(job)
    Terminal(as_json=as_json).result(found, job_table([found]))


def watch_job(job: JobArgument, as_json: AsJson = False) -> None:
    """Wait for a job's end; exit code 1 if it does not succeed."""
    terminal = Terminal(as_json=as_json)
    with connect() as client, terminal.progress(job) as advance:
        ended = client.wait_for_job(job, on_progress=lambda now: advance(now.progress, progress_of(now)))
    terminal.result(ended, job_table([ended]))
    if ended.state is not JobState.SUCCEEDED:
        raise CommandFailed(failure_of(ended))


def cancel_job(job: JobArgument, as_json: AsJson = False) -> None:
    """Cancel a job and its children."""
    with connect() as client:
        cancelled = client.cancel_job(job)
    Terminal(as_json=as_json).result(cancelled, job_table([cancelled]))
