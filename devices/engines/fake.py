"""An engine without hardware: a scripted clock on which every run takes a scripted time. No real time passes.

The latency of a model is a function of its bytes alone, so tests of everything above know the right answer.
Models whose bytes begin with `fake:` misbehave on request (`MISBEHAVIOURS`), for tests of the box. Never
offered unless an agent's settings name it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from devices.engine import DEFAULT_ONLY, Tensors
from devices.engines.offers import require_offered
from devices.errors import ModelRejected
from devices.measurement import LayerProfile, LayerTime
from devices.model_ref import InputSpec
from devices.target import Runtime

VERSION = "1.0"
BASE_NS = 50_000
NS_PER_BYTE = 2
COLD_FACTOR = 3.0  # of the first run
RIPPLE = (1.0, 1.01, 0.99, 1.02, 1.0, 0.98)  # of later runs, in turn: median 1
LOAD_NS_PER_BYTE = 10

Script = Callable[
    [int, int], tuple[int, int]
]  # (number of the run, now in ns) -> (wall ns, processor ns) of that run

# What a model can say to misbehave in its first run: sleep for ever, abort, allocate without end;
# `fake:reject` fails to load.
MISBEHAVIOURS = ("fake:hang", "fake:crash", "fake:eat", "fake:reject")
EATEN_BYTES = 1 << 30
MAX_EATEN = 1 << 16


class ScriptedClock:
    """Time that passes only when told to."""

    name = "scripted"

    def __init__(self) -> None:
        self.now_ns = 0
        self.used_cpu_ns = 0

    def wall_ns(self) -> int:
        """Scripted wall time."""
        return self.now_ns

    def cpu_ns(self) -> int:
        """Scripted processor time."""
        return self.used_cpu_ns

    def sleep_s(self, duration_s: float) -> None:
        """Advances the clock at once."""
        self.now_ns += round(duration_s * 1e9)

    def advance(self, wall_ns: int, cpu_ns: int = 0) -> None:
        """Let time pass, with so much processor time in it."""
        self.now_ns += wall_ns
        self.used_cpu_ns += cpu_ns


def fake_latency_ns(model: bytes) -> int:
    """What a warm run of these bytes takes: 50 us and 2 ns per byte."""
    return BASE_NS + NS_PER_BYTE * len(model)


def fake_script(model: bytes) -> Script:
    """The default script: a cold first run, then the ripple, all of it processor time."""
    warm_ns = fake_latency_ns(model)

    def script(run: int, now_ns: int) -> tuple[int, int]:
        del now_ns
        duration_ns = round(warm_ns * (COLD_FACTOR if run == 0 else RIPPLE[(run - 1) % len(RIPPLE)]))
        return duration_ns, duration_ns

    return script


class FakeSession:
    """Takes any bytes for a model whose inputs are the float32 tensors that it was given shapes for."""

    notes: Sequence[str] = ()

    def __init__(
        self, model: bytes, input_shapes: Mapping[str, Sequence[int]], clock: ScriptedClock, script: Script
    ) -> None:
        self.inputs = [
            InputSpec(name=name, dtype="float32", shape=tuple(shape)) for name, shape in input_shapes.items()
        ]
        self._model, self._clock, self._script = model, clock, script
        self._runs = 0

    def run(self, tensors: Tensors) -> Tensors:
        """Advances the clock by the next scripted time; the output is the sum of all inputs."""
        _misbehave(self._model)
        wall_ns, cpu_ns = self._script(self._runs, self._clock.now_ns)
        self._runs += 1
        self._clock.advance(wall_ns, cpu_ns)
        total = sum(float(np.sum(np.asarray(tensor, dtype=np.float64))) for tensor in tensors.values())
        return {"output": np.array([total], dtype=np.float32)}


class FakeEngine:
    """Satisfies `devices.engine.Engine`. `script_of` makes the script of a model."""

    name = "fake"

    def __init__(self, script_of: Callable[[bytes], Script] = fake_script) -> None:
        self.clock = ScriptedClock()
        self._script_of = script_of

    def runtimes(
        self, thread_counts: Sequence[int], optimizations: Sequence[str] = DEFAULT_ONLY
    ) -> Sequence[Runtime]:
        """One per thread count; the latency does not depend on it."""
        return [
            Runtime(engine=self.name, version=VERSION, provider="cpu", threads=count)
            for count in thread_counts
            if "default" in optimizations
        ]

    def load(self, model: bytes, runtime: Runtime, input_shapes: Mapping[str, Sequence[int]]) -> FakeSession:
        """Never parses. Raises `ModelRejected` for no bytes at all, and for `fake:reject`;
        `EngineUnavailable` for anything but what it offers.
        """
        require_offered(runtime, library="the fake engine")
        if not model or model.startswith(b"fake:reject"):
            raise ModelRejected(
                "the fake engine takes any bytes but none, and not those that say fake:reject"
            )
        self.clock.advance(LOAD_NS_PER_BYTE * len(model))
        return FakeSession(model, input_shapes, self.clock, self._script_of(model))

    def profile_layers(
        self, model: bytes, runtime: Runtime, tensors: Tensors, runs: int
    ) -> LayerProfile | None:
        """Two layers, of a quarter and a half of the latency."""
        del runtime, tensors, runs
        total_ns = fake_latency_ns(model)
        shares = {"first": total_ns // 4, "second": total_ns // 2}
        layers = tuple(
            LayerTime(name=name, kind="Fake", provider="cpu", median_ns=share)
            for name, share in shares.items()
        )
        return LayerProfile(layers=layers, coverage=sum(shares.values()) / total_ns)


def _misbehave(model: bytes) -> None:
    if not model.startswith(b"fake:"):
        return
    if model.startswith(b"fake:hang"):
        while True:
            time.sleep(1)
    if model.startswith(b"fake:crash"):
        os.abort()
    if model.startswith(b"fake:eat"):
        held = []
        for _ in range(MAX_EATEN):
            held.append(np.empty(EATEN_BYTES, np.uint8))  # never touched: address space, not memory
