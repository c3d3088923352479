"""Predict latencies of graphs on the target that a checkpoint was adapted to, with intervals and a word on
extrapolation.

An interval holds what is not known: the target's factors after few measurements (a mix of kernels that was
hardly measured widens it by itself), the noise that the model cannot explain, and kinds of kernels and
sizes that the target never ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.adapt import regressors
from predictor.checkpoint import Checkpoint
from predictor.errors import PredictorError
from predictor.features import Described, describe
from predictor.graph import ModelGraph
from predictor.regression import moments, quantiles

_UNSEEN_KIND_SD = 0.5  # of the log factor of a kind of kernel that was never measured here, within its class
_UNSEEN_SIZE_SD = 0.15  # per factor e outside of the measured latencies
_REPORTED_SHARE = 0.1  # of the estimated time: below, an unseen kind is not worth a word
_REPORTED_FACTOR = 2.0  # outside of the measured latencies
_REPORTED_SD = 0.35  # of the log latency, from not knowing the target


@dataclass(frozen=True, slots=True)
class Prediction:
    """Milliseconds; `lower_ms <= median_ms <= upper_ms`, all positive. `reasons` say why it
    extrapolates, if it does.
    """

    median_ms: float
    lower_ms: float
    upper_ms: float
    coverage: float
    extrapolates: bool
    reasons: tuple[str, ...]


class Predictor:
    """Answers for one target. Immutable and safe to share between threads."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._target = checkpoint.provenance.target
        self._seen = frozenset(checkpoint.provenance.seen_kinds)

    def predict(self, graph: ModelGraph, coverage: float = 0.9) -> Prediction:
        """The latency of one graph; `coverage` is the probability that the interval should hold it,
        within (0, 1).
        """
        return self.predict_many((graph,), coverage)[0]

    def predict_many(self, graphs: Sequence[ModelGraph], coverage: float = 0.9) -> tuple[Prediction, ...]:
        """The latency of each graph, in their order."""
        return self.predict_described([self.describe(graph) for graph in graphs], coverage)

    def describe(self, graph: ModelGraph) -> Described:
        """The graph's features on this target, for `predict_described`: worth keeping where a graph is
        asked for again.
        """
        return describe(graph, self._target.runtime, self._target.hardware)

    def predict_described(
        self, described: Sequence[Described], coverage: float = 0.9
    ) -> tuple[Prediction, ...]:
        """`predict_many` of graphs that are described already. Raises `PredictorError` for a coverage
        outside of (0, 1).
        """
        if not 0.0 < coverage < 1.0:
            raise PredictorError(f"coverage must lie between 0 and 1, got {coverage}")
        if not described:
            return ()
        x, z = regressors(np.stack([one.values for one in described]))
        posterior = self.checkpoint.posterior
        means, variances = moments(posterior, x, z)  # (N, K)
        centre = means @ posterior.weights  # (N,)
        unseen = [self._unseen(one) for one in described]
        beyond = self._beyond(centre)
        foreign = np.asarray([sum(share**2 for share in kinds.values()) for kinds in unseen])
        extra = _UNSEEN_KIND_SD**2 * foreign + (_UNSEEN_SIZE_SD * beyond) ** 2  # (N,)
        deviations = np.sqrt(variances + posterior.noise**2 + extra[:, None])
        tail = 0.5 * (1.0 - coverage)
        levels = np.asarray([tail, 0.5, 1.0 - tail])
        bounds = np.exp(quantiles(posterior.weights, means, deviations, levels))  # (N, 3)
        unknown = np.sqrt(variances @ posterior.weights)
        return tuple(
            _prediction(
                bounds[i], coverage, self._reasons(unseen[i], float(np.exp(centre[i])), float(unknown[i]))
            )
            for i in range(len(described))
        )

    def _unseen(self, described: Described) -> dict[str, float]:
        return {kind: share for kind, share in described.shares.items() if kind not in self._seen}

    def _beyond(self, centre: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far outside of the measured latencies, in logarithms; 0 inside."""
        provenance = self.checkpoint.provenance
        above = centre - np.log(provenance.longest_ms)
        outside: NDArray[np.float64] = np.maximum(above, np.log(provenance.shortest_ms) - centre)
        return np.maximum(outside, 0.0)

    def _reasons(self, unseen: dict[str, float], median_ms: float, unknown: float) -> tuple[str, ...]:
        provenance = self.checkpoint.provenance
        reasons = [
            f"operator {kind} was never measured on this target ({share:.0%} of the estimated time)"
            for kind, share in sorted(unseen.items(), key=lambda item: (-item[1], item[0]))
            if share >= _REPORTED_SHARE
        ]
        shortest, longest = provenance.shortest_ms, provenance.longest_ms
        if median_ms > longest * _REPORTED_FACTOR or median_ms < shortest / _REPORTED_FACTOR:
            measured = f"{shortest:.3g} to {longest:.3g} ms"
            reasons.append(f"{median_ms:.3g} ms is outside of what was measured here ({measured})")
        if unknown > _REPORTED_SD:
            factor = f"uncertain by a factor {np.exp(unknown):.2f}"
            reasons.append(f"no measured model spends its time like this one ({factor})")
        return tuple(reasons)


def _prediction(bounds: NDArray[np.float64], coverage: float, reasons: tuple[str, ...]) -> Prediction:
    lower, median, upper = (float(bound) for bound in bounds)
    return Prediction(
        median_ms=median,
        lower_ms=min(lower, median),
        upper_ms=max(upper, median),
        coverage=coverage,
        extrapolates=bool(reasons),
        reasons=reasons,
    )
