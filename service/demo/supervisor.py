"""`laptime demo`: server, worker and agent for this machine as children of one process, and the story told
over them.

Whatever ends it (the end with --once, Ctrl-C, a killed child, an error), every child is stopped before the
supervisor leaves.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.client import Client
from service.demo.errors import AlreadyRunning, DemoFailed, PortTaken, StepFailed
from service.demo.processes import Household, interrupt_on_stop_signals
from service.demo.story import SHOWN_ENGINE, Story
from service.settings import Settings
from service.terminal import Terminal

START_TIMEOUT_S = 60.0
_WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the user chose. `data_dir` is absolute; `model` None: a network that is installed with the `onnx`
    package.
    """

    data_dir: Path
    host: str
    port: int
    model: Path | None
    input_shapes: Mapping[str, tuple[int, ...]]
    is_once: bool

    @property
    def url(self) -> str:
        """Where the server is to be found."""
        return f"http://{self.host}:{self.port}"


def run(options: DemoOptions, terminal: Terminal) -> None:
    """Tell the story; then stay until interrupted, unless it is told once. Raises `DemoFailed`,
    `ClientError`.
    """
    interrupt_on_stop_signals()
    with _only_one(options.data_dir):
        _check_port(options)
        with Household(options.data_dir / "logs") as household:
            terminal.say(f"Starting server, worker and agent; data and logs are in {options.data_dir}")
            try:
                with _started(options, household) as client:
                    Story(client, household, terminal).tell(options.model, options.input_shapes)
                    _say_where(options, terminal)
                    if not options.is_once:
                        _stay(household, terminal)
            finally:
                terminal.say("Stopping server, worker and agent.")


@contextmanager
def _started(options: DemoOptions, household: Household) -> Iterator[Client]:
    """The three processes, and a client of the server."""
    household.start("server", ["-m", "service.cli", "serve"], _server_environment(options))
    with Client(options.url, sleep=household.wait) as probe:
        if not household.wait_until(probe.is_healthy, timeout_s=START_TIMEOUT_S):
            raise StepFailed(f"the server did not answer at {options.url} within {START_TIMEOUT_S:.0f} s")
    key = Settings(data_dir=options.data_dir).admin_key_file.read_text().strip()
    with Client(options.url, key, sleep=household.wait) as client:
        household.start("worker", ["-m", "service.worker", "--name", "demo"], _server_environment(options))
        token = client.create_registration_token().token
        household.start("agent", ["-m", "devices.agent", "run"], _agent_environment(options, token))
        yield client


def _server_environment(options: DemoOptions) -> Mapping[str, str]:
    """The demo has its own embedded database, whatever this machine is configured for."""
    inherited = {name: value for name, value in os.environ.items() if name != "LAPTIME_DATABASE_URL"}
    return {
        **inherited,
        "LAPTIME_DATA_DIR": str(options.data_dir),
        "LAPTIME_HOST": options.host,
        "LAPTIME_PORT": str(options.port),
    }


def _agent_environment(options: DemoOptions, token: str) -> Mapping[str, str]:
    """The token is used only where the agent has not registered before; other LAPTIME_AGENT_* settings pass
    through. One engine unless more are asked for, so that onboarding every target stays short.
    """
    past_proxies = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return {
        "LAPTIME_AGENT_ENGINES": SHOWN_ENGINE,
        **os.environ,
        "LAPTIME_AGENT_SERVER_URL": options.url,
        "LAPTIME_AGENT_REGISTRATION_TOKEN": token,
        "LAPTIME_AGENT_STATE_DIR": str(options.data_dir / "agent"),
        "no_proxy": f"{past_proxies},{options.host}" if past_proxies else options.host,
    }


def _say_where(options: DemoOptions, terminal: Terminal) -> None:
    terminal.say()
    terminal.say(f"The API is at {options.url}/v1, its OpenAPI page at {options.url}/docs")
    terminal.say(f"Your key is in {Settings(data_dir=options.data_dir).admin_key_file}")


def _stay(household: Household, terminal: Terminal) -> None:
    terminal.say("Press Ctrl-C to stop.")
    try:
        while True:
            household.wait(_WATCH_S)
    except KeyboardInterrupt:  # how a demo that has told everything is meant to end
        terminal.say()


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Two supervisors on one data folder would be two workers and two agents with one identity."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(data_dir) from None
        yield


def _check_port(options: DemoOptions) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(options.host, options.port) from None
            raise DemoFailed(
                f"the server cannot listen on {options.host} port {options.port}: {error.strerror}"
            ) from None
