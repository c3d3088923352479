"""Becoming, and staying, a member of a server's fleet: the one-time registration token is traded for the
agent's own token, and after each start the server is told what this machine can do now.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from devices.agent.client import AgentClient, ServerUnavailable, TokenRefused
from devices.agent.logs import event
from devices.agent.outages import OutageLog
from devices.agent.retry import Backoff
from devices.agent.state import Identity, store_identity
from devices.errors import DevicesError, ServerRefused
from devices.wire import AnnounceRequest, Cadence, RegisterReply, RegisterRequest

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class NotRegistered(DevicesError):
    """There is no identity that the server accepts, and no way to get one.

    The message says which token to give.
    """


class Stopped(DevicesError):
    """The agent was told to stop before the server answered."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Membership for one run of the daemon."""

    identity: Identity
    cadence: Cadence


def insist(call: Callable[[], Answer], *, backoff: Backoff, stop: threading.Event) -> Answer:
    """Call until there is an answer, good or bad. Raises `Stopped` once `stop` is set."""
    while not stop.is_set():
        try:
            return call()
        except ServerUnavailable as error:
            stop.wait(backoff.next_s(error.retry_after_s))
    raise Stopped("told to stop before the server answered")


def register(
    announcement: AnnounceRequest,
    *,
    server_url: str | None,
    token: SecretStr | None,
    state_dir: Path,
    outages: OutageLog,
    backoff: Backoff,
    stop: threading.Event,
) -> Joined:
    """First contact; the identity is stored before anything else happens.

    Raises `NotRegistered` for a missing setting or a registration token that the server does not take.
    """
    if server_url is None:
        raise NotRegistered("this agent has no server yet: give --server URL or LAPTIME_AGENT_SERVER_URL")
    if token is None:
        raise NotRegistered(
            f"this agent is not registered with {server_url}: make a registration token there "
            "(laptime tokens create) and give it with --registration-token or "
            "LAPTIME_AGENT_REGISTRATION_TOKEN"
        )
    warn_of_plain_http(server_url)
    reply = _trade_token(
        announcement, server_url=server_url, token=token, outages=outages, backoff=backoff, stop=stop
    )
    identity = Identity(
        server_url=server_url,
        agent_id=reply.agent_id,
        device_id=reply.device_id,
        device_key=reply.device_key,
        agent_token=SecretStr(reply.agent_token),
    )
    store_identity(state_dir, identity)
    log.info(
        event(
            "registered",
            server=server_url,
            agent=reply.agent_id,
            device=reply.device_key,
            targets=len(reply.targets),
        )
    )
    return Joined(identity, reply.cadence)


def announce(
    client: AgentClient,
    identity: Identity,
    announcement: AnnounceRequest,
    *,
    state_dir: Path,
    backoff: Backoff,
    stop: threading.Event,
) -> Joined:
    """Tell a server that knows this agent what the machine can do now.

    Raises `TokenRefused` if it does not (any more).
    """
    reply = insist(lambda: client.announce(announcement), backoff=backoff, stop=stop)
    renamed = identity.model_copy(
        update={"agent_id": reply.agent_id, "device_id": reply.device_id, "device_key": reply.device_key}
    )
    store_identity(state_dir, renamed)
    log.info(
        event(
            "announced",
            server=identity.server_url,
            agent=reply.agent_id,
            device=reply.device_key,
            targets=len(reply.targets),
        )
    )
    return Joined(renamed, reply.cadence)


def warn_of_plain_http(server_url: str) -> None:
    """Say it where a token would cross a network readable."""
    parts = urlsplit(server_url)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        log.warning(
            event(
                "plain_http",
                server=server_url,
                risk="the token can be read on the network",
                remedy="use https",
            )
        )


def _trade_token(
    announcement: AnnounceRequest,
    *,
    server_url: str,
    token: SecretStr,
    outages: OutageLog,
    backoff: Backoff,
    stop: threading.Event,
) -> RegisterReply:
    request = RegisterRequest(**dict(announcement))
    client = AgentClient(
        server_url, token.get_secret_value(), agent_version=request.agent_version, outages=outages
    )
    try:
        return insist(lambda: client.register(request), backoff=backoff, stop=stop)
    except TokenRefused as error:
        raise NotRegistered(
            f"{server_url} does not take this registration token ({error.detail or error.code}): each works "
            "once, and not for long. Make a new one (laptime tokens create) and start again with "
            "--registration-token TOKEN"
        ) from error
    except ServerRefused as error:
        raise NotRegistered(f"{server_url} does not register this agent: {error}") from error
    finally:
        client.close()
