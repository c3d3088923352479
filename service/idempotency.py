"""Idempotency keys: a POST that is sent again with the same `Idempotency-Key` is answered as the first time,
not done again.

A router that uses `IdempotentRoute` has this for all its POSTs. The route's own dependency claims the key
before the endpoint runs, in a transaction of its own: a second request while the first is at work is refused
(409). The endpoint stores its answer with `key.answer(session, ...)` in the transaction of its effect, so
that both are there or neither, whatever dies when. Where an endpoint has no effect (a query), or one that is
harmless to repeat (bytes stored by their hash), it need not: the route then stores the answer after it.

Only answers of success are kept: an error had no effect (every endpoint is one transaction), so its key is
released and the request may be sent again. A key belongs to a project and there to one API key, one path and
one body: anything else under it is refused (422). A key whose request died with its process is free again
after a minute; should that request live after all, it finds its key taken and is rolled back.

A streamed upload has no body to compare until it was read, so its route is a `StreamedIdempotentRoute`, and
its endpoint says `await key.begin(sha256)` when the bytes are there and their hash is known. That costs a
repeated transfer and no memory. Without any key an upload is repeatable all the same, because bytes are
stored by their hash.

An answer that holds a secret (`Cache-Control: no-store`) is not kept; its repetition is refused, never done
twice.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, TypeVar, cast

from anyio import CancelScope
from fastapi import Depends, Header, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.db.clock import now_plus
from service.db.insert import insert_if_absent
from service.db.session import Database
from service.db.tables import IdempotencyKey
from service.dependencies import ServicesDep, authenticated
from service.errors import Conflict, Invalid
from service.requests import COUNTS_OWN_BODY
from service.security import Principal

ABANDONED_S = 60.0  # a request at work for longer than this has died
KEPT_HEADERS = ("content-type", "location")
REPLAYED_HEADER = "Idempotency-Replayed"
Answer = TypeVar("Answer", bound=BaseModel)

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="a name of your choice for this request: sent again, it is answered as the first time",
    ),
]


class Replay(Exception):
    """Ends a request early with the answer that was stored."""

    def __init__(self, response: Response) -> None:
        super().__init__("the stored answer")
        self.response = response


class RequestKey:
    """The idempotency key of one request; one without a key does nothing."""

    def __init__(
        self,
        database: Database,
        *,
        caller: Principal,
        key: str | None,
        path: str,
        ttl_s: float,
        status: int,
        response: Response,
    ) -> None:
        """`status` is that of a success, unless the endpoint sets another in `response`, where the framework
        collects the headers of the answer.
        """
        self._database = database
        self._project_id = caller.project_id
        self._key_id = caller.key_id
        self._key = key
        self._path = path
        self._ttl_s = ttl_s
        self._status = status
        self._response = response
        self._claimed_at: dt.datetime | None = None
        self._is_answered = False

    async def begin(self, body_sha256: str) -> None:
        """Claim the key for a request with this body. Raises `Replay`, or `Invalid` or `Conflict` where it is
        taken.
        """
        if self._key is not None:
            await run_in_threadpool(self._claim, self._key, body_sha256)

    def answer(self, session: Session, answer: Answer) -> Answer:
        """What the endpoint returns, stored in the transaction of its effect, as that one's last statement.

        Headers that belong to the answer are set before. Raises `Conflict` where the key was taken over from
        this request: the effect is the other one's.
        """
        if self._claimed_at is not None:
            body = answer.model_dump_json(by_alias=True).encode()
            headers = {"content-type": "application/json", **self._response.headers}
            status = self._response.status_code or self._status
            if not self._store(session, status=status, headers=headers, body=body):
                raise _still_at_work(self._key)
            self._is_answered = True
        return answer

    async def keep(self, response: Response) -> None:
        """Store the answer of the request that claimed the key, unless its endpoint did."""
        if self._claimed_at is not None and not self._is_answered:
            with CancelScope(shield=True):
                await run_in_threadpool(self._store_alone, response)

    async def release(self) -> None:
        """Forget the claim: the request came to nothing."""
        if self._claimed_at is not None:
            with CancelScope(shield=True):
                await run_in_threadpool(self._forget)

    def _claim(self, key: str, body_sha256: str) -> None:
        # the API key too: the stored answer is for none that may not make the request
        request = f"{self._key_id}\n{self._path}\n{body_sha256}"
        request_sha256 = hashlib.sha256(request.encode()).hexdigest()
        row = {
            "project_id": self._project_id,
            "key": key,
            "route": self._path[:200],
            "request_sha256": request_sha256,
            "created_at": now_plus(),
        }
        with self._database.write() as session:
            purge(session, self._ttl_s, project_id=self._project_id, key=key)
            self._claimed_at = insert_if_absent(
                session, IdempotencyKey, row, returning=IdempotencyKey.created_at
            )
            if self._claimed_at is None:
                self._claimed_at = self._take_over(session, key, request_sha256)

    def _take_over(self, session: Session, key: str, request_sha256: str) -> dt.datetime:
        """Of a row that exists: an answer to repeat, or a claim to take from a request that died."""
        is_this = (IdempotencyKey.project_id == self._project_id, IdempotencyKey.key == key)
        row = session.scalars(select(IdempotencyKey).where(*is_this).with_for_update()).one_or_none()
        if row is not None and row.request_sha256 != request_sha256:
            detail = (
                f"the idempotency key {key!r} was used for another request ({row.route}); choose a new one"
            )
            raise Invalid("idempotency_key_reused", detail)
        if row is not None and row.status is not None:
            raise Replay(_stored_answer(row))
        taken: dt.datetime | None = session.scalar(
            update(IdempotencyKey)
            .where(*is_this, IdempotencyKey.created_at < now_plus(-ABANDONED_S))
            .values(created_at=now_plus())
            .returning(IdempotencyKey.created_at)
        )
        if taken is None:
            raise _still_at_work(key)
        return taken

    def _store_alone(self, response: Response) -> None:
        with self._database.write() as session:
            self._store(
                session,
                status=response.status_code,
                headers=response.headers,
                body=bytes(response.body),
            )

    def _store(self, session: Session, *, status: int, headers: Mapping[str, str], body: bytes) -> bool:
        """False where the key is no longer this request's."""
        is_secret = "no-store" in headers.get("cache-control", "")
        stored = {
            "status": status,
            "headers": {name: headers[name] for name in KEPT_HEADERS if name in headers},
            "body": None if is_secret else body,
        }
        statement = update(IdempotencyKey).where(*self._is_mine()).values(stored)
        return session.scalar(statement.returning(IdempotencyKey.key)) is not None

    def _forget(self) -> None:
        with self._database.write() as session:
            session.execute(delete(IdempotencyKey).where(*self._is_mine(), IdempotencyKey.status.is_(None)))

    def _is_mine(self) -> tuple[Any, ...]:
        mine = IdempotencyKey
        return mine.project_id == self._project_id, mine.key == self._key, mine.created_at == self._claimed_at


