"""Models, latency queries and measurements over HTTP."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator

import anyio
import onnx
import pytest
from api_world import (
    FOUR_THREADS,
    RUNTIME,
    AgentOnTheWire,
    add_key,
    add_project_with_key,
    assert_problem,
    bearer,
    cancel_onboarding,
    dense_model,
    register,
    upload,
)
from fastapi import FastAPI
from fastapi.testclient import TestClient
from scipy import stats
from sqlalchemy import func, select
from starlette.requests import ClientDisconnect

from devices.measurement import Measurement
from service.app import create_app
from service.db import tables
from service.db.session import Snapshot
from service.dependencies import Services
from service.errors import Invalid
from service.latency.intervals import measured_interval, student_t
from service.latency.service import receive_upload
from service.security import Scope
from service.settings import Settings

ONNX = {"Content-Type": "application/onnx"}
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def digest_header(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def ask(
    client: TestClient, models: list[object], targets: list[str], **wanted: object
) -> list[dict[str, object]]:
    asked = [model if isinstance(model, dict) else {"model": model} for model in models]
    answer = client.post("/v1/latency-queries", json={"models": asked, "targets": targets, **wanted})
    assert answer.status_code == 200, answer.text
    answers: list[dict[str, object]] = answer.json()["answers"]
    return answers


# ---- models ----


def test_a_model_is_stored_by_its_content(client: TestClient, services: Services) -> None:
    data = dense_model(batch="n")
    first = client.post(
        "/v1/models",
        params={"name": "dense"},
        content=data,
        headers={**ONNX, "Content-Digest": digest_header(data)},
    )
    assert first.status_code == 201, first.text
    model = first.json()
    assert first.headers["location"] == f"/v1/models/{model['id']}"
    assert (model["sha256"], model["size_bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert model["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 8]}]
    services.artifacts.path(model["sha256"]).unlink()  # a store that lost them gets them back
    again = client.post("/v1/models", params={"name": "another name"}, content=data, headers=ONNX)
    assert (again.status_code, again.json()) == (200, model)
    for name in (model["id"], model["sha256"]):
        assert client.get(f"/v1/models/{name}").json() == model
        content = client.get(f"/v1/models/{name}/content")
        assert (content.content, content.headers["content-type"]) == (data, "application/onnx")


def test_two_projects_with_one_model_share_bytes_and_nothing_else(
    client: TestClient, services: Services
) -> None:
    _, token = add_project_with_key(services, "other")
    data = dense_model()
    theirs = upload(client, data, name="theirs")
    assert client.get(f"/v1/models/{theirs['sha256']}", headers=bearer(token)).status_code == 404
    answer = client.post(
        "/v1/models", params={"name": "ours"}, content=data, headers={**ONNX, **bearer(token)}
    )
    assert answer.status_code == 201  # the answer does not tell that somebody else had it
    assert answer.json()["name"] == "ours"
    assert answer.json()["id"] != theirs["id"]
    with services.database.read() as session:
        sha256 = theirs["sha256"]
        stored = select(func.count()).select_from(tables.Artifact).where(tables.Artifact.sha256 == sha256)
        assert session.scalar(stored) == 1


@on_sqlite
def test_a_dynamic_model_is_accepted_and_a_broken_one_is_not(client: TestClient, services: Services) -> None:
    unknown = upload(client, dense_model(kind="Sparkle", domain="acme"))
    assert "Sparkle" in str(unknown["summary"])  # a device may know the operator, so the model is kept
    external = onnx.load_model_from_string(dense_model(width=64))
    weights = external.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    for data, code in (
        (b"", "model_empty"),
        (b"this is no model", "model_malformed"),
        (dense_model()[:-40], "model_malformed"),
        (external.SerializeToString(), "model_external_data"),
    ):
        assert_problem(client.post("/v1/models", content=data, headers=ONNX), 422, code)
        assert not services.artifacts.path(hashlib.sha256(data).hexdigest()).exists(), code


@on_sqlite
def test_an_upload_is_what_was_announced(client: TestClient, services: Services) -> None:
    data = dense_model()
    for header, code in (
        (digest_header(b"something else"), "content_digest_mismatch"),
        ("sha-256=:AAAA:", "content_digest_invalid"),
        ("md5=:AAAA:", "content_digest_invalid"),
        ("sha-256=:!!!:", "content_digest_invalid"),
    ):
        answer = client.post("/v1/models", content=data, headers={**ONNX, "Content-Digest": header})
        assert_problem(answer, 422, code)
    assert not services.artifacts.path(hashlib.sha256(data).hexdigest()).exists()
    header = f"sha-512=:AAAA:, {digest_header(data)}"
    assert (
        client.post("/v1/models", content=data, headers={**ONNX, "Content-Digest": header}).status_code == 201
    )


@on_sqlite
def test_a_model_may_be_larger_than_other_bodies_but_not_than_its_own_limit(settings: Settings) -> None:
    limited = settings.model_copy(update={"max_model_bytes": 40_000, "max_body_bytes": 10_000})
    app: FastAPI = create_app(limited)
    fits, too_large = dense_model(width=80), dense_model(width=128)
    assert limited.max_body_bytes < len(fits) < limited.max_model_bytes < len(too_large)
    with TestClient(app) as client:
        client.headers["Authorization"] = f"Bearer {limited.admin_key_file.read_text().strip()}"
        assert client.post("/v1/models", content=fits, headers=ONNX).status_code == 201
        for content in (
            too_large,
            iter([too_large[:30_000], too_large[30_000:]]),
        ):  # with and without a length
            problem = assert_problem(
                client.post("/v1/models", content=content, headers=ONNX), 413, "too_large"
            )
            assert problem["max_bytes"] == limited.max_model_bytes
        assert not list((limited.artifacts_dir / "incoming").iterdir())


@on_sqlite
def test_an_upload_that_breaks_off_leaves_nothing(services: Services) -> None:
    async def breaking_off() -> AsyncIterator[bytes]:
        yield dense_model()
        raise ClientDisconnect

    async def store() -> None:
        async with receive_upload(services, breaking_off(), content_length=None, content_digest=None):
            pass

    with pytest.raises(Invalid, match="before the whole model"):
        anyio.run(store)
    assert [path for path in services.settings.artifacts_dir.rglob("*") if path.is_file()] == []


def test_an_upload_with_one_key_is_answered_once(client: TestClient) -> None:
    headers = {**ONNX, "Idempotency-Key": "upload"}
    first, again = (client.post("/v1/models", content=dense_model(), headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert (again.json(), again.headers["location"]) == (first.json(), first.headers["location"])
    other = client.post("/v1/models", content=dense_model(seed=1), headers=headers)
    assert_problem(other, 422, "idempotency_key_reused")


# ---- latency queries ----


def test_what_is_measured_wins_over_what_is_predicted(client: TestClient, agent: AgentOnTheWire) -> None:
    model = upload(client, dense_model())["id"]
    [predicted] = ask(client, [model], [agent.target_key])
    assert (predicted["source"], predicted["error"]) == ("prediction", None)
    assert predicted["predictor_id"] == client.get(f"/v1/targets/{agent.target_id}").json()["predictor"]["id"]
    assert predicted["lower_ms"] <= predicted["median_ms"] <= predicted["upper_ms"]  # type: ignore[operator]
    [none] = ask(client, [model], [agent.target_id], source="measurement")
    assert none["error"]["code"] == "no_measurement"  # type: ignore[index]
    ids: dict[str, str] = {}
    for level, median_ms, is_valid in (
        ("standard", 3.0, True),
        ("standard", 2.0, True),  # the newest of the highest valid level: this one
        ("quick", 1.0, True),
        ("certified", 9.0, False),
    ):
        ordered = {"model": model, "target": agent.target_key, "level": level}
        assert client.post("/v1/measurements", json=ordered).status_code == 202
        _, ids[f"{level} {median_ms}"] = agent.measure(median_ms, is_valid=is_valid)
    [measured] = ask(client, [model], [agent.target_key])
    assert (measured["source"], measured["median_ms"]) == ("measurement", 2.0)
    assert measured["measurement_id"] == ids["standard 2.0"]
    margin_ms = stats.t.ppf(0.95, 3) * 0.02  # four rounds, one per cent of standard error
    assert measured["lower_ms"] == pytest.approx(2.0 - margin_ms)
    assert measured["upper_ms"] == pytest.approx(2.0 + margin_ms)
    [wider] = ask(client, [model], [agent.target_key], coverage=0.99)
    assert wider["lower_ms"] < measured["lower_ms"]  # type: ignore[operator]
    [still] = ask(client, [model], [agent.target_key], source="prediction")
    assert (still["source"], still["median_ms"]) == ("prediction", predicted["median_ms"])


def test_a_query_that_was_asked_before_needs_no_session(
    client: TestClient, agent: AgentOnTheWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is still refused once its API key is revoked: the rows that may change are read every time."""
    model = upload(client, dense_model())["id"]
    first = ask(client, [model], [agent.target_key])

    def refused(_: Snapshot) -> None:
        raise AssertionError("a session was made")

    with monkeypatch.context() as patched:
        patched.setattr(Snapshot, "session", property(refused))
        assert ask(client, [model], [agent.target_key]) == first
    key = client.headers["authorization"].split("_")[2]
    assert client.delete(f"/v1/api-keys/key_{key}").status_code == 204
    asked = {"models": [{"model": model}], "targets": [agent.target_key]}
    assert client.post("/v1/latency-queries", json=asked).status_code == 401


