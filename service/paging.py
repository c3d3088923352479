"""Lists come in pages: `{"items": [...], "next_cursor": "..."}`, where the cursor is opaque to callers.

A cursor holds the key of the last row given, so that rows added or removed meanwhile neither repeat nor skip
others.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.errors import Invalid

Row = TypeVar("Row")
Item = TypeVar("Item")
MAX_LIMIT = 200


class PageOf(BaseModel, Generic[Item]):
    """One page of a list. `next_cursor` is null on the last page."""

    items: list[Item]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What the caller asked for."""

    limit: int
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Rows(Generic[Row]):
    """One page of rows."""

    rows: Sequence[Row]
    next_cursor: str | None

    def shown(self, show: Callable[[Row], Item]) -> PageOf[Item]:
        """The page as it is answered."""
        return PageOf(items=[show(row) for row in self.rows], next_cursor=self.next_cursor)


def _page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="most items to give")] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the page before")
    ] = None,
) -> PageRequest:
    return PageRequest(limit, cursor)


PageDep = Annotated[PageRequest, Depends(_page_request)]


def paginate(
    session: Session,
    statement: Select[Row],
    page: PageRequest,
    *,
    key: InstrumentedAttribute[Any],
    is_newest_first: bool = True,
) -> Rows[Row]:
    """The page of `statement`'s rows in the order of `key`, a unique column of them. Raises `Invalid` for a
    foreign cursor.
    """
    if page.cursor is not None:
        last = _decode(page.cursor, key)
        statement = statement.where(key < last if is_newest_first else key > last)
    statement = statement.order_by(key.desc() if is_newest_first else key.asc()).limit(page.limit + 1)
    found = session.scalars(statement).all()
    rows = found[: page.limit]
    return Rows(rows, _encode(rows[-1], key) if len(found) > page.limit else None)


def _encode(row: object, key: InstrumentedAttribute[Any]) -> str:
    text = json.dumps([str(key), getattr(row, key.key)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str, key: InstrumentedAttribute[Any]) -> Any:
    try:
        name, last = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, TypeError):
        raise _foreign(cursor) from None
    if name != str(key) or type(last) is not key.type.python_type:
        raise _foreign(cursor)
    return last


def _foreign(cursor: str) -> Invalid:
    return Invalid(
        "cursor_invalid", f"cursor {cursor!r} is not one that this list gave; start again without it"
    )
