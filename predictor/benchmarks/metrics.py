"""How good predictions of latencies are: their ranks, their milliseconds, their intervals.

Intervals are judged in log-latency, where an interval's width is relative: log(upper / lower), close to the
width over the median where it is narrow. Their score is Winkler's (Gneiting and Raftery 2007, eq. 43, DOI
10.1198/016214506000001437): the width, plus 2 / alpha times the distance of a latency outside of it. Smaller
is better, and neither width nor coverage can be cheated with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from predictor.benchmarks.method import Floats, Predicted

COVERAGE = 0.9
_ALPHA = 1.0 - COVERAGE


@dataclass(frozen=True, slots=True)
class Interval:
    """`coverage`: share of latencies inside; `width`, `score`: means in log-latency."""

    coverage: float
    width: float
    score: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one adapted method on one target. `mape`, `median_ape` and `acc10` are fractions; `acc10`: share of
    predictions within 10 % of the latency. `interval` is None for a method without intervals.
    """

    spearman: float
    mape: float
    median_ape: float
    acc10: float
    interval: Interval | None


def scores_of(predicted: Predicted, latency_ms: Floats) -> Scores:
    """Compare predictions with latencies (Q,)."""
    errors = np.abs(predicted.median_ms - latency_ms) / latency_ms
    ranking = predicted.median_ms if predicted.score is None else predicted.score
    interval = None
    if predicted.lower_ms is not None and predicted.upper_ms is not None:
        interval = interval_of(np.log(predicted.lower_ms), np.log(predicted.upper_ms), np.log(latency_ms))
    return Scores(
        spearman=spearman(ranking, latency_ms),
        mape=float(errors.mean()),
        median_ape=float(np.median(errors)),
        acc10=float(np.mean(errors <= 0.1)),
        interval=interval,
    )


def spearman(first: Floats, second: Floats) -> float:
    """Correlation of ranks; ties share their average rank. 0 where one of the two is constant: it ranks
    nothing.
    """
    a, b = (rankdata(values) - 0.5 * (len(values) + 1) for values in (first, second))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0.0 else 0.0


def interval_of(lower: Floats, upper: Floats, latency: Floats) -> Interval:
    """Intervals (Q,) against latencies (Q,), all in logarithms."""
    width = upper - lower
    outside = np.maximum(lower - latency, 0.0) + np.maximum(latency - upper, 0.0)
    return Interval(
        coverage=float(np.mean(outside <= 0.0)),
        width=float(width.mean()),
        score=float(np.mean(width + 2.0 / _ALPHA * outside)),
    )


def narrowest_window(residuals: Floats, coverage: float) -> tuple[float, float]:
    """The narrowest [a, b] that holds at least this share of residuals log(latency / median) (R,): no
    interval of one relative width can hold as many and be narrower, even knowing the answers.
    """
    ordered = np.sort(residuals)
    held = max(1, int(np.ceil(coverage * len(ordered) - 1e-9)))
    widths = ordered[held - 1 :] - ordered[: len(ordered) - held + 1]
    start = int(np.argmin(widths))
    return float(ordered[start]), float(ordered[start + held - 1])
