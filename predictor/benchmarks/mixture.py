"""Baseline: a mixture of source devices.

Every source device gets a linear model of its latency in the operations (in pairs of them too, where it has
measured more architectures than there are pairs), which also takes the noise out of its measurements. The
target's log-latency is a ridge regression on the logarithms of what these models say: a weighted geometric
mean of devices, times a constant. Where little is measured the devices share the weight; more measurements
may single out the nearest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from predictor.benchmarks.linear import SHORTEST_SHARE, fit_ridge
from predictor.benchmarks.method import Method, Source, Trained
from predictor.benchmarks.operations import operations_of, pairs_of
from predictor.benchmarks.ridge import TrainedLogLinear


class MixtureMethod:
    """Learns one linear model per source device."""

    def train(self, source: Source) -> Trained:
        """Models of the source devices, applied to all architectures."""
        rows = source.measured
        operations = operations_of(source.architectures)
        pairs = pairs_of(operations[rows])
        if operations.shape[1] + pairs.count <= len(rows):
            operations = np.concatenate([operations, pairs(operations)], axis=1)
        latency = source.latency_ms[rows]  # (S, D)
        scale = latency.mean(axis=0)
        said = fit_ridge(operations[rows], latency / scale)(operations)  # (N, D)
        shortest = SHORTEST_SHARE * latency.min(axis=0) / scale
        return TrainedLogLinear(np.log(np.maximum(said, shortest)))


def make(key: str, work: Path) -> Method:  # noqa: ARG001
    """The method by its key in the registry."""
    return MixtureMethod()
