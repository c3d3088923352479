"""The fleet as API clients see it: devices with their agents, targets, onboarding again."""

from __future__ import annotations

import pytest
from api_world import (
    FOUR_THREADS,
    RUNTIME,
    AgentOnTheWire,
    add_key,
    assert_problem,
    bearer,
    cancel_onboarding,
    make_ready,
    register,
)
from fastapi.testclient import TestClient
from sqlalchemy import update

from service.db import tables
from service.db.clock import now_plus
from service.dependencies import Services
from service.security import Scope


@pytest.fixture
def agent(client: TestClient, services: Services, project_id: str) -> AgentOnTheWire:
    return register(client, services, project_id, runtimes=(RUNTIME, FOUR_THREADS))


def test_a_silent_agent_is_lost_unless_it_said_that_it_stops(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    def shown() -> str:
        return str(client.get("/v1/devices/board").json()["agent"]["state"])

    def pass_time(heartbeats: float) -> None:
        past = now_plus(-heartbeats * services.settings.agent_heartbeat_s)
        with services.database.write() as session:
            session.execute(update(tables.Agent).values(last_seen_at=past))

    agent.post("heartbeat", {"state": "busy"})
    pass_time(2.5)
    assert shown() == "busy"
    pass_time(3.5)
    assert shown() == "lost"
    agent.post("heartbeat", {"state": "stopped"})
    pass_time(3.5)
    assert shown() == "stopped"
    agent.announce([RUNTIME, FOUR_THREADS])
    assert shown() == "idle"


def test_targets_are_found_by_state_and_by_device(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    other = register(client, services, project_id, "other")
    make_ready(client, services, agent.target_id)

    def keys(**filters: str) -> list[str]:
        answer = client.get("/v1/targets", params=filters)
        assert answer.status_code == 200, answer.text
        return [target["key"] for target in answer.json()["items"]]

    assert keys() == ["other/fake-1.0/cpu/t1", "board/fake-1.0/cpu/t4", "board/fake-1.0/cpu/t1"]
    assert keys(state="ready") == ["board/fake-1.0/cpu/t1"]
    assert keys(device="other") == keys(device=other.reply.device_id) == ["other/fake-1.0/cpu/t1"]
    assert keys(device="board", state="onboarding") == ["board/fake-1.0/cpu/t4"]
    assert_problem(client.get("/v1/targets", params={"device": "unknown"}), 404, "not_found")


def test_lists_come_in_pages(client: TestClient, services: Services, project_id: str) -> None:
    for name in "abc":
        register(client, services, project_id, name)
    for path, name in (("/v1/devices", "key"), ("/v1/targets", "device_key")):
        first = client.get(path, params={"limit": 2}).json()
        rest = client.get(path, params={"limit": 2, "cursor": first["next_cursor"]}).json()
        assert [item[name] for item in first["items"] + rest["items"]] == ["c", "b", "a"]
        assert rest["next_cursor"] is None


def test_a_ready_target_shows_its_predictors_accuracy(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    predictor_id = make_ready(client, services, agent.target_id)
    target = client.get(f"/v1/targets/{agent.target_id}").json()
    assert (target["state"], target["predictor"]["id"]) == ("ready", predictor_id)
    assert target["predictor"]["accuracy"]["sample_count"] == 10


def test_onboarding_again_leaves_the_live_predictor_at_work(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    path = f"/v1/targets/{agent.target_id}/onboarding"
    problem = assert_problem(client.post(path), 409, "onboarding_in_progress")
    assert problem["job_id"] == client.get(f"/v1/targets/{agent.target_id}").json()["onboarding_job_id"]
    make_ready(client, services, agent.target_id)
    again = client.post(path)
    assert again.status_code == 202, again.text
    assert again.headers["location"] == f"/v1/jobs/{again.json()['id']}"
    assert (again.json()["kind"], again.json()["waiting_for"]) == ("adapt", 10)
    target = client.get(f"/v1/targets/{agent.target_id}").json()
    assert (target["state"], target["onboarding_job_id"]) == ("ready", again.json()["id"])
    cancel_onboarding(client, agent.target_id)
    assert client.post(path).status_code == 202


def test_a_repeated_order_with_one_key_is_one_onboarding(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    cancel_onboarding(client, agent.target_id)
    path = f"/v1/targets/{agent.target_id}/onboarding"
    answers = [client.post(path, headers={"Idempotency-Key": "again"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["location"] == answers[0].headers["location"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_reading_needs_read_and_onboarding_needs_fleet_admin(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    reader = bearer(add_key(services, project_id, Scope.READ))
    stranger = bearer(add_key(services, project_id, Scope.SEARCH, Scope.MEASURE, Scope.MODELS_WRITE))
    for path in ("/v1/devices", "/v1/devices/board", "/v1/targets", f"/v1/targets/{agent.target_id}"):
        assert client.get(path, headers=reader).status_code == 200
        assert (
            assert_problem(client.get(path, headers=stranger), 403, "forbidden")["required_scope"] == "read"
        )
        assert_problem(client.get(path, headers=agent.headers), 401, "unauthenticated")
    refused = client.post(f"/v1/targets/{agent.target_id}/onboarding", headers=reader)
    assert assert_problem(refused, 403, "forbidden")["required_scope"] == "fleet:admin"
