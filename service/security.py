"""Tokens: `lt_<kind>_<id part>_<secret>_<checksum>`, of which only the SHA-256 of the secret is stored.

The secret has 256 random bits, so a fast hash is enough: there is nothing to guess. The checksum lets a
typing error or a leaked token be recognised without a database. Three kinds exist: `key` (a caller's API
key), `tok` (lets one agent register once) and `agt` (an agent's own). Every comparison takes the same time
whether the id exists or not.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from sqlalchemy import ColumnElement, Connection, and_, bindparam, or_, select, update
from sqlalchemy.orm import Session

from service.db import tables
from service.db.clock import now_plus
from service.errors import Unauthenticated

TokenKind = Literal["key", "tok", "agt"]
TOUCH_INTERVAL_S = 60.0  # last_used_at is at most this old
_TOKEN = re.compile(r"lt_(key|tok|agt)_([0-9a-z]{26})_([0-9a-f]{64})_([0-9a-f]{8})")
_NO_SECRET = "0" * 64  # compared against when there is no row, so that both cases take the same time


class Scope(StrEnum):
    """What an API key may do."""

    READ = "read"
    MODELS_WRITE = "models:write"
    MEASURE = "measure"
    SEARCH = "search"
    FLEET_ADMIN = "fleet:admin"
    KEYS_ADMIN = "keys:admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, by API key."""

    project_id: str
    key_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class AgentPrincipal:
    """The agent of one device."""

    project_id: str
    agent_id: str
    device_id: str


@dataclass(frozen=True, slots=True)
class Minted:
    """A new token: `token` is shown once, `secret_sha256` is stored."""

    token: str
    secret_sha256: str


def mint(row_id: str) -> Minted:
    """A token for the row with this id, whose prefix is the kind of token."""
    kind, _, part = row_id.partition("_")
    secret = secrets.token_hex(32)
    text = f"lt_{kind}_{part}_{secret}"
    return Minted(f"{text}_{_checksum(text)}", _sha256(secret))


# Of the table, not of the class: every request asks this, and neither an object nor a session is made for it.
_KEYS = tables.ApiKey.__table__.c
_KEY = select(
    _KEYS.id,
    _KEYS.project_id,
    _KEYS.secret_sha256,
    _KEYS.scopes,
    or_(_KEYS.last_used_at.is_(None), _KEYS.last_used_at < now_plus(-TOUCH_INTERVAL_S)),
).where(
    _KEYS.id == bindparam("key_id"),
    _KEYS.revoked_at.is_(None),
    or_(_KEYS.expires_at.is_(None), _KEYS.expires_at > now_plus()),
)


def authenticate(connection: Connection, token: str) -> tuple[Principal, bool]:
    """The caller whose API key this is, and whether the time of last use is older than it may be. Raises
    `Unauthenticated`.
    """
    row_id, secret = _parse(token, "key")
    found = connection.execute(_KEY, {"key_id": row_id}).one_or_none()
    if not _matches(secret, None if found is None else found.secret_sha256) or found is None:
        raise Unauthenticated("the API key is unknown, expired or revoked")
    key_id, project_id, _, scopes, is_touch_due = found
    return Principal(project_id, key_id, frozenset(scopes)), bool(is_touch_due)


def touch(session: Session, key_id: str) -> None:
    """Note that a key is in use, unless that was noted within the last minute."""
    session.execute(update(tables.ApiKey).where(_is_stale(key_id)).values(last_used_at=now_plus()))


def _is_stale(key_id: str) -> ColumnElement[bool]:
    used_at = tables.ApiKey.last_used_at
    return and_(tables.ApiKey.id == key_id, or_(used_at.is_(None), used_at < now_plus(-TOUCH_INTERVAL_S)))


def authenticate_agent(session: Session, token: str) -> AgentPrincipal:
    """The agent whose token this is. Raises `Unauthenticated`."""
    row_id, secret = _parse(token, "agt")
    found = session.execute(
        select(tables.Agent.secret_sha256, tables.Agent.device_id, tables.Device.project_id)
        .join(tables.Device, tables.Device.id == tables.Agent.device_id)
        .where(tables.Agent.id == row_id)
    ).one_or_none()
    if not _matches(secret, None if found is None else found.secret_sha256) or found is None:
        raise Unauthenticated(
            "the agent token is unknown or was replaced; register again with a registration token"
        )
    return AgentPrincipal(found.project_id, row_id, found.device_id)


def consume_registration_token(session: Session, token: str) -> str:
    """Use up a registration token, within the transaction that registers; the id of its project. Raises
    `Unauthenticated`.
    """
    row_id, secret = _parse(token, "tok")
    row = session.get(tables.RegistrationToken, row_id)
    refused = Unauthenticated("the registration token is unknown, expired or used; ask for a new one")
    if not _matches(secret, None if row is None else row.secret_sha256) or row is None:
        raise refused
    used = session.scalar(
        update(tables.RegistrationToken)
        .where(
            tables.RegistrationToken.id == row_id,
            tables.RegistrationToken.used_at.is_(None),
            tables.RegistrationToken.expires_at > now_plus(),
        )
        .values(used_at=now_plus())
        .returning(tables.RegistrationToken.id)
    )
    if used is None:
        raise refused
    return row.project_id


def _parse(token: str, kind: TokenKind) -> tuple[str, str]:
    """The row id and the secret."""
    match = _TOKEN.fullmatch(token)
    if match is None or match[1] != kind or _checksum(token.rpartition("_")[0]) != match[4]:
        raise Unauthenticated(
            f"this needs a token of the form lt_{kind}_..., sent as `Authorization: Bearer lt_{kind}_...`"
        )
    return f"{kind}_{match[2]}", match[3]


def _matches(secret: str, stored_sha256: str | None) -> bool:
    return hmac.compare_digest(_sha256(secret), stored_sha256 or _NO_SECRET)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
