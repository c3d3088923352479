"""How features name a target: by its id or its key, in bodies, as the filter of a list, and as a row."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import Field, StringConstraints
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.db import tables
from service.errors import NotFound

TargetName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9._/-]{1,200}$"),
    Field(description="A target's id or its key.", examples=["rpi5-8gb/onnxruntime-1.31/cpu/t4"]),
]
OnTarget = Annotated[TargetName | None, Query(description="only on this target: its id or key")]


def find_target(session: Session, project_id: str, name: str) -> tables.Target:
    """By id or key. Raises `NotFound`."""
    is_named = or_(tables.Target.id == name, tables.Target.key == name)
    row = session.scalar(select(tables.Target).where(tables.Target.project_id == project_id, is_named))
    if row is None:
        raise NotFound("target", name)
    return row
