"""Who may call: API keys and registration tokens, minted here and shown once."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.db import tables
from service.db.clock import now_plus
from service.dependencies import DatabaseDep, FleetAdmin, KeysAdmin, require
from service.errors import NotFound, problem_responses
from service.idempotency import IdempotentRoute, RequestKeyDep
from service.ids import new_id
from service.paging import PageDep, PageOf, paginate
from service.security import Scope, mint

MAX_KEY_LIFE_S = 10 * 365 * 86_400
MAX_TOKEN_LIFE_S = 7 * 86_400

router = APIRouter(
    prefix="/v1", tags=["access"], route_class=IdempotentRoute, responses=problem_responses(401, 403, 422)
)
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class ApiKeyCreate(BaseModel):
    """A key can have no scope that the key which makes it has not."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(examples=["continuous integration"])
    scopes: frozenset[Scope] = Field(min_length=1, examples=[["read", "measure"]])
    expires_in_s: int | None = Field(default=None, ge=1, le=MAX_KEY_LIFE_S, description="null: never")


class ApiKeyView(BaseModel):
    """An API key without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    last_used_at: dt.datetime | None = Field(description="to the minute")


class ApiKeyCreated(ApiKeyView):
    """An API key at its creation."""

    token: str = Field(description="The key itself. It is not stored and never shown again.")


class RegistrationTokenCreate(BaseModel):
    """How long the token is good."""

    model_config = ConfigDict(extra="forbid")

    expires_in_s: int = Field(default=3600, ge=1, le=MAX_TOKEN_LIFE_S)


class RegistrationTokenCreated(BaseModel):
    """A token with which one agent registers once."""

    id: str
    token: str = Field(description="Not stored and never shown again.")
    expires_at: dt.datetime


def issue_key(
    session: Session,
    *,
    project_id: str,
    name: str,
    scopes: frozenset[Scope],
    expires_in_s: float | None = None,
) -> tuple[tables.ApiKey, str]:
    """A new API key: its row and the token to give to the caller."""
    key_id = new_id("key")
    minted = mint(key_id)
    key = tables.ApiKey(
        id=key_id,
        project_id=project_id,
        name=name,
        secret_sha256=minted.secret_sha256,
        scopes=sorted(scopes),
        expires_at=None if expires_in_s is None else session.scalar(select(now_plus(expires_in_s))),
    )
    session.add(key)
    session.flush()
    session.refresh(key)
    return key, minted.token


def issue_registration_token(
    session: Session, *, project_id: str, expires_in_s: float
) -> tuple[tables.RegistrationToken, str]:
    """A new registration token: its row and the token to give to the agent."""
    token_id = new_id("tok")
    minted = mint(token_id)
    row = tables.RegistrationToken(
        id=token_id,
        project_id=project_id,
        secret_sha256=minted.secret_sha256,
        expires_at=session.scalar(select(now_plus(expires_in_s))),
    )
    session.add(row)
    session.flush()
    return row, minted.token


@router.post("/api-keys", status_code=201, summary="Make an API key", responses=problem_responses(400, 409))
def create_key(
    caller: KeysAdmin, database: DatabaseDep, key: RequestKeyDep, wanted: ApiKeyCreate, response: Response
) -> ApiKeyCreated:
    """The answer shows the key, this once."""
    for scope in wanted.scopes:
        require(caller, scope)
    response.headers["Cache-Control"] = "no-store"
    with database.write() as session:
        row, token = issue_key(
            session,
            project_id=caller.project_id,
            name=wanted.name,
            scopes=wanted.scopes,
            expires_in_s=wanted.expires_in_s,
        )
        return key.answer(session, ApiKeyCreated(**_view(row).model_dump(), token=token))


@router.get("/api-keys", summary="List API keys, newest first")
def list_keys(caller: KeysAdmin, database: DatabaseDep, page: PageDep) -> PageOf[ApiKeyView]:
    """Keys of the caller's project, revoked ones too."""
    statement = select(tables.ApiKey).where(tables.ApiKey.project_id == caller.project_id)
    with database.read() as session:
        return paginate(session, statement, page, key=tables.ApiKey.id).shown(_view)


@router.delete(
    "/api-keys/{key_id}", status_code=204, summary="Revoke an API key", responses=problem_responses(404)
)
def revoke_key(caller: KeysAdmin, database: DatabaseDep, key_id: Annotated[str, Path(max_length=40)]) -> None:
    """From the next request on the key opens nothing. Revoking it again changes nothing."""
    key = tables.ApiKey
    with database.write() as session:
        found = session.scalar(
            update(key)
            .where(key.id == key_id, key.project_id == caller.project_id)
            .values(revoked_at=func.coalesce(key.revoked_at, now_plus()))
            .returning(key.id)
        )
    if found is None:
        raise NotFound("API key", key_id)


@router.post(
    "/registration-tokens",
    status_code=201,
    summary="Let one agent register",
    responses=problem_responses(400, 409),
)
def create_registration_token(
    caller: FleetAdmin,
    database: DatabaseDep,
    key: RequestKeyDep,
    wanted: RegistrationTokenCreate,
    response: Response,
) -> RegistrationTokenCreated:
    """The answer shows the token, this once."""
    response.headers["Cache-Control"] = "no-store"
    with database.write() as session:
        row, token = issue_registration_token(
            session, project_id=caller.project_id, expires_in_s=wanted.expires_in_s
        )
        made = RegistrationTokenCreated(id=row.id, token=token, expires_at=row.expires_at)
        return key.answer(session, made)


def _view(key: tables.ApiKey) -> ApiKeyView:
    return ApiKeyView(
        id=key.id,
        name=key.name,
        scopes=key.scopes,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=key.last_used_at,
    )
