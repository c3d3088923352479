"""One target adapted on whole graphs: the few-shot head on ratios to what the sources would take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot import head
from predictor.few_shot.regressors import Regressors, covariance, posterior_of, prior_variance
from predictor.few_shot.whole_graphs import WholeGraphConfig, relative_graphs

Floats = NDArray[np.float64]

MOST_DEVIATION = 1.0  # of a log-latency: sources that disagree by more say that nothing is known


@dataclass(frozen=True, slots=True)
class GraphEstimates:
    """Of N graphs: `median_ms` (N,), and `deviation` (N,), the standard deviation of the log-latency."""

    median_ms: Floats
    deviation: Floats


@dataclass(frozen=True, slots=True)
class AdaptedGraphs:
    """A target that is known by the latencies of n graphs. Immutable."""

    config: WholeGraphConfig
    weights: Floats
    support: Regressors
    posterior: head.Posterior

    @classmethod
    def of(
        cls,
        total_ms: Floats,
        class_ms: Floats,
        latency_ms: Floats,
        *,
        weights: Floats,
        config: WholeGraphConfig,
    ) -> AdaptedGraphs:
        """From S sources' milliseconds of n graphs, (n, S) and by class (n, S, C), and the target's own (n,).
        `weights` (S,): how much each source should resemble the target, together one.
        """
        relative = relative_graphs(total_ms, class_ms, weights, config)
        ratios = latency_ms / relative.scale_ms
        posterior = posterior_of(relative.regressors, ratios, config.head)
        return cls(config, weights, relative.regressors, posterior)

    def estimate(self, total_ms: Floats, class_ms: Floats) -> GraphEstimates:
        """Of N graphs, from the same sources' milliseconds (N, S) and (N, S, C)."""
        relative = relative_graphs(total_ms, class_ms, self.weights, self.config)
        cross = covariance(relative.regressors, self.support, self.config.head)
        ratio = self.posterior.median_ms(cross)
        own = prior_variance(relative.regressors, self.config.head)
        deviation = self.posterior.deviation_ms(cross, own) / ratio
        return GraphEstimates(ratio * relative.scale_ms, np.minimum(deviation, MOST_DEVIATION))
