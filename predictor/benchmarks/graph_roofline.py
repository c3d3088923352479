"""Baseline: a roofline whose kernels are off by one factor per class, fitted by Bayesian regression.

Nominal times of kernels on a textbook machine (`predictor.roofline`), summed by class; a target multiplies
each class by a factor of its own (`predictor.benchmarks.graph_regression`). What source targets' factors have
in common is the prior.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictor.benchmarks.graph_arrays import ArrayCache, class_times
from predictor.benchmarks.graph_method import (
    AdaptedGraphs,
    Floats,
    GraphData,
    GraphMethod,
    GraphPredictions,
    LearnedGraphs,
    Support,
)
from predictor.benchmarks.graph_regression import (
    Data,
    Gaussian,
    Posterior,
    common_prior,
    fit,
    moments,
    quantiles,
)
from predictor.benchmarks.metrics import COVERAGE
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph
from predictor.kernel_costs.nominal import nominal_times
from predictor.kernel_costs.table import CLASSES, Amount, view_of
from predictor.roofline import machine_of

_CORRECTIONS = 2
_CENTRE_MS = 5.0
# Standard deviations of logarithms that are allowed before anything was measured: of all classes together,
# of each class, of each correction; of what all targets share, and of what is a target's own.
_SHARED = (0.3, 0.35, 0.04)
_OWN = (0.5, 0.4, 0.03)
_UNSEEN_KIND_SD = 0.5  # of the log factor of a kind of kernel that was never measured on the target
_UNSEEN_SIZE_SD = 0.15  # per factor e outside of the measured latencies
_TOLD_SHARE = 0.1  # of the nominal time
_TOLD_FACTOR = 2.0  # outside of the measured latencies
_TOLD_SD = 0.35  # of the log latency, from not knowing the target


def make(key: str, *, seed: int, cache: ArrayCache) -> GraphMethod:  # noqa: ARG001
    """The method by its key in the registry."""
    return FittedRoofline(key, cache)


@dataclass(frozen=True, slots=True)
class FittedRoofline:
    """A row of the table."""

    name: str
    cache: ArrayCache

    def learn(self, sources: GraphData) -> LearnedGraphs:
        """The prior that the source targets' whole models leave."""
        whole = sources.rows(~sources.is_sweep)
        groups = []
        for target, latency_ms in zip(whole.targets, whole.latency_ms.T, strict=True):
            known = np.flatnonzero(np.isfinite(latency_ms))
            x, z = _regressors(self.cache, [whole.graphs[row] for row in known], target)
            groups.append(Data(x=x, z=z, y=np.log(latency_ms[known]), variance=np.zeros(len(known))))
        shared = Gaussian(np.zeros(len(CLASSES) + _CORRECTIONS), _covariance(_SHARED))
        return _Learned(self.cache, common_prior(groups, shared, _covariance(_OWN)))


@dataclass(frozen=True, slots=True, eq=False)
class _Learned:
    cache: ArrayCache
    prior: Gaussian

    def adapt(self, target: TargetFacts, support: Support) -> AdaptedGraphs:
        """The posterior of the target's factors."""
        graphs = [graph for graph, _ in support]
        latency_ms = np.array([measured for _, measured in support])
        x, z = _regressors(self.cache, graphs, target)
        posterior = fit(Data(x=x, z=z, y=np.log(latency_ms), variance=np.zeros(len(x))), self.prior)
        seen = frozenset(kind for graph in graphs for kind in _shares(self.cache, graph, target))
        return _Adapted(
            self.cache, target, posterior, seen, (float(latency_ms.min()), float(latency_ms.max()))
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Adapted:
    """`seen`: kinds of kernels among the target's measurements; `measured_ms`: the shortest and the
    longest.
    """

    cache: ArrayCache
    target: TargetFacts
    posterior: Posterior
    seen: frozenset[str]
    measured_ms: tuple[float, float]

    def predict(self, graphs: Sequence[ModelGraph]) -> GraphPredictions:
        """Medians with 90 % intervals, wider where kinds or sizes were never measured."""
        posterior = self.posterior
        means, variances = moments(posterior, *_regressors(self.cache, graphs, self.target))  # (N, K)
        centre = means @ posterior.weights
        shortest, longest = np.log(self.measured_ms)
        beyond = np.maximum(np.maximum(centre - longest, shortest - centre), 0.0)
        unseen = [self._unseen(graph) for graph in graphs]  # shares of kinds
        foreign = np.array([sum(share**2 for share in shares) for shares in unseen])
        extra = _UNSEEN_KIND_SD**2 * foreign + (_UNSEEN_SIZE_SD * beyond) ** 2
        deviations = np.sqrt(variances + posterior.noise**2 + extra[:, None])
        tail = 0.5 * (1.0 - COVERAGE)
        levels = np.array([tail, 0.5, 1.0 - tail])
        lower, median, upper = np.exp(quantiles(posterior.weights, means, deviations, levels)).T
        is_told = np.array([max(shares, default=0.0) >= _TOLD_SHARE for shares in unseen])
        is_told |= beyond > math.log(_TOLD_FACTOR)
        is_told |= np.sqrt(variances @ posterior.weights) > _TOLD_SD
        return GraphPredictions(median, np.minimum(lower, median), np.maximum(upper, median), is_told)

    def _unseen(self, graph: ModelGraph) -> list[float]:
        shares = _shares(self.cache, graph, self.target)
        return [share for kind, share in shares.items() if kind not in self.seen]


def _covariance(deviations: tuple[float, float, float]) -> Floats:
    """(P, P): classes first, then corrections."""
    common, each, correction = deviations
    classes = len(CLASSES)
    covariance = np.diag([each**2] * classes + [correction**2] * _CORRECTIONS)
    covariance[:classes, :classes] += common**2
    return covariance


def _regressors(
    cache: ArrayCache, graphs: Sequence[ModelGraph], target: TargetFacts
) -> tuple[Floats, Floats]:
    """Nominal milliseconds by class (N, C); size and pressure on the cache (N, 2), centred."""
    arrays = [cache.of(graph) for graph in graphs]
    x = np.stack([class_times(one, target.runtime, target.hardware) for one in arrays])
    cache_bytes = machine_of(target.runtime, target.hardware).cache_bytes
    used = np.zeros(len(arrays))
    for index, one in enumerate(arrays):
        amounts = one.tables[view_of(target.runtime)].amounts
        moved = amounts[:, Amount.BYTES_READ] + amounts[:, Amount.BYTES_WRITTEN]
        widest = (moved / np.maximum(amounts[:, Amount.LAUNCHES], 1.0)).max()
        used[index] = amounts[:, Amount.WEIGHT_BYTES].sum() + widest
    size = np.log(x.sum(axis=1) / _CENTRE_MS)
    return x, np.stack([size, np.log1p(used / cache_bytes) - math.log(2.0)], axis=1)


def _shares(cache: ArrayCache, graph: ModelGraph, target: TargetFacts) -> dict[str, float]:
    """Of the nominal time, by kind of kernel."""
    table = cache.of(graph).tables[view_of(target.runtime)]
    times = nominal_times(table, machine_of(target.runtime, target.hardware))
    total = max(float(times.total.sum()), 1e-9)
    shares: dict[str, float] = {}
    for name, own in zip(table.names, times.own, strict=True):
        if own > 0:
            shares[name] = shares.get(name, 0.0) + float(own) / total
    return shares
