"""Queries that state how good an answer must be, over HTTP: measured, predicted or queued."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest
from api_world import (
    FOUR_THREADS,
    RUNTIME,
    AgentOnTheWire,
    add_key,
    assert_problem,
    bearer,
    dense_model,
    event_types,
    job,
    make_ready,
    register,
    upload,
)
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from predictor.reference_set import reference_models
from service.db import tables
from service.dependencies import Services
from service.fleet.onboarding import REFRESH_DELAY_S
from service.security import Scope

FAMILIAR = reference_models()[2].model  # of a kind and size that the predictor has seen
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def ask(
    client: TestClient, models: list[str], targets: list[str] | str, *, status: int = 200, **wanted: object
) -> dict[str, Any]:
    body = {"models": [{"model": model} for model in models], "targets": targets, **wanted}
    answer = client.post("/v1/latency-queries", json=body)
    assert answer.status_code == status, answer.text
    return {"location": answer.headers.get("location"), **answer.json()}


def profile_jobs(services: Services) -> int:
    with services.database.read() as session:
        statement = select(func.count()).where(
            tables.Job.kind == "profile", tables.Job.state.in_(("queued", "leased", "running"))
        )
        return session.scalars(statement).one()


def test_a_query_without_needs_is_answered_as_ever(client: TestClient, agent: AgentOnTheWire) -> None:
    model = upload(client, FAMILIAR)["id"]
    answers = ask(client, [model], [agent.target_key])["answers"]
    assert not {"decision", "because", "job_id", "expected_s", "fits"} & set(answers[0])
    assert (
        "rankings"
        not in client.post(
            "/v1/latency-queries", json={"models": [{"model": model}], "targets": [agent.target_key]}
        ).json()
    )
    [same] = ask(client, [model], [agent.target_key], deadline_s=0)["answers"]
    assert (same["decision"], same["job_id"]) == ("predicted", None)
    assert {name: same[name] for name in answers[0]} == answers[0]


def test_what_no_prediction_answers_is_measured_once(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    model = upload(client, FAMILIAR)["id"]
    wanted: dict[str, Any] = {"max_relative_error": 0.07}
    first = ask(client, [model], [agent.target_key], status=202, **wanted)
    [answer] = first["answers"]
    assert (answer["decision"], answer["source"]) == ("queued", "prediction")
    assert first["location"] == f"/v1/jobs/{answer['job_id']}"
    assert "not the 7.0% asked for" in answer["because"]
    again = ask(client, [model, model], [agent.target_key], status=202, **wanted)
    assert {one["job_id"] for one in again["answers"]} == {answer["job_id"]}  # joined, never doubled
    assert profile_jobs(services) == 1
    work, measurement_id = agent.measure(3.0)
    assert work.job_id == answer["job_id"]
    done = ask(client, [model], [agent.target_key], **wanted)
    [measured] = done["answers"]
    assert (measured["decision"], measured["measurement_id"]) == ("measured", measurement_id)
    assert done["location"] is None
    [finer] = ask(client, [model], [agent.target_key], status=202, max_relative_error=0.02)["answers"]
    assert (finer["decision"], finer["source"]) == ("queued", "measurement")  # the best there is, beside
    assert agent.started().plan.level == "standard"


@on_sqlite
def test_what_came_to_nothing_is_not_tried_again_at_once(client: TestClient, agent: AgentOnTheWire) -> None:
    model = upload(client, FAMILIAR)["id"]
    ask(client, [model], [agent.target_key], status=202, max_relative_error=0.07)
    agent.measure(3.0, is_valid=False)
    [answer] = ask(client, [model], [agent.target_key], max_relative_error=0.07)["answers"]
    assert (answer["decision"], answer["job_id"]) == ("predicted", None)
    assert "came to nothing a short while ago (it was not valid)" in answer["because"]


def test_queries_at_once_queue_one_job(client: TestClient, services: Services, agent: AgentOnTheWire) -> None:
    model = upload(client, FAMILIAR)["id"]
    jobs: list[str] = []

    def run() -> None:
        [answer] = ask(client, [model], [agent.target_key], status=202, max_relative_error=0.05)["answers"]
        jobs.append(answer["job_id"])

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs) == 4
    assert len(set(jobs)) == profile_jobs(services) == 1


def test_an_idempotency_key_gives_the_same_answer_again(client: TestClient, agent: AgentOnTheWire) -> None:
    model = upload(client, FAMILIAR)["id"]
    asked = {"models": [{"model": model}], "targets": [agent.target_key], "max_relative_error": 0.05}
    first, second = (
        client.post("/v1/latency-queries", json=asked, headers={"Idempotency-Key": "one"}) for _ in range(2)
    )
    assert (second.status_code, second.json()) == (first.status_code, first.json()) == (202, first.json())
    assert second.headers["location"] == first.headers["location"]


@on_sqlite
def test_what_stands_in_the_way_is_said(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    model = upload(client, FAMILIAR)["id"]
    asked = {"models": [{"model": model}], "targets": [agent.target_key], "max_relative_error": 0.05}

    def because(headers: dict[str, str] | None = None, **change: object) -> str:
        answer = client.post("/v1/latency-queries", json=asked | change, headers=headers)
        assert answer.status_code == 200, answer.text
        [shown] = answer.json()["answers"]
        assert (shown["decision"], shown["job_id"]) == ("predicted", None)
        assert shown["median_ms"] > 0
        return str(shown["because"])

    reader = bearer(add_key(services, project_id, Scope.READ))
    assert "lacks the scope 'measure'" in because(reader)
    assert "wanted now" in because(deadline_s=0)
    assert "the deadline is 1 s" in because(deadline_s=1)
    assert "asks for predictions" in because(source="prediction")
    with services.database.write() as session:
        session.execute(update(tables.Agent).values(state="stopped"))
    assert "no agent" in because(deadline_s=60)
    assert profile_jobs(services) == 0
    [patient] = ask(client, [model], [agent.target_key], status=202, max_relative_error=0.05)["answers"]
    assert "until an agent" in patient["because"]
    assert patient["expected_s"] is None


@on_sqlite
def test_a_model_that_cannot_be_costed_is_measured(client: TestClient, agent: AgentOnTheWire) -> None:
    model = upload(client, dense_model(kind="Sparkle", domain="acme"))["id"]
    [answer] = ask(client, [model], [agent.target_key], status=202, deadline_s=60)["answers"]
    assert (answer["decision"], answer["error"]["code"]) == ("queued", "operator_unsupported")
    assert answer["expected_s"] <= 60
    agent.measure(2.0)
    [measured] = ask(client, [model], [agent.target_key], deadline_s=60)["answers"]
    assert (measured["decision"], measured["error"], measured["median_ms"]) == ("measured", None, 2.0)


def test_where_does_this_run_in_time(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    others = register(client, services, project_id, "other", runtimes=(RUNTIME, FOUR_THREADS))
    make_ready(client, services, others.target_id)
    model = upload(client, dense_model())["id"]
    for target in (agent, others):
        ordered = client.post("/v1/measurements", json={"model": model, "target": target.target_key})
        assert ordered.status_code == 202
    agent.measure(3.0)
    # the other device's onboarding of its second target is under way, which gives way to this measurement
    _, _ = others.measure(1.0)
    found = ask(client, [model], "all", below_ms=2.0)
    assert {a["target_key"]: a["fits"] for a in found["answers"]} == {
        agent.target_key: "no",
        others.target_key: "yes",
    }
    [ranking] = found["rankings"]
    assert (ranking["of"], ranking["model_id"]) == ("targets", model)
    assert [place["target_key"] for place in ranking["places"]] == [others.target_key, agent.target_key]
    assert [place["fits"] for place in ranking["places"]] == ["yes", "no"]
    assert [place["overlaps_next"] for place in ranking["places"]] == [False, None]
    named = [others.reply.targets[1].key, agent.target_key]
    [ranking] = ask(client, [model], named, below_ms=3.0)["rankings"]
    assert [place["fits"] for place in ranking["places"]] == ["uncertain"]
    assert ranking["without_latency"] == [0]  # not ready yet


@on_sqlite
def test_models_are_ranked_on_each_target(client: TestClient, agent: AgentOnTheWire) -> None:
    models = [upload(client, dense_model(width=width))["id"] for width in (512, 8, 256, 16)]
    models.append(upload(client, dense_model(kind="Sparkle", domain="acme"))["id"])
    found = ask(client, models, [agent.target_key], rank="models")
    [ranking] = found["rankings"]
    assert (ranking["of"], ranking["target_key"], ranking["model_id"]) == ("models", agent.target_key, None)
    medians = [place["median_ms"] for place in ranking["places"]]
    assert medians == sorted(medians)
    assert ranking["without_latency"] == [4]
    for place, follower in pairwise(ranking["places"]):
        faster, slower = found["answers"][place["answer"]], found["answers"][follower["answer"]]
        assert place["model_id"] == faster["model_id"]
        assert place["overlaps_next"] is (faster["upper_ms"] >= slower["lower_ms"])


@on_sqlite
def test_new_measurements_count_at_once_and_adapt_soon(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    models = [upload(client, dense_model(width=width))["id"] for width in (24, 40, 72, 136)]
    asked = upload(client, dense_model(width=100))["id"]

    def predicted(model: str) -> dict[str, Any]:
        [answer] = ask(client, [model], [agent.target_key], source="prediction")["answers"]
        return dict(answer)

    before, first = predicted(asked), [predicted(model) for model in models]
    for model, said in zip(models, first, strict=True):
        ordered = client.post("/v1/measurements", json={"model": model, "target": agent.target_key})
        assert ordered.status_code == 202
        agent.measure(1.5 * said["median_ms"])
        if said is first[0]:
            assert predicted(model) == said  # its own measurement does not flatter it
            assert predicted(asked)["median_ms"] > before["median_ms"]
    after = predicted(asked)
    assert after["median_ms"] > 1.1 * before["median_ms"]
    assert "recalibrated by 4 newer measurements of this target" in after["reasons"]
    with services.database.read() as session:
        jobs = session.scalars(
            select(tables.Job).where(tables.Job.kind == "adapt", tables.Job.state == "queued")
        ).all()
    [refresh] = jobs  # four measurements, one adaptation
    assert refresh.target_id == agent.target_id
    assert refresh.not_before is not None
    assert 0 < (refresh.not_before - refresh.created_at).total_seconds() <= REFRESH_DELAY_S + 1
    onboarding_id = client.get(f"/v1/targets/{agent.target_id}").json()["onboarding_job_id"]
    assert onboarding_id != refresh.id
    again = client.post(f"/v1/targets/{agent.target_id}/onboarding")
    assert again.status_code == 202, again.text  # a refresh is no onboarding, and gives way to one
    assert job(client, refresh.id)["state"] == "cancelled"
    assert event_types(client, again.json()["id"])[0] == "submitted"


@on_sqlite
def test_the_short_way_and_the_usual_one_come_to_the_same(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    model = upload(client, dense_model())["id"]
    body = {"models": [{"model": model}], "targets": [agent.target_key], "below_ms": 5.0}
    short = client.post("/v1/latency-queries", json=body)
    usual = client.post("/v1/latency-queries", json=body, headers={"Idempotency-Key": "usual"})
    assert (short.status_code, short.content) == (usual.status_code, usual.content)
    key = add_key(services, project_id, Scope.MEASURE)
    assert_problem(client.post("/v1/latency-queries", json=body, headers=bearer(key)), 403, "forbidden")
    with services.database.write() as session:
        session.execute(update(tables.ApiKey).values(revoked_at=func.current_timestamp()))
    assert_problem(client.post("/v1/latency-queries", json=body), 401, "unauthenticated")  # from now on
