"""A server, workers and an agent as real processes on one database, for journeys through all of them."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.client import Client
from service.demo.processes import Child, Household
from service.fleet.schemas import TargetState, TargetView
from service.jobs.schemas import JobView
from service.settings import Settings

LEASE_S = 3.0  # short, so that what a killed process held is soon free again
START_TIMEOUT_S = 60.0
WORK_TIMEOUT_S = 120.0
POLL_S = 0.05


class Stage:
    """The processes of one installation."""

    def __init__(self, folder: Path, database_url: str | None, household: Household) -> None:
        self.folder = folder
        self.settings = Settings(data_dir=folder / "data", database_url=database_url, port=free_port())
        self._household = household
        self._url = f"http://127.0.0.1:{self.settings.port}"

    def start_server(self) -> Client:
        """The server, answering; a client with the administrator's key."""
        self._start("server", "-m", "service.cli", "serve")
        with Client(self._url, sleep=self._household.wait) as probe:
            assert self._household.wait_until(probe.is_healthy, timeout_s=START_TIMEOUT_S)
        return Client(self._url, self.settings.admin_key_file.read_text().strip())

    def start_worker(self, name: str) -> Child:
        """A worker."""
        return self._start(name, "-m", "service.worker", "--name", name)

    def start_agent(self, name: str, registration_token: str = "") -> Child:
        """This machine's agent, with the scripted engine; it needs the token the first time only."""
        return self._start(
            name, "-m", "devices.agent", "run", LAPTIME_AGENT_REGISTRATION_TOKEN=registration_token
        )

    def _start(self, name: str, *arguments: str, **environment: str) -> Child:
        url = self.settings.database_url
        return self._household.start(
            name,
            arguments,
            {
                **{key: value for key, value in os.environ.items() if not key.startswith("LAPTIME_")},
                **({} if url is None else {"LAPTIME_DATABASE_URL": url}),
                "LAPTIME_DATA_DIR": str(self.settings.data_dir),
                "LAPTIME_PORT": str(self.settings.port),
                "LAPTIME_WORKER_LEASE_S": str(LEASE_S),
                "LAPTIME_AGENT_LEASE_S": str(LEASE_S),
                "LAPTIME_AGENT_HEARTBEAT_S": "1",
                "LAPTIME_AGENT_LEASE_WAIT_S": "1",
                "LAPTIME_AGENT_SERVER_URL": self._url,
                "LAPTIME_AGENT_STATE_DIR": str(self.folder / "agent"),
                "LAPTIME_AGENT_DEVICE_KEY": "journey",
                "LAPTIME_AGENT_ENGINES": '["fake"]',
                "LAPTIME_AGENT_THREAD_COUNTS": "1",
                **environment,
            },
        )


@contextmanager
def staged(folder: Path, database_url: str | None) -> Iterator[Stage]:
    """A stage whose processes are gone afterwards."""
    with Household(folder / "logs") as household:
        yield Stage(folder, database_url, household)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def await_that(is_so: Callable[[], bool], what: str, timeout_s: float = WORK_TIMEOUT_S) -> None:
    """Wait until it is so."""
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, f"still waiting for {what} after {timeout_s} s"
        time.sleep(POLL_S)


def await_ready(client: Client) -> TargetView:
    """The one target, when it is ready."""

    def is_ready() -> bool:
        targets = list(client.targets())
        assert all(target.state is not TargetState.FAILED for target in targets), targets
        return bool(targets) and targets[0].state is TargetState.READY

    await_that(is_ready, "the target")
    return next(client.targets())


def await_end(client: Client, job: JobView) -> JobView:
    """The job, when it has ended."""
    await_that(lambda: client.job(job.id).state.is_ended, f"the end of {job.id}")
    return client.job(job.id)


def kill(child: Child) -> None:
    """As `kill -9` does: no last word."""
    child.process.send_signal(signal.SIGKILL)
    child.process.wait()