def test_many_models_on_many_targets(
    client: TestClient, services: Services, project_id: str, agent: AgentOnTheWire
) -> None:
    onboarding = register(client, services, project_id, "other")
    fixed = upload(client, dense_model())
    dynamic = upload(client, dense_model(batch="n"))
    unknown = upload(client, dense_model(kind="Sparkle", domain="acme"))
    models: list[object] = [
        fixed["sha256"],
        {"model": dynamic["id"], "input_shapes": {"x": [2, 8]}},
        {"model": dynamic["id"], "input_shapes": {"x": [4096, 8]}},
        unknown["id"],
    ]
    answers = ask(client, models, [agent.target_key, onboarding.target_id])
    assert [answer["target_key"] for answer in answers] == [agent.target_key, onboarding.target_key] * 4
    assert [answer["input_shapes"] for answer in answers[::2]] == [{"x": [n, 8]} for n in (1, 2, 4096, 1)]
    ready, not_ready = answers[::2], answers[1::2]
    assert {answer["error"]["code"] for answer in not_ready} == {"target_not_ready"}  # type: ignore[index]
    assert [answer["source"] for answer in ready] == ["prediction"] * 3 + [None]
    assert ready[1]["median_ms"] < ready[2]["median_ms"]  # type: ignore[operator]
    assert ready[3]["error"]["code"] == "operator_unsupported"  # type: ignore[index]
    assert "Sparkle" in ready[3]["error"]["detail"]  # type: ignore[index]


