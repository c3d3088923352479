"""The route of latency queries. What a search or a build asks thousands of times, a plain query that needs
no measurement and no idempotency key, is answered in one step of one thread and one transaction; everything
else, all that is refused among it, goes the usual way of the framework, which comes to the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service import security
from service.dependencies import Services, services_of
from service.errors import ServiceError
from service.idempotency import IdempotentRoute
from service.latency import queries
from service.latency.answers import encoded
from service.latency.schemas import LatencyQuery
from service.security import Scope

_SCHEME = "Bearer "


class QueryRoute(IdempotentRoute):
    """As its base, with the short way first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual handler, for what the short way does not answer."""
        handle = super().get_route_handler()

        async def handle_query(request: Request) -> Response:
            query = await _plain_query(request)
            if query is not None:
                token = request.headers["authorization"].removeprefix(_SCHEME)
                services = await services_of(request)
                body = await run_in_threadpool(_answered, services, token, query)
                if body is not None:
                    return Response(body, media_type="application/json")
            return await handle(request)

        return handle_query


async def _plain_query(request: Request) -> LatencyQuery | None:
    headers = request.headers
    is_plain = (
        headers.get("content-type") == "application/json"
        and headers.get("authorization", "").startswith(_SCHEME)
        and "idempotency-key" not in headers
    )
    if not is_plain:
        return None
    try:
        return LatencyQuery.model_validate_json(await request.body())
    except ValidationError:
        return None


def _answered(services: Services, token: str, query: LatencyQuery) -> bytes | None:
    """The answer's JSON; None for what is to go the usual way."""
    try:
        with services.database.snapshot() as snapshot:
            caller, is_touch_due = security.authenticate(snapshot.connection, token)
            if is_touch_due or Scope.READ not in caller.scopes:
                return None
            asked = queries.look_up(services, snapshot, caller.project_id, query)
        reply = queries.reply_to(services, caller, asked)
    except ServiceError:
        return None
    return None if reply.orders else encoded(reply.answers)
