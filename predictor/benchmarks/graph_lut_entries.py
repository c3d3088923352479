"""Entries of kernel tables: a single-operator model as the kernel that it is there for, and interpolation
by size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictor.benchmarks.graph_arrays import GraphArrays
from predictor.benchmarks.graph_method import Floats
from predictor.checkpoint import TargetFacts
from predictor.kernel_costs.nominal import nominal_times
from predictor.kernel_costs.table import Amount, KernelTable, view_of
from predictor.roofline import machine_of

# Of log ratios over logarithms of sizes, a Gaussian process: standard deviations of a kind's offset, of
# its slopes, of bumps and their length, and of what neither explains.
_OFFSET, _SLOPE, _BUMP, _LENGTH, _NOISE = 0.5, 0.03, 0.5, 4.0, 0.3
_REACH = 2.0  # no kernel is further off its class than this
_CALL_SHARE = 0.9  # of the shortest latency: the rest is its kernel
_LEAST_SHARE = 0.2  # of a latency that its kernel takes, whatever the call takes
_SIZES = (
    Amount.MACS, Amount.BYTES_READ, Amount.BYTES_WRITTEN, Amount.WEIGHT_BYTES, Amount.ROWS, Amount.INNER,
    Amount.COLUMNS, Amount.WINDOW, Amount.STRIDE,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """`kind` of the kernel that takes most of a model's time, its `size` (S,), and the nominal
    milliseconds of all of the model's kernels.
    """

    kind: str
    kernel_class: int
    size: Floats
    nominal_ms: float

    def log_ratio(self, latency_ms: float, call_ms: float) -> float:
        """Of the measured to the nominal time, without the call around it."""
        own_ms = max(latency_ms - call_ms, _LEAST_SHARE * latency_ms)
        return float(np.log(own_ms / self.nominal_ms))


def call_ms_of(latency_ms: Floats) -> float:
    """What a call takes, from the shortest latencies of single operators; 0 where there are none."""
    return _CALL_SHARE * float(latency_ms.min()) if len(latency_ms) else 0.0


def priced(arrays: GraphArrays, target: TargetFacts) -> tuple[KernelTable, Floats]:
    """The kernels that a target runs, and their nominal milliseconds (K,)."""
    table = arrays.tables[view_of(target.runtime)]
    return table, nominal_times(table, machine_of(target.runtime, target.hardware)).total


def entry_of(arrays: GraphArrays, target: TargetFacts) -> Entry:
    """A single-operator model as an entry of a target's table."""
    table, nominal_ms = priced(arrays, target)
    own_ms = nominal_ms[:-1]  # without the call
    if not len(own_ms):
        return Entry("", 0, np.zeros(len(_SIZES)), 1e-6)
    top = int(np.argmax(own_ms))
    return Entry(
        kind=table.names[top],
        kernel_class=int(table.classes[top]),
        size=sizes_of(table)[top],
        nominal_ms=max(float(own_ms.sum()), 1e-6),
    )


def sizes_of(table: KernelTable) -> Floats:
    """Logarithms of sizes (K, S)."""
    sizes: Floats = np.log1p(table.amounts[:, list(_SIZES)])
    return sizes


@dataclass(frozen=True, slots=True, eq=False)
class _Surface:
    """Log ratios of one kind over its sizes. `sizes` (E, S) around `centre` (S,), `weights` (E,)."""

    constant: float
    centre: Floats
    sizes: Floats
    weights: Floats

    @classmethod
    def of(cls, sizes: Floats, logs: Floats, constant: float) -> _Surface:
        """Through entries (E, S) with log ratios (E,), towards `constant` far from all of them."""
        centre = sizes.mean(axis=0)
        near = sizes - centre
        weights: Floats = np.asarray(
            np.linalg.solve(_kernel(near, near) + _NOISE**2 * np.eye(len(near)), logs - constant)
        )
        return cls(constant, centre, near, weights)

    def __call__(self, sizes: Floats) -> Floats:
        """(K,) at sizes (K, S)."""
        said: Floats = self.constant + _kernel(sizes - self.centre, self.sizes) @ self.weights
        return np.clip(said, self.constant - _REACH, self.constant + _REACH)


def _kernel(first: Floats, second: Floats) -> Floats:
    """Covariances (N, M): an offset of the kind, slopes, and bumps."""
    squares: Floats = ((first[:, None] - second[None]) ** 2).sum(axis=-1)
    return _OFFSET**2 + _SLOPE**2 * first @ second.T + _BUMP**2 * np.exp(-0.5 * squares / _LENGTH**2)


@dataclass(frozen=True, slots=True, eq=False)
class KernelRatios:
    """Log ratios between which is interpolated: by kind, else by class of kernels, else their median."""

    by_kind: dict[str, _Surface]
    by_class: dict[int, float]
    median: float

    @classmethod
    def of(cls, entries: Sequence[Entry], logs: Floats) -> KernelRatios:
        """A table of entries with their log ratios (E,); of none, as nominal."""
        rows: dict[str, list[int]] = {}
        classes: dict[int, list[float]] = {}
        for row, entry in enumerate(entries):
            rows.setdefault(entry.kind, []).append(row)
            classes.setdefault(entry.kernel_class, []).append(float(logs[row]))
        by_class = {one: float(np.median(values)) for one, values in classes.items()}
        by_kind = {
            kind: _Surface.of(
                np.stack([entries[row].size for row in chosen]),
                logs[chosen],
                by_class[entries[chosen[0]].kernel_class],
            )
            for kind, chosen in rows.items()
        }
        return cls(by_kind, by_class, float(np.median(logs)) if len(logs) else 0.0)

    def at(self, table: KernelTable) -> Floats:
        """Log ratios of kernels (K,)."""
        found = np.array([self.by_class.get(int(one), self.median) for one in table.classes])
        sizes = sizes_of(table)
        names = np.array(table.names)
        for kind in set(table.names) & self.by_kind.keys():
            chosen = np.flatnonzero(names == kind)
            found[chosen] = self.by_kind[kind](sizes[chosen])
        return found
