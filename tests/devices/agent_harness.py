"""Running a daemon inside a test: its settings, a measurement that takes no time, and a thread that is always
joined.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from devices.agent.daemon import Daemon
from devices.agent.retry import RetryPolicy
from devices.agent.settings import AgentSettings
from devices.agent.work import RunMeasurement
from devices.errors import FailureCode, WorkFailed
from devices.measurement import (
    ColdStart,
    Conditions,
    Estimate,
    Measurement,
    Round,
    Verdict,
)
from devices.sandbox import MeasurementRequest
from devices.target import Device, Hardware
from tests.devices.agent_fake_server import PATIENCE_S, REGISTRATION_TOKEN, RUNTIME, FakeServer

DEVICE = Device(
    key="box",
    fingerprint="0123456789abcdef" * 2,
    hardware=Hardware(
        cpu_model="test",
        architecture="x86_64",
        physical_cores=1,
        logical_cores=1,
        memory_bytes=1 << 30,
        operating_system="test",
    ),
)


def measured(request: MeasurementRequest, median_ms: float = 1.0) -> Measurement:
    """A small valid measurement of what was requested."""
    now = Conditions(at_unix_s=0.0)
    return Measurement(
        agent_version="test",
        device_key=request.device_key,
        runtime=request.runtime,
        model=request.model,
        plan=request.plan,
        clock="scripted",
        sandbox="none",
        cold_starts=(ColdStart(load_ns=1, first_run_ns=1),),
        rounds=(Round(started_at_ns=0, samples_ns=(1_000_000,)),),
        before=now,
        after=now,
        estimate=Estimate(median_ms=median_ms, mad_ms=0, standard_error_ms=0, sample_count=1, round_count=1),
        verdict=Verdict(is_valid=True),
    )


class Measuring:
    """A measurement under the test's control: it runs from `started` until `release` is set or it is
    cancelled.
    """

    def __init__(self, *, is_instant: bool = True) -> None:
        self.count = 0
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.release = threading.Event()
        if is_instant:
            self.release.set()

    def __call__(
        self,
        request: MeasurementRequest,
        model: bytes,
        *,
        on_start: Callable[[int], None] | None,
        cancelled: Callable[[], bool],
    ) -> Measurement:
        self.count += 1
        self.started.set()
        while not self.release.wait(0.005):
            if cancelled():
                self.cancelled.set()
                raise WorkFailed(FailureCode.CANCELLED, "the measurement was cancelled")
        return measured(request)


def settings_for(
    server: FakeServer, state_dir: Path, *, token: str | None = REGISTRATION_TOKEN
) -> AgentSettings:
    return AgentSettings(
        server_url=server.url,
        registration_token=None if token is None else SecretStr(token),
        state_dir=state_dir,
        engines=("fake",),
    )


def make_daemon(
    settings: AgentSettings,
    measure: RunMeasurement | None = None,
    *,
    device: Device = DEVICE,
    lease_grace_s: float = 5.0,
    drain_patience_s: float = 0.2,
) -> Daemon:
    return Daemon(
        settings,
        device=device,
        runtimes=(RUNTIME,),
        rng=random.Random(0),
        run_measurement=measure or Measuring(),
        policy=RetryPolicy(first_s=0.01, cap_s=0.05),
        lease_grace_s=lease_grace_s,
        drain_patience_s=drain_patience_s,
    )


class Running:
    """A daemon in a thread of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="daemon-under-test")

    def _run(self) -> None:
        try:
            self.daemon.run()
        except BaseException as error:  # noqa: BLE001 - `join` raises it again
            self.error = error

    def start(self) -> None:
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait for the end; raises what the daemon raised."""
        self._thread.join(PATIENCE_S)
        assert self.has_ended, "the daemon does not end"
        if self.error is not None:
            raise self.error


@contextmanager
def running(daemon: Daemon) -> Iterator[Running]:
    """The daemon at work; at the end it is drained (or aborted, should the test have failed)."""
    run = Running(daemon)
    run.start()
    try:
        yield run
    except BaseException:
        daemon.abort()
        run._thread.join(PATIENCE_S)
        raise
    daemon.drain()
    if run.error is None:
        run.join()
