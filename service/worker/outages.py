"""Database restarts: work waits for it to come back, with a growing pause, and says so once a try."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from service.worker.stopping import StopRequest

DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeout)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
_SHOWN_CHARACTERS = 200

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Interrupted(Exception):
    """The worker was told to stop while it waited for the database: what it held is given up by its lease
    running out.
    """


def pauses_s() -> Iterator[float]:
    """0.5, 1, 2, 4, 8, then 15 seconds for ever."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)


def outlast(
    opened: Callable[[], AbstractContextManager[Session]], work: Callable[[Session], T], *, stop: StopRequest
) -> T:
    """Run one transaction, again until the database takes it; `opened` is `Database.read` or
    `Database.write`.

    After an outage it is unknown whether the last try was stored, so `work` must be repeatable. Raises
    `Interrupted`.
    """

    def transaction() -> T:
        with opened() as session:
            return work(session)

    return insist(transaction, stop=stop)


def insist(call: Callable[[], T], *, stop: StopRequest) -> T:
    """Call again until the database is there. Raises `Interrupted` if `stop` is set while it is away."""
    for pause_s in pauses_s():
        try:
            return call()
        except DATABASE_AWAY as error:
            report_outage(error, pause_s)
            if stop.wait(pause_s):
                raise Interrupted("told to stop while the database is away") from error
    raise AssertionError("pauses never end")


def report_outage(error: Exception, pause_s: float) -> None:
    """One line of log."""
    summary = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
    log.warning("database_unavailable", retry_in_s=pause_s, error=summary)
