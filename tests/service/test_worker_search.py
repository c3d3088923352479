"""A search in the worker's hands, on both databases: whole, drained, killed, cancelled, refused. Its space
is a table.
"""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from search import loop
from service.db import tables
from service.dependencies import Services
from service.jobs import queue
from service.profiling import ProfilePayload
from service.worker import search as search_work
from service.worker.loop import Worker
from service.worker.stopping import StopRequest
from tests.search.tabulated import tabulated_scorer
from tests.service import worker_rows as rows

REQUEST = {
    "space": "tabulated",
    "strategy": "nsga2",
    "trial_count": 24,
    "population_size": 6,
    "seed": 1,
    "verify_count": 4,
    "verify_level": "quick",
}


class Killed(BaseException):
    """Stands for kill -9: nothing that the worker does about errors may catch it."""


@pytest.fixture(autouse=True)
def _scorer_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_work, "scorer_for", lambda *_, **__: tabulated_scorer())


@pytest.fixture
def target(services: Services, project_id: str) -> tables.Target:
    with services.database.write() as session:
        target = rows.add_target(session, project_id)
        rows.add_live_predictor(session, services, target)
        return target


def submit(services: Services, target: tables.Target) -> tables.Search:
    with services.database.write() as session:
        return rows.add_search(session, target, REQUEST)


def worker(services: Services, stop: StopRequest | None = None) -> Worker:
    return Worker(rows.with_stub_predictors(services), name="w", stop=stop or StopRequest())


def latency_of(payload: ProfilePayload) -> float:
    """Slower than predicted, and in another order for some."""
    return 1.0 + payload.model_bytes / 100 + int(payload.sha256[:2], 16) / 64


def measure_all(services: Services, target: tables.Target) -> int:
    count = 0
    while rows.measure_next(services.database, target.device_id, latency_of):
        count += 1
    return count


def outcome(services: Services, search_id: str) -> list[dict[str, Any]]:
    """Everything about the trials that must not depend on who worked on them."""
    with services.database.read() as session:
        trials = session.scalars(
            select(tables.Trial).where(tables.Trial.search_id == search_id).order_by(tables.Trial.number)
        ).all()
        names = {c.key for c in tables.Trial.__table__.columns} - {"search_id", "measurement_id"}
        return [{name: getattr(trial, name) for name in names} for trial in trials]


def summary_of(services: Services, search_id: str) -> dict[str, Any] | None:
    with services.database.read() as session:
        return session.get_one(tables.Search, search_id).summary


