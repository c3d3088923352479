"""Models, measurements and predictors as they are stored: parsed once, recorded once, found again."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_rows import RUNTIME, add_project, add_target
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from sqlalchemy import select

from devices.measurement import (
    ColdStart,
    Conditions,
    Estimate,
    Level,
    Measurement,
    MeasurementPlan,
    Round,
    Verdict,
)
from devices.model_ref import ModelRef, sha256_of
from devices.target import Hardware
from predictor.adapt import Observation, adapt
from predictor.checkpoint import Checkpoint, TargetFacts
from predictor.evaluate import AccuracyCard
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_models
from service import measurements, models, predictors
from service.artifacts import ArtifactStore
from service.db import tables
from service.db.session import Database
from service.errors import Conflict, Invalid, LeaseLost, NotFound
from service.jobs import queue
from service.jobs.queue import Lease
from service.predictors import PredictorCache

HARDWARE = Hardware(
    cpu_model="Test",
    architecture="x86_64",
    physical_cores=1,
    logical_cores=1,
    memory_bytes=1 << 30,
    operating_system="Linux",
)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def relu(*, axis: int | str = 4, kind: str = "Relu", domain: str = "") -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, axis])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, axis])
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"], domain=domain)], "g", [x], [y])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


# -- models


def test_a_model_is_parsed_and_its_bytes_are_durable(store: ArtifactStore) -> None:
    facts = models.inspect_model(store, relu())
    assert [(spec.name, spec.dtype, spec.shape) for spec in facts.inputs] == [("x", "float32", (1, 4))]
    assert facts.summary["operators"] == {"Relu": 1}
    assert store.read(facts.stored.sha256) == relu()


def test_a_model_that_cannot_be_costed_can_still_be_measured(store: ArtifactStore) -> None:
    dynamic = models.inspect_model(store, relu(axis="width"))
    assert dynamic.summary == {"notes": ["the cost depends on the sizes of x"]}
    foreign = models.inspect_model(store, relu(kind="Frobnicate", domain="org.example"))
    assert "Frobnicate" in foreign.summary["notes"][0]


def test_what_is_no_model_is_refused_and_not_kept(store: ArtifactStore) -> None:
    for data in (b"", b"not a model at all"):
        with pytest.raises(Invalid) as caught:
            models.inspect_model(store, data)
        assert caught.value.code == "model_malformed"
        assert not store.path(sha256_of(data)).exists()


def test_a_model_belongs_to_its_project_once(database: Database, store: ArtifactStore) -> None:
    facts = models.inspect_model(store, relu())
    with database.write() as session:
        mine, theirs = add_project(session), add_project(session, "other")
        first = models.register(session, facts, project_id=mine, name="relu", origin="upload")
        again = models.register(session, facts, project_id=mine, name="b", origin="search")
        other = models.register(session, facts, project_id=theirs, name="c", origin="upload")
    assert (again.id, again.name, again.origin) == (first.id, "relu", "upload")
    assert other.id != first.id
    with database.read() as session:
        for name in (first.id, first.sha256):
            assert models.get_model(session, mine, name).id == first.id
        with pytest.raises(NotFound):
            models.get_model(session, theirs, first.id)
        assert len(session.scalars(select(tables.Artifact)).all()) == 1


def test_a_model_registered_by_many_at_once_is_one(database: Database, store: ArtifactStore) -> None:
    facts = models.inspect_model(store, relu())
    with database.write() as session:
        project_id = add_project(session)
    found: list[str] = []

    def register() -> None:
        with database.write() as session:
            found.append(models.register(session, facts, project_id=project_id, name="n", origin="upload").id)

    run_all(register, 6)
    assert len(found) == 6
    assert len(set(found)) == 1


def run_all(act: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=act) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- measurements


def measurement(data: bytes, **changes: Any) -> Measurement:
    conditions = Conditions(at_unix_s=0.0)
    made = Measurement(
        agent_version="0",
        device_key="board",
        runtime=RUNTIME,
        model=ModelRef(sha256=sha256_of(data), input_shapes={"x": (1, 4)}),
        plan=MeasurementPlan(level=Level.QUICK),
        clock="perf_counter",
        sandbox="rlimits",
        cold_starts=(ColdStart(load_ns=1, first_run_ns=2),),
        rounds=(Round(started_at_ns=0, warmup_ns=(9,), samples_ns=(1_000_000, 1_100_000)),),
        before=conditions,
        after=conditions,
        estimate=Estimate(median_ms=1.05, mad_ms=0.05, standard_error_ms=0.02, sample_count=2, round_count=1),
        verdict=Verdict(is_valid=True),
    )
    return made.model_copy(update=changes)


def profile_job(database: Database, store: ArtifactStore) -> Lease:
    """A leased profile job of `relu()`."""
    facts = models.inspect_model(store, relu())
    with database.write() as session:
        project_id = add_project(session)
        target = add_target(session, project_id)
        model = models.register(session, facts, project_id=project_id, name="relu", origin="upload")
        queue.submit(
            session,
            project_id=project_id,
            kind="profile",
            payload={
                "model_id": model.id,
                "sha256": model.sha256,
                "model_bytes": model.size_bytes,
                "input_shapes": {"x": [1, 4]},
                "plan": MeasurementPlan(level=Level.QUICK).model_dump(mode="json"),
                "is_reference": True,
            },
            device_id=target.device_id,
            target_id=target.id,
        )
        device_id = target.device_id
    with database.write() as session:
        job = queue.claim(session, kinds=["profile"], holder="agent", lease_s=30, device_id=device_id)
        assert job is not None
        return queue.lease_of(job)


def report(database: Database, lease: Lease, made: Measurement) -> str:
    """As the agents' side does it: one transaction."""
    with database.write() as session:
        row = measurements.record(session, job=queue.hold(session, lease), measurement=made)
        queue.complete(session, lease, {"measurement_id": row.id})
        return row.id


