"""The schema's version: brought forward by Alembic, and checked at every start.

The embedded SQLite file belongs to the server, which upgrades it when it starts. Any other database may serve
several servers of different age, so there an operator decides: `laptime db upgrade`. Every upgrade is one
transaction under a lock.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from service.db.session import Database
from service.settings import Settings

_LOCK_KEY = 0x1A971E  # of PostgreSQL's advisory locks: one upgrade at a time


class SchemaOutdated(Exception):
    """The database's schema is not the one that this version needs; the message has the remedy."""


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to a revision. Does nothing where it is there already."""
    _migrate(url, revision, is_forward=True)


def downgrade(url: str, revision: str) -> None:
    """Take the database back to a revision (`base`: nothing is left)."""
    _migrate(url, revision, is_forward=False)


def current_revision(database: Database) -> str | None:
    """What the database is at; None for an empty one."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str:
    """What this version needs."""
    return _known_revisions()[0]


def ensure_current(database: Database, settings: Settings) -> None:
    """For every process that uses the database, at its start. Raises `SchemaOutdated`."""
    current = current_revision(database)
    head, *older = _known_revisions()
    if current == head:
        return
    if current is not None and current not in older:
        raise SchemaOutdated(
            f"the database is at revision {current}, which is newer than this version's {head}: "
            "install the version of laptime that wrote it"
        )
    if settings.is_embedded:
        upgrade(settings.effective_database_url)
        return
    at = "empty" if current is None else f"at revision {current}"
    raise SchemaOutdated(f"the database is {at} and this version needs {head}: run `laptime db upgrade`")


def _known_revisions() -> list[str]:
    """Newest first."""
    with as_file(files("migrations")) as folder:
        return [script.revision for script in ScriptDirectory(str(folder)).walk_revisions()]


def _migrate(url: str, revision: str, *, is_forward: bool) -> None:
    database = Database(url, pool_size=1)
    file = database.engine.url.database
    if database.is_sqlite and file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    try:
        with database.writer.connect() as connection, as_file(files("migrations")) as folder:
            if (
                database.is_sqlite
            ):  # a batch migration recreates tables: as if it deleted rows that others refer to
                driver = connection.connection.driver_connection
                assert driver is not None
                driver.execute("PRAGMA foreign_keys=OFF").close()
            with connection.begin():
                if not database.is_sqlite:
                    connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
                config = Config()
                config.set_main_option("script_location", str(folder).replace("%", "%%"))
                config.attributes["connection"] = connection
                (command.upgrade if is_forward else command.downgrade)(config, revision)
                if database.is_sqlite:
                    broken = connection.execute(text("PRAGMA foreign_key_check")).all()
                    if broken:
                        raise RuntimeError(
                            f"the migration would leave rows that point at nothing: {broken[:5]}"
                        )
    finally:
        database.dispose()
