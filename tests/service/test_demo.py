"""`laptime demo` with the scripted engine: told twice, interrupted, and hit by what can go wrong. Nothing
may be left running.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import update

from service.db import tables
from service.db.session import Database
from service.demo import story
from service.demo.errors import AlreadyRunning, ChildDied, PortTaken
from service.demo.processes import STOP_SIGNALS
from service.demo.supervisor import DemoOptions, run
from service.settings import Settings
from service.terminal import Terminal
from tests.journeys.stage import free_port

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def _small_and_scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(story, "TRIALS", 3)
    monkeypatch.setattr(story, "VERIFIED", 2)
    monkeypatch.setenv("LAPTIME_AGENT_ENGINES", "fake")
    monkeypatch.setenv("LAPTIME_AGENT_THREAD_COUNTS", "1")
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = set(processes_below_us())
    yield
    for number, handler in former.items():
        signal.signal(number, handler)
    assert set(processes_below_us()) <= before, "the demo left a process running"


def processes_below_us() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests: what the first run did, later runs reuse."""
    return tmp_path_factory.mktemp("demo")


def options(data_dir: Path, *, port: int | None = None, is_once: bool = True) -> DemoOptions:
    return DemoOptions(
        data_dir=data_dir,
        host="127.0.0.1",
        port=port or free_port(),
        model=None,
        input_shapes={},
        is_once=is_once,
    )


def test_a_second_telling_reuses_what_the_first_did(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(options(data_dir), Terminal(as_json=True))
    first = capsys.readouterr()
    run(options(data_dir), Terminal(as_json=True))
    second = capsys.readouterr()
    told, told_again = json.loads(first.out), json.loads(second.out)
    assert told["measurement"]["is_valid"]
    assert told["prediction"]["source"] == "prediction"
    assert told["front"]["verified"]
    assert told["front"]["summary"]["measured"] >= 1
    assert "Reused" not in first.err
    assert second.err.count("Reused") == 4
    assert told_again["measurement"] == told["measurement"]
    assert told_again["front"] == told["front"]
    for text in (first.err, second.err):
        assert "Verified front" in text
        assert "/docs" in text


def test_a_target_that_failed_is_onboarded_again(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(options(data_dir), Terminal(as_json=True))
    capsys.readouterr()
    database = Database(Settings(data_dir=data_dir).effective_database_url, pool_size=1)
    with database.write() as session:
        failed = {"state": "failed", "state_reason": "too noisy", "live_predictor_id": None}
        session.execute(update(tables.Target).values(failed))
    database.dispose()
    run(options(data_dir), Terminal(as_json=True))
    told = capsys.readouterr()
    assert "again. Before: too noisy" in told.err
    assert [target["state"] for target in json.loads(told.out)["targets"]] == ["ready"]


def when(is_so: Callable[[psutil.Process], bool], act: Callable[[psutil.Process], None]) -> threading.Thread:
    """Do something to the first process below this one that is so."""

    def watch() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for process in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if is_so(process):
                        act(process)
                        return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def is_running(module: str) -> Callable[[psutil.Process], bool]:
    return lambda process: module in process.cmdline()


@pytest.mark.parametrize(
    ("module", "name"), [("service.cli", "server"), ("service.worker", "worker"), ("devices.agent", "agent")]
)
def test_a_killed_child_ends_the_demo_and_is_named(data_dir: Path, module: str, name: str) -> None:
    killer = when(is_running(module), lambda process: process.kill())
    with pytest.raises(ChildDied, match=f"the {name} was killed by signal 9") as caught:
        run(options(data_dir, is_once=False), Terminal(as_json=True))
    killer.join()
    assert f"logs/{name}.log" in str(caught.value)


def test_ctrl_c_before_the_end_stops_everything(data_dir: Path) -> None:
    interrupter = when(is_running("devices.agent"), lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(options(data_dir, is_once=False), Terminal(as_json=True))
    interrupter.join()


def test_ctrl_c_after_the_end_is_how_to_leave(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tell_and_be_interrupted(*_: object) -> None:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()

    monkeypatch.setattr(story.Story, "tell", tell_and_be_interrupted)
    run(options(data_dir, is_once=False), Terminal(as_json=True))


def test_a_taken_port_is_named_with_the_way_to_choose_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} .*--port .*LAPTIME_PORT"):
            run(options(tmp_path, port=port), Terminal(as_json=True))
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", "demo", "--port", str(port), "--data-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"laptime: port {port} on 127.0.0.1 is taken")
    assert "Traceback" not in done.stderr


def test_one_folder_has_one_demo(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    program = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w');"
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    )
    lock = str(tmp_path / "demo.lock")
    holder = subprocess.Popen([sys.executable, "-c", program, lock], stdout=subprocess.PIPE)
    with holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(AlreadyRunning, match="--data-dir"):
                run(chosen, Terminal(as_json=True))
        finally:
            holder.kill()
