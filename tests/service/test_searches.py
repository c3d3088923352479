"""Searches over HTTP. Carrying them out is the worker's: its rows are written here by hand."""

from __future__ import annotations

from typing import Any

import pytest
from api_world import (
    AgentOnTheWire,
    add_key,
    assert_problem,
    bearer,
    dense_model,
    make_ready,
    register,
    upload,
)
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from search.verification import VerificationSummary
from service.db import tables
from service.dependencies import Services
from service.security import Scope

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def submit(client: TestClient, target: str, **wanted: object) -> dict[str, Any]:
    answer = client.post("/v1/searches", json={"target": target, **wanted})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/searches/{answer.json()['id']}"
    made: dict[str, Any] = answer.json()
    return made


def write_trials(client: TestClient, services: Services, agent: AgentOnTheWire, search_id: str) -> None:
    """Five trials as a worker leaves them: 0 and 3 on the predicted front, 0 measured and on the verified
    front.
    """
    model_id = upload(client, dense_model())["id"]
    ordered = client.post("/v1/measurements", json={"model": model_id, "target": agent.target_key})
    assert ordered.status_code == 202
    _, measurement_id = agent.measure(2.5)
    summary = VerificationSummary(
        candidates=2, measured=1, invalid=0, missing=1, rank_correlation=None, mape=0.2
    )
    with services.database.write() as session:
        for number in range(5):
            is_on_front = number in (0, 3)
            trial = tables.Trial(
                search_id=search_id,
                number=number,
                genome={"width": number, "precision": "int8"},
                state="failed" if number == 4 else "verified" if number == 0 else "scored",
                objectives={} if number == 4 else {"accuracy": 0.9, "latency_ms": 5.0 - number},
                predicted_ms=None if number == 4 else 5.0 - number,
                on_predicted_front=is_on_front,
                on_verified_front=number == 0,
                model_id=model_id if is_on_front else None,
                measurement_id=measurement_id if number == 0 else None,
                failure="it did not fit" if number == 4 else None,
            )
            session.add(trial)
        session.get_one(tables.Search, search_id).summary = summary.model_dump(mode="json")


