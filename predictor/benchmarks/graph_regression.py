"""Bayesian regression of log-latency on nominal times: one unknown factor per class of kernels.

Legend: x (N, C) nominal milliseconds by class, z (N, B) standardised corrections, theta (P,) with P = C + B
the logarithms of the class factors followed by the slopes of the corrections. The model is

    log t = log sum_c exp(theta_c) x_c + z . theta_B + noise
    theta ~ Normal(m, S),  noise ~ Normal(0, sigma^2)

It is linear in theta around any point, with the classes' shares of the time as regressors, so a fit is a
Bayesian linear regression solved in closed form and linearised again at its own solution until that stands
still (Gauss-Newton, Laplace approximation). sigma is unknown: the posterior is a mixture over a grid of
values weighted by their evidence, which gives predictions the heavy tails of Student's t. Everything is
deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]

NOISE_GRID: Array = np.geomspace(0.02, 0.9, 14).astype(np.float64)
_NOISE_CENTRE = 0.15  # what a model with one factor per class typically leaves unexplained
_NOISE_LOG_SD = 0.7
_MAX_ROUNDS = 40
_TOLERANCE = 1e-7
_MIN_WEIGHT = 1e-5


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A normal distribution over theta: mean (P,), covariance (P, P)."""

    mean: Array
    covariance: Array


@dataclass(frozen=True, slots=True)
class Data:
    """Measurements: x (N, C), z (N, B), log milliseconds y (N,), and the variance of y from measuring
    alone (N,).
    """

    x: Array
    z: Array
    y: Array
    variance: Array


@dataclass(frozen=True, slots=True)
class Posterior:
    """A mixture of K normals: weights (K,), means (K, P), covariances (K, P, P), noise standard
    deviations (K,).
    """

    weights: Array
    means: Array
    covariances: Array
    noise: Array


def fit(data: Data, prior: Gaussian) -> Posterior:
    """The posterior over theta and sigma."""
    precision = _inverse(prior.covariance)
    fitted = [_fit_at(data, prior, precision, float(noise)) for noise in NOISE_GRID]
    log_weights = np.asarray([evidence for _, _, evidence in fitted])
    log_weights -= 0.5 * ((np.log(NOISE_GRID) - np.log(_NOISE_CENTRE)) / _NOISE_LOG_SD) ** 2
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    kept = weights >= _MIN_WEIGHT
    return Posterior(
        weights=weights[kept] / weights[kept].sum(),
        means=np.stack([mean for mean, _, _ in fitted])[kept],
        covariances=np.stack([covariance for _, covariance, _ in fitted])[kept],
        noise=NOISE_GRID[kept],
    )


def common_prior(groups: list[Data], shared: Gaussian, own: Array) -> Gaussian:
    """The prior for a new target after seeing others: theta of a target is a common part plus its own
    deviation.

    `shared`: prior of the common part; `own` (P, P): covariance of the deviations. Each group is linearised
    at its own fit, its deviation is integrated out, and the common part is updated in closed form. Returns
    Normal(m, V + own).
    """
    precision = _inverse(shared.covariance)
    information = precision @ shared.mean
    start = Gaussian(shared.mean, shared.covariance + own)
    for data in groups:
        posterior = fit(data, start)
        best = int(np.argmax(posterior.weights))
        theta = posterior.means[best]
        predicted, slopes = _linearised(data.x, data.z, theta)
        response = data.y - predicted + slopes @ theta
        noise = np.diag(data.variance + posterior.noise[best] ** 2)
        solved = np.linalg.solve(slopes @ own @ slopes.T + noise, np.column_stack([slopes, response]))
        precision = precision + slopes.T @ solved[:, :-1]
        information = information + slopes.T @ solved[:, -1]
    covariance = _inverse(precision)
    return Gaussian(covariance @ information, covariance + own)


def moments(posterior: Posterior, x: Array, z: Array) -> tuple[Array, Array]:
    """Means (N, K) of log milliseconds under each component, and their variances (N, K) from not knowing
    theta.
    """
    means, variances = [], []
    for theta, covariance in zip(posterior.means, posterior.covariances, strict=True):
        predicted, slopes = _linearised(x, z, theta)
        means.append(predicted)
        variances.append(np.einsum("np,pq,nq->n", slopes, covariance, slopes))
    return np.stack(means, axis=1), np.maximum(np.stack(variances, axis=1), 0.0)


def quantiles(weights: Array, means: Array, deviations: Array, levels: Array) -> Array:
    """Quantiles (N, Q) of N mixtures of K normals: weights (K,), means and deviations (N, K), levels
    (Q,). By bisection.
    """
    low = (means - 9.0 * deviations).min(axis=1)[:, None] + np.zeros_like(levels)
    high = (means + 9.0 * deviations).max(axis=1)[:, None] + np.zeros_like(levels)
    middle: Array = 0.5 * (low + high)  # (N, Q)
    for _ in range(48):  # halves 18 deviations down to rounding error
        below = ndtr((middle[:, :, None] - means[:, None, :]) / deviations[:, None, :]) @ weights
        low, high = np.where(below < levels, middle, low), np.where(below < levels, high, middle)
        middle = 0.5 * (low + high)
    return middle


def _fit_at(data: Data, prior: Gaussian, precision: Array, noise: float) -> tuple[Array, Array, float]:
    """Mode, covariance and log evidence (up to a constant that all noise levels share) for one noise
    level.
    """
    weights = 1.0 / (data.variance + noise**2)
    theta = prior.mean
    score = _score(data, prior, precision, weights, theta)
    for _ in range(_MAX_ROUNDS):
        predicted, slopes = _linearised(data.x, data.z, theta)
        hessian = slopes.T @ (weights[:, None] * slopes) + precision
        gradient = slopes.T @ (weights * (data.y - predicted)) - precision @ (theta - prior.mean)
        step = np.linalg.solve(hessian, gradient)
        length = 1.0
        while length > 1e-4 and _score(data, prior, precision, weights, theta + length * step) < score:
            length *= 0.5  # the linearisation reached too far
        theta = theta + length * step
        score = _score(data, prior, precision, weights, theta)
        if np.abs(length * step).max() < _TOLERANCE:
            break
    _, slopes = _linearised(data.x, data.z, theta)
    covariance = _inverse(slopes.T @ (weights[:, None] * slopes) + precision)
    _, log_determinant = np.linalg.slogdet(covariance)
    evidence = score + 0.5 * float(np.log(weights).sum()) + 0.5 * float(log_determinant)
    return theta, covariance, evidence


def _score(data: Data, prior: Gaussian, precision: Array, weights: Array, theta: Array) -> float:
    """Log posterior density without its constants."""
    predicted, _ = _linearised(data.x, data.z, theta)
    away = theta - prior.mean
    return -0.5 * float(weights @ (data.y - predicted) ** 2) - 0.5 * float(away @ precision @ away)


def _linearised(x: Array, z: Array, theta: Array) -> tuple[Array, Array]:
    """log t (N,) at theta, and its slopes (N, P): the classes' shares of the time, then the corrections
    themselves.
    """
    classes = x.shape[1]
    parts = x * np.exp(theta[:classes])  # (N, C)
    total = parts.sum(axis=1)  # (N,)
    slopes = np.concatenate([parts / total[:, None], z], axis=1)  # (N, P)
    return np.log(total) + z @ theta[classes:], slopes


def _inverse(matrix: Array) -> Array:
    """Of a symmetric matrix, and symmetric again."""
    inverse = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    return 0.5 * (inverse + inverse.T)