@on_sqlite
def test_missing_sizes_are_named_before_anything_is_done(client: TestClient, agent: AgentOnTheWire) -> None:
    fixed, dynamic = upload(client, dense_model()), upload(client, dense_model(batch="n"))
    asked = {"models": [{"model": fixed["id"]}, {"model": dynamic["id"]}], "targets": [agent.target_id]}
    problem = assert_problem(client.post("/v1/latency-queries", json=asked), 422, "missing_input_sizes")
    assert (problem["where"], problem["missing"]) == ("models.1.input_shapes", ["x[n]"])
    assert "x[n]" in problem["detail"]
    asked["models"][1]["input_shapes"] = {"x": [2, 9]}
    problem = assert_problem(client.post("/v1/latency-queries", json=asked), 422, "inputs_invalid")
    assert "fixed at 8" in problem["detail"]
    ordered = {"model": dynamic["id"], "target": agent.target_id}
    problem = assert_problem(client.post("/v1/measurements", json=ordered), 422, "missing_input_sizes")
    assert (problem["where"], problem["missing"]) == ("input_shapes", ["x[n]"])
    assert agent.lease() is None


@on_sqlite
def test_a_query_has_bounds_and_knows_its_names(client: TestClient, agent: AgentOnTheWire) -> None:
    model = upload(client, dense_model())["id"]
    good: dict[str, object] = {"models": [{"model": model}], "targets": [agent.target_id]}
    for change, code, status in (
        ({"models": [{"model": model}] * 101}, "request_invalid", 422),
        ({"targets": [agent.target_id] * 101}, "request_invalid", 422),
        ({"models": []}, "request_invalid", 422),
        ({"coverage": 0.999}, "request_invalid", 422),
        ({"source": "guess"}, "request_invalid", 422),
        ({"model": model}, "request_invalid", 422),
        ({"models": [{"model": "mdl_unknown"}]}, "not_found", 404),
        ({"targets": [agent.target_id, "no/such/target"]}, "not_found", 404),
    ):
        answer = client.post("/v1/latency-queries", json=good | change)
        problem = assert_problem(answer, status, code)
        if len(change) == 1 and "101" in problem["detail"]:
            assert "100" in problem["detail"]
    assert len(ask(client, [model] * 100, [agent.target_id] * 3)) == 300


