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
from devices.agent.state import Identity, StateProblem, check_room, store_identity
from devices.errors import DevicesError, ServerRefused
from devices.wire import AnnounceReply, AnnounceRequest, Cadence, RegisterReply, RegisterRequest

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

    Raises `NotRegistered` for a missing setting or a registration token that the server does not take, and
    `StateProblem` where the identity could not be stored.
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
    check_room(state_dir)
    reply = _trade_token(
        announcement, server_url=server_url, token=token, outages=outages, backoff=backoff, stop=stop
    )
    identity = Identity(
        server_url=server_url,
        agent_id=reply.agent_id,
        device_id=reply.device_id,
        device_key=reply.device_key,
        agent_token=SecretStr(reply.agent_token),
        fingerprint=announcement.device.fingerprint,
    )
    store_identity(state_dir, identity)
    _log_joined("registered", server_url, reply)
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
        update={
            "agent_id": reply.agent_id,
            "device_id": reply.device_id,
            "device_key": reply.device_key,
            "fingerprint": announcement.device.fingerprint,
        }
    )
    try:
        store_identity(state_dir, renamed)
    except StateProblem as error:  # the stored one still opens the server's door
        log.error(event("identity_not_stored", error=error, then="going on with the one before"))
    _log_joined("announced", identity.server_url, reply)
    return Joined(renamed, reply.cadence)


def as_registered(announcement: AnnounceRequest, identity: Identity) -> AnnounceRequest:
    """The announcement of a machine without an id of its own, under the fingerprint it was registered with.

    A container's host name and address change each time it is made anew. Its state directory stays.
    """
    if identity.fingerprint is None:
        return announcement
    device = announcement.device.model_copy(update={"fingerprint": identity.fingerprint})
    return announcement.model_copy(update={"device": device})


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


def _log_joined(how: str, server_url: str, reply: AnnounceReply) -> None:
    agent, device, targets = reply.agent_id, reply.device_key, len(reply.targets)
    log.info(event(how, server=server_url, agent=agent, device=device, targets=targets))


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
