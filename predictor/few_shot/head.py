"""The head: a device's latency as a Gaussian process over architectures, adapted in closed form.

Legend: t latencies in units of their mean over the support, m a first guess of them, K the prior covariance,
a an amplitude, s a relative noise. The model is

    t = mu + f + noise,   f ~ GP(0, a^2 K),   noise ~ Normal(0, (s m)^2),   mu flat

It is linear in milliseconds, as a sum over kernels is, while errors count relative to the latency. m is the
posterior mean of the round before. a and s are a grid, averaged by their evidence with mu integrated out
(Rasmussen and Williams 2006, section 2.7). The noise has the tails of Student's t: each round, a measurement
that the others contradict (by its leave-one-out residual, equation 5.12) counts less in the next (Lange,
Little and Taylor 1989, doi:10.1080/01621459.1989.10478852), because phones now and then take twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ROUNDS = 4
_LEAST_GUESS = 0.05  # of the mean latency: noise never vanishes
_LEAST_MEDIAN = 0.02
_AMPLITUDE_LOG_SD = 1.0
_DEGREES = 4.0  # of freedom


@dataclass(frozen=True, slots=True)
class Posterior:
    """What n measurements say, averaged over the grid; `scale_ms` is the unit of t.

    With x (n,) the prior covariance of a new latency with the support and v its prior variance, the mean is
    `offset` + x . `alpha`, and its variance without noise is `constant` + x . `slope` + x `curvature` x +
    `own` v - mean^2. `noise`: relative standard deviation of a measurement. `log_evidence`: the logarithm of
    how probable the measurements were, in milliseconds, up to a constant for n.
    """

    scale_ms: float
    offset: float
    alpha: Floats  # (n,)
    constant: float
    slope: Floats  # (n,)
    curvature: Floats  # (n, n)
    own: float
    noise: float
    log_evidence: float

    def median_ms(self, cross: Floats) -> Floats:
        """(N,), of the covariance (N, n) between new architectures and the support."""
        return np.maximum(self.offset + cross @ self.alpha, _LEAST_MEDIAN) * self.scale_ms

    def deviation_ms(self, cross: Floats, own: Floats) -> Floats:
        """Standard deviations of new latencies, noise included, (N,). `own` (N,): their prior variances."""
        mean = self.offset + cross @ self.alpha
        squares = np.einsum("ij,ij->i", cross @ self.curvature, cross)
        variance = self.constant + cross @ self.slope + squares + self.own * own - mean**2
        noise = self.noise * np.maximum(mean, _LEAST_GUESS)
        deviation: Floats = np.sqrt(np.maximum(variance, 0.0) + noise**2) * self.scale_ms
        return deviation


def fit(
    covariance: Floats,
    latency_ms: Floats,
    guess: Floats,
    *,
    amplitudes: tuple[float, ...],
    noise: tuple[float, ...],
) -> Posterior:
    """The posterior after n measurements: `covariance` K (n, n), `latency_ms` (n,), `guess` m (n,), the grids
    of a and s.
    """
    grid = np.asarray([(a, s) for a in amplitudes for s in noise])  # (C, 2)
    scale_ms = float(latency_ms.mean())
    t = latency_ms / scale_ms
    doubt = np.ones(len(t))
    for _ in range(_ROUNDS):
        log_evidence, weights, offsets, alphas, inverses = _components(
            covariance, t, guess * np.sqrt(doubt), grid
        )
        mean = weights @ (offsets[:, None] + (grid[:, :1] ** 2) * (alphas @ covariance))  # (n,)
        guess = np.maximum(mean, _LEAST_GUESS)
        doubt = _doubt(weights, alphas, inverses)
    log_evidence -= len(t) * np.log(scale_ms)
    return _averaged(scale_ms, grid, (weights, offsets, alphas, inverses), log_evidence)


def _averaged(
    scale_ms: float, grid: Floats, components: tuple[Floats, Floats, Floats, Floats], log_evidence: float
) -> Posterior:
    """The mean and the second moment of all components are at most quadratic in x, so their averages are."""
    weights, offsets, alphas, inverses = components
    squared = grid[:, 0] ** 2  # (C,)
    sums = inverses.sum(axis=2)  # (C, n)
    precision = sums.sum(axis=1)  # (C,)
    outer = np.einsum("ci,cj->cij", sums, sums) / precision[:, None, None]
    outer += np.einsum("ci,cj->cij", alphas, alphas) - inverses
    slopes = offsets[:, None] * alphas - sums / precision[:, None]
    return Posterior(
        scale_ms=scale_ms,
        offset=float(weights @ offsets),
        alpha=(weights * squared) @ alphas,
        constant=float(weights @ (offsets**2 + 1.0 / precision)),
        slope=2.0 * (weights * squared) @ slopes,
        curvature=np.einsum("c,cij->ij", weights * squared**2, outer),
        own=float(weights @ squared),
        noise=float(np.sqrt(weights @ grid[:, 1] ** 2)),
        log_evidence=log_evidence,
    )


def _doubt(weights: Floats, alphas: Floats, inverses: Floats) -> Floats:
    """By which factor the noise variance of each measurement (n,) exceeds the common one."""
    squares = weights @ (alphas**2 / np.diagonal(inverses, axis1=1, axis2=2))  # (n,), standardised
    doubt: Floats = (_DEGREES + squares) / (_DEGREES + 1.0)
    return np.maximum(doubt, 1.0)


def _components(
    covariance: Floats, t: Floats, guess: Floats, grid: Floats
) -> tuple[float, Floats, Floats, Floats, Floats]:
    """The logarithm of the components' mean evidence, their weights (C,), offsets (C,), alphas (C, n) and
    inverses (C, n, n), all at once.
    """
    noise = (grid[:, 1:2] * guess) ** 2  # (C, n)
    total = (grid[:, 0] ** 2)[:, None, None] * covariance + noise[:, :, None] * np.eye(len(t))
    inverses: Floats = np.linalg.inv(total).astype(np.float64)
    sums = inverses.sum(axis=2)  # (C, n)
    precision = sums.sum(axis=1)  # (C,)
    offsets = (sums @ t) / precision
    residual = t - offsets[:, None]  # (C, n)
    alphas = np.einsum("cij,cj->ci", inverses, residual)
    _, log_determinant = np.linalg.slogdet(total)
    evidence = -0.5 * (np.einsum("ci,ci->c", residual, alphas) + log_determinant + np.log(precision))
    evidence -= 0.5 * (np.log(grid[:, 0]) / _AMPLITUDE_LOG_SD) ** 2
    most = float(evidence.max())
    weights = np.exp(evidence - most)
    log_evidence = most + float(np.log(weights.mean()))
    return log_evidence, weights / weights.sum(), offsets, alphas, inverses
