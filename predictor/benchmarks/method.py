"""The seam of few-shot latency prediction: learn from source devices, measure a few architectures on a new
one, predict the rest.

Everything a method may know reaches it through `Source` and `Meter`. Latencies that a protocol does not
grant are NaN in `Source.latency_ms`, and a `Meter` hands out a latency only against its budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from predictor.benchmarks.architectures import Architectures
from predictor.benchmarks.errors import BudgetExceeded, NotGranted

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Selection = Literal["random", "active"]

_NONE: Indices = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Source:
    """What may be learned from before the target is known.

    `latency_ms` (N, D): of the source devices, NaN at architectures outside of the source budget.
    `validation_ms` (N, V): of devices that may choose among checkpoints; V may be 0; they know the query too.
    `reference`: the space's ten published reference architectures, inside the source budget.
    """

    architectures: Architectures
    devices: tuple[str, ...]
    latency_ms: Floats
    validation_devices: tuple[str, ...]
    validation_ms: Floats
    reference: Indices
    query: Indices  # what validation devices are scored on, and targets too

    @property
    def measured(self) -> Indices:
        """Architectures (S,) that every source device has measured."""
        return np.flatnonzero(np.isfinite(self.latency_ms).all(axis=1))


class Meter:
    """The target as a method sees it: it measures one architecture at a time, `budget` times at most.

    An architecture measured twice is paid for once. `pool`: what `draw` draws from and, if selection is
    active, what may be measured; if it is random, only what `draw(budget)` gives may be. `reference` may
    always be measured, at the same price. `first`: what `draw` gives before anything else, for a target of
    which something is known already.
    """

    def __init__(
        self,
        measure_ms: Callable[[int], float],
        *,
        pool: Indices,
        budget: int,
        selection: Selection,
        rng: np.random.Generator,
        reference: Indices = _NONE,
        first: Indices = _NONE,
    ) -> None:
        self.pool = pool
        self.budget = budget
        self.selection = selection
        self.rng = rng
        self._measure_ms = measure_ms
        order = rng.permutation(pool)
        self._order = np.concatenate([first, order[~np.isin(order, first)]])
        granted = self._order[:budget] if selection == "random" else self._order
        self._granted = frozenset(granted.tolist()) | frozenset(reference.tolist())
        self._known: dict[int, float] = {}

    @property
    def spent(self) -> int:
        """Measurements taken so far."""
        return len(self._known)

    @property
    def measured(self) -> Indices:
        """What was measured so far, ascending (`spent`,)."""
        return np.asarray(sorted(self._known), dtype=np.int64)

    def measure(self, indices: Sequence[int] | Indices) -> Floats:
        """Latencies in milliseconds, (n,). Raises `BudgetExceeded` rather than take one too many, and
        `NotGranted` for an architecture that the protocol does not offer.
        """
        fresh = {int(index) for index in indices} - self._known.keys()
        if self.spent + len(fresh) > self.budget:
            raise BudgetExceeded(
                f"{self.spent + len(fresh)} measurements are asked for, the budget is {self.budget}"
            )
        if not fresh <= self._granted:
            raise NotGranted(
                f"architectures {sorted(fresh - self._granted)[:5]} may not be measured with "
                f"{self.selection} selection; take them from draw() or from the references"
            )
        for index in sorted(fresh):
            self._known[index] = self._measure_ms(index)
        return np.asarray([self._known[int(index)] for index in indices], dtype=np.float64)

    def draw(self, count: int) -> Indices:
        """The first `count` architectures of the pool in this seed's random order: alike for every method."""
        return self._order[:count]


@dataclass(frozen=True, slots=True)
class Predicted:
    """Of Q architectures: `median_ms` (Q,), and a 90 % interval where the method has one.

    `score` (Q,) ranks them; it is `median_ms` unless the method ranks by something else.
    """

    median_ms: Floats
    lower_ms: Floats | None = None
    upper_ms: Floats | None = None
    score: Floats | None = None


class Adapted(Protocol):
    """A method that knows its target."""

    def predict(self, indices: Indices) -> Predicted:
        """Latencies of architectures on the target; a pure function."""
        ...


class Trained(Protocol):
    """A method that knows its source devices."""

    def adapt(self, meter: Meter) -> Adapted:
        """Spend the budget and adapt. Randomness comes from `meter.rng` and `meter.draw`."""
        ...


class Method(Protocol):
    """One row of the table."""

    def train(self, source: Source) -> Trained:
        """Learn from the source devices. Deterministic: seeds are part of the method's configuration."""
        ...