def test_a_measurement_is_recorded_with_the_end_of_its_job(database: Database, store: ArtifactStore) -> None:
    lease = profile_job(database, store)
    made = measurement(relu())
    row_id = report(database, lease, made)
    with database.read() as session:
        row = session.get_one(tables.Measurement, row_id)
        job = session.get_one(tables.Job, lease.job_id)
        assert (row.median_ms, row.is_valid, row.is_reference, row.level) == (1.05, True, True, "quick")
        assert measurements.decode_document(row.document) == made
        assert (job.state, job.result) == ("succeeded", {"measurement_id": row_id})


def test_a_report_sent_by_many_at_once_is_recorded_once(database: Database, store: ArtifactStore) -> None:
    lease = profile_job(database, store)
    found: list[str] = []
    run_all(lambda: found.append(report(database, lease, measurement(relu()))), 6)
    assert len(found) == 6
    assert len(set(found)) == 1


def test_a_report_under_an_old_fence_leaves_no_measurement(database: Database, store: ArtifactStore) -> None:
    lease = profile_job(database, store)
    with pytest.raises(LeaseLost):
        report(database, Lease(lease.job_id, lease.holder, lease.fence - 1), measurement(relu()))
    with database.read() as session:
        assert session.scalars(select(tables.Measurement)).all() == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": ModelRef(sha256="0" * 64, input_shapes={"x": (1, 4)})}, "model"),
        ({"model": ModelRef(sha256=sha256_of(relu()), input_shapes={"x": (2, 4)})}, "input_shapes"),
        ({"runtime": RUNTIME.model_copy(update={"threads": 2})}, "runtime"),
        ({"plan": MeasurementPlan(level=Level.CERTIFIED)}, "level"),
    ],
)
def test_a_measurement_of_something_else_is_refused(
    database: Database, store: ArtifactStore, changes: dict[str, Any], what: str
) -> None:
    lease = profile_job(database, store)
    with pytest.raises(Invalid, match=f"asked for {what}") as caught:
        report(database, lease, measurement(relu(), **changes))
    assert caught.value.code == "measurement_mismatch"


