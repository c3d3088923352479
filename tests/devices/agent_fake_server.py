"""A server for agents, over real HTTP on a real socket, that does what a test scripts.

Why not the real one: devices is the bottom floor and must be testable without it, and no real server fails on
command: answers 503 twice, forgets an agent, drops a connection, loses a lease, or restarts at the moment
that a test needs. Why not a mocked client: what breaks in the field is below it, timeouts, cut connections
and half-sent answers, and those only a socket has. The real app and the daemon meet in the service's own
tests.

It keeps the promises of `devices.wire`: a lease raises the fence, a write with an old fence is answered 409
`lease_lost`, an accepted report is accepted again when repeated. Leases expire only when a test says so: no
test here depends on the time.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from devices.measurement import Level, MeasurementPlan
from devices.model_ref import ModelRef, sha256_of
from devices.target import Runtime
from devices.wire import Cadence, ProfileWork

PATIENCE_S = 30.0  # how long a test waits for what must happen; reached only when it does not
REGISTRATION_TOKEN = "lt_reg_once"
RUNTIME = Runtime(engine="fake", version="1.0", provider="cpu", threads=1)
ROUTES = {
    "register": ("POST", r"/v1/agents/register"),
    "announce": ("PUT", r"/v1/agents/self"),
    "heartbeat": ("POST", r"/v1/agents/self/heartbeat"),
    "lease": ("POST", r"/v1/agents/self/leases"),
    "start": ("POST", r"/v1/agents/self/leases/([^/]+)/start"),
    "renew": ("POST", r"/v1/agents/self/leases/([^/]+)/renew"),
    "complete": ("POST", r"/v1/agents/self/leases/([^/]+)/complete"),
    "fail": ("POST", r"/v1/agents/self/leases/([^/]+)/fail"),
    "model": ("GET", r"/v1/agents/self/models/([0-9a-f]+)"),
}


@dataclass
class Answer:
    """A canned answer.

    `status` 0 cuts the connection instead. `is_handled`: the request took effect all the same.
    """

    status: int
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    is_handled: bool = False

    @classmethod
    def problem(cls, status: int, code: str, detail: str = "scripted") -> Answer:
        return cls(status, json.dumps({"status": status, "code": code, "detail": detail}).encode())


@dataclass
class FakeJob:
    """A profile job as the server stores it."""

    job_id: str
    model: bytes
    plan: MeasurementPlan
    runtime: Runtime
    lease_s: float
    input_shapes: dict[str, tuple[int, ...]]
    state: str = "queued"
    fence: int = 0
    is_cancel_requested: bool = False
    reports: list[dict[str, Any]] = field(default_factory=list)  # accepted ones
    accepted_fences: set[int] = field(default_factory=set)


class FakeServer:
    """Its state survives `stop` and `start` on the same port: that is a restart of the server."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.jobs: dict[str, FakeJob] = {}
        self.models: dict[str, bytes] = {}
        self.registration_tokens = {REGISTRATION_TOKEN}
        self.agent_tokens: set[str] = set()
        self.cadence = Cadence(heartbeat_s=0.1, lease_wait_s=5.0, idle_pause_s=0.01)
        self.ends_polls_of_draining_agents = True
        self.scripted: dict[str, deque[Answer]] = defaultdict(deque)
        self.always: dict[str, Answer] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.user_agents: set[str] = set()
        self.errors: list[BaseException] = []
        self.is_draining = False
        self.is_closing = False
        self.port = 0
        self._http: _Http | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FakeServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        assert not self.errors, self.errors

    def start(self) -> None:
        self.is_closing = False
        self._http = _Http(("127.0.0.1", self.port), self)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name="fake-server")
        self._thread.start()

    def stop(self) -> None:
        if self._http is None:
            return
        with self.changed:
            self.is_closing = True
            self.changed.notify_all()
        self._http.shutdown()
        self._thread.join()
        self._http.cut_connections()
        self._http.server_close()
        self._http = None

    def add_job(
        self,
        job_id: str = "job_1",
        model: bytes = b"a model",
        *,
        level: Level = Level.QUICK,
        lease_s: float = 30.0,
        runtime: Runtime = RUNTIME,
        max_duration_s: float = 60.0,
    ) -> FakeJob:
        plan = MeasurementPlan(level=level, max_duration_s=max_duration_s)
        job = FakeJob(job_id, model, plan, runtime, lease_s, {"x": (1, 3)})
        with self.changed:
            self.models[sha256_of(model)] = model
            self.jobs[job_id] = job
            self.changed.notify_all()
        return job

    def script(self, call: str, *answers: Answer) -> None:
        """The next calls of this name get these answers, one each."""
        with self.changed:
            self.scripted[call].extend(answers)

    def expire(self, job: FakeJob) -> None:
        """The lease ran out: the job may be leased again."""
        with self.changed:
            job.state = "queued"
            self.changed.notify_all()

    def wait_for(self, predicate: Callable[[], object], what: str = "") -> None:
        with self.changed:
            assert self.changed.wait_for(predicate, PATIENCE_S), (
                f"never happened: {what}; calls {self.names()[-30:]}"
            )

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def bodies(self, call: str) -> list[dict[str, Any]]:
        return [body for name, body in self.calls if name == call]

    # What the routes do; called with `changed` held.

    def register(self, token: str, body: dict[str, Any]) -> Answer:
        if token not in self.registration_tokens:
            return Answer.problem(401, "unauthenticated", "registration token unknown or used")
        self.registration_tokens.discard(token)
        own = f"lt_agent_{len(self.agent_tokens) + 1}"
        self.agent_tokens.add(own)
        return _reply(self._announced(body) | {"agent_token": own})

    def announce(self, body: dict[str, Any]) -> Answer:
        return _reply(self._announced(body))

    def heartbeat(self, body: dict[str, Any]) -> Answer:
        self.is_draining = body["state"] in ("draining", "stopped")
        return _reply({"cadence": self.cadence.model_dump()})

    def lease(self, body: dict[str, Any]) -> Answer:
        deadline_s = time.monotonic() + body["wait_s"]
        while (left_s := deadline_s - time.monotonic()) > 0 and not self.is_closing:
            if self.is_draining and self.ends_polls_of_draining_agents:
                break
            if self._next_job() is not None:
                break
            self.changed.wait(left_s)
        job = self._next_job()
        if self.is_closing:
            return Answer(0)
        if job is None or (self.is_draining and self.ends_polls_of_draining_agents):
            return _reply({"work": None})
        job.state, job.fence = "leased", job.fence + 1
        work = ProfileWork(
            job_id=job.job_id,
            fence=job.fence,
            lease_s=job.lease_s,
            runtime=job.runtime,
            device_key="box",
            model=ModelRef(sha256=sha256_of(job.model), input_shapes=job.input_shapes),
            model_bytes=len(job.model),
            plan=job.plan,
        )
        return _reply({"work": work.model_dump(mode="json")})

    def write(self, call: str, job_id: str, body: dict[str, Any]) -> Answer:
        job = self.jobs.get(job_id)
        if job is None:
            return Answer.problem(404, "not_found")
        if call in ("complete", "fail") and body["fence"] in job.accepted_fences:
            return self._state(job)  # a repeated delivery
        if body["fence"] != job.fence or job.state == "queued":
            return Answer.problem(409, "lease_lost", f"fence is {job.fence}")
        if call == "start":
            job.state = "running"
        if call in ("complete", "fail"):
            job.state = {"complete": "succeeded", "fail": "failed"}[call]
            job.accepted_fences.add(body["fence"])
            job.reports.append(body)
        return self._state(job)

    def model(self, sha256: str) -> Answer:
        if sha256 not in self.models:
            return Answer.problem(404, "not_found")
        return Answer(200, self.models[sha256], {"Content-Type": "application/octet-stream"})

    def _next_job(self) -> FakeJob | None:
        if any(job.state in ("leased", "running") for job in self.jobs.values()):
            return None  # one live lease per device
        return next((job for job in self.jobs.values() if job.state == "queued"), None)

    def _announced(self, body: dict[str, Any]) -> dict[str, Any]:
        targets = [
            {"target_id": f"tgt_{i}", "key": f"box/{r['engine']}"} for i, r in enumerate(body["runtimes"])
        ]
        return {
            "agent_id": "agt_1",
            "device_id": "dev_1",
            "device_key": "box",
            "targets": targets,
            "cadence": self.cadence.model_dump(),
        }

    def _state(self, job: FakeJob) -> Answer:
        return _reply({"job_id": job.job_id, "state": job.state, "cancel_requested": job.is_cancel_requested})


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # so that `server_close` joins them: a test leaks no thread
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], fake: FakeServer) -> None:
        self.fake = fake
        self.connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def cut_connections(self) -> None:
        with self.fake.changed:
            for connection in self.connections:
                _cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what some tests are about; they are handled in `_Handler`."""
        raise AssertionError("the fake server itself failed")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def handle(self) -> None:
        fake = self.server.fake
        with fake.changed:
            self.server.connections.add(self.connection)
        try:
            super().handle()
        except ConnectionError:
            pass  # the agent was killed, or cut its lease request
        except Exception as error:  # noqa: BLE001 - shown when the test ends
            if not fake.is_closing:  # what `stop` cut in the middle of a request is no error
                fake.errors.append(error)
        finally:
            with fake.changed:
                self.server.connections.discard(self.connection)

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _route(self) -> None:
        fake = self.server.fake
        size_bytes = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size_bytes)
        if len(body) < size_bytes:
            raise ConnectionError("the agent was killed in the middle of a request")
        document = json.loads(body) if body else {}
        call, arguments = self._find()
        with fake.changed:
            fake.user_agents.add(self.headers["User-Agent"])
            fake.calls.append((call, document))
            fake.changed.notify_all()
            canned = fake.scripted[call].popleft() if fake.scripted[call] else fake.always.get(call)
            answer = canned
            if canned is None or canned.is_handled:
                handled = self._handle(fake, call, arguments, document)
                answer = canned or handled
            fake.changed.notify_all()
        assert answer is not None
        self._send(answer)

    def _find(self) -> tuple[str, tuple[str, ...]]:
        for name, (method, pattern) in ROUTES.items():
            match = re.fullmatch(pattern, self.path)
            if match is not None and method == self.command:
                return name, match.groups()
        raise AssertionError(f"no such call: {self.command} {self.path}")

    def _handle(
        self, fake: FakeServer, call: str, arguments: tuple[str, ...], document: dict[str, Any]
    ) -> Answer:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if call == "register":
            return fake.register(token, document)
        if token not in fake.agent_tokens:
            return Answer.problem(401, "unauthenticated", "no such agent")
        if call == "announce":
            return fake.announce(document)
        if call == "heartbeat":
            return fake.heartbeat(document)
        if call == "lease":
            return fake.lease(document)
        if call == "model":
            return fake.model(*arguments)
        return fake.write(call, *arguments, document)

    def _send(self, answer: Answer) -> None:
        if answer.status == 0:
            self.close_connection = True
            _cut(self.connection)
            return
        self.send_response(answer.status)
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(answer.body)),
        } | answer.headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)


def _reply(document: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps(document).encode())


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
