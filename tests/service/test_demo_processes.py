"""The demo's children: watched while they live, and gone when the supervisor leaves, however it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from service.demo import processes
from service.demo.errors import ChildDied
from service.demo.processes import Household

SLEEP = ["-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(60)",
]


def environment() -> dict[str, str]:
    return dict(os.environ)


def await_line(log: Path, text: str, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not (log.exists() and text in log.read_text()):
        assert time.monotonic() < end, f"{log} never said {text!r}"
        time.sleep(0.02)


def await_gone(pid: int, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, f"process {pid} still runs"
        time.sleep(0.02)


def test_leaving_stops_every_child(tmp_path: Path) -> None:
    with Household(tmp_path) as household:
        children = [household.start(name, SLEEP, environment()) for name in ("one", "two")]
        for child in children:
            await_line(child.log, "up")
        household.check()
    assert [child.process.returncode for child in children] == [-signal.SIGTERM, -signal.SIGTERM]


def test_a_child_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE_S", 0.2)
    with Household(tmp_path) as household:
        child = household.start("stubborn", STUBBORN, environment())
        await_line(child.log, "up")
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_that_ends_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Household(tmp_path) as household:
        household.start("steady", SLEEP, environment())
        household.start(
            "broken", ["-c", "print('first'); print('the cause'); raise SystemExit(3)"], environment()
        )
        with pytest.raises(
            ChildDied, match=r"the broken ended with exit code 3(.|\n)*\| the cause"
        ) as caught:
            household.wait(20.0)
    assert str(tmp_path / "broken.log") in str(caught.value)


def test_a_killed_child_is_told_from_one_that_ended(tmp_path: Path) -> None:
    with Household(tmp_path) as household:
        child = household.start("victim", SLEEP, environment())
        await_line(child.log, "up")
        os.kill(child.process.pid, signal.SIGKILL)
        with pytest.raises(ChildDied, match="the victim was killed by signal 9"):
            household.wait_until(lambda: False, timeout_s=20.0)


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, sys, time
from pathlib import Path
from service.demo.processes import Household
with Household(Path({str(tmp_path)!r})) as household:
    child = household.start("child", {SLEEP!r}, dict(os.environ))
    while "up" not in child.log.read_text():
        time.sleep(0.02)
    print(child.process.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        supervisor.kill()
    await_gone(pid)


def test_ctrl_c_while_waiting_leaves_through_the_context(tmp_path: Path) -> None:
    former = {number: signal.getsignal(number) for number in processes.STOP_SIGNALS}
    try:
        processes.interrupt_on_stop_signals()
        with Household(tmp_path) as household:
            child = household.start("child", SLEEP, environment())
            await_line(child.log, "up")
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            with pytest.raises(KeyboardInterrupt):
                household.wait(20.0)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    assert not child.is_alive
