"""No project sees another: every route of the OpenAPI document is tried with another project's names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from api_world import (
    RUNTIME,
    AgentOnTheWire,
    add_project_with_key,
    announcement,
    assert_problem,
    bearer,
    dense_model,
    make_ready,
    measured,
    register,
    upload,
)
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.db import tables
from service.dependencies import Services


class TheirWorld:
    """A project with one of everything, and the tokens of another project that has nothing of it."""

    def __init__(self, client: TestClient, services: Services, project_id: str) -> None:
        self.client = client
        self.agent = register(client, services, project_id)
        make_ready(client, services, self.agent.target_id)
        self.model = upload(client, dense_model())
        target = self.agent.target_key
        wanted = {"model": self.model["id"], "target": target}
        assert client.post("/v1/measurements", json=wanted).status_code == 202
        _, self.measurement_id = self.agent.measure()
        assert client.post("/v1/measurements", json=wanted).status_code == 202
        self.work = self.agent.started()
        self.search_id = client.post("/v1/searches", json={"target": target}).json()["id"]
        with services.database.read() as session:
            self.key_id = session.scalars(
                select(tables.ApiKey.id).where(tables.ApiKey.project_id == project_id)
            ).one()
        other_project, self.other_token = add_project_with_key(services, "other")
        self.other_agent: AgentOnTheWire = register(client, services, other_project, "elsewhere")

    def names(self, parameter: str) -> list[str]:
        """All that a path parameter may be called by; a KeyError means that a new one was not thought of
        here.
        """
        return {
            "device": [self.agent.reply.device_id, self.agent.reply.device_key],
            "target_id": [self.agent.target_id],
            "job_id": [self.work.job_id],
            "model": [self.model["id"], self.model["sha256"]],
            "sha256": [self.model["sha256"]],
            "measurement_id": [self.measurement_id],
            "search_id": [self.search_id],
            "key_id": [self.key_id],
        }[parameter]

    def body(self, path: str) -> dict[str, Any] | None:
        """A body that the route would accept from who may use it."""
        return {
            "complete": {
                "fence": self.work.fence,
                "measurement": measured(self.work).model_dump(mode="json"),
            },
            "fail": {"fence": self.work.fence, "code": "crashed", "detail": "theirs"},
            "start": {"fence": self.work.fence},
            "renew": {"fence": self.work.fence},
        }.get(path.rpartition("/")[2])

    def routes(self) -> Iterator[tuple[str, str]]:
        """Every method and path that names something, with their names filled in."""
        for path, operations in self.client.get("/openapi.json").json()["paths"].items():
            parameters = re.findall(r"{(\w+)}", path) if path.startswith("/v1/") else []  # the rest is public
            assert len(parameters) <= 1, path
            for parameter in parameters:
                for name in self.names(parameter):
                    for method in operations:
                        yield method.upper(), path.replace(f"{{{parameter}}}", name)


@pytest.fixture
def theirs(client: TestClient, services: Services, project_id: str) -> TheirWorld:
    return TheirWorld(client, services, project_id)


def test_no_route_knows_another_projects_names(
    client: TestClient, services: Services, theirs: TheirWorld
) -> None:
    tried = 0
    for method, path in theirs.routes():
        is_agents = path.startswith("/v1/agents/")
        headers = theirs.other_agent.headers if is_agents else bearer(theirs.other_token)
        answer = client.request(method, path, json=theirs.body(path), headers=headers)
        problem = assert_problem(answer, 404, "not_found")
        assert not set(problem) - {"type", "title", "status", "detail", "code", "instance", "request_id"}
        tried += 1
    assert tried > 20
    state = client.get(f"/v1/jobs/{theirs.work.job_id}").json()["state"]
    assert state == "running"  # nothing of all that had an effect
    assert client.get("/v1/api-keys").json()["items"][0]["revoked_at"] is None


def test_no_route_answers_without_a_token(client: TestClient, theirs: TheirWorld) -> None:
    for method, path in theirs.routes():
        answer = client.request(method, path, json=theirs.body(path), headers={"Authorization": ""})
        assert_problem(answer, 401, "unauthenticated")


def test_bodies_and_filters_do_not_either(client: TestClient, theirs: TheirWorld) -> None:
    mine = bearer(theirs.other_token)
    my_model, my_target = (
        upload(client, dense_model(), token=theirs.other_token)["id"],
        theirs.other_agent.target_id,
    )
    model, target = theirs.model["id"], theirs.agent.target_key
    for path, body in (
        ("latency-queries", {"models": [{"model": model}], "targets": [my_target]}),
        ("latency-queries", {"models": [{"model": my_model}], "targets": [target]}),
        ("latency-queries", {"models": [{"model": my_model}], "targets": [theirs.agent.target_id]}),
        ("measurements", {"model": model, "target": my_target}),
        ("measurements", {"model": my_model, "target": target}),
        ("searches", {"target": target}),
    ):
        assert_problem(client.post(f"/v1/{path}", json=body, headers=mine), 404, "not_found")
    for path in (
        f"measurements?model={model}",
        f"measurements?target={target}",
        f"searches?target={target}",
        "targets?device=board",
    ):
        assert_problem(client.get(f"/v1/{path}", headers=mine), 404, "not_found")
    for path in (
        f"measurements?job_id={theirs.work.job_id}",
        f"jobs?parent_id={theirs.work.job_id}",
        "searches",
    ):
        assert client.get(f"/v1/{path}", headers=mine).json()["items"] == []
    asked = {"models": [{"model": theirs.model["sha256"]}], "targets": [my_target], "source": "measurement"}
    [answer] = client.post("/v1/latency-queries", json=asked, headers=mine).json()["answers"]
    assert answer["error"]["code"] == "no_measurement"  # the same bytes, measured only for the other project


def test_the_same_machine_may_serve_two_projects(
    client: TestClient, services: Services, theirs: TheirWorld
) -> None:
    project_id, token = add_project_with_key(services, "third")
    agent = register(client, services, project_id, "board")
    assert agent.reply.device_key == "board"  # keys and fingerprints are a project's own
    assert agent.reply.device_id != theirs.agent.reply.device_id
    [device] = client.get("/v1/devices", headers=bearer(token)).json()["items"]
    assert device["id"] == agent.reply.device_id
    said = client.put("/v1/agents/self", json=announcement("board", (RUNTIME,)), headers=theirs.agent.headers)
    assert said.json()["device_id"] == theirs.agent.reply.device_id
