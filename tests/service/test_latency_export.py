"""Who allows that measurements become training data, the lines they become, and how good predictors are."""

from __future__ import annotations

from pathlib import Path

import pytest
from api_world import (
    AgentOnTheWire,
    add_key,
    add_project_with_key,
    assert_problem,
    bearer,
    dense_model,
    register,
    upload,
)
from fastapi.testclient import TestClient

from predictor.measurement_file import read_lines
from service.dependencies import Services
from service.latency import export
from service.security import Scope

EXPORT = "/v1/measurements/export"


def test_an_administrator_decides_whether_measurements_are_shared(
    client: TestClient, services: Services, project_id: str
) -> None:
    assert client.get("/v1/project").json()["shares_measurements"] is False
    problem = assert_problem(client.get(EXPORT), 409, "measurements_not_shared")
    assert "PATCH /v1/project" in problem["detail"]
    reader = bearer(add_key(services, project_id, Scope.READ, Scope.MEASURE, Scope.FLEET_ADMIN))
    change = {"shares_measurements": True}
    assert_problem(client.patch("/v1/project", json=change, headers=reader), 403, "forbidden")
    _, theirs = add_project_with_key(services, "other")
    assert client.patch("/v1/project", json=change, headers=bearer(theirs)).status_code == 200
    assert client.get("/v1/project").json()["shares_measurements"] is False  # each its own
    shown = client.patch("/v1/project", json=change).json()
    assert (shown["id"], shown["shares_measurements"]) == (project_id, True)
    assert client.patch("/v1/project", json={}).json() == shown
    assert client.get(EXPORT, headers=reader).status_code == 200


def test_shared_measurements_are_lines_that_the_predictor_reads(
    client: TestClient, agent: AgentOnTheWire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LINES_AT_ONCE", 2)
    client.patch("/v1/project", json={"shares_measurements": True})
    assert client.get(EXPORT).content == b""
    models = [upload(client, dense_model(seed=seed), name=f"net {seed}") for seed in range(5)]
    for number, model in enumerate(models):
        client.post("/v1/measurements", json={"model": model["id"], "target": agent.target_key})
        agent.measure(1.0 + number, is_valid=number != 2)
    plain, whole = (client.get(EXPORT, params={"samples": samples}) for samples in (False, True))
    assert plain.headers["content-type"].startswith("application/jsonl")
    for answer, count in ((plain, None), (whole, 12)):
        file = tmp_path / "measured.jsonl"
        file.write_bytes(answer.content)
        lines = [entry.line for entry in read_lines(file)]
        assert [line.model for line in lines] == [models[i]["sha256"] for i in (0, 1, 3, 4)]
        assert [line.median_ms for line in lines] == [1, 2, 4, 5]
        assert [line.standard_error_ms for line in lines] == pytest.approx([0.01, 0.02, 0.04, 0.05])
        assert {line.target for line in lines} == {agent.target_key}
        assert lines[0].input_shapes == {"x": (1, 8)}
        assert (lines[0].name, lines[0].runtime["engine"]) == ("net 0", "fake")
        assert lines[0].hardware["cpu_model"] == "a processor"
        assert (None if lines[0].samples_ns is None else len(lines[0].samples_ns)) == count
    assert client.get(EXPORT, params={"target": agent.target_id}).content == plain.content
    assert_problem(client.get(EXPORT, params={"target": "no/such"}), 404, "not_found")


def test_the_accuracy_card_is_open_to_every_key_of_the_project(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    path = f"/v1/targets/{agent.target_id}/accuracy"
    for scope in Scope:
        card = client.get(path, headers=bearer(add_key(services, project_id, scope)))
        assert card.status_code == 200, card.text
    shown = card.json()
    assert (shown["target_key"], shown["measured_since"]) == (agent.target_key, 0)
    assert shown["accuracy"]["coverage_90"] is not None
    assert sum(one["sample_count"] for one in shown["accuracy"]["by_family"].values()) == 10
    assert len(shown["accuracy"]["trained_on"]) == 10
    model = upload(client, dense_model())["id"]
    client.post("/v1/measurements", json={"model": model, "target": agent.target_key})
    agent.measure()
    assert client.get(path).json()["measured_since"] == 1
    waiting = register(client, services, project_id, "other")
    answer = client.get(f"/v1/targets/{waiting.target_id}/accuracy")
    assert_problem(answer, 409, "target_not_ready")
