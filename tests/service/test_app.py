"""The application as a whole: it starts on the right schema, documents itself, logs, and cleans up after
others.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import os
from pathlib import Path

import anyio.to_thread
import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update

import service
from service import housekeeping
from service.app import create_app
from service.db.clock import now_plus
from service.db.tables import IdempotencyKey, Job
from service.db.upgrade import SchemaOutdated
from service.dependencies import Services
from service.jobs import queue
from service.logs import configure_logs
from service.problems import MEANINGS
from service.settings import Settings

RAISING = {"Conflict": 0, "Invalid": 0, "ServiceError": 1, "AnswerError": 0}


def test_health_needs_no_key(client: TestClient) -> None:
    client.headers.pop("Authorization")
    assert client.get("/v1/health").json()["status"] == "ok"


def test_a_server_refuses_a_database_that_was_not_upgraded(empty_database_url: str, tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, database_url=empty_database_url))
    with pytest.raises(SchemaOutdated, match="run `laptime db upgrade`"), TestClient(app):
        pass
    app.state.services.database.dispose()


def test_the_embedded_server_starts_on_nothing(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path / "a" / "b"))
    with TestClient(app) as started:
        assert started.get("/v1/health").status_code == 200


def test_threads_and_connections_are_as_many_as_settings_say(app: FastAPI, settings: Settings) -> None:
    found: list[float] = []

    @app.get("/threads")
    async def threads() -> None:
        found.append(anyio.to_thread.current_default_thread_limiter().total_tokens)

    with TestClient(app) as started:
        started.get("/threads")
    assert found == [settings.request_threads]
    assert app.state.services.database.engine.pool.size() == settings.request_threads


def test_every_operation_needs_a_token_or_says_why_not(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    open_paths = {
        path
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if not operation.get("security")
    }
    assert open_paths == {"/v1/health", "/problems/{code}"}


def test_every_post_of_a_client_takes_an_idempotency_key(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        names = {parameter["name"] for parameter in operations.get("post", {}).get("parameters", [])}
        if "post" in operations:
            assert ("Idempotency-Key" in names) is not path.startswith("/v1/agents/"), path


def test_every_code_in_use_has_a_meaning() -> None:
    for file in sorted(Path(service.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISING:
                at = RAISING[node.func.id]
                given = [keyword.value for keyword in node.keywords if keyword.arg == "code"] or node.args[
                    at : at + 1
                ]
                for code in given:
                    if isinstance(code, ast.Constant):
                        assert code.value in MEANINGS, (
                            f"{file.name}:{node.lineno}: service.problems lacks {code.value}"
                        )


def test_a_problem_leads_to_its_meaning(client: TestClient) -> None:
    problem = client.get("/v1/jobs/none").json()
    assert client.get(problem["type"]).json() == {"code": "not_found", "meaning": MEANINGS["not_found"]}
    assert client.get("/problems/none").status_code == 404


def test_housekeeping_gives_up_what_nobody_claims(
    client: TestClient, services: Services, project_id: str
) -> None:
    with services.database.write() as session:
        queue.submit(session, project_id=project_id, kind="search", payload={})
    with services.database.write() as session:
        job = queue.claim(session, kinds=["search"], holder="gone", lease_s=30)
        assert job is not None
        queue.cancel(session, project_id=project_id, job_id=job.id)
        session.execute(update(Job).values(lease_until=now_plus(-1.0)))
        session.add(
            IdempotencyKey(
                project_id=project_id,
                key="old",
                route="r",
                request_sha256="0" * 64,
                created_at=now_plus(-1e6),
            )
        )
    left_behind = services.artifacts.incoming / "left_behind"
    left_behind.parent.mkdir(parents=True, exist_ok=True)
    left_behind.touch()
    os.utime(left_behind, (0.0, 0.0))
    housekeeping.clean_once(services)
    assert not left_behind.exists()
    assert client.get(f"/v1/jobs/{job.id}").json()["state"] == "cancelled"
    with services.database.read() as session:
        assert session.get(IdempotencyKey, (project_id, "old")) is None


def test_logs_are_json_lines_with_the_request_id(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    before = structlog.get_config()
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    try:
        configure_logs("info")
        client.get("/v1/health", headers={"X-Request-ID": "mine"})
        logging.getLogger("uvicorn.error").warning("from %s", "outside")
        logging.getLogger("alembic.runtime.migration").info("looked at the schema")
    finally:
        structlog.configure(**before)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    request = next(line for line in lines if line["event"] == "request")
    assert (request["request_id"], request["path"], request["status"]) == ("mine", "/v1/health", 200)
    assert any(line["event"] == "from outside" and line["level"] == "warning" for line in lines)
    assert not any(line["event"] == "looked at the schema" for line in lines)
