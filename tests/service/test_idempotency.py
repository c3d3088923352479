"""A repeated POST is answered as the first time, and done once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Annotated

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.testclient import TestClient
from fleet_rows import add_project
from pydantic import BaseModel
from sqlalchemy import select, update

from service import idempotency
from service.access import issue_key
from service.db.clock import now_plus
from service.db.tables import IdempotencyKey, Project
from service.dependencies import ArtifactsDep, Services, caller_with
from service.errors import Conflict
from service.idempotency import IdempotentRoute, RequestKeyDep, StreamedIdempotentRoute
from service.security import Principal, Scope

KEY = {"Idempotency-Key": "once"}


class Order(BaseModel):
    what: str


class Done(BaseModel):
    number: int
    what: str


class Shop:
    """An endpoint with an effect that can be counted, delayed and made to fail."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.before: Callable[[], None] = lambda: None
        self.router = APIRouter(route_class=IdempotentRoute)
        self.router.post("/orders", status_code=201)(self._order)
        streamed = APIRouter(route_class=StreamedIdempotentRoute)
        streamed.post("/uploads", status_code=201)(self._upload)
        self.router.include_router(streamed)

    def _order(self, order: Order, caller: Annotated[Principal, caller_with(Scope.MEASURE)]) -> Done:
        self.before()
        self.done.append(f"{order.what} for {caller.project_id}")
        return Done(number=len(self.done), what=order.what)

    async def _upload(self, request: Request, store: ArtifactsDep, key: RequestKeyDep) -> Done:
        async with store.receive(request.stream(), max_bytes=1 << 30) as incoming:
            sha256 = incoming.stored.sha256
            await key.begin(sha256)
        self.done.append(sha256)
        return Done(number=len(self.done), what=sha256)


@pytest.fixture
def shop(app: FastAPI) -> Shop:
    made = Shop()
    app.include_router(made.router)
    return made


def test_the_same_request_is_done_once(shop: Shop, client: TestClient) -> None:
    first, second, third = (client.post("/orders", json={"what": "tea"}, headers=KEY) for _ in range(3))
    assert first.status_code == 201
    assert "Idempotency-Replayed" not in first.headers
    for again in (second, third):
        assert (again.status_code, again.content, again.headers["content-type"]) == (
            201,
            first.content,
            first.headers["content-type"],
        )
        assert again.headers["Idempotency-Replayed"] == "true"
    assert len(shop.done) == 1


def test_without_a_key_each_is_done(shop: Shop, client: TestClient) -> None:
    for _ in range(2):
        assert client.post("/orders", json={"what": "tea"}).status_code == 201
    assert len(shop.done) == 2


def test_another_request_under_the_key_is_refused(shop: Shop, client: TestClient) -> None:
    client.post("/orders", json={"what": "tea"}, headers=KEY)
    for refused in (
        client.post("/orders", json={"what": "coffee"}, headers=KEY),
        client.post("/orders?x=1", json={"what": "tea"}, headers=KEY),
        client.post("/v1/api-keys", json={"name": "n", "scopes": ["read"]}, headers=KEY),
    ):
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert len(shop.done) == 1


def test_keys_belong_to_projects(shop: Shop, client: TestClient, services: Services) -> None:
    with services.database.write() as session:
        other = add_project(session, "other")
        _, token = issue_key(session, project_id=other, name="n", scopes=frozenset(Scope))
    client.post("/orders", json={"what": "tea"}, headers=KEY)
    theirs = client.post("/orders", json={"what": "tea"}, headers={**KEY, "Authorization": f"Bearer {token}"})
    assert theirs.json()["number"] == 2
    assert shop.done[1] == f"tea for {other}"


def test_an_answer_is_repeated_only_to_the_key_that_got_it(
    shop: Shop, client: TestClient, services: Services, project_id: str
) -> None:
    with services.database.write() as session:
        _, token = issue_key(session, project_id=project_id, name="n", scopes=frozenset({Scope.READ}))
    client.post("/orders", json={"what": "secret"}, headers=KEY)
    prying = client.post(
        "/orders", json={"what": "secret"}, headers={**KEY, "Authorization": f"Bearer {token}"}
    )
    assert (prying.status_code, prying.json()["code"]) == (422, "idempotency_key_reused")


def test_a_second_request_during_the_first_is_refused(shop: Shop, client: TestClient) -> None:
    is_inside, may_go_on = threading.Event(), threading.Event()

    def wait() -> None:
        is_inside.set()
        assert may_go_on.wait(20)

    shop.before = wait
    answers: list[int] = []
    first = threading.Thread(
        target=lambda: answers.append(client.post("/orders", json={"what": "tea"}, headers=KEY).status_code)
    )
    first.start()
    assert is_inside.wait(20)
    refused = client.post("/orders", json={"what": "tea"}, headers=KEY)
    may_go_on.set()
    first.join()
    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_in_progress")
    assert refused.headers["Retry-After"] == "1"
    assert answers == [201]
    assert client.post("/orders", json={"what": "tea"}, headers=KEY).headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("error", [Conflict("out_of_tea", "wait"), RuntimeError("a defect")])
