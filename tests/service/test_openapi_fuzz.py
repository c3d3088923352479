"""Schemathesis over the OpenAPI document, in process: whatever is sent, the answer is documented and never
a 5xx.

Every operation gets good and bad requests made from its schema, the same ones each time. Names in them are
replaced by real ones more often than not (`World.fill_in`), so that requests come past the first
look-up.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from api_world import (
    AgentOnTheWire,
    bearer,
    dense_model,
    fingerprint,
    make_ready,
    measured,
    register,
    registration_token,
    upload,
)
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import BaseSchema
from sqlalchemy import select

from service.app import create_app
from service.db import tables
from service.dependencies import Services
from service.settings import Settings

CONFIG = {
    "seed": 1,
    "generation": {"deterministic": True, "database": "none"},
}
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
FEW = hypothesis_settings(
    phases=[Phase.generate],
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
KEPT_AS_MADE = 4  # one request in so many keeps the names that it was made with


@dataclass
class World:
    """An application with one of everything, so that names can be real."""

    client: TestClient
    services: Services
    project_id: str
    admin: str
    agent: AgentOnTheWire
    names: dict[str, Any]
    agents_names: dict[str, Any]

    def headers(self, path: str) -> dict[str, str]:
        """The token that opens this path."""
        if path == "/v1/agents/register":
            return bearer(registration_token(self.services, self.project_id))
        return self.agent.headers if path.startswith("/v1/agents/") else bearer(self.admin)

    def fill_in(self, case: schemathesis.Case) -> None:
        """Replace what names things in a request by what names real ones."""
        if case.path == "/v1/agents/register":
            return  # a real fingerprint would replace the agent
        names = self.agents_names if case.path.startswith("/v1/agents/") else self.names
        case.path_parameters = with_real(names, case.path_parameters)
        case.query = with_real(names, case.query)
        case.body = with_real(names, case.body)


def with_real(names: dict[str, Any], value: Any) -> Any:
    """The same document, with the value of each of these names, where it has the right type."""
    if isinstance(value, dict):
        return {
            key: names[key]
            if key in names and isinstance(inner, type(names[key]))
            else with_real(names, inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [with_real(names, inner) for inner in value]
    return value


def make_world(app: Any, settings: Settings) -> World:
    admin = settings.admin_key_file.read_text().strip()
    client = TestClient(app, headers=bearer(admin))  # the application was started by schemathesis
    services: Services = app.state.services
    with services.database.read() as session:
        project_id = session.scalars(select(tables.Project.id)).one()
    agent = register(client, services, project_id)
    make_ready(client, services, agent.target_id)
    model = upload(client, dense_model())["id"]
    wanted = {"model": model, "target": agent.target_key}
    assert client.post("/v1/measurements", json=wanted).status_code == 202
    work, measurement_id = agent.measure()
    search = client.post("/v1/searches", json={"target": agent.target_key}).json()["id"]
    names = {
        "model": model,
        "target": agent.target_key,
        "target_id": agent.target_id,
        "device": "board",
        "job_id": work.job_id,
        "measurement_id": measurement_id,
        "search_id": search,
        "targets": [agent.target_key],
        "input_shapes": {},
    }
    assert client.post("/v1/measurements", json=wanted).status_code == 202
    live = agent.started()
    agents_names = {
        "job_id": live.job_id,
        "fence": live.fence,
        "measurement": measured(live).model_dump(mode="json"),
        "sha256": live.model.sha256,
        "fingerprint": fingerprint("board"),
    }
    return World(client, services, project_id, admin, agent, names, agents_names)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseSchema, World]:
    """The document of an application that runs (on SQLite), and the world in it."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("fuzzed"), agent_lease_wait_s=0.0)
    app = create_app(settings)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=SchemathesisConfig.from_dict(CONFIG))
    return schema, make_world(app, settings)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_every_answer_is_documented(fuzzed: tuple[BaseSchema, World], mode: GenerationMode) -> None:
    schema, world = fuzzed
    statuses: Counter[int] = Counter()

    def send(case: schemathesis.Case) -> None:
        if zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode()) % KEPT_AS_MADE:
            world.fill_in(case)
        response = case.call_and_validate(headers=world.headers(case.path), checks=CHECKS)
        assert str(response.status_code) in case.operation.definition.raw["responses"], response.status_code
        statuses[response.status_code] += 1

    failures: list[str] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        try:
            FEW(given(operation.as_strategy(generation_mode=mode))(send))()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, operation.label  # without parameters nothing can be wrong
        except (AssertionError, BaseExceptionGroup) as failure:
            failures.append(f"{operation.label}: {failure}")
    assert not failures, "\n\n".join(failures)
    assert statuses[200] > 50, statuses  # it did come through
