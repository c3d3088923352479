"""The agent as a real process that is killed, stopped and refused, against a fake server over real HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devices.agent.exit_codes import ExitCode
from devices.agent.state import only_daemon
from tests.devices.agent_fake_server import PATIENCE_S, Answer, FakeServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


class AgentProcess:
    """A started agent, with its log as it is written."""

    def __init__(self, module: str, *arguments: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LAPTIME_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._written = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._written:
                self.log.append(line.rstrip())
                self._written.notify_all()

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            return next((m for line in self.log if (m := re.search(pattern, line))), None)

        with self._written:
            match = self._written.wait_for(found, PATIENCE_S)
        assert match, f"no {pattern!r} in {self.log}"
        return match

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit status; the log is complete afterwards."""
        status = self._process.wait(PATIENCE_S)
        self._reader.join()
        return status

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


@contextmanager
def agent(server: FakeServer, tmp_path: Path, *, echo_s: float = 0.0) -> Iterator[AgentProcess]:
    """The program of `tests.devices.agent_program`."""
    arguments = (str(tmp_path / "state"), server.url, str(tmp_path / "hang"), str(echo_s))
    process = AgentProcess("tests.devices.agent_program", *arguments)
    try:
        yield process
    finally:
        process.close()


@contextmanager
def command(*arguments: str) -> Iterator[AgentProcess]:
    """The installed command's module."""
    process = AgentProcess("devices.agent", *arguments)
    try:
        yield process
    finally:
        process.close()


def wait_until_gone(pid: int) -> None:
    """Until the process has ended (whether or not somebody has asked for its status)."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} lives on")


def test_killed_during_a_measurement_the_job_is_done_once_by_the_next_start(
    server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "hang").touch()
    job = server.add_job()
    with agent(server, tmp_path) as first:
        child = int(first.wait_for_line(r"measuring job=job_1 child=(\d+)")[1])
        scratch = Path(f"/proc/{child}/cwd").readlink()
        first.signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
    wait_until_gone(child)
    os.utime(scratch, (0, 0))  # an agent that is started at once would take it for one that is just made
    (tmp_path / "hang").unlink()
    server.expire(job)
    with agent(server, tmp_path) as second:
        server.wait_for(lambda: job.reports, "a report")
        second.signal(signal.SIGTERM)
        assert second.wait() == ExitCode.OK
    assert [report["fence"] for report in job.reports] == [2]
    assert server.names().count("complete") == 1
    assert server.names().count("register") == 1
    assert not scratch.exists()


def test_killed_after_spooling_the_result_is_sent_and_not_measured_again(
    server: FakeServer, tmp_path: Path
) -> None:
    job = server.add_job()
    server.always["complete"] = Answer.problem(503, "busy")
    with agent(server, tmp_path) as first:
        server.wait_for(lambda: "complete" in server.names(), "a try to deliver")
        first.signal(signal.SIGKILL)
        first.wait()
    server.stop()  # and the server is restarted in between
    del server.always["complete"]
    server.start()
    with agent(server, tmp_path) as second:
        server.wait_for(lambda: job.reports, "the report")
        second.signal(signal.SIGTERM)
        assert second.wait() == ExitCode.OK
        assert not any("measuring" in line for line in second.log)
    assert server.names().count("start") == 1
    assert [report["fence"] for report in job.reports] == [1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_an_idle_agent_out_of_its_lease_request(
    server: FakeServer, tmp_path: Path, number: signal.Signals
) -> None:
    server.cadence = server.cadence.model_copy(update={"lease_wait_s": 60.0})
    server.ends_polls_of_draining_agents = False
    with agent(server, tmp_path) as process:
        server.wait_for(lambda: "lease" in server.names(), "a lease request")
        process.signal(number)
        assert process.wait() == ExitCode.OK
        assert process.wait_for_line(r"INFO stopped")
    assert server.bodies("heartbeat")[-1]["state"] == "stopped"


def test_a_second_signal_cancels_the_work_and_gives_it_back(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    job = server.add_job()
    with agent(server, tmp_path) as process:
        child = int(process.wait_for_line(r"measuring job=job_1 child=(\d+)")[1])
        process.signal(signal.SIGTERM)
        server.wait_for(lambda: server.is_draining, "the news of draining")
        assert job.reports == []
        process.signal(signal.SIGTERM)
        assert process.wait() == ExitCode.OK
    assert (job.reports[0]["code"], job.reports[0]["detail"]) == ("agent_lost", "agent stopped")
    wait_until_gone(child)


def test_the_echo_of_a_signal_does_not_cancel_the_work(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    job = server.add_job(lease_s=3.0)
    with agent(server, tmp_path, echo_s=3600.0) as process:
        process.wait_for_line(r"measuring job=job_1")
        process.signal(signal.SIGTERM)
        server.wait_for(lambda: server.is_draining, "the news of draining")
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGINT)
        with server.changed:  # the job is still in work: it ends because its owner wants it no more
            job.is_cancel_requested = True
        assert process.wait() == ExitCode.OK
    assert job.reports[0]["code"] == "cancelled"


def test_the_command_refuses_a_bad_registration_token(server: FakeServer, tmp_path: Path) -> None:
    arguments = ("--state-dir", str(tmp_path), "--engines", "fake", "--server", server.url)
    with command("run", *arguments, "--registration-token", "lt_reg_wrong") as process:
        assert process.wait() == ExitCode.REFUSED
        assert "does not take this registration token" in process.log[-1]
        assert not any("lt_reg_wrong" in line for line in process.log)


def test_the_command_stops_when_its_agent_was_removed(server: FakeServer, tmp_path: Path) -> None:
    with agent(server, tmp_path) as process:
        server.wait_for(lambda: "lease" in server.names(), "a lease request")
        process.signal(signal.SIGTERM)
        process.wait()
    server.agent_tokens.clear()
    with command("run", "--state-dir", str(tmp_path / "state"), "--engines", "fake") as process:
        assert process.wait() == ExitCode.REFUSED
        assert re.search(r"was removed; register it again with laptime-agent run", process.log[-1])


def test_the_command_names_the_agent_that_is_in_its_way(server: FakeServer, tmp_path: Path) -> None:
    arguments = ("--state-dir", str(tmp_path), "--engines", "fake", "--server", server.url)
    with only_daemon(tmp_path), command("run", *arguments) as process:
        assert process.wait() == ExitCode.STATE
        assert f"process {os.getpid()}" in process.log[-1]
