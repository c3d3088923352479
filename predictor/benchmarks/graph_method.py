"""The seam of whole-graph latency prediction: learn from source targets, see ten models measured on a new
one, predict other models.

What a method may know reaches it through `GraphData`, whose latencies of the left-out target and of the
left-out families are not there, through the support, and through a `SweepMeter`, which charges the device
time of every single-operator model that it hands out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from devices.measurement import LayerProfile
from predictor.benchmarks.errors import BenchmarkRejected, BudgetExceeded, NotGranted
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

REFERENCE = "reference"  # the family of the models that a new target measures
PUBLISHED = "published"  # the family of real models, which nothing is ever learned from
Support = Sequence[tuple[ModelGraph, float]]  # graphs with their milliseconds


def device_of(target_key: str) -> str:
    """The machine that a target's key begins with."""
    return target_key.partition("/")[0]


@dataclass(frozen=True, slots=True, eq=False)
class GraphData:
    """G models on T targets. `names`, `families`, `precisions` (G,) of strings, `is_sweep` (G,);
    `latency_ms` (G, T), NaN where not measured or not granted. `profiles`: of the layers, by name of the
    model and key of the target, where a runtime told them. `again`: for each whole model that was measured
    more than once on a target, log(second / first).
    """

    names: NDArray[np.str_]
    families: NDArray[np.str_]
    precisions: NDArray[np.str_]
    is_sweep: Flags
    graphs: tuple[ModelGraph, ...]
    targets: tuple[TargetFacts, ...]
    latency_ms: Floats
    profiles: Mapping[tuple[str, str], LayerProfile] = field(default_factory=dict)
    again: Floats = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.graphs)

    @property
    def is_reference(self) -> Flags:
        """(G,): models of the reference set."""
        return np.asarray(self.families == REFERENCE)

    @property
    def is_whole(self) -> Flags:
        """(G,): neither single operators nor reference models."""
        return ~self.is_sweep & ~self.is_reference

    def rows(self, chosen: Indices | Flags) -> GraphData:
        """The same with some of the models."""
        indices = np.arange(len(self))[chosen]
        names = set(self.names[indices].tolist())
        return replace(
            self,
            names=self.names[indices],
            families=self.families[indices],
            precisions=self.precisions[indices],
            is_sweep=self.is_sweep[indices],
            graphs=tuple(self.graphs[index] for index in indices),
            latency_ms=self.latency_ms[indices],
            profiles={place: told for place, told in self.profiles.items() if place[0] in names},
        )

    def columns(self, chosen: Indices | Flags) -> GraphData:
        """The same with some of the targets."""
        indices = np.arange(len(self.targets))[chosen]
        targets = tuple(self.targets[index] for index in indices)
        keys = {target.key for target in targets}
        profiles = {place: told for place, told in self.profiles.items() if place[1] in keys}
        return replace(self, targets=targets, latency_ms=self.latency_ms[:, indices], profiles=profiles)


@dataclass(frozen=True, slots=True)
class GraphPredictions:
    """Of Q graphs: `median_ms` (Q,), a 90 % interval and `extrapolates` (Q,) where the method has them."""

    median_ms: Floats
    lower_ms: Floats | None = None
    upper_ms: Floats | None = None
    extrapolates: Flags | None = None

    def check(self, count: int) -> None:
        """Raises `BenchmarkRejected` unless these are `count` latencies."""
        for name, values in (("median", self.median_ms), ("lower", self.lower_ms), ("upper", self.upper_ms)):
            if values is None:
                continue
            if values.shape != (count,) or not np.all(np.isfinite(values) & (values > 0)):
                raise BenchmarkRejected(
                    f"{name}_ms of shape {values.shape} are not {count} positive latencies"
                )
        if (self.lower_ms is None) != (self.upper_ms is None):
            raise BenchmarkRejected("an interval has two ends")
        if self.extrapolates is not None and self.extrapolates.shape != (count,):
            raise BenchmarkRejected(f"{self.extrapolates.shape} flags of extrapolation are not {count}")


class AdaptedGraphs(Protocol):
    """A method that knows its target."""

    def predict(self, graphs: Sequence[ModelGraph]) -> GraphPredictions:
        """Latencies of graphs on the target; a pure function."""
        ...


class LearnedGraphs(Protocol):
    """A method that knows its source targets."""

    def adapt(self, target: TargetFacts, support: Support) -> AdaptedGraphs:
        """Adapt to a target from its measurements of the reference set."""
        ...


class GraphMethod(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str:
        """Its key."""
        ...

    def learn(self, sources: GraphData) -> LearnedGraphs:
        """Learn from source targets. Deterministic: seeds are part of the method's configuration."""
        ...


class SweepMeter:
    """Single-operator models of the target, and the reference set at places `whole`, measured one by one
    until the budget of device time is spent.

    A measurement costs as much device time as its latency: all models run equally often. One more may begin
    while anything is left, as on a device, where nobody knows beforehand how long it takes.
    """

    def __init__(
        self,
        graphs: Sequence[ModelGraph],
        measure_ms: Callable[[int], float],
        *,
        budget_ms: float,
        whole: Sequence[int] = (),
    ) -> None:
        self.graphs = tuple(graphs)
        self.whole = tuple(whole)
        self.budget_ms = budget_ms
        self._measure_ms = measure_ms
        self._known: dict[int, float] = {}

    @property
    def spent_ms(self) -> float:
        """Device time so far."""
        return sum(self._known.values())

    @property
    def known(self) -> Mapping[int, float]:
        """Milliseconds of what was measured so far, by index into `graphs`."""
        return dict(self._known)

    def measure(self, index: int) -> float:
        """Milliseconds. Raises `BudgetExceeded` when nothing is left, and `NotGranted` for a model that the
        target does not run.
        """
        if index in self._known:
            return self._known[index]
        if self.spent_ms >= self.budget_ms:
            raise BudgetExceeded(
                f"{self.spent_ms:.3f} ms of device time are spent, the budget is {self.budget_ms:.3f} ms"
            )
        latency_ms = self._measure_ms(index)
        if not np.isfinite(latency_ms):
            raise NotGranted(f"model {index} has no valid measurement on this target; choose another")
        self._known[index] = latency_ms
        return latency_ms


@runtime_checkable
class LearnedFromSweeps(Protocol):
    """A method that spends the reference set's device time on single operators instead."""

    def adapt_to_sweeps(self, target: TargetFacts, meter: SweepMeter) -> AdaptedGraphs:
        """Spend the budget and adapt."""
        ...