def purge(session: Session, ttl_s: float, **only: str) -> None:
    """Forget keys that are older than `ttl_s`: all, or those with the columns given in `only`."""
    is_old = IdempotencyKey.created_at < now_plus(-ttl_s)
    session.execute(delete(IdempotencyKey).where(is_old).filter_by(**only))


def _still_at_work(key: str | None) -> Conflict:
    detail = f"the first request with the idempotency key {key!r} is still at work; ask again in a second"
    return Conflict("idempotency_in_progress", detail, headers={"Retry-After": "1"})


def _stored_answer(row: IdempotencyKey) -> Response:
    if row.body is None:
        detail = "the first answer held a secret, which is shown only once; revoke it and make another"
        raise Conflict("answer_not_repeatable", detail)
    return Response(row.body, row.status or 200, {**(row.headers or {}), REPLAYED_HEADER: "true"})


async def _request_key(
    request: Request,
    response: Response,
    services: ServicesDep,
    caller: Annotated[Principal, Depends(authenticated)],
    key: KeyHeader = None,
) -> RequestKey:
    path = f"{request.method} {request.url.path}?{request.url.query}"
    made = RequestKey(
        services.database,
        caller=caller,
        key=key,
        path=path,
        ttl_s=services.settings.idempotency_ttl_s,
        status=cast(APIRoute, request.scope["route"]).status_code or 200,
        response=response,
    )
    request.state.idempotency = made
    return made


RequestKeyDep = Annotated[RequestKey, Depends(_request_key)]


async def _begin(request: Request, key: RequestKeyDep) -> None:
    await key.begin(hashlib.sha256(await request.body()).hexdigest())


class IdempotentRoute(APIRoute):
    """A route whose POSTs honour `Idempotency-Key`; other methods are not changed."""

    _claim: Callable[..., Any] = staticmethod(_begin)

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if "POST" in (options.get("methods") or ()):
            options["dependencies"] = [*(options.get("dependencies") or ()), Depends(self._claim)]
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual handler, between claiming the key and keeping the answer."""
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            try:
                response = await handle(request)
            except Replay as replay:
                return replay.response
            except BaseException:
                key: RequestKey | None = getattr(request.state, "idempotency", None)
                if key is not None:
                    await key.release()
                raise
            key = getattr(request.state, "idempotency", None)
            if key is not None:
                await (key.keep(response) if response.status_code < 400 else key.release())
            return response

        return handle_once


class StreamedIdempotentRoute(IdempotentRoute):
    """For endpoints that read their body as a stream: they take a `RequestKeyDep` and begin it themselves."""

    _claim = staticmethod(_request_key)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of its base; the general limit of bodies does not apply, since the endpoint counts."""
        handle = super().get_route_handler()

        async def handle_uncounted(request: Request) -> Response:
            setattr(request.state, COUNTS_OWN_BODY, True)
            return await handle(request)

        return handle_uncounted
