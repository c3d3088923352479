"""Every error is a problem document with a stable code, and tells nothing that it should not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.db.tables import Project
from service.dependencies import DatabaseDep
from service.errors import (
    MEDIA_TYPE,
    Conflict,
    Forbidden,
    Invalid,
    LeaseLost,
    NotFound,
    ServiceError,
    TooLarge,
    Unauthenticated,
)
from service.settings import Settings

SECRET = "the launch code is 1234"
MEMBERS = {"type", "title", "status", "detail", "code", "instance", "request_id"}


class Body(BaseModel):
    number: int
    texts: dict[str, str] = {}


def raising(error: Exception) -> APIRouter:
    router = APIRouter()

    @router.get("/raise")
    def raise_it() -> None:
        raise error

    return router


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """How errors are answered does not depend on the database, except where a test says so."""
    return sqlite_url


@pytest.fixture
def quiet(app: FastAPI) -> Iterator[TestClient]:
    """A client that gets the answer to an unexpected error instead of the error."""
    with TestClient(app, raise_server_exceptions=False) as started:
        yield started


@pytest.mark.parametrize(
    ("error", "status", "code", "extra"),
    [
        (Unauthenticated("why"), 401, "unauthenticated", {}),
        (Forbidden("search"), 403, "forbidden", {"required_scope": "search"}),
        (NotFound("model", "mdl_1"), 404, "not_found", {}),
        (
            Conflict("target_not_ready", "why", state="onboarding"),
            409,
            "target_not_ready",
            {"state": "onboarding"},
        ),
        (LeaseLost("why"), 409, "lease_lost", {}),
        (TooLarge(100), 413, "too_large", {"max_bytes": 100}),
        (Invalid("model_malformed", "why"), 422, "model_malformed", {}),
        (HTTPException(418, "tea"), 418, "http_418", {}),
        (
            ServiceError(503, "unavailable", "Unavailable", "why", headers={"Retry-After": "9"}),
            503,
            "unavailable",
            {},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_error(
    app: FastAPI, client: TestClient, error: Exception, status: int, code: str, extra: dict[str, Any]
) -> None:
    app.include_router(raising(error))
    answer = client.get("/raise")
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE)
    assert problem.keys() == MEMBERS | extra.keys()
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"/problems/{code}")
    assert (problem["instance"], problem["request_id"]) == ("/raise", answer.headers["X-Request-ID"])
    assert {name: problem[name] for name in extra} == extra
    for name, value in (getattr(error, "headers", None) or {}).items():
        assert answer.headers[name] == value


def test_an_unexpected_error_tells_only_where_to_look(app: FastAPI, quiet: TestClient) -> None:
    app.include_router(raising(RuntimeError(SECRET)))
    answer = quiet.get("/raise")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]


def test_a_database_that_is_away_is_503(app: FastAPI, quiet: TestClient) -> None:
    app.include_router(raising(OperationalError(SECRET, {}, Exception(SECRET))))
    answer = quiet.get("/raise")
    assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (
        503,
        "unavailable",
        "5",
    )
    assert SECRET not in answer.text


def test_what_is_not_there(client: TestClient) -> None:
    assert client.get("/nowhere").json()["code"] == "not_found"
    refused = client.put("/v1/jobs")
    assert (refused.status_code, refused.json()["code"]) == (405, "method_not_allowed")
    assert "GET" in refused.headers["Allow"]


def test_a_request_that_is_not_valid_names_each_mistake(app: FastAPI, client: TestClient) -> None:
    router = APIRouter()

    @router.post("/body")
    def take(body: Body) -> None:
        raise AssertionError(body)

    app.include_router(router)
    problem = client.post("/body", json={"number": "x", "texts": {"a": 1}}).json()
    assert problem["code"] == "request_invalid"
    assert [mistake["where"] for mistake in problem["errors"]] == ["body.number", "body.texts.a"]
    for content in (b"{", b"\xff", b'{"number": 1e999}', b'{"number": 1, "texts": {"\\ud800": 5}}', b""):
        answer = client.post("/body", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in {400, 422}, content
        assert answer.json()["code"] in {"malformed", "request_invalid"}


@pytest.mark.parametrize("name", ["nul \x00", "lone \ud800", "x" * 101])
def test_what_cannot_be_stored_is_the_callers_mistake(app: FastAPI, quiet: TestClient, name: str) -> None:
    router = APIRouter()

    @router.post("/store")
    def store(database: DatabaseDep) -> None:
        with database.write() as session:
            add_project(session)

    def add_project(session: Session) -> None:
        session.add(Project(id="prj_1", name=name))

    app.include_router(router)
    answer = quiet.post("/store")
    if answer.status_code == 200:  # SQLite stores NUL, and counts no characters
        assert app.state.services.database.is_sqlite
        assert "\ud800" not in name
    else:
        assert (answer.status_code, answer.json()["code"]) == (422, "value_unstorable")


def test_a_body_past_the_limit(settings: Settings, app: FastAPI, client: TestClient) -> None:
    answer = client.post("/v1/api-keys", content=b"x" * (settings.max_body_bytes + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("given", "is_kept"), [("abc-1.2_3", True), ("x" * 65, False), ("a b", False), ("é", False)]
)
def test_request_ids(client: TestClient, given: str, is_kept: bool) -> None:
    answer = client.get("/v1/health", headers={"X-Request-ID": given.encode()})
    assert (answer.headers["X-Request-ID"] == given) is is_kept
    assert len(answer.headers["X-Request-ID"]) >= 9


def test_each_code_has_its_documentation(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["schemas"]["Problem"]["required"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            default = operation["responses"].get("default", {})
            assert MEDIA_TYPE in default.get("content", {}), f"{method} {path} documents no problems"
            for status, answer in operation["responses"].items():
                if status.startswith(("4", "5")):
                    assert list(answer["content"]) == [MEDIA_TYPE], f"{method} {path} {status}"
