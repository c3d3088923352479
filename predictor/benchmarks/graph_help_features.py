"""What HELP sees of a graph: logarithms of its nominal time by class of kernels, shares of it, and sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from predictor.benchmarks.graph_arrays import GraphArrays, class_times
from predictor.benchmarks.graph_method import Floats
from predictor.checkpoint import TargetFacts
from predictor.kernel_costs.table import Amount, View

_FLOOR_MS = 1e-4
_SUMMED = (
    Amount.MACS, Amount.WORK, Amount.BYTES_READ, Amount.BYTES_WRITTEN, Amount.WEIGHT_BYTES, Amount.LAUNCHES,
    Amount.MEMBERS,
)  # fmt: skip
_WIDEST = (Amount.ROWS, Amount.INNER, Amount.COLUMNS, Amount.WINDOW)


def described(arrays: GraphArrays, nominal: TargetFacts) -> Floats:
    """(F,), on one target's nominal machine whatever the target: encodings do not depend on it in HELP."""
    by_class = class_times(arrays, nominal.runtime, nominal.hardware)
    total = by_class.sum()
    parts = [np.log(by_class + _FLOOR_MS), by_class / total, [np.log(total)]]
    for view in (View.LISTED, View.FUSED):
        amounts = arrays.tables[view].amounts[:-1]
        parts.append(np.log1p(amounts[:, list(_SUMMED)].sum(axis=0)))
        parts.append(np.log1p(amounts[:, list(_WIDEST)].max(axis=0, initial=0.0)))
        parts.append([np.log1p(len(amounts))])
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True, eq=False)
class GraphFeatures:
    """Standardised by what the sources hold: `mean` and `deviation` (F,)."""

    nominal: TargetFacts
    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, values: Floats, nominal: TargetFacts) -> GraphFeatures:
        """From the descriptions of the sources' models (N, F)."""
        return cls(nominal, values.mean(axis=0), values.std(axis=0) + 1e-3)

    def __call__(self, values: Floats) -> Floats:
        """Of the order of one, and never far from it."""
        scaled: Floats = np.clip((values - self.mean) / self.deviation, -5.0, 5.0)
        return scaled
