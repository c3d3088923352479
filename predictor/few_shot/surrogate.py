"""What a source device would have measured, for every architecture: a Gaussian process in log-latency.

A source device has measured some architectures, with noise. The process fills the gaps and takes the noise
out; what it says of new architectures is a regressor for new devices. Its covariance is linear in the
tallies and, where the architectures come from a search space, in their choices, with a smooth part over
both; the weights of these parts and the noise are those of the largest evidence (Rasmussen and Williams,
"Gaussian Processes for Machine Learning", 2006, equation 5.8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Floats = NDArray[np.float64]

_CHOICES = (0.3, 2.0)
_SMOOTH = ((0.0, 1.0), (0.3, 1.0), (1.0, 2.0))  # variance and length over the tallies
_SMOOTH_CHOICES = (0.0, 0.3)
_NOISE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
_CONSTANT = 0.1
_EVIDENCE_ROWS = 800  # weights are chosen on so many
_SHORTEST = 0.01  # of the median: below, a latency is a degenerate network's
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Inputs:
    """Regressors of N architectures: `linear` (N, k), `shape` (N, z), `choices` (N, c) with c = 0 where
    there are none; each with a mean square row length near one.
    """

    linear: Floats
    shape: Floats
    choices: Floats

    def __len__(self) -> int:
        return len(self.linear)

    def take(self, rows: NDArray[np.intp] | slice) -> Inputs:
        """Some of them."""
        return Inputs(self.linear[rows], self.shape[rows], self.choices[rows])


@dataclass(frozen=True, slots=True)
class _Weights:
    choices: float
    smooth: float
    length: float
    smooth_choices: float
    noise: float


@dataclass(frozen=True, slots=True)
class Surrogate:
    """One source device. Immutable."""

    inputs: Inputs
    weights: _Weights
    alpha: Floats  # (S,)
    mean: float
    spread: float

    def log_ms(self, inputs: Inputs) -> Floats:
        """Log milliseconds (N,)."""
        said = [
            _covariance(inputs.take(slice(start, start + _BLOCK)), self.inputs, self.weights) @ self.alpha
            for start in range(0, len(inputs), _BLOCK)
        ]
        return self.mean + self.spread * np.concatenate(said) if said else np.zeros(0)


def fit_surrogates(inputs: Inputs, latency_ms: Floats, rng: np.random.Generator) -> list[Surrogate]:
    """One for each column of `latency_ms` (S, D), all measured on the same S architectures."""
    log_ms = np.log(np.maximum(latency_ms, _SHORTEST * np.median(latency_ms, axis=0)))
    mean, spread = log_ms.mean(axis=0), np.maximum(log_ms.std(axis=0), 1e-6)
    standardised = (log_ms - mean) / spread
    some = np.sort(rng.permutation(len(inputs))[:_EVIDENCE_ROWS])
    chosen = _best_weights(inputs.take(some), standardised[some])
    surrogates = []
    for device, weights in enumerate(chosen):
        covariance = _covariance(inputs, inputs, weights)
        covariance[np.diag_indices_from(covariance)] += weights.noise**2
        alpha = cho_solve(cho_factor(covariance, lower=True, overwrite_a=True), standardised[:, device])
        surrogates.append(Surrogate(inputs, weights, alpha, float(mean[device]), float(spread[device])))
    return surrogates


def squared_distances(a: Floats, b: Floats) -> Floats:
    """(N, M) between the rows of (N, z) and (M, z)."""
    squared: Floats = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    return np.maximum(squared, 0.0)


def _best_weights(inputs: Inputs, standardised: Floats) -> list[_Weights]:
    """By evidence, for each column (S, D); one eigendecomposition serves all columns and noise levels."""
    best: list[tuple[float, _Weights]] = []
    for weights in _grid(has_choices=inputs.choices.shape[1] > 0):
        values, vectors = np.linalg.eigh(_covariance(inputs, inputs, weights))
        squares = (vectors.T @ standardised) ** 2  # (S, D)
        for noise in _NOISE:
            variances = np.maximum(values, 0.0) + noise**2
            evidence = -0.5 * (squares / variances[:, None]).sum(axis=0) - 0.5 * np.log(variances).sum()
            found = [(float(value), replace(weights, noise=noise)) for value in evidence]
            best = found if not best else [max(pair, key=_evidence) for pair in zip(best, found, strict=True)]
    return [weights for _, weights in best]


def _evidence(candidate: tuple[float, _Weights]) -> float:
    return candidate[0]


def _grid(*, has_choices: bool) -> Iterator[_Weights]:
    linear, smooth_over = (_CHOICES, _SMOOTH_CHOICES) if has_choices else ((0.0,), (0.0,))
    for choices, (smooth, length), smooth_choices in product(linear, _SMOOTH, smooth_over):
        yield _Weights(choices, smooth, length, smooth_choices, 0.0)


def _covariance(a: Inputs, b: Inputs, weights: _Weights) -> Floats:
    covariance: Floats = a.linear @ b.linear.T + _CONSTANT
    if weights.smooth:
        covariance += weights.smooth * np.exp(-0.5 * squared_distances(a.shape, b.shape) / weights.length**2)
    if weights.choices:
        covariance += weights.choices * (a.choices @ b.choices.T)
    if weights.smooth_choices:
        covariance += weights.smooth_choices * np.exp(-0.5 * squared_distances(a.choices, b.choices))
    return covariance
