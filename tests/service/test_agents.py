"""Leases over HTTP, with their fences: work for one agent at a time, and results that count once."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest
from api_world import (
    FOUR_THREADS,
    RUNTIME,
    AgentOnTheWire,
    assert_problem,
    cancel_onboarding,
    dense_model,
    event_types,
    job,
    measured,
    order,
    register,
)
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from devices.measurement import Conditions, Measurement
from service.db import tables
from service.db.clock import now_plus
from service.dependencies import Services
from service.errors import Unauthenticated
from service.fleet import work as fleet_work
from service.security import AgentPrincipal

REFERENCE_COUNT = 10
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def agent(client: TestClient, services: Services, project_id: str) -> AgentOnTheWire:
    """An agent with one target that is being onboarded."""
    return register(client, services, project_id)


@pytest.fixture
def idle_agent(client: TestClient, agent: AgentOnTheWire) -> AgentOnTheWire:
    """An agent with nothing to do."""
    cancel_onboarding(client, agent.target_id)
    return agent


def test_a_measurement_from_order_to_answer(client: TestClient, idle_agent: AgentOnTheWire) -> None:
    model = dense_model()
    job_id = order(client, idle_agent)
    work = idle_agent.lease()
    assert work is not None
    assert (work.job_id, work.runtime, work.device_key) == (job_id, RUNTIME, "board")
    assert work.model.input_shapes == {"x": (1, 8)}
    bytes_of_model = client.get(f"/v1/agents/self/models/{work.model.sha256}", headers=idle_agent.headers)
    assert bytes_of_model.content == model
    assert len(model) == work.model_bytes
    for path, body in (("start", {}), ("renew", {"progress": 0.5})):
        answer = idle_agent.post(f"leases/{job_id}/{path}", {"fence": work.fence, **body})
        assert answer.json() == {"job_id": job_id, "state": "running", "cancel_requested": False}
    assert job(client, job_id)["progress"] == 0.5
    answer = idle_agent.report(work, measured(work, 2.0))
    assert answer.json()["state"] == "succeeded"
    ended = job(client, job_id)
    measurement = client.get(f"/v1/measurements/{ended['result']['measurement_id']}").json()
    assert (measurement["median_ms"], measurement["is_valid"], measurement["job_id"]) == (2.0, True, job_id)
    assert (
        client.get(f"/v1/agents/self/models/{work.model.sha256}", headers=idle_agent.headers).status_code
        == 404
    )
    assert idle_agent.lease() is None


def test_a_result_that_is_resent_counts_once(
    client: TestClient, services: Services, idle_agent: AgentOnTheWire
) -> None:
    order(client, idle_agent)
    work = idle_agent.started()
    answers = [idle_agent.report(work, measured(work)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.json() for answer in answers] == [answers[0].json()] * 3
    renewed = idle_agent.post(f"leases/{work.job_id}/renew", {"fence": work.fence})
    assert renewed.json()["state"] == "succeeded"  # a renewal that comes late is harmless
    with services.database.read() as session:
        assert session.scalar(select(func.count()).select_from(tables.Measurement)) == 1
    assert event_types(client, work.job_id).count("succeeded") == 1


def test_an_old_fence_writes_nothing(
    client: TestClient, services: Services, idle_agent: AgentOnTheWire
) -> None:
    order(client, idle_agent)
    first = idle_agent.started()
    with services.database.write() as session:
        session.execute(
            update(tables.Job).where(tables.Job.id == first.job_id).values(lease_until=now_plus(-0.01))
        )
    second = idle_agent.lease()  # a lease that ran out is given again, to whoever asks
    assert second is not None
    assert (second.job_id, second.fence) == (first.job_id, first.fence + 1)
    for fence in (first.fence, second.fence + 1, -1, 10**30):
        for path in ("start", "renew"):
            assert_problem(
                idle_agent.post(f"leases/{first.job_id}/{path}", {"fence": fence}), 409, "lease_lost"
            )
    assert_problem(idle_agent.report(first, measured(first)), 409, "lease_lost")
    given_up = idle_agent.post(
        f"leases/{first.job_id}/fail", {"fence": first.fence, "code": "crashed", "detail": "late"}
    )
    assert_problem(given_up, 409, "lease_lost")
    assert job(client, first.job_id)["state"] == "leased"
    assert idle_agent.report(second, measured(second)).json()["state"] == "succeeded"


def test_an_agent_reaches_only_its_own_devices_work(
    client: TestClient, services: Services, project_id: str, idle_agent: AgentOnTheWire
) -> None:
    order(client, idle_agent)
    work = idle_agent.started()
    other = register(client, services, project_id, "other")
    cancel_onboarding(client, other.target_id)
    assert other.lease() is None
    for path in ("start", "renew"):
        assert_problem(other.post(f"leases/{work.job_id}/{path}", {"fence": work.fence}), 404, "not_found")
    assert_problem(other.report(work, measured(work)), 404, "not_found")
    model = client.get(f"/v1/agents/self/models/{work.model.sha256}", headers=other.headers)
    assert_problem(model, 404, "not_found")
    assert job(client, work.job_id)["state"] == "running"


@on_sqlite
def test_a_busy_device_gets_no_second_job(client: TestClient, idle_agent: AgentOnTheWire) -> None:
    order(client, idle_agent, seed=1)
    order(client, idle_agent, seed=2)
    work = idle_agent.started()
    assert idle_agent.lease() is None
    idle_agent.report(work, measured(work))
    assert idle_agent.lease() is not None


@on_sqlite
def test_ordered_measurements_overtake_the_onboarding(client: TestClient, agent: AgentOnTheWire) -> None:
    job_id = order(client, agent)
    work = agent.lease()
    assert work is not None
    assert work.job_id == job_id


@on_sqlite
@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda m: m.model_copy(update={"device_key": "another"}), "measurement_mismatch"),
        (lambda m: m.model_copy(update={"runtime": FOUR_THREADS}), "measurement_mismatch"),
        (
            lambda m: m.model_copy(update={"model": m.model.model_copy(update={"sha256": "0" * 64})}),
            "measurement_mismatch",
        ),
        (
            lambda m: m.model_copy(update={"estimate": m.estimate.model_copy(update={"median_ms": 0.0})}),
            "measurement_implausible",
        ),
    ],
    ids=["device", "runtime", "model", "no time at all"],
)  # fmt: skip
def test_what_was_not_asked_for_ends_the_job(
    client: TestClient, services: Services, idle_agent: AgentOnTheWire, spoil: object, code: str
) -> None:
    order(client, idle_agent)
    work = idle_agent.started()
    spoiled: Measurement = spoil(measured(work))  # type: ignore[operator]
    for _ in range(2):  # resent, it is refused alike
        assert_problem(idle_agent.report(work, spoiled), 422, code)
    ended = job(client, work.job_id)
    assert ended["state"] == "failed"
    assert ended["failure"]["code"] == "result_refused"
    assert client.get("/v1/measurements").json()["items"] == []


def test_numbers_that_json_lacks_are_refused(client: TestClient, idle_agent: AgentOnTheWire) -> None:
    order(client, idle_agent)
    work = idle_agent.started()
    text = measured(work).model_dump_json().replace('"median_ms":1.0', '"median_ms":NaN')
    answer = client.post(
        f"/v1/agents/self/leases/{work.job_id}/complete",
        content=f'{{"fence": {work.fence}, "measurement": {text}}}',
        headers={"Content-Type": "application/json", **idle_agent.headers},
    )
    assert_problem(answer, 422, "measurement_implausible")


def test_only_what_can_succeed_is_tried_again(client: TestClient, idle_agent: AgentOnTheWire) -> None:
    for code, state in (("timed_out", "queued"), ("out_of_memory", "failed")):
        order(client, idle_agent)
        work = idle_agent.started()
        body = {"fence": work.fence, "code": code, "detail": "with a \x00 in it"}
        answers = [idle_agent.post(f"leases/{work.job_id}/fail", body) for _ in range(2)]
        assert answers[0].json()["state"] == state
        assert answers[1].status_code == (409 if state == "queued" else 200)
        client.post(f"/v1/jobs/{work.job_id}/cancel")
    assert job(client, work.job_id)["failure"] == {"code": "out_of_memory", "detail": "with a \ufffd in it"}


def test_an_unstable_measurement_is_kept_but_not_believed(
    client: TestClient, idle_agent: AgentOnTheWire
) -> None:
    order(client, idle_agent)
    work, measurement_id = idle_agent.measure(is_valid=False)
    ended = job(client, work.job_id)
    assert ended["state"] == "succeeded"
    assert ended["result"] == {"measurement_id": measurement_id, "is_valid": False}
    shown = client.get(f"/v1/measurements/{measurement_id}").json()
    assert (shown["is_valid"], shown["reasons"]) == (False, ["too noisy"])


def test_a_cancel_reaches_the_agent_with_its_next_renewal(
    client: TestClient, idle_agent: AgentOnTheWire
) -> None:
    job_id = order(client, idle_agent)
    work = idle_agent.started()
    client.post(f"/v1/jobs/{job_id}/cancel")
    renewed = idle_agent.post(f"leases/{job_id}/renew", {"fence": work.fence})
    assert renewed.json() == {"job_id": job_id, "state": "cancelling", "cancel_requested": True}
    body = {"fence": work.fence, "code": "cancelled", "detail": "as asked"}
    assert idle_agent.post(f"leases/{job_id}/fail", body).json()["state"] == "cancelled"


def test_an_onboarding_ends_as_an_adapt_job_to_claim(client: TestClient, agent: AgentOnTheWire) -> None:
    adapt = client.get(f"/v1/targets/{agent.target_id}").json()["onboarding_job_id"]
    for left in reversed(range(REFERENCE_COUNT)):
        work, measurement_id = agent.measure(1.0 + left)
        assert client.get(f"/v1/measurements/{measurement_id}").json()["is_reference"] is True
        assert work.plan.level == "quick"
        assert job(client, adapt)["waiting_for"] == left
    assert agent.lease() is None
    assert job(client, adapt)["state"] == "queued"


def test_heartbeats_tell_state_and_conditions(
    client: TestClient, services: Services, agent: AgentOnTheWire
) -> None:
    conditions = Conditions(at_unix_s=1.0, governor="performance", temperature_c=41.5)
    beat = {"state": "draining", "conditions": conditions.model_dump(mode="json")}
    assert (
        agent.post("heartbeat", beat).json()["cadence"]["heartbeat_s"] == services.settings.agent_heartbeat_s
    )
    assert (
        agent.post("heartbeat", {"state": "busy"}).status_code == 200
    )  # says nothing of conditions: the last ones stay
    nonsense = client.post(
        "/v1/agents/self/heartbeat",
        content='{"state": "busy", "conditions": {"at_unix_s": 2.0, "temperature_c": NaN}}',
        headers={"Content-Type": "application/json", **agent.headers},
    )
    assert nonsense.status_code == 200
    shown = client.get("/v1/devices/board").json()["agent"]
    assert (shown["state"], shown["conditions"]["temperature_c"]) == ("busy", 41.5)


# ---- waiting for work ----


def test_an_agent_that_is_replaced_while_it_waits_gets_nothing(
    client: TestClient, services: Services, project_id: str, idle_agent: AgentOnTheWire
) -> None:
    reply = idle_agent.reply
    replaced = AgentPrincipal(project_id, reply.agent_id, reply.device_id)  # as its token was when it asked
    order(client, idle_agent, seed=1)
    work = idle_agent.started()
    successor = register(client, services, project_id)
    model = client.get(f"/v1/agents/self/models/{work.model.sha256}", headers=successor.headers)
    assert_problem(model, 404, "not_found")  # the lease was not the successor's
    order(client, idle_agent, seed=2)
    with pytest.raises(Unauthenticated):
        fleet_work.lease_work(services, replaced)


def test_a_waiting_lease_request_gets_the_job_that_appears(
    client: TestClient, idle_agent: AgentOnTheWire
) -> None:
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(idle_agent.lease(wait_s=20.0)))
    waiting.start()
    job_id = order(client, idle_agent)
    waiting.join(timeout=60)
    assert [getattr(work, "job_id", None) for work in found] == [job_id]


def test_an_agent_that_stops_gives_back_what_it_holds(client: TestClient, idle_agent: AgentOnTheWire) -> None:
    job_id = order(client, idle_agent)
    first = idle_agent.started()
    idle_agent.post("heartbeat", {"state": "draining"})
    assert job(client, job_id)["state"] == "running"  # it ends what it has begun
    idle_agent.post("heartbeat", {"state": "stopped"})
    assert job(client, job_id)["state"] == "queued"
    assert event_types(client, job_id)[-1] == "requeued"
    assert_problem(idle_agent.report(first, measured(first)), 409, "lease_lost")
    assert idle_agent.lease() is None
    idle_agent.announce([RUNTIME])
    again = idle_agent.started()
    assert (again.job_id, again.fence) == (job_id, first.fence + 1)


def test_an_agent_that_leaves_while_it_waits_gets_no_work(
    client: TestClient, idle_agent: AgentOnTheWire
) -> None:
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(idle_agent.lease(wait_s=20.0)))
    waiting.start()
    idle_agent.post("heartbeat", {"state": "draining"})
    job_id = order(client, idle_agent)
    waiting.join(timeout=60)
    assert found == [None]
    assert job(client, job_id)["state"] == "queued"


def test_many_agents_wait_without_threads(
    client: TestClient, services: Services, idle_agent: AgentOnTheWire, project_id: str
) -> None:
    caller = AgentPrincipal(project_id, idle_agent.reply.agent_id, idle_agent.reply.device_id)
    given: list[str] = []

    async def wait_and_order() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2
        is_over = anyio.Event()

        async def is_gone() -> bool:
            return is_over.is_set()

        async def wait() -> None:
            reply = await fleet_work.wait_for_work(services, caller, 20.0, is_gone=is_gone)
            if reply.work is not None:
                given.append(reply.work.job_id)
                is_over.set()

        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(wait)
            given_job = await anyio.to_thread.run_sync(lambda: order(client, idle_agent))
        assert given == [given_job]

    anyio.run(wait_and_order)
