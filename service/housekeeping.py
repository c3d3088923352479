"""What has to happen now and then although nobody asks: expired leases are given up, expired idempotency keys
forgotten.

Claims reap too, so no work waits for this; but a job whose only agent is gone would otherwise look alive for
ever.
"""

from __future__ import annotations

import anyio
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from service import idempotency
from service.db.session import Database
from service.jobs import queue
from service.settings import Settings

INTERVAL_S = 10.0
log = structlog.get_logger(__name__)


async def keep_house(database: Database, settings: Settings) -> None:
    """Until cancelled. A database that is away for a while is logged and tried again."""
    while True:
        await anyio.sleep(INTERVAL_S)
        try:
            await run_in_threadpool(clean_once, database, settings)
        except SQLAlchemyError as error:
            log.warning("housekeeping_failed", error=str(error))


def clean_once(database: Database, settings: Settings) -> None:
    """One round."""
    with database.write() as session:
        reaped = queue.reap(session)
        idempotency.purge(session, settings.idempotency_ttl_s)
    if reaped:
        log.info("leases_expired", count=reaped)
