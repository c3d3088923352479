"""Insert a row unless it is there: the same on both databases, and safe when two do it at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.db.tables import Table


def insert_if_absent(
    session: Session, table: type[Table], row: Mapping[str, Any], *, returning: InstrumentedAttribute[Any]
) -> Any:
    """The column `returning` of the row that was inserted, or None where one of its unique keys was taken
    already.
    """
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    return session.scalar(insert(table).values(dict(row)).on_conflict_do_nothing().returning(returning))
