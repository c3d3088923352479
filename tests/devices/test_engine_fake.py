"""The fake engine keeps the contract, and its latency can be worked out by hand."""

from __future__ import annotations

import pytest

from devices.engine import Engine
from devices.engines.fake import FakeEngine, ScriptedClock, fake_latency_ns
from tests.contracts.engine_contract import EngineContract


class TestFakeEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return FakeEngine()

    @pytest.fixture
    def model(self) -> bytes:
        return b"m" * 1000

    @pytest.fixture
    def broken_model(self) -> bytes:
        return b"fake:reject"


def test_latency_is_a_function_of_the_bytes_alone() -> None:
    engine = FakeEngine()
    model = b"m" * 25_000
    session = engine.load(model, engine.runtimes([1])[0], {})
    times = []
    for _ in range(7):
        before = engine.clock.wall_ns()
        session.run({})
        times.append(engine.clock.wall_ns() - before)
    assert fake_latency_ns(model) == 100_000
    assert times == [300_000, 100_000, 101_000, 99_000, 102_000, 100_000, 98_000]


def test_the_scripted_clock_only_moves_when_told() -> None:
    clock = ScriptedClock()
    clock.sleep_s(1.5)
    clock.advance(10, 4)
    assert (clock.wall_ns(), clock.cpu_ns()) == (1_500_000_010, 4)