def test_an_error_does_not_poison_the_key(
    shop: Shop, app: FastAPI, client: TestClient, error: Exception
) -> None:
    def fail() -> None:
        raise error

    shop.before = fail
    lenient = TestClient(app, raise_server_exceptions=False, headers=client.headers)
    assert lenient.post("/orders", json={"what": "tea"}, headers=KEY).status_code in {409, 500}
    shop.before = lambda: None
    again = client.post("/orders", json={"what": "tea"}, headers=KEY)
    assert (again.status_code, "Idempotency-Replayed" in again.headers) == (201, False)
    assert len(shop.done) == 1


def test_a_refused_request_does_not_take_the_key(shop: Shop, client: TestClient, services: Services) -> None:
    assert client.post("/orders", json={"wrong": 1}, headers=KEY).status_code == 422
    with services.database.write() as session:
        project_id = session.scalars(select(Project.id)).one()
        _, token = issue_key(session, project_id=project_id, name="n", scopes=frozenset({Scope.READ}))
    reader = {**KEY, "Authorization": f"Bearer {token}"}
    assert client.post("/orders", json={"what": "tea"}, headers=reader).status_code == 403
    assert client.post("/orders", json={"what": "tea"}, headers=KEY).status_code == 201


def test_a_key_whose_request_died_is_free_after_a_minute(
    shop: Shop, client: TestClient, services: Services
) -> None:
    client.post("/orders", json={"what": "tea"}, headers=KEY)
    with services.database.write() as session:
        session.execute(update(IdempotencyKey).values(status=None, body=None, created_at=now_plus(-59.0)))
    refused = client.post("/orders", json={"what": "tea"}, headers=KEY)
    assert refused.json()["code"] == "idempotency_in_progress"
    with services.database.write() as session:
        session.execute(update(IdempotencyKey).values(created_at=now_plus(-61.0)))
    assert client.post("/orders", json={"what": "tea"}, headers=KEY).json()["number"] == 2


def test_keys_are_forgotten_in_time(shop: Shop, client: TestClient, services: Services) -> None:
    client.post("/orders", json={"what": "tea"}, headers=KEY)
    ttl_s = services.settings.idempotency_ttl_s
    with services.database.write() as session:
        session.execute(update(IdempotencyKey).values(created_at=now_plus(-ttl_s - 1)))
    assert client.post("/orders", json={"what": "coffee"}, headers=KEY).json() == {
        "number": 2,
        "what": "coffee",
    }
    client.post("/orders", json={"what": "milk"}, headers={"Idempotency-Key": "other"})
    with services.database.write() as session:
        old = update(IdempotencyKey).where(IdempotencyKey.key == "other")
        session.execute(old.values(created_at=now_plus(-ttl_s - 1)))
        idempotency.purge(session, ttl_s)
        assert session.scalars(select(IdempotencyKey.key)).all() == ["once"]


@pytest.mark.parametrize("key", ["", "x" * 201, "with space", "tab\t"])
def test_what_is_no_key(shop: Shop, client: TestClient, key: str) -> None:
    refused = client.post("/orders", json={"what": "tea"}, headers={"Idempotency-Key": key})
    assert (refused.status_code, refused.json()["code"]) == (422, "request_invalid")
    assert shop.done == []


def test_an_upload_is_done_once_without_being_held(
    shop: Shop, client: TestClient, services: Services
) -> None:
    size = services.settings.max_body_bytes + 1  # more than a body that is held may have
    data = bytes(size)
    first = client.post("/uploads", content=data, headers=KEY)
    assert first.json() == {"number": 1, "what": hashlib.sha256(data).hexdigest()}
    again = client.post("/uploads", content=data, headers=KEY)
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
    refused = client.post("/uploads", content=b"other", headers=KEY)
    assert refused.json()["code"] == "idempotency_key_reused"
    assert len(shop.done) == 1


def test_an_upload_that_breaks_off_does_not_take_the_key(shop: Shop, client: TestClient) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError("the client went away")

    with pytest.raises(ConnectionError):
        client.post("/uploads", content=broken(), headers=KEY)
    assert client.post("/uploads", content=b"whole", headers=KEY).json()["number"] == 1


def test_only_streamed_routes_escape_the_general_limit(
    shop: Shop, client: TestClient, services: Services
) -> None:
    text = "x" * services.settings.max_body_bytes
    refused = client.post("/orders", json={"what": text}, headers=KEY)
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
