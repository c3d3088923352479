"""Sessions: `read()` sees one snapshot and cannot write, `write()` is one transaction. Nobody else commits.
`snapshot()` is for what is asked so often that it reads rows without a session, whose making costs more than
a statement.

SQLite is opened in WAL mode, so readers never wait and a writer waits only for another writer. A writer says
so at once (BEGIN IMMEDIATE): a transaction that reads first and writes later could otherwise be refused in
the middle. The driver's own transaction handling is switched off, as SQLAlchemy's documentation of the
dialect describes. Its event begins the writers' transactions only, because a listener slows down every
statement of its engine: readers begin theirs themselves. `synchronous=NORMAL` may lose the last transactions
when the power fails (not when a process is killed), which leases turn into repeated work.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker

BUSY_TIMEOUT_MS = 30_000


class UnstorableValue(Exception):
    """A text that is no Unicode (a lone surrogate), or an integer beyond 64 bits."""


class Snapshot:
    """One consistent state of the database."""

    def __init__(self, connection: Connection, sessions: sessionmaker[Session]) -> None:
        self.connection = connection
        self._sessions = sessions
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """On the same connection, for rows as objects. Made when it is first asked for."""
        if self._session is None:
            self._session = self._sessions(bind=self.connection)
        return self._session

    def close(self) -> None:
        """Let go of the objects, which stay readable."""
        if self._session is not None:
            self._session.close()


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
            self._reader: Engine = self.engine
            self.writer: Engine = self.engine.execution_options()  # an engine with listeners of its own
            event.listen(self.writer, "begin", _begin_writing)
        else:
            self._reader = self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self.writer = self.engine
        self._sessions = sessionmaker(autoflush=False, expire_on_commit=False)  # of readers
        self._writers = sessionmaker(self.writer, expire_on_commit=False)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session on one consistent snapshot. Changes made in it are never stored."""
        with self.snapshot() as snapshot:
            yield snapshot.session

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """As `read`, with a session for those only who ask for it."""
        with self._reader.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            with closing(Snapshot(connection, self._sessions)) as snapshot:
                yield snapshot

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._writers.begin() as session:
            yield session

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _open_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions: we do
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}").close()
    _switch_to_wal(connection)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait where two connections switch a new file at once, whatever `busy_timeout` says:
    one of them is refused on the spot, to break the deadlock. So we wait.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_writing(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _name_unstorable(context: ExceptionContext) -> None:
    """Both drivers raise these from inside, where nobody could tell them from a defect of ours."""
    if isinstance(context.original_exception, UnicodeEncodeError | OverflowError):
        raise UnstorableValue(str(context.original_exception)) from context.original_exception
