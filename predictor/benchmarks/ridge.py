"""Baseline: a linear model of the target's own log-latency in its operations, and nothing else.

Regressors: which operation stands in which place, and how often each stands anywhere. The latter say that an
operation costs alike wherever it stands, which a handful of samples cannot find out place by place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from predictor.benchmarks.linear import Ridge, fit_ridge, half_width
from predictor.benchmarks.method import Adapted, Floats, Indices, Meter, Method, Predicted, Source, Trained
from predictor.benchmarks.operations import counts_of, operations_of

_COUNT_WEIGHT = np.sqrt(3.0)  # a count may matter this much more than a place before the ridge holds it back


@dataclass(frozen=True, slots=True, eq=False)
class LogLinear:
    """A fitted linear model of log-latency on rows of `x` (N, P), with a normal interval."""

    x: Floats
    model: Ridge

    def predict(self, indices: Indices) -> Predicted:
        """Latencies in milliseconds with 90 % intervals."""
        centre = self.model(self.x[indices])[:, 0]
        half = half_width(self.model.residuals[:, 0])
        return Predicted(np.exp(centre), np.exp(centre - half), np.exp(centre + half))


@dataclass(frozen=True, slots=True, eq=False)
class TrainedLogLinear:
    """Regressors of all architectures (N, P), which a target's own measurements weigh."""

    x: Floats

    def adapt(self, meter: Meter) -> Adapted:
        """Measure what the meter draws, and fit."""
        rows = meter.draw(meter.budget)
        return LogLinear(self.x, fit_ridge(self.x[rows], np.log(meter.measure(rows))[:, None]))


class RidgeMethod:
    """Learns nothing from source devices."""

    def train(self, source: Source) -> Trained:
        """Regressors of the space's architectures."""
        operations = operations_of(source.architectures)
        counts = counts_of(source.architectures, operations)
        return TrainedLogLinear(np.concatenate([operations, _COUNT_WEIGHT * counts], axis=1))


def make(key: str, work: Path) -> Method:  # noqa: ARG001
    """The method by its key in the registry."""
    return RidgeMethod()
