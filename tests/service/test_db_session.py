"""Transactions: what is committed, what is not, who waits for whom, and whose clock counts."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from service.db.clock import UtcDateTime, now_plus
from service.db.session import Database, UnstorableValue
from service.db.tables import ApiKey, Project
from service.ids import new_id

MOMENTS = st.datetimes(
    dt.datetime(1971, 1, 1),
    dt.datetime(2200, 1, 1),
    timezones=st.integers(-14, 14).map(lambda hours: dt.timezone(dt.timedelta(hours=hours))),
)


def names(database: Database) -> list[str]:
    with database.read() as session:
        return sorted(session.scalars(select(Project.name)))


def test_write_commits_at_the_end_and_not_before(database: Database) -> None:
    with database.write() as session:
        session.add(Project(id="prj_1", name="kept"))
        session.flush()
        assert names(database) == []
    assert names(database) == ["kept"]


def test_an_error_takes_everything_back(database: Database) -> None:
    def write() -> None:
        with database.write() as session:
            session.add(Project(id="prj_1", name="lost"))
            session.flush()
            raise RuntimeError("after all")

    with pytest.raises(RuntimeError, match="after all"):
        write()
    assert names(database) == []


def test_read_stores_nothing(database: Database) -> None:
    with database.read() as session:
        session.add(Project(id="prj_1", name="never"))
    assert names(database) == []


def test_rows_are_readable_after_the_session(database: Database) -> None:
    with database.write() as session:
        written = Project(id="prj_1", name="kept")
        session.add(written)
    with database.read() as session:
        read = session.get_one(Project, "prj_1")
    assert (written.name, read.name) == ("kept", "kept")


def test_a_reader_sees_one_snapshot_and_waits_for_nobody(database: Database) -> None:
    with database.write() as session:
        session.add(Project(id="prj_1", name="before"))
    with database.read() as reader:
        assert reader.scalars(select(Project.name)).all() == ["before"]
        with database.write() as writer:
            writer.add(Project(id="prj_2", name="meanwhile"))
            writer.flush()
            assert reader.scalars(select(Project.name)).all() == ["before"]
        assert reader.scalars(select(Project.name)).all() == ["before"]
    assert names(database) == ["before", "meanwhile"]


def test_a_snapshot_is_one_state_for_its_connection_and_its_session(database: Database) -> None:
    with database.write() as session:
        session.add(Project(id="prj_1", name="before"))
    with database.snapshot() as snapshot:
        assert snapshot.connection.scalars(select(Project.name)).all() == ["before"]
        with database.write() as writer:
            writer.add(Project(id="prj_2", name="meanwhile"))
        read = snapshot.session.scalars(select(Project)).all()
        assert snapshot.connection.scalars(select(Project.name)).all() == ["before"]
    assert [project.name for project in read] == ["before"]
    assert names(database) == ["before", "meanwhile"]


def test_a_snapshot_stores_nothing(database: Database) -> None:
    with database.snapshot() as snapshot:
        snapshot.session.add(Project(id="prj_1", name="never"))
    assert names(database) == []


def test_read_then_write_in_one_transaction_loses_no_update(database: Database) -> None:
    """On SQLite a deferred transaction would be refused here with `database is locked`."""
    with database.write() as session:
        session.add(Project(id="prj_1", name="0"))

    def add_ten() -> None:
        for _ in range(10):
            with database.write() as session:
                project = session.scalars(select(Project).with_for_update()).one()
                project.name = str(int(project.name) + 1)

    threads = [threading.Thread(target=add_ten) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(database) == ["40"]


def test_foreign_keys_hold(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(ApiKey(id="key_1", project_id="prj_none", name="n", secret_sha256="0" * 64, scopes=[]))


def test_sqlite_is_set_up_as_documented(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.read() as session:
        found = {
            pragma: session.execute(text(f"pragma {pragma}")).scalar_one()
            for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.dispose()
    assert found == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_new_file_may_be_opened_by_many_at_once(tmp_path) -> None:
    """SQLite refuses one of two that switch a new file to WAL, about every tenth time that six do."""
    together = threading.Barrier(6)
    failures: list[Exception] = []

    def open_and_write(file: str) -> None:
        database = Database(f"sqlite:///{tmp_path / file}", pool_size=1)
        together.wait()
        try:
            with database.writer.begin() as connection:
                connection.execute(text("create table if not exists opened (id integer)"))
        except Exception as error:  # noqa: BLE001 - looked at by the test's own thread
            failures.append(error)
        database.dispose()

    for round_ in range(50):
        threads = [threading.Thread(target=open_and_write, args=(f"{round_}.sqlite3",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be a file"):
        Database(url)


def test_now_plus_is_the_databases_clock_and_moves_within_a_transaction(database: Database) -> None:
    with database.read() as session:
        first, later, hour = session.execute(select(now_plus(), now_plus(0.5), now_plus(3600.0))).one()
        threading.Event().wait(0.01)
        again = session.scalars(select(now_plus())).one()
    assert first.tzinfo is dt.UTC
    assert dt.timedelta(seconds=0.49) < later - first < dt.timedelta(seconds=0.6)
    assert dt.timedelta(seconds=3599) < hour - first < dt.timedelta(seconds=3601)
    assert again > first


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moment=MOMENTS, other=MOMENTS)
def test_stored_times_keep_their_instant_and_their_order(
    database: Database, moment: dt.datetime, other: dt.datetime
) -> None:
    ids = new_id("prj"), new_id("prj")
    with database.write() as session:
        for row_id, at in zip(ids, (moment, other), strict=True):
            session.add(Project(id=row_id, name=row_id, created_at=at))
    with database.read() as session:
        read = session.get_one(Project, ids[0]).created_at
        is_before = session.scalar(select(Project.created_at < other).where(Project.id == ids[0]))
        is_equal = session.scalar(select(Project.created_at == moment).where(Project.id == ids[0]))
    assert read == moment
    assert read.tzinfo is dt.UTC
    assert (is_before, is_equal) == (moment < other, True)


def test_a_time_written_by_the_databases_clock_equals_itself_read(database: Database) -> None:
    with database.write() as session:
        session.add(Project(id="prj_1", name="one"))
    with database.read() as session:
        at = session.get_one(Project, "prj_1").created_at
        assert session.scalar(select(Project.id).where(Project.created_at == at)) == "prj_1"


def test_a_naive_time_is_refused(database: Database) -> None:
    naive = dt.datetime(2026, 1, 1)
    with pytest.raises((StatementError, DBAPIError), match="needs a time zone"), database.write() as session:
        session.add(Project(id="prj_1", name="one", created_at=naive))
    assert UtcDateTime().process_result_value(naive, database.engine.dialect) == naive.replace(tzinfo=dt.UTC)


@pytest.mark.parametrize("name", ["lone \ud800", "nul \x00", "x" * 101])
def test_what_cannot_be_stored_is_named_so(database: Database, name: str) -> None:
    def write() -> None:
        with database.write() as session:
            session.add(Project(id="prj_1", name=name))

    if database.is_sqlite and "\ud800" not in name:
        write()  # SQLite stores NUL, and counts no characters
        assert names(database) == [name]
    else:
        with pytest.raises((UnstorableValue, DataError)):
            write()
        assert names(database) == []
