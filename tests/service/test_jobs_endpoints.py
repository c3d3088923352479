"""Jobs over HTTP: what is seen, by whom, and how their events are followed."""

from __future__ import annotations

import json
import threading

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fleet_rows import add_project, add_target

from service.access import issue_key
from service.dependencies import Services
from service.jobs import endpoints, queue
from service.jobs.queue import Lease
from service.security import Scope


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "POLL_S", 0.02)


def submit(services: Services, project_id: str, kind: str = "search") -> str:
    with services.database.write() as session:
        return queue.submit(session, project_id=project_id, kind=kind, payload={}).id


def claim(services: Services) -> Lease:
    with services.database.write() as session:
        job = queue.claim(session, kinds=["search", "adapt"], holder="ann", lease_s=30)
        assert job is not None
        return queue.lease_of(job)


def streamed(answer: str) -> list[dict[str, str]]:
    """The events of a stream's text."""
    events = []
    for block in answer.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            events.append(fields)
    return events


def test_one_job(client: TestClient, services: Services, project_id: str) -> None:
    job_id = submit(services, project_id)
    lease = claim(services)
    with services.database.write() as session:
        queue.fail(session, lease, code="crashed", detail="segmentation fault", is_retryable=False)
    shown = client.get(f"/v1/jobs/{job_id}").json()
    assert shown["state"] == "failed"
    assert shown["failure"] == {"code": "crashed", "detail": "segmentation fault"}
    assert (shown["kind"], shown["attempt"], shown["result"]) == ("search", 1, None)
    assert shown["created_at"] <= shown["finished_at"]


def test_lists_are_filtered_and_paged(client: TestClient, services: Services, project_id: str) -> None:
    ids = [submit(services, project_id, kind) for kind in ("search", "adapt") * 5]
    claim(services)
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        page = client.get("/v1/jobs", params={"limit": 4, **({"cursor": cursor} if cursor else {})}).json()
        seen += [job["id"] for job in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert (seen, pages) == (ids[::-1], 3)
    adapt = client.get("/v1/jobs", params={"kind": "adapt"}).json()["items"]
    assert [job["id"] for job in adapt] == ids[:0:-2]
    leased = client.get("/v1/jobs?state=leased&state=running").json()["items"]
    assert [job["id"] for job in leased] == [ids[0]]
    assert client.get("/v1/jobs?state=sleeping").status_code == 422


def test_rows_added_meanwhile_do_not_shift_pages(
    client: TestClient, services: Services, project_id: str
) -> None:
    ids = [submit(services, project_id) for _ in range(4)]
    first = client.get("/v1/jobs?limit=2").json()
    submit(services, project_id)
    second = client.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in first["items"] + second["items"]] == ids[::-1]
    assert second["next_cursor"] is None


@pytest.mark.parametrize("cursor", ["x", "!", "bm9uc2Vuc2U", "WyJhIiwgMV0", "é", "W10", "bnVsbA"])
def test_a_cursor_that_was_never_given(client: TestClient, cursor: str) -> None:
    refused = client.get("/v1/jobs", params={"cursor": cursor})
    assert (refused.status_code, refused.json()["code"]) == (422, "cursor_invalid")


def test_a_cursor_of_another_list(client: TestClient) -> None:
    client.post("/v1/api-keys", json={"name": "second", "scopes": ["read"]})
    cursor = client.get("/v1/api-keys?limit=1").json()["next_cursor"]
    assert client.get("/v1/jobs", params={"cursor": cursor}).json()["code"] == "cursor_invalid"


def test_other_projects_jobs_do_not_exist(client: TestClient, services: Services) -> None:
    with services.database.write() as session:
        other = add_project(session, "other")
    job_id = submit(services, other)
    for call in (
        client.get(f"/v1/jobs/{job_id}"),
        client.post(f"/v1/jobs/{job_id}/cancel"),
        client.get(f"/v1/jobs/{job_id}/events"),
        client.get(f"/v1/jobs/{job_id}/events/stream"),
    ):
        assert (call.status_code, call.json()["code"]) == (404, "not_found")
    assert client.get("/v1/jobs").json()["items"] == []


