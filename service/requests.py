"""What happens around every request: it gets an id, which every log line of it and its answer carry, and a
limit to its body.
"""

from __future__ import annotations

import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import REQUEST_ID_HEADER, TooLarge

COUNTS_OWN_BODY = "counts_own_body"  # state of a request whose endpoint limits the body itself
_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = structlog.get_logger(__name__)


class RequestIds:
    """ASGI middleware. A caller's own id is kept if it is short and plain, so that logs of both sides can be
    joined.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _GIVEN.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        started = time.monotonic()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                duration_ms = round((time.monotonic() - started) * 1000, 1)
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    duration_ms=duration_ms,
                )


class BodyLimit:
    """ASGI middleware: a body beyond `max_bytes` is refused, however long it claims to be.

    An endpoint that streams its body away without holding it has its own limit; its route says so by setting
    the request's state `COUNTS_OWN_BODY`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received_bytes = 0
        state = scope.setdefault("state", {})

        async def receive_counted() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._max_bytes and not state.get(COUNTS_OWN_BODY):
                # of this type, because FastAPI answers 400 to any other error while it reads a body
                raise HTTPException(413, TooLarge(self._max_bytes).detail)
            return message

        await self._app(scope, receive_counted, send)
