"""The caller's own project: what it is called, and what its administrators allow."""

from __future__ import annotations

import datetime as dt

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from service.db import tables
from service.dependencies import DatabaseDep, KeysAdmin, Reader
from service.errors import problem_responses

router = APIRouter(prefix="/v1", tags=["project"], responses=problem_responses(401, 403, 422))


class ProjectView(BaseModel):
    """A project."""

    id: str = Field(examples=["prj_01k9m2x7wq4v"])
    name: str
    shares_measurements: bool = Field(
        description="Whether its valid measurements may become training data (`GET /v1/measurements/export`)."
    )
    created_at: dt.datetime


class ProjectChange(BaseModel):
    """What is not mentioned stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"shares_measurements": True}})

    shares_measurements: bool | None = None


@router.get("/project", summary="The caller's project")
def get_project(caller: Reader, database: DatabaseDep) -> ProjectView:
    """The one that the API key belongs to."""
    with database.read() as session:
        return _view(session.get_one(tables.Project, caller.project_id))


@router.patch("/project", summary="Change the caller's project", responses=problem_responses(400))
def change_project(caller: KeysAdmin, database: DatabaseDep, wanted: ProjectChange) -> ProjectView:
    """Measurements are shared from the next export on, or no longer; copies made before stay."""
    with database.write() as session:
        project = session.get_one(tables.Project, caller.project_id)
        if wanted.shares_measurements is not None:
            project.shares_measurements = wanted.shares_measurements
        session.flush()
        return _view(project)


def _view(row: tables.Project) -> ProjectView:
    return ProjectView(
        id=row.id,
        name=row.name,
        shares_measurements=row.shares_measurements,
        created_at=row.created_at,
    )
