"""One target adapted on whole graphs: the few-shot head on ratios to what the sources would take.

What the sources would take together depends on which of them the target should resemble. Where that is in
doubt, the head is solved once for each expectation, and their predictions are averaged by how probable each
expectation makes the measurements (Bayesian model averaging, Hoeting et al. 1999, doi:10.1214/ss/1009212519).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot import head
from predictor.few_shot.regressors import Regressors, covariance, posterior_of, prior_variance
from predictor.few_shot.whole_graphs import Expectation, relative_graphs

Floats = NDArray[np.float64]

MOST_DEVIATION = 1.0  # of a log-latency: sources that disagree by more say that nothing is known
# Evidence counts half: what a reference model says is no independent draw of what models take, and the best
# of a dozen expectations after ten measurements is not as sure as their likelihoods say.
_EVIDENCE = 0.5
# What the cost network misses by on families that it never saw, whatever was measured: what the sources took
# for the reference models is known, so a target that is just like one of them shows nothing of it.
NETWORK_SD = 0.1
_LEAST_ODDS = 0.01  # of an expectation that is worth a prediction of its own


@dataclass(frozen=True, slots=True)
class GraphEstimates:
    """Of N graphs: `median_ms` (N,), and `deviation` (N,), the standard deviation of the log-latency."""

    median_ms: Floats
    deviation: Floats


@dataclass(frozen=True, slots=True)
class _Expected:
    """What n measurements say where one expectation holds."""

    expectation: Expectation
    support: Regressors
    posterior: head.Posterior
    log_odds: float

    @classmethod
    def of(
        cls, expectation: Expectation, total_ms: Floats, class_ms: Floats, latency_ms: Floats
    ) -> _Expected:
        relative = relative_graphs(total_ms, class_ms, expectation)
        posterior = posterior_of(relative.regressors, latency_ms / relative.scale_ms, expectation.head)
        log_evidence = posterior.log_evidence - float(np.log(relative.scale_ms).sum())
        return cls(expectation, relative.regressors, posterior, log_evidence + expectation.log_prior)

    def estimate(self, total_ms: Floats, class_ms: Floats) -> GraphEstimates:
        relative = relative_graphs(total_ms, class_ms, self.expectation)
        cross = covariance(relative.regressors, self.support, self.expectation.head)
        ratio = self.posterior.median_ms(cross)
        own = prior_variance(relative.regressors, self.expectation.head)
        deviation = self.posterior.deviation_ms(cross, own) / ratio
        return GraphEstimates(ratio * relative.scale_ms, np.minimum(deviation, MOST_DEVIATION))


@dataclass(frozen=True, slots=True)
class AdaptedGraphs:
    """A target that is known by the latencies of n graphs. `odds` (H,) of its expectations, together one.
    Immutable.
    """

    expected: tuple[_Expected, ...]
    odds: Floats

    @classmethod
    def of(
        cls,
        total_ms: Floats,
        class_ms: Floats,
        latency_ms: Floats,
        *,
        expectations: Sequence[Expectation],
    ) -> AdaptedGraphs:
        """From S sources' milliseconds of n graphs, (n, S) and by class (n, S, C), and the target's own (n,).
        At least one expectation.
        """
        expected = [_Expected.of(one, total_ms, class_ms, latency_ms) for one in expectations]
        odds = _odds(expected)
        kept = np.flatnonzero(odds >= min(_LEAST_ODDS, float(odds.max())))
        return cls(tuple(expected[index] for index in kept), odds[kept] / odds[kept].sum())

    def estimate(self, total_ms: Floats, class_ms: Floats) -> GraphEstimates:
        """Of N graphs, from the same sources' milliseconds (N, S) and (N, S, C)."""
        said = [one.estimate(total_ms, class_ms) for one in self.expected]
        logs = np.log(np.stack([one.median_ms for one in said]))  # (H, N)
        mean = self.odds @ logs
        variance = self.odds @ (np.stack([one.deviation for one in said]) ** 2 + (logs - mean) ** 2)
        deviation = np.sqrt(variance + NETWORK_SD**2)
        return GraphEstimates(np.exp(mean), np.minimum(deviation, MOST_DEVIATION))


def _odds(expected: Sequence[_Expected]) -> Floats:
    """(H,), together one."""
    logs = _EVIDENCE * np.array([one.log_odds for one in expected])
    odds = np.exp(logs - logs.max())
    together: Floats = odds / odds.sum()
    return together
