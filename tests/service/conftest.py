"""What several files of this floor ask with."""

from __future__ import annotations

import pytest
from api_world import AgentOnTheWire, make_ready, register
from fastapi.testclient import TestClient

from service.dependencies import Services


@pytest.fixture
def agent(client: TestClient, services: Services, project_id: str) -> AgentOnTheWire:
    """An agent with nothing to do and one target that is ready."""
    made = register(client, services, project_id)
    make_ready(client, services, made.target_id)
    return made
