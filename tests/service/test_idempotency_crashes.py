"""An effect and its stored answer are one transaction: whatever dies when, a repetition finds both or
neither.

The process "dies" at two points of each request: just before the transaction of its effect is committed, and
just after it, before anything else is said or stored. The dead tidy nothing up, so the key stays claimed
until a minute has passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from api_world import cancel_onboarding, dense_model, make_ready, order, register, upload
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy import event, func, select, update
from sqlalchemy.orm import Session

from service.db import tables
from service.db.clock import now_plus
from service.dependencies import DatabaseDep, Services
from service.idempotency import IdempotentRoute, RequestKey, RequestKeyDep
from service.ids import new_id

KEY = {"Idempotency-Key": "once"}
WITHOUT_EFFECT = {"/v1/latency-queries"}
HARMLESS_TO_REPEAT = {"/v1/models"}  # bytes are stored by their hash


class Died(Exception):
    """The process ends here."""


@dataclass(frozen=True)
class Deed:
    """A POST with an effect, and how often it had it."""

    path: str
    body: dict[str, Any]
    count: Callable[[Session], int]
    is_secret: bool = False


@dataclass(frozen=True)
class World:
    """What deeds are done in."""

    client: TestClient
    services: Services
    project_id: str


Make = Callable[[World], Deed]


def rows(table: type[tables.Table], **having: object) -> Callable[[Session], int]:
    statement = select(func.count()).select_from(table).filter_by(**having)
    return lambda session: session.scalar(statement) or 0


def measurement(world: World) -> Deed:
    agent = register(world.client, world.services, world.project_id)
    body = {"model": upload(world.client, dense_model())["id"], "target": agent.target_id}
    return Deed("/v1/measurements", body, rows(tables.Job, kind="profile", parent_id=None))


def search(world: World) -> Deed:
    agent = register(world.client, world.services, world.project_id)
    make_ready(world.client, world.services, agent.target_id)
    return Deed("/v1/searches", {"target": agent.target_id}, rows(tables.Search))


def onboarding(world: World) -> Deed:
    agent = register(world.client, world.services, world.project_id)
    cancel_onboarding(world.client, agent.target_id)
    return Deed(f"/v1/targets/{agent.target_id}/onboarding", {}, rows(tables.Job, kind="adapt"))


def cancelling(world: World) -> Deed:
    job_id = order(world.client, register(world.client, world.services, world.project_id))
    return Deed(f"/v1/jobs/{job_id}/cancel", {}, rows(tables.Job, id=job_id, state="cancelled"))


def api_key(_: World) -> Deed:
    body = {"name": "n", "scopes": ["read"]}
    return Deed("/v1/api-keys", body, rows(tables.ApiKey, name="n"), is_secret=True)


def registration_token(_: World) -> Deed:
    return Deed("/v1/registration-tokens", {}, rows(tables.RegistrationToken, used_at=None), is_secret=True)


DEEDS: dict[str, Make] = {
    "/v1/measurements": measurement,
    "/v1/searches": search,
    "/v1/targets/{target_id}/onboarding": onboarding,
    "/v1/jobs/{job_id}/cancel": cancelling,
    "/v1/api-keys": api_key,
    "/v1/registration-tokens": registration_token,
}
each_deed = pytest.mark.parametrize("make", DEEDS.values(), ids=DEEDS.keys())


@pytest.fixture
def world(client: TestClient, services: Services, project_id: str) -> World:
    return World(client, services, project_id)


@contextmanager
def no_tidying_up() -> Iterator[None]:
    """Requests neither store their answer after the endpoint nor release their key: their process is dead."""

    async def die(*_: object) -> None:
        raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RequestKey, "keep", die)
        patch.setattr(RequestKey, "release", die)
        yield


@contextmanager
def death_before_commit(is_effect: Callable[[Session], bool]) -> Iterator[None]:
    """Transactions of which `is_effect` holds are never committed."""

    def die(session: Session) -> None:
        if is_effect(session):
            raise Died

    event.listen(Session, "before_commit", die)
    try:
        yield
    finally:
        event.remove(Session, "before_commit", die)


def pass_a_minute(services: Services) -> None:
    with services.database.write() as session:
        session.execute(update(tables.IdempotencyKey).values(created_at=now_plus(-61.0)))


def send(world: World, deed: Deed) -> Any:
    return world.client.post(deed.path, json=deed.body, headers=KEY)


def times_done(world: World, deed: Deed) -> int:
    with world.services.database.read() as session:
        return deed.count(session)


def test_every_post_with_an_effect_is_here(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    posts = {path for path, operations in paths.items() if "post" in operations}
    of_clients = {path for path in posts if not path.startswith("/v1/agents/")}
    assert of_clients == DEEDS.keys() | WITHOUT_EFFECT | HARMLESS_TO_REPEAT


@each_deed
def test_a_death_after_the_commit_leaves_effect_and_answer(make: Make, world: World) -> None:
    deed = make(world)
    before = times_done(world, deed)
    with no_tidying_up(), pytest.raises(Died):
        send(world, deed)
    assert times_done(world, deed) == before + 1
    pass_a_minute(world.services)
    again = send(world, deed)
    assert times_done(world, deed) == before + 1
    if deed.is_secret:
        assert again.json()["code"] == "answer_not_repeatable"
    else:
        assert (again.is_success, again.headers["Idempotency-Replayed"]) == (True, "true"), again.text


@each_deed
def test_a_death_before_the_commit_leaves_neither(make: Make, world: World) -> None:
    deed = make(world)
    before = times_done(world, deed)
    with (
        no_tidying_up(),
        death_before_commit(lambda session: deed.count(session) > before),
        pytest.raises(Died),
    ):
        send(world, deed)
    assert times_done(world, deed) == before
    pass_a_minute(world.services)
    second, third = send(world, deed), send(world, deed)
    assert (second.is_success, "Idempotency-Replayed" in second.headers) == (True, False), second.text
    assert times_done(world, deed) == before + 1
    if deed.is_secret:
        assert (second.headers["cache-control"], third.status_code) == ("no-store", 409)
    else:
        shown = ("content-type", "location")
        assert [third.headers.get(name) for name in shown] == [second.headers.get(name) for name in shown]
        assert (third.status_code, third.content) == (second.status_code, second.content)


class Made(BaseModel):
    id: str


def test_a_request_that_lost_its_key_is_rolled_back(
    app: FastAPI, client: TestClient, services: Services
) -> None:
    """It was slow, was taken for dead, and its repetition has done everything meanwhile."""
    overtaking: list[Callable[[], Any]] = []
    router = APIRouter(route_class=IdempotentRoute)

    @router.post("/v1/slow")
    def slow(database: DatabaseDep, key: RequestKeyDep) -> Made:
        if overtaking:
            overtaking.pop()()
        with database.write() as session:
            row = tables.Project(id=new_id("prj"), name=new_id("prj"))
            session.add(row)
            return key.answer(session, Made(id=row.id))

    app.include_router(router)
    answers: list[Any] = []

    def overtake() -> None:
        pass_a_minute(services)
        answers.append(client.post("/v1/slow", headers=KEY))

    overtaking.append(overtake)
    late = client.post("/v1/slow", headers=KEY)
    assert (late.status_code, late.json()["code"]) == (409, "idempotency_in_progress")
    assert [answer.status_code for answer in answers] == [200]
    again = client.post("/v1/slow", headers=KEY)
    assert (again.content, again.headers["Idempotency-Replayed"]) == (answers[0].content, "true")
    with services.database.read() as session:
        assert rows(tables.Project)(session) == 2  # the default one, and the one of the repetition
