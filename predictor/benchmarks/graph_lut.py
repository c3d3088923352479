"""Baseline: tables of kernel latencies, as nn-Meter makes them; a graph takes the sum of its kernels.

Source: Zhang et al., "nn-Meter: Towards Accurate Latency Prediction of Deep-Learning Model Inference on
Diverse Edge Devices", MobiSys 2021, DOI 10.1145/3458864.3467882: kernels are measured alone, where they
matter most, and interpolated by size. That takes thousands of measurements on every device. Here a target
has the device time of ten models: it goes to the kernels on which the sources' models spend their time, to
sizes that lie far apart. What is not measured is the source targets' mean, times a factor by kind of
kernel. A share of the time goes to the smallest reference models: sums of kernels are too long or too
short by a factor of the target's own.

Entries are ratios to a nominal time (`predictor.kernel_costs.nominal`), which interpolate better than
milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from predictor.benchmarks.errors import NotGranted
from predictor.benchmarks.graph_arrays import ArrayCache
from predictor.benchmarks.graph_lut_entries import Entry, KernelRatios, call_ms_of, entry_of, priced
from predictor.benchmarks.graph_method import (
    AdaptedGraphs,
    Floats,
    GraphData,
    GraphMethod,
    GraphPredictions,
    LearnedGraphs,
    Support,
    SweepMeter,
)
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph

_FAR = 3.0  # distance of a size from a table that is empty
_OVERHEAD_SHARE = 1.0 / 300.0  # of the budget: no measurement is free
_WHOLE_SHARE = 0.3  # of the budget, for whole models
_SHRINKAGE = 1.0  # measurements that the factor of all kinds weighs as much as, in that of one kind


def make(key: str, *, seed: int, cache: ArrayCache) -> GraphMethod:  # noqa: ARG001
    """The method by its key in the registry."""
    return KernelTables(key, cache)


@dataclass(frozen=True, slots=True)
class KernelTables:
    """A row of the table."""

    name: str
    cache: ArrayCache

    def learn(self, sources: GraphData) -> LearnedGraphs:
        """The sources' log ratios of each sweep, and which models say where time goes."""
        sweeps = sources.rows(sources.is_sweep)
        logs: dict[str, list[float]] = {graph.digest: [] for graph in sweeps.graphs}
        for target, latency_ms in zip(sweeps.targets, sweeps.latency_ms.T, strict=True):
            call_ms = call_ms_of(latency_ms[np.isfinite(latency_ms)])
            for graph, measured_ms in zip(sweeps.graphs, latency_ms, strict=True):
                if np.isfinite(measured_ms):
                    entry = entry_of(self.cache.of(graph), target)
                    logs[graph.digest].append(entry.log_ratio(measured_ms, call_ms))
        means = {digest: float(np.mean(values)) for digest, values in logs.items() if values}
        return _Learned(self.cache, means, sources.rows(sources.is_whole).graphs)


@dataclass(frozen=True, slots=True, eq=False)
class _Learned:
    """`logs`: mean log ratio of each sweep over the sources, by digest."""

    cache: ArrayCache
    logs: dict[str, float]
    whole: tuple[ModelGraph, ...]

    def adapt(self, target: TargetFacts, support: Support) -> AdaptedGraphs:
        """Nobody asks for this: it is `adapt_to_sweeps` that spends the device time."""
        raise NotGranted(f"kernel tables of {target.key} need single operators, not {len(support)} models")

    def adapt_to_sweeps(self, target: TargetFacts, meter: SweepMeter) -> AdaptedGraphs:
        """Measure what matters, and fill the rest of the table."""
        entries = [entry_of(self.cache.of(graph), target) for graph in meter.graphs]
        known = np.array([self.logs.get(graph.digest, 0.0) for graph in meter.graphs])
        _spend(meter, entries, known, weights=self._weights(target))
        measured = meter.known
        call_ms = call_ms_of(np.array(list(measured.values())))
        rows = sorted(measured)
        found = np.array([entries[row].log_ratio(measured[row], call_ms) for row in rows])
        filled = _filled(entries, known, rows, found)
        sweeps = np.setdiff1d(np.arange(len(entries)), meter.whole)
        ratios = KernelRatios.of([entries[row] for row in sweeps], filled[sweeps])
        tables = _Adapted(self.cache, target, ratios, call_ms, scale=1.0)
        return replace(tables, scale=_scale(tables, meter))

    def _weights(self, target: TargetFacts) -> dict[str, float]:
        """Mean share of the nominal time by kind of kernel, over the sources' models."""
        weights: dict[str, float] = {}
        for graph in self.whole:
            table, nominal_ms = priced(self.cache.of(graph), target)
            for name, share in zip(table.names, nominal_ms / nominal_ms.sum(), strict=True):
                weights[name] = weights.get(name, 0.0) + float(share) / len(self.whole)
        return weights


