"""Errors of floor 3, and how they are answered: RFC 9457 problem documents with stable codes.

ServiceError(status, code, title, detail, **extra)
├── Unauthenticated  401   no token, or one that is unknown, expired or revoked
├── Forbidden        403   the token lacks a scope
├── NotFound         404   nothing of that name in the caller's project
├── Conflict         409   the thing is in a state that does not allow this
│   └── LeaseLost    409   lease_lost: a write under an old fence
├── TooLarge         413   more bytes than allowed
└── Invalid          422   the request itself is wrong

Each code means the same for ever; `detail` is for people and may change. What is not an error of ours is
answered `internal_error` and logged, and tells the caller nothing but the request id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.db.session import UnstorableValue

MEDIA_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "X-Request-ID"
log = structlog.get_logger(__name__)


class Problem(BaseModel):
    """The body of every error answer (RFC 9457). Some codes add fields, which their descriptions name."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="URI of this kind of problem; its last part is `code`")
    title: str = Field(description="the kind of problem, in words")
    status: int
    detail: str = Field(description="what went wrong this time, and what would help")
    code: str = Field(description="stable name of the kind of problem")
    instance: str = Field(description="the path that was asked")
    request_id: str = Field(description="names this request in the server's log")


class ServiceError(Exception):
    """Root of floor 3's errors: answered to the caller as a problem document."""

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra


class Unauthenticated(ServiceError):
    """No token, or one that opens nothing. Never tells which of the reasons it was."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            401,
            "unauthenticated",
            "Not authenticated",
            detail,
            headers={"WWW-Authenticate": 'Bearer realm="laptime"'},
        )


class Forbidden(ServiceError):
    """The token is good but does not allow this; `required_scope` would."""

    def __init__(self, required_scope: str) -> None:
        detail = (
            f"this needs the scope {required_scope!r}, which your API key lacks; ask for a key that has it"
        )
        super().__init__(403, "forbidden", "Not allowed", detail, required_scope=required_scope)


class NotFound(ServiceError):
    """Nothing of that name exists in the caller's project; things of other projects do not exist either."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(404, "not_found", "Not found", f"this project has no {what} named {name!r}")


class Conflict(ServiceError):
    """The request is fine but the present state does not allow it."""

    def __init__(
        self, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(409, code, "Conflict with the present state", detail, headers=headers, **extra)


class LeaseLost(Conflict):
    """A write to a job by somebody who holds it no longer: stop the work and drop its result."""

    def __init__(self, detail: str) -> None:
        super().__init__("lease_lost", detail)


class TooLarge(ServiceError):
    """More bytes than allowed."""

    def __init__(self, max_bytes: int) -> None:
        detail = f"the body exceeds the limit of {max_bytes} bytes"
        super().__init__(413, "too_large", "Too large", detail, max_bytes=max_bytes)


class Invalid(ServiceError):
    """The request is malformed, or asks for what can never be."""

    def __init__(self, code: str, detail: str, **extra: Any) -> None:
        super().__init__(422, code, "Invalid request", detail, **extra)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI documentation of problem answers, for `responses=` of a route or router.

    Every other problem is covered by the `default` entry, so that no answer is undocumented.
    """
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    documented: dict[int | str, dict[str, Any]] = {
        status: {"content": content, "description": HTTPStatus(status).phrase} for status in statuses
    }
    documented["default"] = {"content": content, "description": "Any other problem"}
    return documented


def problem_response(request: Request, error: ServiceError) -> Response:
    """The answer that tells `error`."""
    document = {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "instance": request.url.path,
        "request_id": request_id_of(request),
        **error.extra,
    }
    # ASCII, because a text from the request may hold what UTF-8 cannot encode
    return Response(json.dumps(document), error.status, error.headers, media_type=MEDIA_TYPE)


def request_id_of(request: Request) -> str:
    """The id under which this request is logged."""
    return str(getattr(request.state, "request_id", ""))


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of this application as a problem document."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(DataError, _unstorable)
    app.add_exception_handler(UnstorableValue, _unstorable)
    app.add_exception_handler(OperationalError, _unavailable)
    app.add_exception_handler(PoolTimeout, _unavailable)
    app.add_exception_handler(Exception, _unexpected)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(request, error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {"where": ".".join(str(part) for part in one["loc"]), "message": one["msg"], "kind": one["type"]}
        for one in error.errors()[:20]
    ]
    detail = "; ".join(f"{one['where']}: {one['message']}" for one in found)
    return problem_response(request, Invalid("request_invalid", detail, errors=found))


_HTTP_CODES = {400: "malformed", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_HTTP_DETAILS = {
    404: "the server has no such path; /openapi.json lists those it has",
    405: "the path does not take this method; the header Allow has those it takes",
}


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, f"http_{error.status_code}")
    title = HTTPStatus(error.status_code).phrase
    detail = str(error.detail)
    if detail == title:  # the framework had nothing to say
        detail = _HTTP_DETAILS.get(error.status_code, detail)
    known = ServiceError(error.status_code, code, title, detail, headers=error.headers)
    return problem_response(request, known)


async def _unstorable(request: Request, _error: Exception) -> Response:
    detail = (
        "a text or number in the request cannot be stored, such as a NUL character or a number beyond 64 bits"
    )
    return problem_response(request, Invalid("value_unstorable", detail))


async def _unavailable(request: Request, error: Exception) -> Response:
    log.error("database_unavailable", error=str(error))
    detail = "the database is not reachable or overloaded; try again"
    busy = ServiceError(503, "unavailable", "Unavailable", detail, headers={"Retry-After": "5"})
    return problem_response(request, busy)


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected_error", path=request.url.path, exc_info=error)
    detail = "an error of the server; the request id names it in the server's log"
    headers = {REQUEST_ID_HEADER: request_id_of(request)}  # this answer is made outside of every middleware
    return problem_response(
        request, ServiceError(500, "internal_error", "Internal error", detail, headers=headers)
    )
