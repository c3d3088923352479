"""The composition root of the server: `create_app(settings)`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any, Literal

import anyio
import anyio.to_thread
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from sqlalchemy import text

from service import access, problems, projects
from service.artifacts import ArtifactStore
from service.bootstrap import bootstrap
from service.db.session import Database
from service.db.upgrade import ensure_current
from service.dependencies import DatabaseDep, Services
from service.errors import Problem, install_error_handlers, problem_responses
from service.fleet import endpoints as fleet
from service.housekeeping import keep_house
from service.jobs import endpoints as jobs
from service.latency import endpoints as latency
from service.predictors import PredictorCache
from service.requests import BodyLimit, RequestIds
from service.searches import endpoints as searches
from service.settings import Settings

DESCRIPTION = """\
Latency of neural networks on real hardware: measured where it was measured, else predicted with an interval.

Errors are problem documents (RFC 9457) with stable codes. Lists come in pages with opaque cursors. Every POST
may carry an `Idempotency-Key`; sent again, it is answered as the first time. What takes time is a job, and
its events can be followed."""


def laptime_version() -> str:
    """Version of `laptime` as installed, or `0+source` for a checkout that never was."""
    try:
        return metadata.version("laptime")
    except metadata.PackageNotFoundError:
        return "0+source"


class Health(BaseModel):
    """The server answers and reaches its database."""

    status: Literal["ok"] = "ok"
    version: str


health = APIRouter(tags=["health"], responses=problem_responses(503))


@health.get("/v1/health", summary="Is the server alive?")
def get_health(database: DatabaseDep) -> Health:
    """Needs no key, and says nothing of what is stored."""
    with database.read() as session:
        session.execute(text("select 1"))
    return Health(version=laptime_version())


def make_services(settings: Settings) -> Services:
    """What a server or a worker has one of. The data folder exists afterwards; nothing else is opened yet."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    artifacts = ArtifactStore(settings.artifacts_dir)
    database = Database(settings.effective_database_url, pool_size=settings.request_threads)
    return Services(settings, database, artifacts, PredictorCache(artifacts))


def create_app(settings: Settings) -> FastAPI:
    """The whole API. Its lifespan checks (or, if embedded, upgrades) the schema and makes the default
    project.
    """
    services = make_services(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.request_threads
        ensure_current(services.database, settings)
        bootstrap(services.database, settings.admin_key_file)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_house, services)
            yield
            tasks.cancel_scope.cancel()
        services.database.dispose()

    app = FastAPI(
        title="Laptime",
        version=laptime_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    app.state.services = services
    app.openapi = lambda: _documented(app)  # type: ignore[method-assign]
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestIds)  # outermost
    install_error_handlers(app)
    for router in (
        health,
        problems.router,
        latency.query_router,  # early, since routes are tried in this order and queries are asked most
        access.router,
        projects.router,
        jobs.router,
        fleet.router,
        latency.router,
        searches.router,
    ):
        app.include_router(router)
    return app


def _documented(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schema that every problem answer refers to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        app.openapi_schema = document
    return app.openapi_schema