@pytest.fixture
def advance_then_die(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The worker dies just before the steps whose numbers are put into this list."""
    deaths: list[int] = []
    steps = iter(range(1, 10_000))
    original = loop.advance

    def dying(*args: Any, **kwargs: Any) -> loop.Step:
        if next(steps) in deaths:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(search_work.loop, "advance", dying)
    return deaths


def test_a_search_is_proposed_measured_and_compared(services: Services, target: tables.Target) -> None:
    search = submit(services, target)
    assert worker(services).run_once()
    parked = rows.job_of(services.database, search.job_id)
    assert (parked.state, parked.attempt, parked.waiting_for) == ("queued", 0, 4)
    assert not worker(services).run_once()  # it waits for its measurements
    assert measure_all(services, target) == 4
    assert worker(services).run_once()
    ended = rows.job_of(services.database, search.job_id)
    assert ended.state == "succeeded"
    trials = outcome(services, search.id)
    assert len(trials) == 24
    assert ended.result == {
        "trials": 24,
        "failed_trials": sum(trial["state"] == "failed" for trial in trials),
        "predicted_front": sum(trial["on_predicted_front"] for trial in trials),
        "verified_front": sum(trial["on_verified_front"] for trial in trials),
    }
    assert ended.result["verified_front"] >= 1
    summary = summary_of(services, search.id)
    assert summary is not None
    assert (summary["candidates"], summary["measured"]) == (4, 4)


def test_each_verified_trial_has_its_model_and_its_measurement(
    services: Services, target: tables.Target
) -> None:
    search = submit(services, target)
    worker(services).run_once()
    measure_all(services, target)
    worker(services).run_once()
    with services.database.read() as session:
        verified = session.execute(
            select(tables.Trial, tables.Model, tables.Measurement)
            .join(tables.Model, tables.Model.id == tables.Trial.model_id)
            .join(tables.Measurement, tables.Measurement.id == tables.Trial.measurement_id)
            .where(tables.Trial.search_id == search.id, tables.Trial.state == "verified")
        ).all()
    assert len(verified) == 4
    for trial, model, measurement in verified:
        assert measurement.model_id == model.id
        assert model.origin == "search"
        assert len(services.artifacts.read(model.sha256)) == trial.objectives["size_bytes"]


def test_a_failing_trial_is_data(services: Services, target: tables.Target) -> None:
    search = submit(services, target)
    worker(services).run_once()
    failed = [trial for trial in outcome(services, search.id) if trial["state"] == "failed"]
    assert failed, "this seed must propose a genome that cannot be built"
    assert all("level0" in trial["failure"] for trial in failed)


@pytest.mark.parametrize("deaths", [[1], [5, 12, 13], [24]])
def test_killed_and_taken_over_it_ends_as_if_nothing_had_happened(
    services: Services, target: tables.Target, advance_then_die: list[int], deaths: list[int]
) -> None:
    undisturbed = submit(services, target)
    worker(services).run_once()
    measure_all(services, target)
    worker(services).run_once()
    disturbed = submit(services, target)
    advance_then_die[:] = [24 + death for death in deaths]
    for _ in deaths:
        with pytest.raises(Killed):
            worker(services).run_once()
        rows.expire_leases(services.database)
    assert worker(services).run_once()
    assert measure_all(services, target) == 4, "each member of the front is measured once"
    assert worker(services).run_once()
    assert outcome(services, disturbed.id) == outcome(services, undisturbed.id)
    assert summary_of(services, disturbed.id) == summary_of(services, undisturbed.id)


def test_killed_after_its_front_was_submitted_it_measures_nothing_twice(
    services: Services, target: tables.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = submit(services, target)
    worker(services).run_once()
    measure_all(services, target)

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(search_work.loop, "finish", die)
        with pytest.raises(Killed):
            worker(services).run_once()
    rows.expire_leases(services.database)
    assert worker(services).run_once()
    assert rows.job_of(services.database, search.job_id).state == "succeeded"
    assert len(rows.children_of(services.database, search.job_id)) == 4


def test_told_to_stop_it_gives_the_search_back_without_losing_an_attempt(
    services: Services, target: tables.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = submit(services, target)
    stop = StopRequest()
    original = loop.advance

    def advance_and_stop(state: loop.SearchState, *args: Any, **kwargs: Any) -> loop.Step:
        if len(state.trials) == 4:
            stop.set()
        return original(state, *args, **kwargs)

    monkeypatch.setattr(search_work.loop, "advance", advance_and_stop)
    worker(services, stop).run()
    given_back = rows.job_of(services.database, search.job_id)
    assert (given_back.state, given_back.attempt, given_back.holder) == ("queued", 0, None)
    assert len(outcome(services, search.id)) == 5, "the trial at hand was finished and kept"
    assert worker(services).run_once()
    assert len(outcome(services, search.id)) == 24


def test_cancelled_in_the_middle_it_ends_and_keeps_its_trials(
    services: Services, target: tables.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = submit(services, target)
    original = loop.advance

    def advance_and_cancel(state: loop.SearchState, *args: Any, **kwargs: Any) -> loop.Step:
        if len(state.trials) == 4:
            with services.database.write() as session:
                queue.cancel(session, project_id=target.project_id, job_id=search.job_id)
        return original(state, *args, **kwargs)

    monkeypatch.setattr(search_work.loop, "advance", advance_and_cancel)
    assert worker(services).run_once()
    ended = rows.job_of(services.database, search.job_id)
    assert ended.state == "cancelled"
    assert ended.result is not None
    assert ended.result["trials"] == 5
    assert len(outcome(services, search.id)) == 5
    assert rows.children_of(services.database, search.job_id) == []


def test_a_lease_that_was_lost_writes_nothing_more(
    services: Services, target: tables.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = submit(services, target)
    original = loop.advance

    def advance_while_another_takes_over(state: loop.SearchState, *args: Any, **kwargs: Any) -> loop.Step:
        if len(state.trials) == 4:
            rows.expire_leases(services.database)
            with services.database.write() as session:
                assert queue.claim(session, kinds=["search"], holder="other", lease_s=60) is not None
        return original(state, *args, **kwargs)

    monkeypatch.setattr(search_work.loop, "advance", advance_while_another_takes_over)
    assert worker(services).run_once()
    assert len(outcome(services, search.id)) == 4
    job = rows.job_of(services.database, search.job_id)
    assert (job.state, job.holder) == ("leased", "other")


def test_a_job_that_was_given_up_meanwhile_is_left_at_the_next_step(
    services: Services, target: tables.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = submit(services, target)
    original = loop.advance

    def advance_while_the_last_attempt_expires(
        state: loop.SearchState, *args: Any, **kwargs: Any
    ) -> loop.Step:
        if len(state.trials) == 4:
            with services.database.write() as session:
                job = session.get_one(tables.Job, search.job_id)
                job.attempt = job.max_attempts
            rows.expire_leases(services.database)
            with services.database.write() as session:
                assert queue.reap(session) == 1
        return original(state, *args, **kwargs)

    monkeypatch.setattr(search_work.loop, "advance", advance_while_the_last_attempt_expires)
    assert worker(services).run_once()
    assert len(outcome(services, search.id)) == 4, "it neither stores nor trains for a job that has ended"
    job = rows.job_of(services.database, search.job_id)
    assert (job.state, job.failure_code) == ("failed", queue.HOLDER_LOST)


def test_a_search_is_pinned_to_the_predictor_it_began_with(
    services: Services, target: tables.Target, advance_then_die: list[int]
) -> None:
    search = submit(services, target)
    advance_then_die.append(3)
    with pytest.raises(Killed):
        worker(services).run_once()
    rows.expire_leases(services.database)
    with services.database.write() as session:
        first = session.get_one(tables.Search, search.id).pinned_predictor_id
        newer = rows.add_live_predictor(session, services, session.get_one(tables.Target, target.id))
    assert worker(services).run_once()
    with services.database.read() as session:
        assert session.get_one(tables.Search, search.id).pinned_predictor_id == first != newer


def test_a_target_without_a_predictor_fails_the_search_with_the_reason(
    services: Services, project_id: str
) -> None:
    with services.database.write() as session:
        target = rows.add_target(session, project_id, key="bare")
        search = rows.add_search(session, target, REQUEST)
    assert worker(services).run_once()
    job = rows.job_of(services.database, search.job_id)
    assert (job.state, job.failure_code) == ("failed", "target_not_ready")


def test_measurements_that_fail_or_are_invalid_verify_nothing(
    services: Services, target: tables.Target
) -> None:
    search = submit(services, target)
    worker(services).run_once()
    assert rows.refuse_next(services.database, target.device_id)
    while rows.measure_next(services.database, target.device_id, latency_of, is_valid=False):
        pass
    assert worker(services).run_once()
    assert rows.job_of(services.database, search.job_id).state == "succeeded"
    summary = summary_of(services, search.id)
    assert summary is not None
    assert (summary["measured"], summary["missing"], summary["invalid"]) == (0, 1, 3)
    assert not any(trial["on_verified_front"] for trial in outcome(services, search.id))


def test_a_broken_checkpoint_fails_the_job_and_not_the_worker(
    services: Services, target: tables.Target
) -> None:
    search = submit(services, target)
    with services.database.write() as session:
        stored = services.artifacts.put_bytes(b"{}")
        search_work.artifacts.record(session, stored, media_type="application/json")
        session.get_one(tables.Search, search.id).checkpoint_sha256 = stored.sha256
    assert worker(services).run_once()
    job = rows.job_of(services.database, search.job_id)
    assert (job.state, job.failure_code) == ("failed", "checkpoint_damaged")
