"""The first start: a project named `default` and an API key for its administrator.

Whichever server creates the project creates the key, in one transaction, and writes it to its own data folder
before it commits: if two start at once the other one finds the project and does nothing, and a crash in
between leaves a file that the next start replaces.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import structlog
from sqlalchemy import select

from service.access import issue_key
from service.db import tables
from service.db.insert import insert_if_absent
from service.db.session import Database
from service.ids import new_id
from service.security import Scope

DEFAULT_PROJECT = "default"

log = structlog.get_logger(__name__)


def bootstrap(database: Database, admin_key_file: Path) -> str:
    """The id of the default project, which exists afterwards."""
    with database.read() as session:
        known = session.scalar(select(tables.Project.id).where(tables.Project.name == DEFAULT_PROJECT))
    if known is not None:
        return known
    with database.write() as session:
        row = {"id": new_id("prj"), "name": DEFAULT_PROJECT}
        created: str | None = insert_if_absent(session, tables.Project, row, returning=tables.Project.id)
        if created is None:  # another server was first
            statement = select(tables.Project.id).where(tables.Project.name == DEFAULT_PROJECT)
            return session.scalars(statement).one()
        _, token = issue_key(session, project_id=created, name="admin", scopes=frozenset(Scope))
        _write_secret(admin_key_file, token)
    log.info("admin_key_written", file=str(admin_key_file))
    return created


def _write_secret(file: Path, secret: str) -> None:
    """Replace the file at once, readable by its owner only."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent)  # mode 0600
    with os.fdopen(descriptor, "w") as temporary:
        temporary.write(f"{secret}\n")
        temporary.flush()
        os.fsync(temporary.fileno())
    Path(name).replace(file)