@dataclass(frozen=True, slots=True, eq=False)
class _Adapted:
    cache: ArrayCache
    target: TargetFacts
    ratios: KernelRatios
    call_ms: float
    scale: float

    def predict(self, graphs: Sequence[ModelGraph]) -> GraphPredictions:
        """Sums of kernels; tables have no intervals."""
        return GraphPredictions(np.array([self._total_ms(graph) for graph in graphs]))

    def _total_ms(self, graph: ModelGraph) -> float:
        table, nominal_ms = priced(self.cache.of(graph), self.target)
        logs = self.ratios.at(table)
        own_ms = float((nominal_ms * np.exp(logs))[:-1].sum())  # the call is the last row
        return self.scale * own_ms + self.call_ms


def _spend(meter: SweepMeter, entries: Sequence[Entry], known: Floats, *, weights: dict[str, float]) -> None:
    """Greedily, what covers the most time per millisecond of measuring: by kind, by how far its size lies
    from what the table has.
    """
    weight = np.array([weights.get(entry.kind, 0.0) for entry in entries])
    price_ms = np.array([entry.nominal_ms for entry in entries]) * np.exp(known)
    price_ms = price_ms + _OVERHEAD_SHARE * meter.budget_ms
    kinds = np.array([entry.kind for entry in entries])
    sizes = np.stack([entry.size for entry in entries])
    distance = np.full(len(entries), _FAR)
    is_open = np.ones(len(entries), dtype=np.bool_)
    is_open[list(meter.whole)] = False
    budget_ms = (1.0 - _WHOLE_SHARE) * meter.budget_ms if meter.whole else meter.budget_ms
    while meter.spent_ms < budget_ms:
        is_open &= price_ms <= max(budget_ms - meter.spent_ms, float(price_ms.min()))
        if not is_open.any():
            break
        gain = np.where(is_open, (weight + 1e-4) * distance / price_ms, -1.0)
        best = int(np.argmax(gain))
        is_open[best] = False
        meter.measure(best)
        same = kinds == kinds[best]
        away = np.linalg.norm(sizes - sizes[best], axis=1)
        distance = np.where(same, np.minimum(distance, away), distance)


def _scale(tables: _Adapted, meter: SweepMeter) -> float:
    """Of whole models over their sums: the median factor of the smallest ones that the rest of the budget
    pays for.
    """
    sums = tables.predict([meter.graphs[index] for index in meter.whole]).median_ms
    logs = [0.0]  # before anything is measured
    for place in np.argsort(sums):
        if meter.spent_ms + sums[place] > meter.budget_ms:
            break
        logs.append(float(np.log(meter.measure(meter.whole[place]) / sums[place])))
    return float(np.exp(np.median(logs)))


def _filled(entries: Sequence[Entry], known: Floats, rows: Sequence[int], found: Floats) -> Floats:
    """Log ratios of all entries: what was measured, else the sources' with a factor by kind."""
    if not rows:
        return known
    off = found - known[rows]
    overall = float(off.mean())
    by_kind: dict[str, list[float]] = {}
    for row, value in zip(rows, off, strict=True):
        by_kind.setdefault(entries[row].kind, []).append(float(value))
    factors = {
        kind: (sum(values) + _SHRINKAGE * overall) / (len(values) + _SHRINKAGE)
        for kind, values in by_kind.items()
    }
    filled: Floats = known + np.array([factors.get(entry.kind, overall) for entry in entries])
    filled[rows] = found
    return filled
