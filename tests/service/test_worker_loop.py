"""The worker's loop: outages, stops, accidents, and several workers side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.db import tables
from service.db.session import Database
from service.dependencies import Services
from service.jobs import queue
from service.worker import loop as worker_loop
from service.worker import outages
from service.worker.held import HeldJob
from service.worker.loop import Worker
from service.worker.outages import Interrupted, insist, outlast
from service.worker.stopping import StopRequest
from tests.service import worker_rows as rows


def submit(services: Services, project_id: str, kind: str = "search", **payload: Any) -> str:
    with services.database.write() as session:
        return queue.submit(session, project_id=project_id, kind=kind, payload=payload).id


def do_nothing(held: HeldJob, services: Services) -> str:
    return held.write(lambda session: queue.complete(session, held.lease, {}).state)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a worker does with each kind of job, to be changed by tests."""
    table: dict[str, Any] = {"search": do_nothing, "adapt": do_nothing}
    monkeypatch.setattr(worker_loop, "WORK", table)
    return table


@pytest.fixture
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(outages, "_LONGEST_PAUSE_S", 0.004)


def away(times: int) -> Any:
    """A call that fails as a database does that is restarting, then gives the number of the try."""
    tries = iter(range(1, 1000))

    def call() -> int:
        number = next(tries)
        if number <= times:
            raise OperationalError("select 1", {}, Exception("the database system is shutting down"))
        return number

    return call


# ---- outages and stops ---------------------------------------------------------------------------


@pytest.mark.usefixtures("_short_pauses")
def test_an_outage_is_waited_out() -> None:
    assert insist(away(7), stop=StopRequest()) == 8


def test_pauses_grow_to_a_limit() -> None:
    pauses = outages.pauses_s()
    assert [next(pauses) for _ in range(8)] == [0.5, 1, 2, 4, 8, 15, 15, 15]


def test_a_stop_ends_the_waiting() -> None:
    stop = StopRequest()
    stop.set()
    with pytest.raises(Interrupted):
        insist(away(1000), stop=stop)


def test_an_error_that_is_no_outage_is_not_repeated(database: Database) -> None:
    calls: list[int] = []

    def broken(session: Session) -> None:
        calls.append(1)
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        outlast(database.write, broken, stop=StopRequest())
    assert calls == [1]


def test_a_stop_request_wakes_whoever_waits() -> None:
    stop = StopRequest()
    assert not stop.wait(0.0)
    waiter = threading.Thread(target=stop.wait, args=(60.0,))
    waiter.start()
    stop.set()
    waiter.join(20.0)
    assert not waiter.is_alive()
    assert stop.wait(60.0), "it stays set"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_connections_that_were_cut_are_made_again(
    services: Services, project_id: str, work: dict[str, Any]
) -> None:
    def cut_all(held: HeldJob, services: Services) -> str:
        def cut(session: Session) -> None:
            others = (
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            )
            session.execute(text(f"{others} and pid <> pg_backend_pid()"))

        held.write(cut)
        return do_nothing(held, services)

    work["search"] = cut_all
    job_id = submit(services, project_id)
    assert Worker(services, name="w", stop=StopRequest()).run_once()
    assert rows.job_of(services.database, job_id).state == "succeeded"


# ---- the lease -----------------------------------------------------------------------------------


def test_the_lease_is_renewed_beside_the_work_and_a_cancel_is_heard(
    services: Services, project_id: str, work: dict[str, Any]
) -> None:
    short = Services(
        services.settings.model_copy(update={"worker_lease_s": 0.6}),
        services.database,
        services.artifacts,
        services.predictors,
    )

    def until_cancelled(held: HeldJob, services: Services) -> str:
        time.sleep(1.0)  # longer than the lease
        with services.database.write() as session:
            assert queue.reap(session) == 0, "the lease was kept alive"
            queue.cancel(session, project_id=project_id, job_id=held.job.id)
        while not held.is_cancelled:
            time.sleep(0.01)
        return do_nothing(held, services)

    work["search"] = until_cancelled
    job_id = submit(services, project_id)
    assert Worker(short, name="w", stop=StopRequest()).run_once()
    assert rows.job_of(services.database, job_id).state == "cancelled"


# ---- accidents -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (RuntimeError("a bug"), "failed", "internal"),
        (OSError(28, "No space left on device"), "queued", None),
    ],
)
def test_an_accident_ends_the_job_or_the_try_but_not_the_worker(
    services: Services, project_id: str, work: dict[str, Any], error: Exception, state: str, code: str | None
) -> None:
    def broken(held: HeldJob, services: Services) -> str:
        raise error

    work["search"] = broken
    job_id = submit(services, project_id)
    worker = Worker(services, name="w", stop=StopRequest())
    assert worker.run_once()
    job = rows.job_of(services.database, job_id)
    assert (job.state, job.failure_code) == (state, code)
    work["search"] = do_nothing
    next_id = submit(services, project_id)
    assert worker.run_once()
    assert rows.job_of(services.database, next_id).state == "succeeded"


def test_a_target_whose_onboarding_came_to_nothing_says_so(services: Services, project_id: str) -> None:
    with services.database.write() as session:
        target = rows.add_target(session, project_id)
        job = queue.submit(session, project_id=project_id, kind="adapt", payload={}, target_id=target.id)
    stop = StopRequest()
    worker = Worker(services, name="w", stop=stop)
    worker.sweep()
    assert state_of(services, target) == ("onboarding", None)
    with services.database.write() as session:
        queue.cancel(session, project_id=project_id, job_id=job.id)
    Worker(services, name="w", stop=stop).sweep()
    assert state_of(services, target) == ("failed", "onboarding cancelled: its job was cancelled")


def state_of(services: Services, target: tables.Target) -> tuple[str, str | None]:
    with services.database.read() as session:
        now = session.get_one(tables.Target, target.id)
        return now.state, now.state_reason


# ---- side by side --------------------------------------------------------------------------------


def test_workers_side_by_side_do_each_job_once(
    services: Services, project_id: str, work: dict[str, Any]
) -> None:
    done: list[tuple[str, str]] = []

    def note(held: HeldJob, services: Services) -> str:
        done.append((held.job.id, held.lease.holder))
        time.sleep(0.005)
        return do_nothing(held, services)

    work["search"] = note
    jobs = [submit(services, project_id, number=number) for number in range(12)]

    def run(name: str) -> None:
        worker = Worker(services, name=name, stop=StopRequest())
        while worker.run_once():
            pass

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert Counter(job for job, _ in done) == Counter(jobs)
    assert all(rows.job_of(services.database, job).state == "succeeded" for job in jobs)


def test_the_process_leaves_when_told_to(sqlite_url: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "LAPTIME_DATABASE_URL": sqlite_url,
        "LAPTIME_DATA_DIR": str(tmp_path / "data"),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "service.worker", "--name", "one"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            assert any('"event": "worker_started"' in line for line in process.stderr)
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(30.0) == 0, rest
        finally:
            process.kill()
    assert '"event": "worker_stopped"' in rest


def test_an_outdated_schema_is_refused_with_the_remedy(empty_postgresql_url: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "LAPTIME_DATABASE_URL": empty_postgresql_url,
        "LAPTIME_DATA_DIR": str(tmp_path / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "service.worker"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "laptime db upgrade" in done.stderr
    assert "Traceback" not in done.stderr
