"""How wide intervals must be, learned on the source devices: each is adapted to as if it were new.

A posterior that knows its own error exactly would need 1.64 standard deviations on each side for 90 %. What
the source devices needed, when the others predicted them, is used instead: a split-conformal factor, with
devices in the place of samples (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot.config import FewShotConfig
from predictor.few_shot.regressors import Regressors, covariance, posterior_of, prior_variance

Floats = NDArray[np.float64]

COVERAGE = 0.9
_NORMAL = 1.6449  # standard deviations on each side of a normal's 90 %
_COUNTS = (10, 20)  # measurements
_REPEATS = 3
_SCORED = 300
_LEAST_DEVICES = 3
_LEAST_ROWS = 40
_BOUNDS = (1.0, 4.0)  # of the factor: few source devices are a weak witness


@dataclass(frozen=True, slots=True)
class Calibration:
    """Standard deviations on each side of the median, by the number of measurements."""

    counts: tuple[int, ...] = (10,)
    factors: tuple[float, ...] = (_NORMAL,)

    def factor(self, count: int) -> float:
        """For this many measurements, between those that were tried."""
        return float(np.interp(count, self.counts, self.factors))


def calibrate(regressors: Regressors, latency_ms: Floats, config: FewShotConfig) -> Calibration:
    """From source architectures and their latencies (S, D), NaN where not measured."""
    rng = np.random.default_rng(0)
    devices = latency_ms.shape[1]
    usable = [device for device in range(devices) if np.isfinite(latency_ms[:, device]).sum() >= _LEAST_ROWS]
    if devices < _LEAST_DEVICES or not usable:
        return Calibration()
    factors = []
    for count in _COUNTS:
        misses = [
            _misses(regressors.without_source(device), latency_ms[:, device], count, config, rng)
            for device in usable
            for _ in range(_REPEATS)
        ]
        factors.append(float(np.clip(np.quantile(np.concatenate(misses), COVERAGE), *_BOUNDS)))
    return Calibration(_COUNTS, tuple(factors))


def _misses(
    regressors: Regressors, latency_ms: Floats, count: int, config: FewShotConfig, rng: np.random.Generator
) -> Floats:
    """Errors of one device's predictions in their own standard deviations."""
    order = rng.permutation(np.flatnonzero(np.isfinite(latency_ms)))
    chosen, rest = order[:count], order[count : count + _SCORED]
    support, others = regressors.take(chosen), regressors.take(rest)
    posterior = posterior_of(support, latency_ms[chosen], config)
    cross = covariance(others, support, config)
    deviation = posterior.deviation_ms(cross, prior_variance(others, config))
    misses: Floats = np.abs(posterior.median_ms(cross) - latency_ms[rest]) / deviation
    return misses
