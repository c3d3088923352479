"""Time is the database's: leases are compared on one clock, however many hosts hold them.

`now_plus(seconds)` is an SQL expression for the database's wall clock (not the transaction's start) shifted
by some seconds. `UtcDateTime` stores aware UTC datetimes on both databases; SQLite keeps text that sorts and
compares like the time it means (its clock ends at milliseconds; the digits below are zeros).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import DateTime, Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import functions
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[dt.datetime]):
    """An aware UTC datetime: `timestamptz` on PostgreSQL, text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Refuse naive datetimes; SQLite stores what is left of the UTC one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a stored datetime needs a time zone, got the naive {value!r}")
        utc = value.astimezone(dt.UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:  # noqa: ARG002
        """Always aware."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class now_plus(functions.GenericFunction[dt.datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock now, plus the given number of seconds (default 0)."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float = 0.0, **kwargs: Any) -> None:
        super().__init__(seconds, **kwargs)


@compiles(now_plus, "postgresql")
def _postgresql(element: now_plus, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"(clock_timestamp() + make_interval(secs => {seconds}))"


@compiles(now_plus, "sqlite")
def _sqlite(element: now_plus, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+f seconds', {seconds}))"
