"""Files made to hurt, uploaded and asked about: each is refused or accepted in words, and the server goes
on as before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from api_world import AgentOnTheWire, dense_model, upload
from fastapi.testclient import TestClient

from devices.model_ref import sha256_of
from service.settings import Settings
from tests.predictor.hostile_models import hostile_models

REFUSED = {"malformed", "too_large", "external_data"}  # others can be measured, if not predicted
SLOW = {name for name in hostile_models() if name.startswith("empty ")} - {"empty nodes", "empty names"}
ONNX = {"Content-Type": "application/onnx"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is asked here does not depend on the kind of database."""
    return sqlite_url


def ask(client: TestClient, agent: AgentOnTheWire, model: str) -> Any:
    return client.post(
        "/v1/latency-queries", json={"models": [{"model": model}], "targets": [agent.target_key]}
    )


def stored_files(settings: Settings) -> set[Path]:
    return {path for path in settings.data_dir.rglob("*") if path.is_file() and "artifacts" in path.parts}


def assert_told(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["detail"]) > 10


def assert_well(client: TestClient, agent: AgentOnTheWire, good: str) -> None:
    """The server is up, and answers who asks for something sensible."""
    assert client.get("/v1/health").status_code == 200
    [answer] = ask(client, agent, good).json()["answers"]
    assert answer["source"] == "prediction"
    assert answer["median_ms"] > 0


def test_nothing_that_is_uploaded_disturbs_the_server(
    client: TestClient, settings: Settings, agent: AgentOnTheWire
) -> None:
    good = upload(client, dense_model())["id"]
    before, accepted = stored_files(settings), set[str]()
    for name, (data, code) in hostile_models().items():
        if name in SLOW:
            continue
        answer = client.post("/v1/models", params={"name": name}, content=data, headers=ONNX)
        if answer.status_code != 201:
            assert_told(answer, 422, f"model_{code}" if data else "model_empty")
        else:
            assert code not in REFUSED, name
            accepted.add(sha256_of(data))
            assert_answered(ask(client, agent, answer.json()["id"]), code)
        assert_well(client, agent, good)
    assert len(accepted) > 15
    added = {path.parent.name + path.name for path in stored_files(settings) - before}
    assert added == accepted  # what was refused left nothing, not even on its way in


def assert_answered(answer: Any, code: str) -> None:
    """A prediction for a graph, a refusal of the question for sizes that are missing, else why there is
    none.
    """
    if code == "missing_input_sizes":
        assert_told(answer, 422, code)
        return
    assert answer.status_code == 200, answer.text
    [found] = answer.json()["answers"]
    if code == "graph":
        assert found["error"] is None
        assert found["median_ms"] > 0
    else:
        assert found["error"]["code"] == code
        assert found["error"]["detail"]
