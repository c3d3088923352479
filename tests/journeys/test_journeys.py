"""The three journeys through real processes, on both databases: onboard, ask and measure; a worker killed in
the middle of a search; an agent killed in the middle of a measurement.

Devices are measured with the scripted engine, whose numbers are the same every time, so that two runs can be
compared exactly.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import func, make_url, select

from devices.measurement import Level
from predictor.reference_set import reference_models
from service.client import Client
from service.db import tables
from service.db.session import Database
from service.demo.processes import Child
from service.fleet.schemas import TargetView
from service.jobs.states import JobState
from service.latency.schemas import MeasurementCreate, ModelView, QueriedModel, Source
from service.searches.schemas import SearchCreate, SearchView, TrialView
from tests.journeys.stage import Stage, await_end, await_ready, await_that, kill, staged

pytestmark = pytest.mark.timeout(300)


@dataclass
class Running:
    """An installation with a ready target."""

    stage: Stage
    client: Client
    target: TargetView
    model: ModelView
    worker: Child
    agent: Child


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("journey")
    url = (
        None
        if request.param == "sqlite"
        else new_database(request.getfixturevalue("postgresql_server"), folder)
    )
    with staged(folder, url) as stage, stage.start_server() as client:
        worker = stage.start_worker("first")
        agent = stage.start_agent("agent", client.create_registration_token().token)
        file = folder / "model.onnx"
        file.write_bytes(reference_models()[1].model + b"")
        target = await_ready(client)
        model, _ = client.upload_model(file)
        yield Running(stage, client, target, model, worker, agent)


def new_database(server_url: str, folder: Path) -> str:
    """An empty PostgreSQL database, upgraded as an operator would."""
    name = f"laptime_journey_{secrets.token_hex(4)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
    environment = {**os.environ, "LAPTIME_DATABASE_URL": url, "LAPTIME_DATA_DIR": str(folder / "data")}
    subprocess.run(
        [sys.executable, "-m", "service.cli", "db", "upgrade"], env=environment, check=True, timeout=60
    )
    return url


def test_from_an_unknown_machine_to_a_measured_answer(running: Running) -> None:
    client, target = running.client, running.target
    assert target.key == "journey/fake-1.0/cpu/t1"
    assert target.predictor is not None
    assert target.predictor.accuracy.sample_count == len(reference_models())
    asked = [QueriedModel(model=running.model.id)]
    [predicted] = client.latencies(asked, [target.key], source=Source.PREDICTION)
    assert predicted.error is None
    assert predicted.source is Source.PREDICTION
    assert predicted.predictor_id == target.predictor.id
    job = await_end(client, client.measure(MeasurementCreate(model=running.model.id, target=target.key)))
    assert job.state is JobState.SUCCEEDED, job.failure
    assert job.result is not None
    measurement = client.measurement(str(job.result["measurement_id"]))
    assert measurement.is_valid, measurement.reasons
    [best] = client.latencies(asked, [target.key])
    assert (best.source, best.measurement_id) == (Source.MEASUREMENT, measurement.id)
    assert best.median_ms == measurement.median_ms


def test_a_search_whose_worker_was_killed_ends_with_the_same_front(running: Running) -> None:
    client = running.client
    request = SearchCreate(
        target=running.target.id,
        trial_count=4,
        population_size=2,
        verify_count=2,
        verify_level=Level.QUICK,
        seed=7,
    )
    undisturbed = client.start_search(request)
    assert await_end(client, undisturbed.job).state is JobState.SUCCEEDED
    disturbed = client.start_search(request)
    await_that(lambda: client.search(disturbed.id).trial_count >= 2, "two trials")
    kill(running.worker)
    running.worker = running.stage.start_worker("second")
    ended = await_end(client, disturbed.job)
    assert ended.state is JobState.SUCCEEDED, ended.failure
    claims = [event.data["holder"] for event in client.job_events(ended.id).items if event.type == "leased"]
    assert claims[0] == "first"
    assert set(claims[1:]) == {"second"}, "another worker took it over"
    assert outcome(client, disturbed) == outcome(client, undisturbed)
    assert len(list(client.jobs(parent_id=ended.id))) == len(list(client.jobs(parent_id=undisturbed.job.id)))


def outcome(client: Client, search: SearchView) -> dict[str, Any]:
    """Genomes, objectives, predicted and measured values of every trial, and what the verification says."""
    front = client.front(search.id)
    assert front.verified
    assert front.summary is not None
    return {
        "trials": [without_ids(trial) for trial in client.trials(search.id)],
        "predicted": [without_ids(trial) for trial in front.predicted],
        "verified": [without_ids(trial) for trial in front.verified],
        "summary": front.summary,
    }


def without_ids(trial: TrialView) -> dict[str, Any]:
    return trial.model_dump(exclude={"measurement_id"})


def test_a_measurement_whose_agent_was_killed_is_done_at_its_next_start_and_recorded_once(
    running: Running,
) -> None:
    client = running.client
    wanted = MeasurementCreate(model=running.model.id, target=running.target.key, level=Level.STANDARD)
    job = client.measure(wanted)
    await_that(lambda: client.job(job.id).state is JobState.RUNNING, "the agent to begin")
    kill(running.agent)
    assert client.job(job.id).state is JobState.RUNNING, "it was killed in the middle"
    running.agent = running.stage.start_agent("agent-again")
    ended = await_end(client, job)
    assert ended.state is JobState.SUCCEEDED, ended.failure
    types = [event.type for event in client.job_events(job.id).items]
    assert types.count("leased") == 2
    assert types.count("requeued") == 1
    assert types[-1] == "succeeded"
    assert measurements_of(running.stage, job.id) == 1


def measurements_of(stage: Stage, job_id: str) -> int:
    database = Database(stage.settings.effective_database_url, pool_size=1)
    try:
        with database.read() as session:
            rows = (
                select(func.count())
                .select_from(tables.Measurement)
                .where(tables.Measurement.job_id == job_id)
            )
            return session.scalars(rows).one()
    finally:
        database.dispose()