@given(st.dictionaries(st.text(max_size=5), st.lists(st.integers(1, 100), max_size=4), max_size=4))
def test_sizes_have_one_name_whatever_their_order(shapes: dict[str, list[int]]) -> None:
    turned = {name: tuple(shapes[name]) for name in reversed(list(shapes))}
    assert measurements.shapes_sha256(turned) == measurements.shapes_sha256(shapes)
    changed = {**shapes, "another": [1]}
    assert measurements.shapes_sha256(changed) != measurements.shapes_sha256(shapes)


def test_a_damaged_document_is_noticed() -> None:
    whole = measurements.encode_document(measurement(relu()))
    for damaged in (whole[:-10], b"x" + whole, b"", zlib.compress(b"{}")):
        with pytest.raises(ValueError):  # noqa: PT011 - each kind of damage has its own words
            measurements.decode_document(damaged)


# -- predictors


def checkpoint(scale: float = 1.0) -> Checkpoint:
    small = [one for one in reference_models() if len(one.model) < 1 << 20][:3]
    observations = [
        Observation(
            target_key="board",
            runtime=RUNTIME,
            hardware=HARDWARE,
            graph=read_graph(one.model, one.input_shapes),
            median_ms=scale * (number + 1),
            standard_error_ms=0.01,
            name=one.name,
        )
        for number, one in enumerate(small)
    ]
    return adapt(TargetFacts(key="board", runtime=RUNTIME, hardware=HARDWARE), observations)


CARD = AccuracyCard(
    mape=0.1,
    median_ape=0.1,
    within_10_percent=0.5,
    within_25_percent=1.0,
    coverage_90=0.9,
    mean_interval_width=1.5,
    sample_count=3,
    trained_on=("a", "b", "c"),
)


def test_a_published_predictor_is_live_and_loaded_once(database: Database, store: ArtifactStore) -> None:
    cache = PredictorCache(store, size=2)
    with database.write() as session:
        project_id = add_project(session)
        target = add_target(session, project_id)
        job = queue.submit(session, project_id=project_id, kind="adapt", payload={}, target_id=target.id)
        with pytest.raises(Conflict, match="not adapted yet") as caught:
            cache.live(session, target)
        assert caught.value.code == "target_not_ready"
    stored = store.put_bytes(checkpoint().to_bytes())
    with database.write() as session:
        row = predictors.publish(session, stored, target_id=target.id, job_id=job.id, accuracy=CARD)
    with database.read() as session:
        ready = session.get_one(tables.Target, target.id)
        assert (ready.state, ready.live_predictor_id) == ("ready", row.id)
        assert AccuracyCard.model_validate(session.get_one(tables.Predictor, row.id).accuracy) == CARD
        first_id, first = cache.live(session, ready)
        assert (first_id, cache.live(session, ready)[1] is first) == (row.id, True)
        graph = read_graph(relu(), {})
        assert first.predict(graph).median_ms > 0


def test_a_retired_target_stays_retired(database: Database, store: ArtifactStore) -> None:
    stored = store.put_bytes(checkpoint().to_bytes())
    with database.write() as session:
        project_id = add_project(session)
        target = add_target(session, project_id)
        job = queue.submit(session, project_id=project_id, kind="adapt", payload={}, target_id=target.id)
        target.state = "retired"
        predictors.publish(session, stored, target_id=target.id, job_id=job.id, accuracy=CARD)
        assert target.state == "retired"


def test_the_cache_keeps_what_was_used_last(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [store.put_bytes(checkpoint(scale).to_bytes()).sha256 for scale in (1.0, 2.0, 3.0)]
    cache, reads = PredictorCache(store, size=2), []
    read = store.read
    monkeypatch.setattr(store, "read", lambda name: reads.append(name) or read(name))
    for index in (0, 1, 0, 2, 0, 1):
        cache.load(names[index])
    assert reads == [names[index] for index in (0, 1, 2, 1)]
