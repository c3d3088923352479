"""A small world around the real application: agents that speak the wire, a second project, models and
predictors.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from fastapi.testclient import TestClient
from onnx import TensorProto, helper, numpy_helper
from sqlalchemy import select

from devices.measurement import (
    ColdStart,
    Conditions,
    Estimate,
    Measurement,
    MeasurementPlan,
    Round,
    Verdict,
)
from devices.model_ref import ModelRef
from devices.target import Hardware, Runtime
from devices.wire import ProfileWork, RegisterReply
from predictor.adapt import Observation, TargetFacts, adapt
from predictor.evaluate import accuracy_card
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_models
from service.access import issue_key, issue_registration_token
from service.db import tables
from service.dependencies import Services
from service.ids import new_id
from service.predictors import publish
from service.security import Scope

RUNTIME = Runtime(engine="fake", version="1.0.0", provider="cpu", threads=1)
FOUR_THREADS = RUNTIME.model_copy(update={"threads": 4})
HARDWARE = Hardware(
    cpu_model="a processor",
    architecture="x86_64",
    physical_cores=2,
    logical_cores=2,
    memory_bytes=1 << 33,
    isa_flags=("avx2",),
    operating_system="Linux",
)


def fingerprint(key: str) -> str:
    """A machine's identity that depends on nothing but a name."""
    return key.encode().hex().ljust(32, "0")[:32]


def announcement(
    key: str = "board", runtimes: Sequence[Runtime] = (RUNTIME,), *, machine: str | None = None
) -> dict[str, Any]:
    """What an agent on `machine` (default: one named as the key) says of itself."""
    return {
        "agent_version": "0.1.0",
        "device": {
            "key": key,
            "fingerprint": fingerprint(machine or key),
            "hardware": HARDWARE.model_dump(mode="json"),
        },
        "runtimes": [runtime.model_dump(mode="json") for runtime in runtimes],
    }


def bearer(token: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}


@dataclass(frozen=True)
class AgentOnTheWire:
    """A registered agent, as the server knows it."""

    client: TestClient
    reply: RegisterReply

    @property
    def headers(self) -> dict[str, str]:
        """What it shows with every call."""
        return bearer(self.reply.agent_token)

    @property
    def target_id(self) -> str:
        """Its first target."""
        return self.reply.targets[0].target_id

    @property
    def target_key(self) -> str:
        """Its first target's key."""
        return self.reply.targets[0].key

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST below `/v1/agents/self/`."""
        return self.client.post(f"/v1/agents/self/{path}", json=body, headers=self.headers)

    def announce(self, runtimes: Sequence[Runtime], *, key: str = "board", machine: str | None = None) -> Any:
        """Start again with these runtimes."""
        said = announcement(key, runtimes, machine=machine)
        return self.client.put("/v1/agents/self", json=said, headers=self.headers)

    def lease(self, wait_s: float = 0.0) -> ProfileWork | None:
        """Ask for work."""
        answer = self.post("leases", {"wait_s": wait_s})
        assert answer.status_code == 200, answer.text
        work = answer.json()["work"]
        return None if work is None else ProfileWork.model_validate(work)

    def started(self) -> ProfileWork:
        """Work that is there, leased and begun."""
        work = self.lease()
        assert work is not None
        answer = self.post(f"leases/{work.job_id}/start", {"fence": work.fence})
        assert (answer.status_code, answer.json()["state"]) == (200, "running"), answer.text
        return work

    def report(self, work: ProfileWork, measurement: Measurement) -> Any:
        """Send a result."""
        body = {"fence": work.fence, "measurement": measurement.model_dump(mode="json")}
        return self.post(f"leases/{work.job_id}/complete", body)

    def measure(self, median_ms: float = 1.0, **facts: Any) -> tuple[ProfileWork, str]:
        """Do the next piece of work; it and the measurement's id."""
        work = self.started()
        answer = self.report(work, measured(work, median_ms, **facts))
        assert answer.status_code == 200, answer.text
        job = self.client.get(f"/v1/jobs/{work.job_id}").json()
        return work, job["result"]["measurement_id"]


def measured(
    work: ProfileWork, median_ms: float = 1.0, *, is_valid: bool = True, rounds: int = 4
) -> Measurement:
    """What an agent reports of a piece of work."""
    samples_ns = (round(median_ms * 1e6),) * 3
    return Measurement(
        agent_version="0.1.0",
        device_key=work.device_key,
        runtime=work.runtime,
        model=ModelRef(sha256=work.model.sha256, input_shapes=work.model.input_shapes),
        plan=MeasurementPlan(level=work.plan.level),
        clock="scripted",
        sandbox="none",
        cold_starts=(ColdStart(load_ns=1, first_run_ns=1),),
        rounds=tuple(Round(started_at_ns=at, samples_ns=samples_ns) for at in range(rounds)),
        before=Conditions(at_unix_s=0.0),
        after=Conditions(at_unix_s=1.0),
        estimate=Estimate(
            median_ms=median_ms,
            mad_ms=0.0,
            standard_error_ms=0.01 * median_ms,
            sample_count=3 * rounds,
            round_count=rounds,
        ),
        verdict=Verdict(is_valid=is_valid, reasons=() if is_valid else ("too noisy",)),
    )