def test_a_search_is_stored_with_its_job(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    made = submit(client, agent.target_key, name="small ones", trial_count=6, max_latency_ms=2.0)
    assert (made["target_id"], made["target_key"]) == (agent.target_id, agent.target_key)
    assert (made["job"]["kind"], made["job"]["state"]) == ("search", "queued")
    assert (made["trial_count"], made["summary"], made["predictor_id"]) == (0, None, None)
    assert {
        name: made["request"][name] for name in ("space", "strategy", "trial_count", "max_latency_ms")
    } == {
        "space": "digits-cnn",
        "strategy": "nsga2",
        "trial_count": 6,
        "max_latency_ms": 2.0,
    }
    assert client.get(f"/v1/searches/{made['id']}").json() == made
    with services.database.read() as session:
        job = session.get_one(tables.Job, made["job"]["id"])
        assert (job.payload, job.target_id) == ({"search_id": made["id"]}, agent.target_id)
    client.post(f"/v1/jobs/{made['job']['id']}/cancel")
    assert client.get(f"/v1/searches/{made['id']}").json()["job"]["state"] == "cancelled"


def test_one_key_starts_one_search(client: TestClient, agent: AgentOnTheWire, services: Services) -> None:
    wanted = {"target": agent.target_id, "name": "once"}
    answers = [client.post("/v1/searches", json=wanted, headers={"Idempotency-Key": "s"}) for _ in range(2)]
    assert [answer.json()["id"] for answer in answers] == [answers[0].json()["id"]] * 2
    with services.database.read() as session:
        assert session.scalar(select(func.count()).select_from(tables.Search)) == 1


@on_sqlite
def test_what_cannot_be_searched_is_refused_at_once(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    for wanted, named in (
        ({"space": "mazes"}, "digits-cnn"),
        ({"strategy": "luck"}, "nsga2"),
        ({"objectives": ["accuracy", "beauty"]}, "latency_ms"),
        ({"objectives": ["accuracy", "accuracy"]}, "distinct"),
        ({"objectives": []}, "objectives"),
        ({"trial_count": 0}, "trial_count"),
        ({"verify_count": 10**6}, "verify_count"),
        ({"max_latency_ms": -1.0}, "max_latency_ms"),
        ({"trials": 3}, "trials"),
        ({"name": "two\nlines"}, "name"),
    ):
        answer = client.post("/v1/searches", json={"target": agent.target_id, **wanted})
        assert named in assert_problem(answer, 422, "request_invalid")["detail"]
    assert_problem(client.post("/v1/searches", json={"target": "no/such"}), 404, "not_found")
    onboarding = register(client, services, project_id, "other")
    answer = client.post("/v1/searches", json={"target": onboarding.target_key})
    assert "onboarding" in assert_problem(answer, 409, "target_not_ready")["detail"]
    assert client.get("/v1/searches").json()["items"] == []


def test_trials_and_fronts_show_predictions_beside_measurements(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    search_id = submit(client, agent.target_key)["id"]
    empty = client.get(f"/v1/searches/{search_id}/front").json()
    assert empty == {"predicted": [], "verified": [], "summary": None}
    write_trials(client, services, agent, search_id)
    first = client.get(f"/v1/searches/{search_id}/trials", params={"limit": 3}).json()
    cursor = first["next_cursor"]
    rest = client.get(f"/v1/searches/{search_id}/trials", params={"limit": 3, "cursor": cursor}).json()
    assert [trial["number"] for trial in first["items"] + rest["items"]] == [0, 1, 2, 3, 4]
    assert rest["items"][-1]["failure"] == "it did not fit"
    front = client.get(f"/v1/searches/{search_id}/front").json()
    assert [trial["number"] for trial in front["predicted"]] == [3, 0]  # fastest first
    [verified] = front["verified"]
    assert (verified["predicted_ms"], verified["measured_ms"], verified["measured_is_valid"]) == (
        5.0,
        2.5,
        True,
    )
    assert client.get(verified["model_href"]).content == dense_model()
    assert front["summary"]["mape"] == 0.2
    shown = client.get(f"/v1/searches/{search_id}").json()
    assert (shown["trial_count"], shown["summary"]) == (5, front["summary"])
    other = submit(client, agent.target_key)["id"]
    foreign = client.get(f"/v1/searches/{other}/trials", params={"cursor": "bm90IGEgY3Vyc29y"})
    assert_problem(foreign, 422, "cursor_invalid")


def test_searches_are_listed_by_target(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    other = register(client, services, project_id, "other")
    make_ready(client, services, other.target_id)
    ours = [submit(client, agent.target_id)["id"] for _ in range(2)]
    theirs = submit(client, other.target_id)["id"]

    def listed(**filters: object) -> list[str]:
        return [item["id"] for item in client.get("/v1/searches", params=filters).json()["items"]]  # type: ignore[arg-type]

    assert listed() == [theirs, ours[1], ours[0]]
    assert listed(target=agent.target_key) == [ours[1], ours[0]]
    first = client.get("/v1/searches", params={"limit": 2}).json()
    assert listed(limit=2, cursor=first["next_cursor"]) == [ours[0]]
    assert_problem(client.get("/v1/searches", params={"target": "no/such"}), 404, "not_found")


@on_sqlite
def test_searching_needs_the_scope_search(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    reader, searcher = (bearer(add_key(services, project_id, scope)) for scope in (Scope.READ, Scope.SEARCH))
    search_id = submit(client, agent.target_id)["id"]
    refused = client.post("/v1/searches", json={"target": agent.target_id}, headers=reader)
    assert assert_problem(refused, 403, "forbidden")["required_scope"] == "search"
    assert client.post("/v1/searches", json={"target": agent.target_id}, headers=searcher).status_code == 202
    for path in ("", f"/{search_id}", f"/{search_id}/trials", f"/{search_id}/front"):
        assert client.get(f"/v1/searches{path}", headers=reader).status_code == 200
        assert_problem(client.get(f"/v1/searches{path}", headers=searcher), 403, "forbidden")
