"""The agent's half of `devices.wire` over HTTP: one method for each call, one try for each call.

Every answer becomes one of four things: a reply, `ServerUnavailable` (try again later), `ServerRefused`
(never try the same again), or one of its two special cases, `TokenRefused` and `LeaseLost`. Who retries, and
for how long, is decided where the call is made.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from devices.agent.outages import OutageLog
from devices.errors import DevicesError, ServerRefused
from devices.model_ref import sha256_of
from devices.wire import (
    WIRE_VERSION,
    AnnounceReply,
    AnnounceRequest,
    CompleteRequest,
    FailRequest,
    HeartbeatReply,
    HeartbeatRequest,
    LeaseReply,
    LeaseRequest,
    LeaseState,
    LeaseWrite,
    RegisterReply,
    RegisterRequest,
)

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0  # for an answer that the server has no reason to hold back
LEASE_MARGIN_S = 10.0  # beyond the time that the server may hold a lease request open
RETRYABLE_STATUSES = frozenset({408, 425, 429})

Reply = TypeVar("Reply", bound=BaseModel)


class ServerUnavailable(DevicesError):
    """No usable answer: no connection, a broken one, a server error, or something that is not a Laptime
    server.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class TokenRefused(ServerRefused):
    """401: the server does not know the token (any more)."""


class LeaseLost(ServerRefused):
    """409 `lease_lost`: the job has gone to another holder, or has ended."""


class FetchCancelled(DevicesError):
    """The download was given up because the work was."""


class AgentClient:
    """Calls one server with one token. Safe to use from several threads, except that one thread leases."""

    def __init__(self, server_url: str, token: str, *, agent_version: str, outages: OutageLog) -> None:
        headers = {
            "Authorization": f"Bearer {token}",
            "User-Agent": f"laptime-agent/{agent_version} wire/{WIRE_VERSION}",
            "Accept": "application/json",
        }
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.Client(base_url=server_url, headers=headers, timeout=timeout)
        # Each lease request has a connection of its own: `stop_leasing` must cut nothing else.
        unshared = httpx.Limits(max_keepalive_connections=0)
        self._lease_http = httpx.Client(
            base_url=server_url, headers=headers, timeout=timeout, limits=unshared
        )
        self._lease_cut = _Cut()
        self._outages = outages

    def close(self) -> None:
        """Close the connections. A lease request that still waits must have been stopped before."""
        self._http.close()
        self._lease_http.close()

    def register(self, request: RegisterRequest) -> RegisterReply:
        """First contact.

        This client's token is the registration token. Not to be repeated after it was answered.
        """
        return self._send("POST", "/v1/agents/register", request, RegisterReply)

    def announce(self, request: AnnounceRequest) -> AnnounceReply:
        """Tell what this machine can do now."""
        return self._send("PUT", "/v1/agents/self", request, AnnounceReply)

    def heartbeat(self, request: HeartbeatRequest, *, timeout_s: float = ANSWER_TIMEOUT_S) -> HeartbeatReply:
        """Tell that this agent is alive and what it does."""
        return self._send("POST", "/v1/agents/self/heartbeat", request, HeartbeatReply, timeout_s=timeout_s)

    def lease(self, request: LeaseRequest) -> LeaseReply:
        """Ask for work.

        Blocks for up to `wait_s`. After `stop_leasing` it raises `ServerUnavailable`, also while it waits.
        """
        return self._send(
            "POST",
            "/v1/agents/self/leases",
            request,
            LeaseReply,
            timeout_s=request.wait_s + LEASE_MARGIN_S,
            cut=self._lease_cut,
        )

    def stop_leasing(self) -> None:
        """Cut the lease request that waits now, if one does, and every later one."""
        self._lease_cut.cut()

    def start(self, job_id: str, request: LeaseWrite) -> LeaseState:
        """The leased work begins."""
        return self._send("POST", _lease_path(job_id, "start"), request, LeaseState)

    def renew(self, job_id: str, request: LeaseWrite, *, timeout_s: float) -> LeaseState:
        """The leased work goes on."""
        return self._send("POST", _lease_path(job_id, "renew"), request, LeaseState, timeout_s=timeout_s)

    def complete(self, job_id: str, request: CompleteRequest) -> LeaseState:
        """Deliver a measurement. Safe to repeat."""
        return self._send("POST", _lease_path(job_id, "complete"), request, LeaseState)

    def fail(self, job_id: str, request: FailRequest) -> LeaseState:
        """Deliver a failure. Safe to repeat."""
        return self._send("POST", _lease_path(job_id, "fail"), request, LeaseState)

    def fetch_model(self, sha256: str, *, size_bytes: int, is_cancelled: Callable[[], bool]) -> bytes:
        """A model's bytes, exactly those that the digest names.

        Reads no more than the announced size. Raises `ServerUnavailable` if size or digest differ (the
        transfer may have been cut) and `FetchCancelled` soon after the work was given up.
        """
        try:
            path = f"/v1/agents/self/models/{quote(sha256, safe='')}"
            with self._http.stream("GET", path, headers={"Accept-Encoding": "identity"}) as response:
                if not response.is_success:
                    response.read()
                    self._refuse("fetch_model", response)
                data = _read_at_most(response, size_bytes, is_cancelled)
        except httpx.HTTPError as error:
            self._unreachable(error)
        if len(data) != size_bytes or sha256_of(data) != sha256:
            self._unavailable(
                "fetch_model", f"sent {len(data)} bytes that are not the model {sha256[:12]} of {size_bytes}"
            )
        self._answered("fetch_model")
        return data

    def check_token(self) -> None:
        """Return if the server answers and knows the token.

        Changes nothing there: it asks for a model that cannot exist.
        """
        try:
            self.fetch_model("0" * 64, size_bytes=0, is_cancelled=lambda: False)
        except ServerRefused as error:
            if error.status != 404:
                raise

    def _send(
        self,
        method: str,
        path: str,
        request: BaseModel,
        reply: type[Reply],
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        cut: _Cut | None = None,
    ) -> Reply:
        http = self._http if cut is None else self._lease_http
        call = path.rsplit("/", 1)[-1]
        try:
            response = http.request(
                method,
                path,
                content=request.model_dump_json().encode(),
                headers={"Content-Type": "application/json"},
                timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
                extensions={} if cut is None else {"trace": cut.watch},
            )
        except httpx.HTTPError as error:
            if cut is not None and cut.is_cut:
                raise ServerUnavailable("this agent has stopped leasing") from None
            self._unreachable(error)
        if not response.is_success:
            self._refuse(call, response)
        try:
            decoded = reply.model_validate_json(response.content)
        except ValidationError as error:
            self._unavailable(
                call, f"answered {response.status_code} with no {reply.__name__}: {error.errors()[0]['msg']}"
            )
        self._answered(call)
        return decoded

    def _answered(self, call: str) -> None:
        self._outages.worked("server")
        self._outages.worked(call)

    def _unreachable(self, error: httpx.HTTPError) -> NoReturn:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._outages.failed("server", f"{self._http.base_url} {reason}")
        raise ServerUnavailable(reason) from error

    def _unavailable(self, call: str, reason: str, retry_after_s: float = 0.0) -> NoReturn:
        self._outages.worked("server")
        self._outages.failed(call, reason)
        raise ServerUnavailable(f"{call}: {reason}", retry_after_s)

    def _refuse(self, call: str, response: httpx.Response) -> NoReturn:
        status = response.status_code
        code, detail = _problem(response)
        if status < 400 or status >= 500 or status in RETRYABLE_STATUSES:
            self._unavailable(call, f"server answered {status} {code}: {detail}", _retry_after_s(response))
        self._answered(call)
        if status == 401:
            raise TokenRefused(status, code, detail)
        if status == 409 and code == "lease_lost":
            raise LeaseLost(status, code, detail)
        raise ServerRefused(status, code, detail)


