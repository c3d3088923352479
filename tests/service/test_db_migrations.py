"""Migrations: up, down, up with data, on both databases, and no drift from the tables."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from fleet_rows import add_project, add_target
from sqlalchemy import create_engine, inspect, text

from service.app import create_app
from service.db.session import Database
from service.db.tables import Job, JobEvent, Project, Table, Target
from service.db.upgrade import (
    SchemaOutdated,
    current_revision,
    downgrade,
    ensure_current,
    head_revision,
    upgrade,
)
from service.jobs import queue
from service.settings import Settings


def tables_of(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_up_down_up(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    assert tables_of(empty_database_url) == {*Table.metadata.tables, "alembic_version"}
    downgrade(empty_database_url, "base")
    assert tables_of(empty_database_url) == {"alembic_version"}
    upgrade(empty_database_url)
    assert tables_of(empty_database_url) == {*Table.metadata.tables, "alembic_version"}


def fill(url: str) -> str:
    """Rows that refer to each other, a parent job with its child among them; the parent's id."""
    database = Database(url, pool_size=1)
    with database.write() as session:
        project_id = add_project(session)
        target = add_target(session, project_id)
        parent = queue.submit(session, project_id=project_id, kind="adapt", payload={}, target_id=target.id)
        queue.submit(
            session,
            project_id=project_id,
            kind="profile",
            payload={"n": [1, 2.5, None, "ü"]},
            device_id=target.device_id,
            target_id=target.id,
            parent_id=parent.id,
        )
    database.dispose()
    return parent.id


def test_an_upgrade_keeps_what_is_stored(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    parent_id = fill(empty_database_url)
    upgrade(empty_database_url)
    database = Database(empty_database_url, pool_size=1)
    with database.read() as session:
        assert session.get_one(Job, parent_id).waiting_for == 1
        assert session.query(JobEvent).count() == 2
    database.dispose()


def test_rows_of_the_first_version_get_and_lose_what_the_second_adds(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    parent_id = fill(empty_database_url)
    downgrade(empty_database_url, "0001")
    assert {"shares_measurements", "revision"} & columns_of(empty_database_url) == set()
    upgrade(empty_database_url)
    database = Database(empty_database_url, pool_size=1)
    with database.read() as session:
        assert [project.shares_measurements for project in session.query(Project)] == [False]
        assert [target.revision for target in session.query(Target)] == [0]
        assert session.get_one(Job, parent_id).waiting_for == 1
    database.dispose()


def columns_of(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        found = inspect(engine)
        return {column["name"] for table in ("projects", "targets") for column in found.get_columns(table)}
    finally:
        engine.dispose()


def test_down_to_base_drops_tables_that_hold_rows(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    fill(empty_database_url)
    downgrade(empty_database_url, "base")
    upgrade(empty_database_url)
    database = Database(empty_database_url, pool_size=1)
    with database.read() as session:
        assert session.query(Project).count() == 0
    database.dispose()
    fill(empty_database_url)  # and the schema is whole again


def test_migrations_and_tables_agree(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_one_live_lease_per_device_is_the_databases_rule(database: Database) -> None:
    """Reflection does not compare the condition of a partial index, so it is looked at here."""
    if database.is_sqlite:
        statement = "select sql from sqlite_master where name = 'uq_jobs_live_device'"
    else:
        statement = "select indexdef from pg_indexes where indexname = 'uq_jobs_live_device'"
    with database.engine.connect() as connection:
        definition = connection.execute(text(statement)).scalar_one().lower()
    assert "unique" in definition
    for word in ("device_id is not null", "leased", "running", "cancelling"):
        assert word in definition


def test_servers_that_upgrade_at_once_do_it_once(empty_database_url: str) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            upgrade(empty_database_url)
        except BaseException as error:  # noqa: BLE001 - looked at by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert tables_of(empty_database_url) == {*Table.metadata.tables, "alembic_version"}


def test_a_set_database_is_not_upgraded_behind_the_operators_back(empty_database_url: str, tmp_path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=empty_database_url)
    database = Database(empty_database_url, pool_size=1)
    with pytest.raises(SchemaOutdated, match=r"is empty and this version needs .*: run `laptime db upgrade`"):
        ensure_current(database, settings)
    upgrade(empty_database_url)
    ensure_current(database, settings)
    database.dispose()


def test_the_embedded_database_upgrades_itself(tmp_path) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    services = create_app(settings).state.services
    ensure_current(services.database, settings)
    assert current_revision(services.database) == head_revision()
    services.database.dispose()


def test_a_database_of_a_newer_version_is_refused(empty_database_url: str, tmp_path) -> None:
    upgrade(empty_database_url)
    database = Database(empty_database_url, pool_size=1)
    with database.write() as session:
        session.execute(text("update alembic_version set version_num = '9999'"))
    for settings in (
        Settings(data_dir=tmp_path),
        Settings(data_dir=tmp_path, database_url=empty_database_url),
    ):
        with pytest.raises(SchemaOutdated, match="newer"):
            ensure_current(database, settings)
    database.dispose()
