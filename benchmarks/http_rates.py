"""How fast the server answers a latency query whose graph it knows, against an endpoint that does nothing.

    python -m benchmarks.http_rates [--seconds 4] [--repeats 3] [--json] [--check]

Starts `laptime serve` on a SQLite database in a temporary folder, with a target that is ready and the
reference models stored. The same keep-alive connections then ask, in turn and as fast as answers come, for
`/v1/health` (which does nothing but look whether the database is there), for `/problems/not_found` (which
does nothing at all) and for one model's latency on one target, another model each time. Printed are the rates
and their ratios, by the wall clock and by the server's own processor time: where the client shares the
server's core, the wall clock flatters whatever is slow. Then requests arrive at random moments (Poisson) at
half of the query's rate, whether the ones before were answered or not; their time counts from the moment they
were due. The empty endpoints beside tell how much of the tail is the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count, cycle
from pathlib import Path

import numpy as np

from devices.statistics import median
from devices.target import Hardware, Runtime
from predictor.adapt import Observation, TargetFacts, adapt
from predictor.evaluate import accuracy_card
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_models
from service import models
from service.app import make_services
from service.bootstrap import bootstrap
from service.db import tables
from service.db.upgrade import ensure_current
from service.ids import new_id
from service.jobs import queue
from service.jobs.states import JobKind
from service.predictors import publish
from service.settings import Settings

CONNECTIONS = 8
MIN_RATIO = 0.5  # of the query's rate to that of the empty endpoint
MAX_P99_MS = 25.0
WARM_UP_S = 1.0
_START_S = 60.0
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")  # of the processor time that the system tells
_HEAD_END = b"\r\n\r\n"
RUNTIME = Runtime(engine="onnxruntime", version="1.0.0", provider="cpu", threads=1)
HARDWARE = Hardware(
    cpu_model="a processor",
    architecture="x86_64",
    physical_cores=2,
    logical_cores=2,
    memory_bytes=1 << 33,
    isa_flags=("avx2",),
    operating_system="Linux",
)


@dataclass(frozen=True, slots=True)
class World:
    """A folder with a database in which one target is ready."""

    settings: Settings
    api_key: str
    target_id: str
    model_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """Answers a second, by the wall clock and by the server's processor time."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Tail:
    """Milliseconds from the moment when requests were due to their answers."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """What one run found, by the name of what was asked. The tails are at half of the query's rate."""

    rates: dict[str, Rates]
    open_loop_rate: float
    tails: dict[str, Tail]

    def ratio(self, name: str) -> Rates:
        """The query's rates over those of another endpoint."""
        query, other = self.rates["query"], self.rates[name]
        return Rates(query.wall / other.wall, query.cpu / other.cpu)

    @property
    def meets_goals(self) -> bool:
        """Whether both bars hold, the ratio by either clock."""
        ratio = self.ratio("health")
        return min(ratio.wall, ratio.cpu) >= MIN_RATIO and self.tails["query"].p99_ms <= MAX_P99_MS


# ---- the server ----------------------------------------------------------------------------------


def make_world(folder: Path) -> World:
    """A database with a ready target, adapted to made-up latencies, and the reference models."""
    settings = Settings(data_dir=folder, database_url=None, log_level="INFO")
    services = make_services(settings)
    ensure_current(services.database, settings)
    project_id = bootstrap(services.database, settings.admin_key_file)
    observations = [_observation(reference.name, reference.model) for reference in reference_models()]
    facts = TargetFacts(key=f"board/{RUNTIME.key}", runtime=RUNTIME, hardware=HARDWARE)
    stored = services.artifacts.put_bytes(adapt(facts, observations).to_bytes())
    inspected = [models.inspect_model(services.artifacts, one.model) for one in reference_models()]
    with services.database.write() as session:
        target_id = new_id("tgt")
        device = tables.Device(
            id=new_id("dev"),
            project_id=project_id,
            key="board",
            fingerprint="0" * 64,
            hardware=HARDWARE.model_dump(mode="json"),
        )
        session.add(device)
        session.flush()
        session.add(
            tables.Target(
                id=target_id,
                project_id=project_id,
                device_id=device.id,
                key=facts.key,
                runtime=RUNTIME.model_dump(mode="json"),
                state="onboarding",
            )
        )
        session.flush()
        job = queue.submit(
            session, project_id=project_id, kind=JobKind.ADAPT, payload={}, target_id=target_id
        )
        queue.cancel(session, project_id=project_id, job_id=job.id)
        card = accuracy_card(facts, observations)
        publish(session, stored, target_id=target_id, job_id=job.id, accuracy=card)
        model_ids = [
            models.register(session, one, project_id=project_id, name="a model", origin="upload").id
            for one in inspected
        ]
    services.database.dispose()
    return World(settings, settings.admin_key_file.read_text().strip(), target_id, tuple(model_ids))


