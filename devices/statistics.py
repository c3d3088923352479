"""Statistics of repeated timing: pure functions of samples, any unit in, the same unit out.

The estimate of a latency is the median: the minimum of a block swings more between processes than the median
does, and the mean follows every interruption (`docs/measuring.md`). Percentiles are MLPerf's conservative
early-stopping ones: with enough samples the true percentile lies below the stated one with 99 % confidence,
and with too few there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.99  # of a percentile, MLPerf's choice
MEDIAN_EFFICIENCY = math.sqrt(math.pi / 2)  # standard error of a median over that of a mean, normal samples
MAD_TO_SIGMA = 1.4826  # 1 / the 0.75 quantile of the normal distribution


def median(values: Sequence[float]) -> float:
    """The middle value; of an even count, the mean of the two in the middle. Raises `ValueError` when
    empty.
    """
    if len(values) == 0:
        raise ValueError("no median of no values; give at least one")
    return float(np.median(np.asarray(values, dtype=np.float64)))


def median_absolute_deviation(values: Sequence[float]) -> float:
    """Median distance from the median, not scaled to a standard deviation. Raises `ValueError` when empty."""
    middle = median(values)
    return float(np.median(np.abs(np.asarray(values, dtype=np.float64) - middle)))


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1) over the mean. Raises `ValueError` for fewer than two values."""
    if len(values) < 2:
        raise ValueError(f"variation needs at least 2 values, got {len(values)}")
    array = np.asarray(values, dtype=np.float64)
    return float(array.std(ddof=1) / array.mean())


def spread(values: Sequence[float]) -> float:
    """How far the largest lies above the smallest, as a fraction of the smallest; 0 where both are 0."""
    smallest, largest = min(values), max(values)
    if smallest <= 0:
        return 0.0 if largest <= 0 else math.inf
    return (largest - smallest) / smallest


def windows_agree(medians: Sequence[float], *, count: int, tolerance: float) -> bool:
    """Whether the last `count` medians exist and lie within `tolerance` (a fraction) of one another."""
    return len(medians) >= count and spread(medians[-count:]) <= tolerance


def early_stopping_rank(sample_count: int, percentile: float, confidence: float = CONFIDENCE) -> int | None:
    """Rank (1 = smallest) of the sample that is an upper bound of a percentile; None with too few samples.

    The smallest rank k with P(at least k of n samples lie below the true percentile) <= 1 - confidence, the
    count being binomial(n, percentile). As in MLPerf's LoadGen at least one sample must lie above it, so the
    90th percentile needs 64 samples and the 99th 662. Exact: the upper tail is summed from n downwards.
    """
    if not 0 < percentile < 1:
        raise ValueError(f"a percentile lies strictly between 0 and 1, got {percentile}")
    tail, rank = 0.0, sample_count + 1
    while rank > 1:
        tail += _binomial_probability(rank - 1, sample_count, percentile)
        if tail > 1 - confidence:
            break
        rank -= 1
    return rank if rank < sample_count else None


def early_stopping_percentile(
    samples: Sequence[int], percentile: float, confidence: float = CONFIDENCE
) -> int | None:
    """The sample that bounds the percentile from above with the given confidence; None with too few
    samples.
    """
    rank = early_stopping_rank(len(samples), percentile, confidence)
    return None if rank is None else sorted(samples)[rank - 1]


def standard_error_of_median(rounds: Sequence[Sequence[int]]) -> float:
    """Standard error of the median over all samples, from the spread between rounds.

    Samples of one round share the machine's momentary speed, so they are not independent; rounds nearly are.
    With R rounds whose medians have the sample standard deviation s it is sqrt(pi/2) * s / sqrt(R), the
    asymptotic error of a median of R values. A single round only tells the spread within it (from its median
    absolute deviation), and a single sample tells nothing: the error is then the value itself.
    """
    filled = [samples for samples in rounds if len(samples) > 0]
    if not filled:
        raise ValueError("no standard error of no samples; give at least one round with one sample")
    if len(filled) > 1:
        medians = np.array([median(samples) for samples in filled])
        return float(MEDIAN_EFFICIENCY * medians.std(ddof=1) / math.sqrt(len(medians)))
    only = filled[0]
    if len(only) == 1:
        return float(only[0])
    return MEDIAN_EFFICIENCY * MAD_TO_SIGMA * median_absolute_deviation(only) / math.sqrt(len(only))


def _binomial_probability(successes: int, trials: int, probability: float) -> float:
    log_choose = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    return math.exp(
        log_choose + successes * math.log(probability) + (trials - successes) * math.log1p(-probability)
    )