def registration_token(services: Services, project_id: str) -> str:
    """A token with which one agent may register."""
    with services.database.write() as session:
        return issue_registration_token(session, project_id=project_id, expires_in_s=600)[1]


def register(
    client: TestClient,
    services: Services,
    project_id: str,
    key: str = "board",
    runtimes: Sequence[Runtime] = (RUNTIME,),
    *,
    machine: str | None = None,
) -> AgentOnTheWire:
    """An agent that has just registered."""
    answer = client.post(
        "/v1/agents/register",
        json=announcement(key, runtimes, machine=machine),
        headers=bearer(registration_token(services, project_id)),
    )
    assert answer.status_code == 201, answer.text
    return AgentOnTheWire(client, RegisterReply.model_validate(answer.json()))


def cancel_onboarding(client: TestClient, target_id: str) -> None:
    """Leave a target's device with nothing to do."""
    job_id = client.get(f"/v1/targets/{target_id}").json()["onboarding_job_id"]
    assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200


def make_ready(client: TestClient, services: Services, target_id: str) -> str:
    """End a target's onboarding with a real predictor, adapted to made-up latencies; the predictor's id."""
    cancel_onboarding(client, target_id)
    with services.database.write() as session:
        target = session.get_one(tables.Target, target_id)
        facts = TargetFacts(key=target.key, runtime=Runtime.model_validate(target.runtime), hardware=HARDWARE)
        observations = [
            Observation(
                target_key=facts.key,
                runtime=facts.runtime,
                hardware=HARDWARE,
                graph=(graph := read_graph(reference.model, reference.input_shapes)),
                median_ms=0.05 + graph.macs / 1e7 + graph.bytes_moved / 1e7,
                standard_error_ms=0.001,
                name=reference.name,
            )
            for reference in reference_models()
        ]
        job_id = session.scalars(
            select(tables.Job.id).where(tables.Job.target_id == target_id, tables.Job.kind == "adapt")
        ).first()
        assert job_id is not None
        stored = services.artifacts.put_bytes(adapt(facts, observations).to_bytes())
        card = accuracy_card(facts, observations)
        return publish(session, stored, target_id=target_id, job_id=job_id, accuracy=card).id


def add_project_with_key(
    services: Services, name: str, scopes: Collection[Scope] = tuple(Scope)
) -> tuple[str, str]:
    """Another project; its id and the token of a key of its own."""
    with services.database.write() as session:
        project = tables.Project(id=new_id("prj"), name=name)
        session.add(project)
        session.flush()
        _, token = issue_key(session, project_id=project.id, name=name, scopes=frozenset(scopes))
        return project.id, token


def add_key(services: Services, project_id: str, *scopes: Scope) -> str:
    """The token of a key with these scopes."""
    with services.database.write() as session:
        return issue_key(session, project_id=project_id, name="test", scopes=frozenset(scopes))[1]


def dense_model(
    *, batch: int | str = 1, width: int = 8, seed: int = 0, kind: str = "Gemm", domain: str = ""
) -> bytes:
    """An ONNX file with one dense layer (or another operator); a text makes the batch axis dynamic."""
    weights = np.random.default_rng(seed).standard_normal((width, width)).astype(np.float32)
    node = helper.make_node(kind, ["x", "w"], ["y"], name="layer", domain=domain)
    graph = helper.make_graph(
        [node],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, width])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def upload(
    client: TestClient, model: bytes, *, name: str = "a model", token: str | None = None
) -> dict[str, Any]:
    """The model, as the API shows it."""
    answer = client.post(
        "/v1/models",
        params={"name": name},
        content=model,
        headers={"Content-Type": "application/onnx"} | ({} if token is None else bearer(token)),
    )
    assert answer.status_code in (200, 201), answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def assert_problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The answer is a problem document of this kind; the document."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), (
        answer.text
    )
    problem: dict[str, Any] = answer.json()
    assert (problem["code"], problem["status"]) == (code, status), problem
    assert problem["detail"]
    assert problem["type"].endswith(f"/{code}")
    return problem


def order(client: TestClient, agent: AgentOnTheWire, *, seed: int = 0) -> str:
    """Order a measurement of a small model; the job's id."""
    model = upload(client, dense_model(seed=seed))
    answer = client.post("/v1/measurements", json={"model": model["id"], "target": agent.target_key})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job(client: TestClient, job_id: str) -> dict[str, Any]:
    """A job, as the API shows it."""
    shown: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return shown


def event_types(client: TestClient, job_id: str) -> list[str]:
    """What happened to a job, in order."""
    return [event["type"] for event in client.get(f"/v1/jobs/{job_id}/events").json()["items"]]
