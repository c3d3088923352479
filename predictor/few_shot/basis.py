"""From tallies to regressors: counted work in units of its mean over the source architectures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot.config import FewShotConfig
from predictor.few_shot.tally import TALLY_SHAPE, Law

Floats = NDArray[np.float64]
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True, slots=True)
class Basis:
    """Regressors of tallies. `linear`: their inner product is the prior covariance of two latencies that are
    sums over kernels. `shape`: standardised, for distances.
    """

    config: FewShotConfig
    law_means: Floats  # (V, L)
    linear_centre: Floats  # (k,)
    linear_kept: NDArray[np.bool_]
    shape_centre: Floats  # (z,)
    shape_spread: Floats  # (z,), infinite for what does not vary

    @classmethod
    def fit(cls, tallies: Floats, config: FewShotConfig) -> Basis:
        """From the tallies (S, V, *TALLY_SHAPE) of source architectures."""
        law_means = tallies.sum(axis=(2, 4)).mean(axis=0)  # (V, L)
        linear, shape = _columns(tallies, law_means, config)
        return cls(
            config=config,
            law_means=law_means,
            linear_centre=linear.mean(axis=0),
            linear_kept=linear.std(axis=0) > _LEAST_SPREAD,
            shape_centre=shape.mean(axis=0),
            shape_spread=spread_of(shape),
        )

    def regressors(self, tallies: Floats) -> tuple[Floats, Floats]:
        """`linear` (N, k), centred on the source architectures, and `shape` (N, z), of unit mean square over
        them and all columns together.
        """
        linear, shape = _columns(tallies, self.law_means, self.config)
        varies = np.isfinite(self.shape_spread)
        standardised = ((shape - self.shape_centre) / self.shape_spread)[:, varies]
        scaled = standardised / np.sqrt(max(int(varies.sum()), 1))
        return (linear - self.linear_centre)[:, self.linear_kept], scaled


def _columns(tallies: Floats, law_means: Floats, config: FewShotConfig) -> tuple[Floats, Floats]:
    """Weighted sums for the linear part, and plain ones for distances, both (N, many)."""
    count, views = len(tallies), tallies.shape[1]
    linear, shape = [], []
    for view in range(views):
        for law in Law:
            mean = law_means[view, law]
            if mean <= 0:
                continue
            by_size = tallies[:, view, :, law, :] / mean  # (N, W, S)
            by_kind = by_size.sum(axis=2)  # (N, W)
            total = by_kind.sum(axis=1, keepdims=True)  # (N, 1)
            weight = config.tally * config.law_weights[law] / views
            linear += [
                np.sqrt(weight * config.common) * total,
                np.sqrt(weight * config.by_kind) * by_kind,
                np.sqrt(weight * config.by_size) * by_size.reshape(count, -1),
            ]
            shape += [total, by_kind]
    if not linear:
        return np.zeros((count, 1)), np.zeros((count, 1))
    return np.concatenate(linear, axis=1), np.concatenate(shape, axis=1)


def spread_of(columns: Floats) -> Floats:
    """Standard deviations of the columns (N, k), infinite for those that do not vary."""
    spread: Floats = columns.std(axis=0)
    spread[spread < _LEAST_SPREAD] = np.inf
    return spread


def check_tallies(tallies: Floats) -> None:
    """Raises `ValueError` for arrays of another shape."""
    if tallies.ndim != 2 + len(TALLY_SHAPE) or tallies.shape[2:] != TALLY_SHAPE:
        raise ValueError(f"tallies must have the shape (N, V, {TALLY_SHAPE}), got {tallies.shape}")
