"""Ridge regression in closed form, its strength chosen by leave-one-out: what the baselines share.

Legend: X (n, P) regressors, y (n, D) responses, U diag(s) V' the thin singular value decomposition of the
centred regressors. For a strength l the fitted values of centred responses are H y with
H = U diag(s^2 / (s^2 + l)) U', the constant adds 1 / n, and leave-one-out residuals are
(y - fitted) / (1 - H_ii - 1 / n) (Allen 1974, DOI 10.1080/00401706.1974.10489157).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from predictor.benchmarks.method import Floats
from predictor.benchmarks.metrics import COVERAGE

STRENGTHS: Floats = np.geomspace(1e-4, 1e3, 22)  # times the mean square of a singular value
_SMALLEST = 1e-12
SHORTEST_SHARE = 0.25  # of the shortest latency that was seen: no baseline predicts less


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """Responses at x (P,): `constant` (D,) + (x - `centre`) @ `weights` (P, D). `residuals` (n, D): each
    response minus what the others predict for it.
    """

    centre: Floats
    constant: Floats
    weights: Floats
    residuals: Floats

    def __call__(self, x: Floats) -> Floats:
        """Responses at x (N, P), (N, D)."""
        predicted: Floats = self.constant + (x - self.centre) @ self.weights
        return predicted


def fit_ridge(x: Floats, y: Floats) -> Ridge:
    """Fit every column of y (n, D) by itself, with the strength that leaves the smallest squared
    leave-one-out residuals. Needs n >= 3.
    """
    centre, constant = x.mean(axis=0), y.mean(axis=0)
    left, values, right = np.linalg.svd(x - centre, full_matrices=False)  # (n, R), (R,), (R, P)
    rotated = left.T @ (y - constant)  # (R, D)
    strengths = STRENGTHS * max(float(np.mean(values**2)), _SMALLEST)
    left_out = np.stack([_left_out(left, values, rotated, y - constant, strength) for strength in strengths])
    best = np.argmin((left_out**2).sum(axis=1), axis=0)  # (L, n, D) -> (D,)
    weights = right.T @ (rotated * values[:, None] / (values[:, None] ** 2 + strengths[best]))  # (P, D)
    residuals = np.take_along_axis(left_out, best[None, None, :], axis=0)[0]  # (n, D)
    return Ridge(centre, constant, weights, residuals)


def _left_out(left: Floats, values: Floats, rotated: Floats, centred: Floats, strength: float) -> Floats:
    """Leave-one-out residuals (n, D)."""
    kept = values**2 / (values**2 + strength)  # (R,)
    leverage = (left**2) @ kept + 1.0 / len(left)  # (n,)
    missed = centred - left @ (kept[:, None] * rotated)  # (n, D)
    residuals: Floats = missed / np.maximum(1.0 - leverage, 1e-9)[:, None]
    return residuals


def half_width(residuals: Floats) -> float:
    """Of a 90 % interval for one more observation, from leave-one-out residuals (n,) taken as draws of one
    normal distribution around 0.
    """
    quantile = float(student.ppf(0.5 * (1.0 + COVERAGE), df=max(1, len(residuals) - 1)))
    return quantile * float(np.sqrt(np.mean(residuals**2)))
