"""Sessions: `read()` sees one snapshot and cannot write, `write()` is one transaction. Nobody else commits.

SQLite is opened in WAL mode, so readers never wait and a writer waits only for another writer. A writer says
so at once (BEGIN IMMEDIATE): a transaction that reads first and writes later could otherwise be refused in
the middle. The driver's own transaction handling is switched off, as SQLAlchemy's documentation of the
dialect describes. `synchronous=NORMAL` may lose the last transactions when the power fails (not when a
process is killed), which leases turn into repeated work.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker

BUSY_TIMEOUT_MS = 30_000
_BEGIN = "sqlite_begin"  # execution option: how a connection begins


class UnstorableValue(Exception):
    """A text that is no Unicode (a lone surrogate), or an integer beyond 64 bits."""


class Database:
    """An open database. Objects read from it stay readable after their session is closed."""

    def __init__(self, url: str, *, pool_size: int = 32) -> None:
        """`url` as SQLAlchemy writes it; `pool_size` connections at most. Connects at first use.

        Raises ValueError for an in-memory SQLite database, which threads could not share.
        """
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database in (None, "", ":memory:"):
            raise ValueError(
                f"the database must be a file, got {url!r}; write sqlite:////path/to/file.sqlite3"
            )
        self.engine: Engine = create_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=BUSY_TIMEOUT_MS / 1000,
            pool_pre_ping=not self.is_sqlite,
        )
        event.listen(self.engine, "handle_error", _name_unstorable)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _open_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
            reader = self.engine
            self.writer: Engine = self.engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        else:
            reader = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self.writer = self.engine
        self._readers = sessionmaker(reader, autoflush=False, expire_on_commit=False)
        self._writers = sessionmaker(self.writer, expire_on_commit=False)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session on one consistent snapshot. Changes made in it are never stored."""
        with self._readers() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._writers.begin() as session:
            yield session

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _open_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions: _begin_sqlite does
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",  # first: switching to WAL may have to wait
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    options: dict[str, Any] = dict(connection.get_execution_options())
    connection.exec_driver_sql(options.get(_BEGIN, "BEGIN"))


def _name_unstorable(context: ExceptionContext) -> None:
    """Both drivers raise these from inside, where nobody could tell them from a defect of ours."""
    if isinstance(context.original_exception, UnicodeEncodeError | OverflowError):
        raise UnstorableValue(str(context.original_exception)) from context.original_exception
