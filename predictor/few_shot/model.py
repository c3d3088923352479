"""The few-shot predictor: learned from source devices, adapted to a new one by about ten measurements.

A new device is a mixture of the source devices plus counted work that none of them pays for: the prior
covariance of its latencies is linear in what the source devices would measure and in the tallies of the
graphs, with a small smooth part over both. Adapting is a closed form (`predictor.few_shot.head`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot import head
from predictor.few_shot.basis import check_tallies
from predictor.few_shot.calibration import Calibration, calibrate
from predictor.few_shot.config import FewShotConfig
from predictor.few_shot.regressors import Regressors, covariance, posterior_of, prior_variance
from predictor.few_shot.scaling import Counted, Scaling
from predictor.few_shot.selection import select
from predictor.few_shot.surrogate import Inputs, Surrogate, fit_surrogates

Floats = NDArray[np.float64]
_BLOCK = 8192
FEWEST_MEASUREMENTS = 2
_LEAST_LOWER = 0.02  # of the median: a latency is positive


@dataclass(frozen=True, slots=True)
class Predicted:
    """Of N architectures, in milliseconds: `lower_ms <= median_ms <= upper_ms`, a 90 % interval."""

    median_ms: Floats
    lower_ms: Floats
    upper_ms: Floats


class FewShot:
    """Source devices and what they have in common. Immutable; `fit` makes one."""

    def __init__(
        self,
        *,
        config: FewShotConfig,
        scaling: Scaling,
        surrogates: Sequence[Surrogate],
        log_means: Floats,
        calibration: Calibration,
    ) -> None:
        self._config = config
        self._scaling = scaling
        self._surrogates = tuple(surrogates)
        self._log_means = log_means
        self._calibration = calibration

    @classmethod
    def fit(cls, counted: Counted, latency_ms: Floats, config: FewShotConfig | None = None) -> FewShot:
        """Learn from D source devices: `latency_ms` (S, D), NaN where a device has not measured.

        Raises `ValueError` for tallies of another shape, and for a device with fewer than two measurements.
        Deterministic.
        """
        config = config or FewShotConfig()
        check_tallies(counted.tallies)
        measured = np.isfinite(latency_ms).sum(axis=0)
        if not len(measured) or measured.min() < FEWEST_MEASUREMENTS:
            raise ValueError(
                f"every source device needs {FEWEST_MEASUREMENTS} measurements or more, they have {measured}"
            )
        scaling = Scaling.fit(counted, config)
        inputs = scaling.inputs(counted)
        surrogates = _surrogates(inputs, latency_ms)
        said = _said(surrogates, inputs)  # (S, D)
        log_means = np.log(np.exp(said).mean(axis=0))
        described = scaling.regressors(inputs, said - log_means)
        return cls(
            config=config,
            scaling=scaling,
            surrogates=surrogates,
            log_means=log_means,
            calibration=calibrate(described, latency_ms, config),
        )

    def describe(self, counted: Counted) -> Regressors:
        """The regressors of architectures: what adapting and predicting take. Worth keeping."""
        blocks = [
            self._describe(counted.take(slice(start, start + _BLOCK)))
            for start in range(0, len(counted), _BLOCK)
        ]
        return Regressors.joined(blocks)

    def adapt(self, support: Regressors, latency_ms: Floats) -> AdaptedTarget:
        """The predictor of a device on which the support's n architectures took `latency_ms` (n,)."""
        posterior = posterior_of(support, latency_ms, self._config)
        return AdaptedTarget(self._config, support, posterior, self._calibration.factor(len(latency_ms)))

    def select(
        self, pool: Regressors, interest: Regressors, *, count: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Indices (count,) into `pool` of the architectures to measure, so that those of interest are known
        best. Both are sampled down to `selection_candidates`.
        """
        limit = self._config.selection_candidates
        drawn = rng.permutation(len(pool))[:limit]
        candidates = pool.take(drawn)
        field = interest.take(rng.permutation(len(interest))[:limit])
        chosen = select(
            covariance(candidates, candidates, self._config) / np.outer(candidates.guess, candidates.guess),
            covariance(field, candidates, self._config) / np.outer(field.guess, candidates.guess),
            count=count,
            noise=self._config.selection_noise,
        )
        return drawn[chosen].astype(np.int64)

    def _describe(self, counted: Counted) -> Regressors:
        inputs = self._scaling.inputs(counted)
        return self._scaling.regressors(inputs, _said(self._surrogates, inputs) - self._log_means)


def _said(surrogates: Sequence[Surrogate], inputs: Inputs) -> Floats:
    """Log milliseconds (N, D) of every source device."""
    return np.stack([surrogate.log_ms(inputs) for surrogate in surrogates], axis=1)


def _surrogates(inputs: Inputs, latency_ms: Floats) -> list[Surrogate]:
    """One for each device (S, D); those that measured the same architectures are fitted together."""
    measured = np.isfinite(latency_ms)
    surrogates: dict[int, Surrogate] = {}
    for pattern in np.unique(measured, axis=1).T:
        devices = np.flatnonzero((measured == pattern[:, None]).all(axis=0))
        rows = np.flatnonzero(pattern)
        fitted = fit_surrogates(
            inputs.take(rows), latency_ms[np.ix_(rows, devices)], np.random.default_rng(0)
        )
        surrogates |= dict(zip(devices.tolist(), fitted, strict=True))
    return [surrogates[device] for device in range(latency_ms.shape[1])]


class AdaptedTarget:
    """A predictor for one device. Immutable."""

    def __init__(
        self, config: FewShotConfig, support: Regressors, posterior: head.Posterior, widening: float
    ) -> None:
        self._config = config
        self._support = support
        self._posterior = posterior
        self._widening = widening

    def median_ms(self, regressors: Regressors) -> Floats:
        """Predicted medians (N,), without intervals."""
        return self._posterior.median_ms(covariance(regressors, self._support, self._config))

    def predict(self, regressors: Regressors) -> Predicted:
        """Medians and 90 % intervals of N architectures."""
        cross = covariance(regressors, self._support, self._config)
        median = self._posterior.median_ms(cross)
        own = prior_variance(regressors, self._config)
        half = self._widening * self._posterior.deviation_ms(cross, own)
        return Predicted(median, np.maximum(median - half, _LEAST_LOWER * median), median + half)
