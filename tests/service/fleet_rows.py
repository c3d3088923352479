"""Rows that jobs and measurements refer to, for tests that need them but are not about them."""

from __future__ import annotations

from sqlalchemy.orm import Session

from devices.target import Runtime
from service.db.tables import Device, Project, Target
from service.ids import new_id

RUNTIME = Runtime(engine="fake", version="1.0.0", provider="cpu", threads=1)


def add_project(session: Session, name: str = "one") -> str:
    """A project; its id."""
    project = Project(id=new_id("prj"), name=name)
    session.add(project)
    session.flush()
    return project.id


def add_target(session: Session, project_id: str, key: str = "board") -> Target:
    """A device and a target on it."""
    device = Device(id=new_id("dev"), project_id=project_id, key=key, fingerprint=key * 8, hardware={})
    session.add(device)
    session.flush()
    target = Target(
        id=new_id("tgt"),
        project_id=project_id,
        device_id=device.id,
        key=f"{key}/{RUNTIME.key}",
        runtime=RUNTIME.model_dump(mode="json"),
        state="onboarding",
    )
    session.add(target)
    session.flush()
    return target