class _Cut:
    """Ends a request that waits for its answer, from another thread.

    httpx cannot be interrupted, and closing a socket does not wake the thread that reads from it; shutting it
    down does. The socket is learnt from httpx's `trace` extension when the connection is made.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_cut = False

    def watch(self, name: str, info: Mapping[str, object]) -> None:
        if not name.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        stream = info["return_value"]
        get_extra_info = getattr(stream, "get_extra_info", None)
        found = None if get_extra_info is None else get_extra_info("socket")
        with self._lock:
            self._socket = found
            if self.is_cut:
                self._shut_down()

    def cut(self) -> None:
        with self._lock:
            self.is_cut = True
            self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is None:
            return
        try:
            # The plain socket's method: TLS has its own, which is not safe beside a reader in another thread.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            return  # closed already: nothing waits


def _lease_path(job_id: str, verb: str) -> str:
    return f"/v1/agents/self/leases/{quote(job_id, safe='')}/{verb}"


def _read_at_most(response: httpx.Response, size_bytes: int, is_cancelled: Callable[[], bool]) -> bytes:
    data = bytearray()
    for chunk in response.iter_bytes(1 << 20):
        if is_cancelled():
            raise FetchCancelled("the work was given up during the download")
        data += chunk
        if len(data) > size_bytes:
            break
    return bytes(data)


def _problem(response: httpx.Response) -> tuple[str, str]:
    """Code and detail of an RFC 9457 answer; of any other answer, something short to say."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and "code" in body:
        return str(body["code"]), str(body.get("detail") or body.get("title") or "")
    where = response.headers.get("location")
    return "no_code", f"redirected to {where}" if where else response.text[:200]


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 0.0
