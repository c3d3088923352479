"""The compose file and Dockerfiles, checked as far as they can be without an engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"


def services() -> dict[str, dict[str, object]]:
    return yaml.safe_load(COMPOSE.read_text())["services"]


def test_compose_file_fits_the_compose_specification() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_has_a_server_a_worker_a_database_and_an_agent() -> None:
    assert {"postgres", "server", "worker", "agent"} <= set(services())


@pytest.mark.parametrize("name", ["server", "worker", "agent", "migrate"])
def test_every_image_has_a_dockerfile_whose_sources_exist(name: str) -> None:
    build = services()[name]["build"]
    context = ROOT / (build if isinstance(build, str) else build["context"])
    dockerfile = context / ("Dockerfile" if isinstance(build, str) else build.get("dockerfile", "Dockerfile"))
    lines = dockerfile.read_text().splitlines()
    assert lines[1].startswith("FROM python:3.")
    assert any(line.startswith("USER ") and line != "USER root" for line in lines), (
        "an image must not run as root"
    )
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs), "the versions that were tested"
    for line in lines:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (context / source).exists(), f"{dockerfile}: {source}"


def test_no_secret_has_a_default() -> None:
    text = COMPOSE.read_text()
    assert "POSTGRES_PASSWORD:?" in text
    assert "POSTGRES_PASSWORD:-" not in text


def test_the_agent_is_confined() -> None:
    agent = services()["agent"]
    assert agent["read_only"] is True
    assert agent["cap_drop"] == ["ALL"]
    assert agent["security_opt"] == ["no-new-privileges:true"]