def _observation(name: str, model: bytes) -> Observation:
    graph = read_graph(model, {})
    return Observation(
        target_key=f"board/{RUNTIME.key}",
        runtime=RUNTIME,
        hardware=HARDWARE,
        graph=graph,
        median_ms=0.05 + graph.macs / 1e7 + graph.bytes_moved / 1e7,
        standard_error_ms=0.001,
        name=name,
    )


@contextmanager
def serving(world: World) -> Iterator[tuple[int, int]]:
    """The server in a process of its own; its process id and its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {"LAPTIME_DATA_DIR": str(world.settings.data_dir)}
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
    log = world.settings.data_dir / "server.log"
    with log.open("wb") as file, subprocess.Popen(command, env=environment, stderr=file) as process:
        try:
            _await_port(process, port, log)
            yield process.pid, port
        finally:
            process.terminate()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_s = time.monotonic() + _START_S
    while time.monotonic() < give_up_s and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


# ---- the client ----------------------------------------------------------------------------------


class Caller:
    """Keep-alive connections that send ready-made requests. One thread, no parsing beyond what must be."""

    def __init__(self, port: int, *, connections: int = CONNECTIONS) -> None:
        self._selector = selectors.DefaultSelector()
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(one, selectors.EVENT_READ)
        self._partial: dict[socket.socket, bytes] = dict.fromkeys(self._sockets, b"")

    def close(self) -> None:
        """Hang up."""
        self._selector.close()
        for one in self._sockets:
            one.close()

    def closed_loop(self, requests: Sequence[bytes], duration_s: float) -> int:
        """The next request as soon as an answer has come; how many came within the time."""
        upcoming = cycle(requests)
        end_s = time.perf_counter() + duration_s
        for one in self._sockets:
            one.sendall(next(upcoming))
        waiting, answered = len(self._sockets), 0
        while waiting:
            for one in self._answered(1.0):
                if time.perf_counter() < end_s:
                    answered += 1
                    one.sendall(next(upcoming))
                else:
                    waiting -= 1
        return answered

    def open_loop(self, requests: Sequence[bytes], rate: float, duration_s: float) -> list[float]:
        """Milliseconds of each answer since its request was due, at a rate a second."""
        generator = random.Random(1)
        due = list(_arrivals(generator, rate, duration_s))
        upcoming, idle = cycle(requests), deque(self._sockets)
        sent: dict[socket.socket, float] = {}
        took_ms: list[float] = []
        start_s, position = time.perf_counter(), 0
        while len(took_ms) < len(due):
            now_s = time.perf_counter() - start_s
            while position < len(due) and due[position] <= now_s and idle:
                one = idle.popleft()
                sent[one] = due[position]
                one.sendall(next(upcoming))
                position += 1
            wait_s = max(0.0, due[position] - now_s) if position < len(due) and idle else 1.0
            for one in self._answered(wait_s):
                took_ms.append(1e3 * (time.perf_counter() - start_s - sent[one]))
                idle.append(one)
        return took_ms

    def _answered(self, wait_s: float) -> Iterator[socket.socket]:
        """Connections whose answer is there, after one look."""
        for key, _ in self._selector.select(wait_s):
            one = key.fileobj
            assert isinstance(one, socket.socket)
            data = self._partial[one] + one.recv(1 << 20)
            head, found, body = data.partition(_HEAD_END)
            is_whole = bool(found) and len(body) >= _content_length(head)
            self._partial[one] = b"" if is_whole else data
            if is_whole:
                if not head.startswith(b"HTTP/1.1 200"):
                    raise SystemExit(f"the server said: {data[:2000].decode(errors='replace')}")
                yield one


def _content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])


def _arrivals(generator: random.Random, rate: float, duration_s: float) -> Iterator[float]:
    at_s = 0.0
    for _ in count():
        at_s += generator.expovariate(rate)
        if at_s >= duration_s:
            return
        yield at_s


def requests_of(world: World) -> dict[str, list[bytes]]:
    """What is asked, by name."""
    authorization = f"Authorization: Bearer {world.api_key}\r\n"

    def get(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n".encode()

    def query(model_id: str) -> bytes:
        body = json.dumps({"models": [{"model": model_id}], "targets": [world.target_id]})
        head = f"POST /v1/latency-queries HTTP/1.1\r\nHost: localhost\r\n{authorization}"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    return {
        "health": [get("/v1/health")],
        "nothing": [get("/problems/not_found")],
        "query": [query(model_id) for model_id in world.model_ids],
    }


def measure(world: World, *, seconds: float, repeats: int, warm_up_s: float = WARM_UP_S) -> Report:
    """Rates in turn, repeatedly; then the tail at half of the query's rate."""
    requests = requests_of(world)
    with serving(world) as (pid, port):
        caller = Caller(port)
        for asked in requests.values():
            caller.closed_loop(asked, warm_up_s)
        found: dict[str, list[Rates]] = {name: [] for name in requests}
        for _ in range(repeats):
            for name, asked in requests.items():
                cpu_before_s, started_s = cpu_s(pid), time.perf_counter()
                answered = caller.closed_loop(asked, seconds)
                wall_s = time.perf_counter() - started_s
                found[name].append(
                    Rates(answered / wall_s, answered / max(cpu_s(pid) - cpu_before_s, _TICK_S))
                )
        rates = {
            name: Rates(median([one.wall for one in several]), median([one.cpu for one in several]))
            for name, several in found.items()
        }
        half = 0.5 * rates["query"].wall
        tails: dict[str, Tail] = {}
        for name, asked in requests.items():
            took_ms = caller.open_loop(asked, half, seconds * repeats)
            p50_ms, p99_ms = np.percentile(took_ms, [50, 99])
            tails[name] = Tail(float(p50_ms), float(p99_ms))
        caller.close()
    return Report(rates, half, tails)


