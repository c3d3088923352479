"""The one seam for runtimes. An engine knows how to run ONNX bytes; it knows nothing of protocols, statistics
or servers.

A new engine implements these two Protocols, is added to the dict in `devices.engines.registry`, and inherits
the contract tests in `tests/contracts/engine_contract.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from devices.measurement import LayerProfile
from devices.model_ref import InputSpec
from devices.target import Runtime

Tensors = Mapping[str, NDArray[np.generic]]
DEFAULT_ONLY = ("default",)


class Clock(Protocol):
    """What runs are timed by. The real one is in `devices.clock`; a scripted engine brings its own."""

    name: str

    def wall_ns(self) -> int:
        """Monotonic time."""
        ...

    def cpu_ns(self) -> int:
        """Processor time of this process, all threads."""
        ...

    def sleep_s(self, duration_s: float) -> None:
        """Let time pass."""
        ...


class Session(Protocol):
    """A loaded model. `run` returns when the outputs are there: a session on an accelerator waits for it."""

    @property
    def inputs(self) -> Sequence[InputSpec]:
        """What the model declares, dynamic axes included."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Findings for the user: what makes this model slower here than it need be."""
        ...

    def run(self, tensors: Tensors) -> Tensors:
        """Run once; the outputs by name. Raises `WorkFailed`."""
        ...


class Engine(Protocol):
    """A runtime library on this machine."""

    name: str
    clock: Clock

    def runtimes(
        self, thread_counts: Sequence[int], optimizations: Sequence[str] = DEFAULT_ONLY
    ) -> Sequence[Runtime]:
        """What this machine offers through this engine, of the named optimisations (`devices.target`) those
        that the engine has; empty where the library is not installed.
        """
        ...

    def load(self, model: bytes, runtime: Runtime, input_shapes: Mapping[str, Sequence[int]]) -> Session:
        """A session for the given bytes. Raises `ModelRejected`, `EngineUnavailable` or `WorkFailed`.

        `input_shapes` may be partial or empty: a runtime that compiles for fixed sizes uses what is there.
        """
        ...

    def profile_layers(
        self, model: bytes, runtime: Runtime, tensors: Tensors, runs: int
    ) -> LayerProfile | None:
        """Median time of each executed node over `runs` profiled runs; None where the runtime cannot tell."""
        ...
