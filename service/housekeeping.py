"""What has to happen now and then although nobody asks: expired leases are given up, expired idempotency keys
forgotten, and what uploads left behind whose process died is deleted.

Claims reap too, so no work waits for this; but a job whose only agent is gone would otherwise look alive for
ever.
"""

from __future__ import annotations

import anyio
import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from service import idempotency
from service.dependencies import Services
from service.jobs import queue

INTERVAL_S = 10.0
ABANDONED_UPLOAD_S = 86_400.0  # no connection is silent for so long
log = structlog.get_logger(__name__)


async def keep_house(services: Services) -> None:
    """Until cancelled. A database or a disk that is away for a while is logged and tried again."""
    while True:
        await anyio.sleep(INTERVAL_S)
        try:
            await run_in_threadpool(clean_once, services)
        except (SQLAlchemyError, OSError) as error:
            log.warning("housekeeping_failed", error=str(error))


def clean_once(services: Services) -> None:
    """One round."""
    with services.database.write() as session:
        reaped = queue.reap(session)
        idempotency.purge(session, services.settings.idempotency_ttl_s)
    swept = services.artifacts.sweep(older_than_s=ABANDONED_UPLOAD_S)
    if reaped:
        log.info("leases_expired", count=reaped)
    if swept:
        log.info("uploads_swept", count=swept)