def main() -> None:
    """Measure, print, and with --check leave with 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each block")
    parser.add_argument("--repeats", type=int, default=3, help="blocks of each endpoint")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="fail where a goal is missed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="laptime-rates-") as folder:
        report = measure(make_world(Path(folder)), seconds=arguments.seconds, repeats=arguments.repeats)
    print(json.dumps(asdict(report)) if arguments.json else _text(report))
    if arguments.check and not report.meets_goals:
        sys.exit(1)


def _text(report: Report) -> str:
    lines = [f"{'':8} {'a second':>9} {'a CPU second':>13} {'p50 ms':>7} {'p99 ms':>7}"]
    for name, one in report.rates.items():
        tail = report.tails[name]
        lines.append(f"{name:8} {one.wall:9.0f} {one.cpu:13.0f} {tail.p50_ms:7.1f} {tail.p99_ms:7.1f}")
    for name in ("health", "nothing"):
        ratio = report.ratio(name)
        lines.append(f"query over {name}: {ratio.wall:.2f} by the wall clock, {ratio.cpu:.2f} by CPU time")
    lines.append(f"percentiles at {report.open_loop_rate:.0f} requests a second, half of the query's rate")
    lines.append(f"goals: query over health {MIN_RATIO}, p99 of the query {MAX_P99_MS:g} ms")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