# ---- measurements ----


def test_a_measurement_is_listed_shown_and_given_whole(client: TestClient, agent: AgentOnTheWire) -> None:
    models = [upload(client, dense_model(seed=seed))["id"] for seed in range(2)]
    made: list[tuple[str, str]] = []
    for model in models:
        ordered = client.post(
            "/v1/measurements",
            json={"model": model, "target": agent.target_key, "level": "quick", "with_layers": True},
            headers={"Idempotency-Key": model},
        )
        assert ordered.status_code == 202, ordered.text
        assert ordered.headers["location"] == f"/v1/jobs/{ordered.json()['id']}"
        work, measurement_id = agent.measure(1.5)
        assert work.plan.with_layers
        assert work.job_id == ordered.json()["id"]
        made.append((work.job_id, measurement_id))

    def listed(**filters: str) -> list[str]:
        return [item["id"] for item in client.get("/v1/measurements", params=filters).json()["items"]]

    assert listed() == listed(target=agent.target_key) == [made[1][1], made[0][1]]
    assert listed(model=models[0]) == listed(job_id=made[0][0]) == [made[0][1]]
    assert_problem(client.get("/v1/measurements", params={"model": "mdl_unknown"}), 404, "not_found")
    assert_problem(client.get("/v1/measurements/mea_unknown"), 404, "not_found")
    page = client.get("/v1/measurements", params={"limit": 1}).json()
    assert listed(cursor=page["next_cursor"]) == [made[0][1]]
    shown = client.get(f"/v1/measurements/{made[0][1]}").json()
    assert (shown["target_key"], shown["level"], shown["is_reference"]) == (agent.target_key, "quick", False)
    document = client.get(f"/v1/measurements/{made[0][1]}/document")
    whole = Measurement.model_validate_json(document.content)
    assert whole.estimate.median_ms == shown["median_ms"] == 1.5
    assert whole.samples_ns == (1_500_000,) * 12


@on_sqlite
def test_each_scope_opens_its_own_doors(client: TestClient, services: Services, project_id: str) -> None:
    agent = register(client, services, project_id, runtimes=(RUNTIME, FOUR_THREADS))
    cancel_onboarding(client, agent.target_id)
    model = upload(client, dense_model())["id"]
    doors = {
        Scope.READ: [
            ("GET", "/v1/models", None),
            ("GET", f"/v1/models/{model}/content", None),
            ("POST", "/v1/latency-queries", {"models": [{"model": model}], "targets": [agent.target_id]}),
            ("GET", "/v1/measurements", None),
        ],
        Scope.MODELS_WRITE: [("POST", "/v1/models", None)],
        Scope.MEASURE: [("POST", "/v1/measurements", {"model": model, "target": agent.target_id})],
    }
    for scope, calls in doors.items():
        with_it = bearer(add_key(services, project_id, scope))
        without = bearer(add_key(services, project_id, *(other for other in Scope if other is not scope)))
        for method, path, body in calls:
            problem = assert_problem(
                client.request(method, path, json=body, headers=without), 403, "forbidden"
            )
            assert problem["required_scope"] == scope
            assert client.request(method, path, json=body, headers=with_it).status_code not in (401, 403)


# ---- intervals ----


def test_students_t_is_as_scipy_has_it() -> None:
    for degrees in (1, 2, 3, 4, 5, 10, 29, 60, 301):
        for coverage in (0.5, 0.9, 0.95, 0.99):
            assert student_t(coverage, degrees) == pytest.approx(
                stats.t.ppf((1 + coverage) / 2, degrees), rel=1e-9
            )


def test_an_interval_needs_two_rounds_and_stays_above_zero() -> None:
    assert measured_interval(1.0, 0.1, round_count=1, coverage=0.9) is None
    lower_ms, upper_ms = measured_interval(1.0, 0.5, round_count=2, coverage=0.9) or (-1.0, -1.0)
    assert (lower_ms, upper_ms) == (0.0, pytest.approx(1.0 + 6.313751514675 * 0.5))
