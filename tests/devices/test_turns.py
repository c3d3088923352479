"""Turns on a device: many prepare at once, one times alone, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from devices.turns import alone, among_others


def entered(block: threading.Thread, flag: threading.Event, *, within_s: float) -> bool:
    if block.ident is None:  # it may have been through already
        block.start()
    return flag.wait(within_s)


def holder(context: object, flag: threading.Event) -> threading.Thread:
    def hold() -> None:
        with context:  # type: ignore[attr-defined]
            flag.set()

    return threading.Thread(target=hold, daemon=True)


def test_nobody_is_on_the_device_with_whoever_is_alone(tmp_path: Path) -> None:
    file = str(tmp_path / "turns")
    for other in (alone(file), among_others(file)):
        flag = threading.Event()
        waiting = holder(other, flag)
        with alone(file):
            assert not entered(waiting, flag, within_s=0.1)
        assert entered(waiting, flag, within_s=5)
        waiting.join()


def test_others_prepare_together(tmp_path: Path) -> None:
    file = str(tmp_path / "turns")
    flag = threading.Event()
    with among_others(file):
        assert entered(holder(among_others(file), flag), flag, within_s=5)


def test_whoever_waits_to_be_alone_goes_before_newcomers(tmp_path: Path) -> None:
    file = str(tmp_path / "turns")
    first, second = threading.Event(), threading.Event()
    waiting, newcomer = holder(alone(file), first), holder(among_others(file), second)
    with among_others(file):
        assert not entered(waiting, first, within_s=0.1)
        assert not entered(newcomer, second, within_s=0.1)
    assert entered(newcomer, second, within_s=5)
    assert first.is_set()
    waiting.join()


@pytest.mark.parametrize("turn", [alone, among_others])
def test_without_a_device_nobody_waits(turn: object) -> None:
    started = time.monotonic()
    with turn(""), turn(""):  # type: ignore[operator]
        pass
    assert time.monotonic() - started < 1