def test_cancel_cascades(client: TestClient, services: Services, project_id: str) -> None:
    with services.database.write() as session:
        target = add_target(session, project_id)
        parent = queue.submit(session, project_id=project_id, kind="adapt", payload={})
        child = queue.submit(
            session,
            project_id=project_id,
            kind="profile",
            payload={},
            device_id=target.device_id,
            target_id=target.id,
            parent_id=parent.id,
        )
    for _ in range(2):
        answer = client.post(f"/v1/jobs/{parent.id}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    children = client.get("/v1/jobs", params={"parent_id": parent.id}).json()["items"]
    assert [(job["id"], job["state"]) for job in children] == [(child.id, "cancelled")]


@pytest.mark.parametrize(("kind", "scope"), [("search", Scope.SEARCH), ("adapt", Scope.MEASURE)])
def test_cancel_needs_the_scope_of_the_work(
    client: TestClient, services: Services, project_id: str, kind: str, scope: Scope
) -> None:
    job_id = submit(services, project_id, kind)
    for given in ({Scope.READ}, {Scope.MEASURE, Scope.SEARCH} - {scope}, {scope}):
        with services.database.write() as session:
            _, token = issue_key(session, project_id=project_id, name="n", scopes=frozenset(given))
        answer = client.post(f"/v1/jobs/{job_id}/cancel", headers={"Authorization": f"Bearer {token}"})
        if scope in given:
            assert answer.json()["state"] == "cancelled"
        else:
            assert (answer.status_code, answer.json()["required_scope"]) == (403, scope)


def test_events_by_pages(client: TestClient, services: Services, project_id: str) -> None:
    job_id = submit(services, project_id)
    lease = claim(services)
    first = client.get(f"/v1/jobs/{job_id}/events?limit=1").json()
    assert [(event["seq"], event["type"]) for event in first["items"]] == [(1, "submitted")]
    assert (first["next_after"], first["has_ended"]) == (1, False)
    with services.database.write() as session:
        queue.complete(session, lease, {"n": 1})
    rest = client.get(f"/v1/jobs/{job_id}/events", params={"after": first["next_after"]}).json()
    assert [event["type"] for event in rest["items"]] == ["leased", "succeeded"]
    assert (rest["next_after"], rest["has_ended"]) == (3, True)
    assert rest["items"][1]["data"] == {"result": {"n": 1}}
    none = client.get(f"/v1/jobs/{job_id}/events?after=3").json()
    assert none == {"items": [], "next_after": 3, "has_ended": True}


def test_a_stream_tells_everything_and_ends_with_the_job(
    client: TestClient, services: Services, project_id: str
) -> None:
    job_id = submit(services, project_id)

    def work() -> None:
        lease = claim(services)
        for progress in (0.25, 0.5):
            with services.database.write() as session:
                queue.start(session, lease)
                queue.renew(session, lease, lease_s=30, progress=progress)
        with services.database.write() as session:
            queue.complete(session, lease, {})

    worker = threading.Timer(0.1, work)
    worker.start()
    answer = client.get(f"/v1/jobs/{job_id}/events/stream")
    worker.join()
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = streamed(answer.text)
    assert [event["event"] for event in told] == [
        "submitted",
        "leased",
        "started",
        "progress",
        "progress",
        "succeeded",
    ]
    assert [event["id"] for event in told] == ["1", "2", "3", "4", "5", "6"]
    paged = client.get(f"/v1/jobs/{job_id}/events").json()["items"]
    assert [json.loads(event["data"]) for event in told] == paged


@pytest.mark.parametrize(("last", "told"), [(0, ["1", "2"]), (1, ["2"]), (2, []), (99, [])])
def test_a_stream_goes_on_where_it_broke_off(
    client: TestClient, services: Services, project_id: str, last: int, told: list[str]
) -> None:
    job_id = submit(services, project_id)
    client.post(f"/v1/jobs/{job_id}/cancel")
    answer = client.get(f"/v1/jobs/{job_id}/events/stream", headers={"Last-Event-ID": str(last)})
    assert [event["id"] for event in streamed(answer.text)] == told


def test_a_stream_longer_than_a_batch(client: TestClient, services: Services, project_id: str) -> None:
    job_id = submit(services, project_id)
    with services.database.write() as session:
        for number in range(2 * endpoints.STREAM_BATCH - 2):
            queue.emit(session, job_id, "note", {"number": number})
        queue.cancel(session, project_id=project_id, job_id=job_id)
    answer = client.get(f"/v1/jobs/{job_id}/events/stream")
    ids = [int(event["id"]) for event in streamed(answer.text)]
    assert ids == list(range(1, 2 * endpoints.STREAM_BATCH + 1))


def test_a_silent_stream_is_kept_alive(
    client: TestClient, services: Services, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.05)
    job_id = submit(services, project_id)
    ending = threading.Timer(0.5, lambda: client.post(f"/v1/jobs/{job_id}/cancel"))
    ending.start()
    answer = client.get(f"/v1/jobs/{job_id}/events/stream")
    ending.join()
    assert ": ping" in answer.text
    assert [event["event"] for event in streamed(answer.text)] == ["submitted", "cancelled"]


def test_nobody_reads_without_a_key(app: FastAPI, client: TestClient) -> None:
    client.headers.pop("Authorization")
    for path in ("/v1/jobs", "/v1/jobs/job_1", "/v1/jobs/job_1/events", "/v1/jobs/job_1/events/stream"):
        assert client.get(path).status_code == 401
