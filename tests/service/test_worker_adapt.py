"""Onboarding's end, on both databases: from the reference set's measurements to a live predictor, or to a
clear reason.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from sqlalchemy import func, select

from devices.measurement import MeasurementPlan
from devices.model_ref import sha256_of
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_candidates, reference_models, stand_ins
from service import models
from service.db import tables
from service.dependencies import Services
from service.fleet.onboarding import onboard, stored_reference_set
from service.jobs import queue
from service.profiling import ProfilePayload, submit_profile
from service.worker import adapt as adapt_work
from service.worker.loop import Worker
from service.worker.stopping import StopRequest
from tests.service import worker_rows as rows


@cache
def multiply_accumulates() -> dict[str, int]:
    """Of each reference model and stand-in, by the SHA-256 of its bytes."""
    return {
        sha256_of(one.model): read_graph(one.model, one.input_shapes).macs for one in reference_candidates()
    }


def on_a_machine(gmacs_per_s: float) -> Callable[[ProfilePayload], float]:
    """Latencies of a machine that does nothing but multiply and accumulate."""
    return lambda payload: 0.05 + multiply_accumulates()[payload.sha256] / gmacs_per_s / 1e6


def begin(services: Services, project_id: str, key: str = "board") -> tuple[tables.Target, str]:
    """A target that is to be onboarded, and its adapt job."""
    reference_set = stored_reference_set(services.artifacts)
    with services.database.write() as session:
        target = rows.add_target(session, project_id, key=key)
        return target, onboard(session, target, reference_set).id


def measure_all(services: Services, target: tables.Target, gmacs_per_s: float = 10.0) -> None:
    while rows.measure_next(services.database, target.device_id, on_a_machine(gmacs_per_s)):
        pass


def worker(services: Services) -> Worker:
    return Worker(services, name="w", stop=StopRequest())


def now(services: Services, target: tables.Target) -> tables.Target:
    with services.database.read() as session:
        return session.get_one(tables.Target, target.id)


def test_a_measured_reference_set_makes_a_target_ready(services: Services, project_id: str) -> None:
    target, job_id = begin(services, project_id)
    assert not worker(services).run_once(), "nothing to adapt to before the measurements are in"
    measure_all(services, target)
    assert worker(services).run_once()
    ready = now(services, target)
    assert (ready.state, ready.state_reason) == ("ready", None)
    job = rows.job_of(services.database, job_id)
    assert job.state == "succeeded"
    assert job.result == {"predictor_id": ready.live_predictor_id, "note": None}
    with services.database.read() as session:
        predictor_id, live = services.predictors.live(session.connection(), ready)
        row = session.get_one(tables.Predictor, predictor_id)
    assert row.accuracy["sample_count"] == 10
    one = reference_models()[0]
    prediction = live.predict(read_graph(one.model, one.input_shapes))
    truth_ms = 0.05 + multiply_accumulates()[sha256_of(one.model)] / 10.0 / 1e6
    assert prediction.lower_ms <= prediction.median_ms <= prediction.upper_ms
    assert truth_ms / 3 < prediction.median_ms < 3 * truth_ms, "no machine works like this one, but nearly"


def test_a_second_target_learns_from_the_first(services: Services, project_id: str) -> None:
    first, _ = begin(services, project_id, "first")
    measure_all(services, first)
    assert worker(services).run_once()
    second, _ = begin(services, project_id, "second")
    measure_all(services, second, gmacs_per_s=20.0)
    assert worker(services).run_once()
    with services.database.read() as session:
        row = session.get_one(tables.Predictor, now(services, second).live_predictor_id)
    assert row.accuracy["pooled_targets"] == [first.key]


def test_stand_ins_are_measured_for_models_that_failed(services: Services, project_id: str) -> None:
    target, job_id = begin(services, project_id)
    assert rows.refuse_next(services.database, target.device_id)
    assert rows.measure_next(services.database, target.device_id, on_a_machine(10.0), is_valid=False)
    measure_all(services, target)
    assert worker(services).run_once()
    assert now(services, target).state == "onboarding"
    job = rows.job_of(services.database, job_id)
    assert (job.state, job.waiting_for) == ("queued", 2)
    assert rows.refuse_next(services.database, target.device_id)  # a third stands in for this one
    measure_all(services, target)
    assert worker(services).run_once()
    assert rows.job_of(services.database, job_id).waiting_for == 1
    measure_all(services, target)
    assert worker(services).run_once()
    ready = now(services, target)
    assert ready.state == "ready"
    names = [one.name for one in reference_models()]
    assert ready.state_reason == (
        "10 of 13 reference models gave a valid measurement: "
        f"{names[0]}: crashed (it fell over); {names[1]}: too noisy; "
        f"{stand_ins()[0].name}: crashed (it fell over)"
    )
    with services.database.read() as session:
        row = session.get_one(tables.Predictor, ready.live_predictor_id)
    assert row.accuracy["sample_count"] == 10


def test_where_too_few_stand_ins_run_a_target_is_told_by_fewer(services: Services, project_id: str) -> None:
    target, _ = begin(services, project_id)
    for _ in range(4):
        assert rows.refuse_next(services.database, target.device_id)
    measure_all(services, target)
    assert worker(services).run_once()
    for _ in range(3):
        assert rows.refuse_next(services.database, target.device_id)
    measure_all(services, target)
    assert worker(services).run_once()  # asks for the last stand-in
    measure_all(services, target)
    assert worker(services).run_once()
    ready = now(services, target)
    assert ready.state == "ready"
    assert str(ready.state_reason).startswith("8 of 15 reference models gave a valid measurement: ")
    with services.database.read() as session:
        row = session.get_one(tables.Predictor, ready.live_predictor_id)
    assert row.accuracy["sample_count"] == 8


def test_a_target_with_too_few_measurements_fails_with_every_reason(
    services: Services, project_id: str
) -> None:
    target, job_id = begin(services, project_id)
    for _ in range(adapt_work.MIN_REFERENCES - 1):
        assert rows.measure_next(services.database, target.device_id, on_a_machine(10.0))
    for _ in range(2):  # of the set and of the stand-ins
        while rows.refuse_next(services.database, target.device_id):
            pass
        assert worker(services).run_once()
    failed = now(services, target)
    job = rows.job_of(services.database, job_id)
    assert (failed.state, job.state, job.failure_code) == ("failed", "failed", "too_few_measurements")
    assert failed.state_reason is not None
    assert failed.state_reason.count("it fell over") == 10
    assert failed.live_predictor_id is None


def test_other_measurements_of_the_target_teach_too_but_do_not_count_as_references(
    services: Services, project_id: str
) -> None:
    target, _ = begin(services, project_id)
    measure_all(services, target)
    again = stored_reference_set(services.artifacts)[3]
    with services.database.write() as session:
        model = models.register(session, again.facts, project_id=project_id, name="again", origin="upload")
        submit_profile(
            session, target=target, model=model, input_shapes=again.input_shapes, plan=MeasurementPlan()
        )
    measure_all(services, target, gmacs_per_s=9.0)
    assert worker(services).run_once()
    with services.database.read() as session:
        row = session.get_one(tables.Predictor, now(services, target).live_predictor_id)
    assert row.accuracy["sample_count"] == 10, "of a model that was measured twice the newest counts"


def test_an_adaptation_that_was_cancelled_publishes_nothing(
    services: Services, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, job_id = begin(services, project_id)
    measure_all(services, target)
    original = adapt_work.adapt

    def cancel_and_adapt(*args: object, **kwargs: object) -> object:
        with services.database.write() as session:
            queue.cancel(session, project_id=project_id, job_id=job_id)
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(adapt_work, "adapt", cancel_and_adapt)
    assert worker(services).run_once()
    assert rows.job_of(services.database, job_id).state == "cancelled"
    worker(services).sweep()
    assert now(services, target).state == "failed"
    with services.database.read() as session:
        assert session.scalar(select(func.count()).select_from(tables.Predictor)) == 0
