"""What adapting takes of an architecture, and the prior covariance of latencies that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot import head
from predictor.few_shot.config import FewShotConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Regressors:
    """Of N architectures. `sources` (N, D): what the source devices would measure, each in units of its mean,
    less one. `linear` (N, k): counted work. `shape` (N, z) and `source_shape` (N, D): standardised, for
    distances. `guess` (N,): a first guess of the relative latency, halfway from one to the sources' weighted
    mean.
    """

    sources: Floats
    linear: Floats
    shape: Floats
    source_shape: Floats
    guess: Floats

    def __len__(self) -> int:
        return len(self.guess)

    @classmethod
    def of(
        cls, log_relative: Floats, *, linear: Floats, shape: Floats, weights: Floats | None = None
    ) -> Regressors:
        """From the source devices' log-latencies (N, D), each relative to its mean; `weights` (D,) of the
        first guess, by default equal.
        """
        relative = np.exp(log_relative)
        mean = relative.mean(axis=1) if weights is None else relative @ (weights / weights.sum())
        return cls(
            sources=relative - 1.0,
            linear=linear,
            shape=shape,
            source_shape=log_relative / np.sqrt(log_relative.shape[1]),
            guess=0.5 + 0.5 * mean,
        )

    @classmethod
    def joined(cls, parts: Sequence[Regressors]) -> Regressors:
        """All of them in one, in order; at least one part."""
        return cls(
            *(
                np.concatenate([getattr(part, field) for part in parts])
                for field in ("sources", "linear", "shape", "source_shape", "guess")
            )
        )

    def take(self, rows: NDArray[np.int64]) -> Regressors:
        """Some of them."""
        return Regressors(
            self.sources[rows], self.linear[rows], self.shape[rows], self.source_shape[rows], self.guess[rows]
        )

    def without_source(self, device: int) -> Regressors:
        """As if this source device did not exist."""
        sources = np.delete(self.sources, device, axis=1)
        count = self.sources.shape[1]
        shape = np.delete(self.source_shape, device, axis=1) * np.sqrt(count / (count - 1))
        guess = 1.0 + 0.5 * sources.mean(axis=1)
        return Regressors(sources, self.linear, self.shape, shape, guess)


def covariance(a: Regressors, b: Regressors, config: FewShotConfig) -> Floats:
    """Prior covariance (N, M) of relative latencies, at amplitude one."""
    between: Floats = a.linear @ b.linear.T
    if config.sources:
        between += (config.sources / a.sources.shape[1]) * (a.sources @ b.sources.T)
    weight = config.source_distance**2
    near: Floats = a.shape @ b.shape.T + weight * (a.source_shape @ b.source_shape.T)
    near -= 0.5 * _squares(a, weight)[:, None]
    near -= 0.5 * _squares(b, weight)
    near *= 1.0 / config.smooth_length**2  # minus half the squared distance in lengths
    between += config.smooth * np.exp(near, out=near)
    return between


def _squares(a: Regressors, weight: float) -> Floats:
    own: Floats = np.einsum("ij,ij->i", a.shape, a.shape)
    own += weight * np.einsum("ij,ij->i", a.source_shape, a.source_shape)
    return own


def prior_variance(a: Regressors, config: FewShotConfig) -> Floats:
    """The diagonal of `covariance(a, a)`, (N,)."""
    own: Floats = np.einsum("ij,ij->i", a.linear, a.linear) + config.smooth
    if config.sources:
        own += (config.sources / a.sources.shape[1]) * np.einsum("ij,ij->i", a.sources, a.sources)
    return own


def posterior_of(support: Regressors, latency_ms: Floats, config: FewShotConfig) -> head.Posterior:
    """What latencies (n,) of the support's n architectures say of a device."""
    return head.fit(
        covariance(support, support, config),
        latency_ms,
        support.guess,
        amplitudes=config.amplitudes,
        noise=config.noise,
    )
