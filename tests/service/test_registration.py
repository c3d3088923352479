"""How agents join the fleet over HTTP, and what their announcements do to its targets."""

from __future__ import annotations

import pytest
from api_world import (
    FOUR_THREADS,
    RUNTIME,
    AgentOnTheWire,
    announcement,
    assert_problem,
    bearer,
    event_types,
    job,
    make_ready,
    order,
    register,
    registration_token,
)
from fastapi.testclient import TestClient
from sqlalchemy import text, update

from devices.wire import AnnounceRequest
from service.db import tables
from service.db.clock import now_plus
from service.dependencies import Services
from service.errors import Unauthenticated
from service.fleet import registration, repository
from service.jobs import queue
from service.security import AgentPrincipal

REFERENCE_COUNT = 10
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def agent(client: TestClient, services: Services, project_id: str) -> AgentOnTheWire:
    """An agent with one target that is being onboarded."""
    return register(client, services, project_id)


def test_registering_makes_a_device_its_targets_and_their_onboarding(
    client: TestClient, services: Services, project_id: str
) -> None:
    agent = register(client, services, project_id, runtimes=(RUNTIME, FOUR_THREADS))
    assert [target.key for target in agent.reply.targets] == [
        "board/fake-1.0/cpu/t1",
        "board/fake-1.0/cpu/t4",
    ]
    assert agent.reply.cadence.heartbeat_s == services.settings.agent_heartbeat_s
    device = client.get("/v1/devices/board").json()
    assert (device["id"], device["agent"]["id"]) == (agent.reply.device_id, agent.reply.agent_id)
    assert device["agent"]["state"] == "idle"
    for announced in agent.reply.targets:
        target = client.get(f"/v1/targets/{announced.target_id}").json()
        assert (target["state"], target["device_key"], target["predictor"]) == ("onboarding", "board", None)
        adapt = job(client, target["onboarding_job_id"])
        assert (adapt["kind"], adapt["waiting_for"]) == ("adapt", REFERENCE_COUNT)
        children = client.get("/v1/jobs", params={"parent_id": adapt["id"]}).json()["items"]
        assert [child["kind"] for child in children] == ["profile"] * REFERENCE_COUNT
    models = client.get("/v1/models", params={"origin": "reference"}).json()["items"]
    assert len(models) == REFERENCE_COUNT  # shared by both targets
    assert client.get("/v1/models", params={"origin": "upload"}).json()["items"] == []


def test_a_registration_token_is_good_for_one_agent(
    client: TestClient, services: Services, project_id: str
) -> None:
    token = registration_token(services, project_id)
    first = client.post("/v1/agents/register", json=announcement(), headers=bearer(token))
    assert (first.status_code, first.headers["cache-control"]) == (201, "no-store")
    again = client.post("/v1/agents/register", json=announcement("second"), headers=bearer(token))
    assert_problem(again, 401, "unauthenticated")
    assert [device["key"] for device in client.get("/v1/devices").json()["items"]] == ["board"]


@on_sqlite
def test_neither_expired_nor_foreign_tokens_register(
    client: TestClient, services: Services, project_id: str
) -> None:
    token = registration_token(services, project_id)
    with services.database.write() as session:
        session.execute(update(tables.RegistrationToken).values(expires_at=now_plus(-0.01)))
    for headers in (bearer(token), bearer(token[:-1] + "x"), None):  # None: the administrator's API key
        assert_problem(
            client.post("/v1/agents/register", json=announcement(), headers=headers), 401, "unauthenticated"
        )
    assert client.get("/v1/devices").json()["items"] == []


@on_sqlite
def test_a_refused_registration_leaves_its_token_unused(
    client: TestClient, services: Services, project_id: str
) -> None:
    token = registration_token(services, project_id)
    long_names = RUNTIME.model_copy(update={"engine": "e" * 60, "provider": "p" * 60, "power_mode": "m" * 60})
    refused = client.post(
        "/v1/agents/register", json=announcement("d" * 60, (long_names,)), headers=bearer(token)
    )
    assert_problem(refused, 422, "target_key_too_long")
    assert client.post("/v1/agents/register", json=announcement(), headers=bearer(token)).status_code == 201


