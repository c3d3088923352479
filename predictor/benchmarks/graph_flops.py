"""Baseline: logarithms of latency on a line in those of multiply-accumulates and of bytes.

Every source target has a line of its own. Their mean and spread are the prior of a new target's line,
which its measurements then update in closed form; the constant is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from predictor.benchmarks.graph_arrays import ArrayCache
from predictor.benchmarks.graph_method import (
    AdaptedGraphs,
    Floats,
    GraphData,
    GraphMethod,
    GraphPredictions,
    LearnedGraphs,
    Support,
)
from predictor.benchmarks.metrics import COVERAGE
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph

_FREE = 100.0  # variance of the constant
_SMALLEST = 0.02**2  # variance between targets of a slope, however few they are
_MEGA = 1e6


def make(key: str, *, seed: int, cache: ArrayCache) -> GraphMethod:  # noqa: ARG001
    """The method by its key in the registry."""
    return FlopsLines(key, cache)


@dataclass(frozen=True, slots=True)
class FlopsLines:
    """A row of the table."""

    name: str
    cache: ArrayCache

    def learn(self, sources: GraphData) -> LearnedGraphs:
        """A line for each source target, over its whole models."""
        rows = np.flatnonzero(~sources.is_sweep)
        x = _sizes(self.cache, [sources.graphs[row] for row in rows])
        lines, variances = [], []
        for latency_ms in sources.latency_ms[rows].T:
            known = np.isfinite(latency_ms)
            y = np.log(latency_ms[known])
            line = np.linalg.lstsq(x[known], y, rcond=None)[0]
            lines.append(line)
            variances.append(np.mean((y - x[known] @ line) ** 2))
        spread = np.var(lines, axis=0) + _SMALLEST
        spread[0] = _FREE
        return _Learned(self.cache, np.mean(lines, axis=0), spread, float(np.mean(variances)))


@dataclass(frozen=True, slots=True, eq=False)
class _Learned:
    """Prior `mean` (3,) and `variance` (3,) of a line, and of what it does not explain."""

    cache: ArrayCache
    mean: Floats
    variance: Floats
    noise: float

    def adapt(self, target: TargetFacts, support: Support) -> AdaptedGraphs:  # noqa: ARG002
        """The posterior of the target's line."""
        x = _sizes(self.cache, [graph for graph, _ in support])
        y = np.log([latency_ms for _, latency_ms in support])
        precision: Floats = np.diag(1.0 / self.variance) + x.T @ x / self.noise
        covariance: Floats = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        line: Floats = covariance @ (self.mean / self.variance + x.T @ y / self.noise)
        return _Adapted(self.cache, line, covariance, self.noise, len(support))


@dataclass(frozen=True, slots=True, eq=False)
class _Adapted:
    cache: ArrayCache
    line: Floats
    covariance: Floats
    noise: float
    samples: int

    def predict(self, graphs: Sequence[ModelGraph]) -> GraphPredictions:
        """Medians with 90 % intervals."""
        x = _sizes(self.cache, graphs)
        centre = x @ self.line
        deviation = np.sqrt(self.noise + np.einsum("np,pq,nq->n", x, self.covariance, x))
        half = float(student.ppf(0.5 * (1.0 + COVERAGE), df=self.samples)) * deviation
        return GraphPredictions(np.exp(centre), np.exp(centre - half), np.exp(centre + half))


def _sizes(cache: ArrayCache, graphs: Sequence[ModelGraph]) -> Floats:
    """(N, 3): one, and logarithms of mega-MACs and megabytes with a floor."""
    arrays = [cache.of(graph) for graph in graphs]
    macs = np.array([one.macs for one in arrays]) / _MEGA
    moved = np.array([one.bytes_moved for one in arrays]) / _MEGA
    return np.stack([np.ones(len(arrays)), np.log(macs + 1e-2), np.log(moved + 1e-2)], axis=1)