def test_registering_the_same_machine_again_replaces_its_agent(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    again = register(client, services, project_id)
    assert again.reply.device_id == agent.reply.device_id
    assert again.reply.targets == agent.reply.targets
    assert_problem(agent.post("heartbeat", {"state": "idle"}), 401, "unauthenticated")
    assert again.post("heartbeat", {"state": "idle"}).status_code == 200
    adapt_jobs = client.get("/v1/jobs", params={"kind": "adapt"}).json()["items"]
    assert len(adapt_jobs) == 1  # the onboarding that was going on goes on


def test_a_device_key_that_another_machine_has_gets_a_number(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    keys = [
        register(client, services, project_id, "board", machine=machine).reply.device_key
        for machine in ("b", "c", "b")
    ]
    assert keys == ["board-2", "board-3", "board-2"]
    assert client.get("/v1/devices/board-3").json()["hardware"]["cpu_model"] == "a processor"


def test_another_version_of_a_runtime_is_another_target(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    ordered = order(client, agent)
    newer = RUNTIME.model_copy(update={"version": "1.1.0"})
    announced = agent.announce([newer])
    assert announced.status_code == 200, announced.text
    assert [target["key"] for target in announced.json()["targets"]] == ["board/fake-1.1/cpu/t1"]
    old = client.get(f"/v1/targets/{agent.target_id}").json()
    assert old["state"] == "retired"
    assert "no longer offers" in old["state_reason"]
    new = client.get(f"/v1/targets/{announced.json()['targets'][0]['target_id']}").json()
    assert (new["state"], new["runtime"]["version"]) == ("onboarding", "1.1.0")
    assert job(client, new["onboarding_job_id"])["waiting_for"] == REFERENCE_COUNT
    for job_id in (ordered, old["onboarding_job_id"]):
        assert job(client, job_id)["state"] == "cancelled"
        assert event_types(client, job_id)[-2:] == ["target_retired", "cancelled"]
    refused = client.post(f"/v1/targets/{agent.target_id}/onboarding")
    assert_problem(refused, 409, "target_retired")
    model = client.get("/v1/models").json()["items"][0]["id"]
    refused = client.post("/v1/measurements", json={"model": model, "target": agent.target_id})
    assert_problem(refused, 409, "target_retired")


def test_a_runtime_that_comes_back_is_ready_if_it_was(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    make_ready(client, services, agent.target_id)
    agent.announce([FOUR_THREADS])
    assert client.get(f"/v1/targets/{agent.target_id}").json()["state"] == "retired"
    patched = RUNTIME.model_copy(update={"version": "1.0.7"})
    announced = agent.announce([patched])
    assert announced.json()["targets"][0]["target_id"] == agent.target_id  # a patch makes no new target
    target = client.get(f"/v1/targets/{agent.target_id}").json()
    assert (target["state"], target["state_reason"], target["runtime"]["version"]) == ("ready", None, "1.0.7")
    four_threads = client.get("/v1/targets", params={"state": "retired"}).json()["items"]
    assert [one["key"] for one in four_threads] == ["board/fake-1.0/cpu/t4"]


def test_a_runtime_that_comes_back_before_it_was_ready_starts_anew(
    client: TestClient, agent: AgentOnTheWire
) -> None:
    first = client.get(f"/v1/targets/{agent.target_id}").json()["onboarding_job_id"]
    agent.announce([FOUR_THREADS])
    agent.announce([RUNTIME, FOUR_THREADS])
    target = client.get(f"/v1/targets/{agent.target_id}").json()
    assert target["state"] == "onboarding"
    assert target["onboarding_job_id"] != first
    assert job(client, target["onboarding_job_id"])["waiting_for"] == REFERENCE_COUNT


@on_sqlite
def test_a_token_does_not_move_to_another_machine(client: TestClient, agent: AgentOnTheWire) -> None:
    assert_problem(agent.announce([RUNTIME], machine="another"), 409, "device_changed")


def test_an_agent_that_is_replaced_while_it_announces_changes_nothing(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    old = AgentPrincipal(project_id, agent.reply.agent_id, agent.reply.device_id)  # as its token was
    register(client, services, project_id)
    said = AnnounceRequest.model_validate(announcement(runtimes=(FOUR_THREADS,)))
    with pytest.raises(Unauthenticated):
        registration.announce(services, old, said)
    assert [target["key"] for target in client.get("/v1/targets").json()["items"]] == [agent.target_key]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_who_joins_the_fleet_holds_up_nobody_at_work(services: Services, project_id: str) -> None:
    """An announcement may wait for a job whose holder is just adding rows of the same project."""
    with services.database.write() as joining:
        repository.lock_project(joining, project_id)
        with services.database.write() as working:
            working.execute(text("set local lock_timeout = '5s'"))
            queue.submit(working, project_id=project_id, kind="search", payload={})
