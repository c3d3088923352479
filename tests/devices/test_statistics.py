"""Statistics of repeated timing, against tables worked by hand and against SciPy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from devices.statistics import (
    coefficient_of_variation,
    early_stopping_percentile,
    early_stopping_rank,
    median,
    median_absolute_deviation,
    spread,
    standard_error_of_median,
    windows_agree,
)


@pytest.mark.parametrize(
    ("values", "middle", "deviation"),
    [
        ([7], 7, 0),
        ([3, 1, 2], 2, 1),
        ([1, 2, 3, 10], 2.5, 1.0),  # distances 1.5 .5 .5 7.5
        ([1, 1, 2, 2, 4, 6, 9], 2, 1),  # distances 1 1 0 0 2 4 7: the example of most textbooks
        ([5, 5, 5, 900], 5, 0),  # one interruption moves neither
    ],
)
def test_median_and_its_deviation(values: list[int], middle: float, deviation: float) -> None:
    assert median(values) == middle
    assert median_absolute_deviation(values) == deviation


def test_no_values_have_no_median() -> None:
    with pytest.raises(ValueError, match="at least one"):
        median([])
    with pytest.raises(ValueError, match="at least one round"):
        standard_error_of_median([[]])


def test_coefficient_of_variation_uses_n_minus_one() -> None:
    assert coefficient_of_variation([9, 10, 11]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="at least 2"):
        coefficient_of_variation([1])


@pytest.mark.parametrize(
    ("medians", "agree"),
    [
        ([10, 10.5], False),  # two are not three
        ([10, 10.5, 11], True),  # 10 % apart exactly
        ([10, 10.5, 11.1], False),
        ([30, 20, 10.0, 10.2, 10.4], True),  # only the last three count
        ([10, 10, 10, 30], False),
        ([0, 0, 0], True),  # a clock too coarse for the run
    ],
)
def test_three_windows_agree_within_ten_per_cent(medians: list[float], agree: bool) -> None:
    assert windows_agree(medians, count=3, tolerance=0.1) is agree


def test_spread_of_something_over_nothing_is_infinite() -> None:
    assert spread([0, 1]) == math.inf


@pytest.mark.parametrize(
    ("samples", "percentile", "rank"),
    [
        (63, 0.9, None),
        (64, 0.9, 63),  # the sample counts of MLPerf's LoadGen: one sample lies above
        (661, 0.99, None),
        (662, 0.99, 661),
        (100, 0.9, 97),
        (0, 0.9, None),
    ],
)
def test_early_stopping_rank_by_table(samples: int, percentile: float, rank: int | None) -> None:
    assert early_stopping_rank(samples, percentile) == rank


@given(st.integers(1, 3000), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_early_stopping_rank_is_the_binomial_quantile(count: int, percentile: float) -> None:
    """SciPy's `ppf` is the smallest k with P(X <= k) >= confidence, and the rank after k samples below is k +
    1.
    """
    expected = int(binom.ppf(0.99, count, percentile)) + 1
    rank = early_stopping_rank(count, percentile)
    assert rank == (expected if expected < count else None)
    if rank is not None:
        assert binom.sf(rank - 1, count, percentile) <= 0.01 < binom.sf(rank - 2, count, percentile)


def test_early_stopping_percentile_lies_above_the_plain_one() -> None:
    samples = list(range(1000, 0, -1))
    assert early_stopping_percentile(samples, 0.9) == 922  # 900 and 2.33 deviations of 9.49
    assert early_stopping_percentile(samples[:50], 0.9) is None
    with pytest.raises(ValueError, match="strictly between"):
        early_stopping_percentile(samples, 1.0)


def test_standard_error_comes_from_the_spread_between_rounds() -> None:
    """Medians 10, 12, 14: standard deviation 2, three rounds, so sqrt(pi/2) * 2 / sqrt(3)."""
    rounds = [[10, 10, 99], [12, 11, 13], [14]]
    assert standard_error_of_median(rounds) == pytest.approx(1.2533141 * 2 / math.sqrt(3))
    assert standard_error_of_median([*rounds, []]) == standard_error_of_median(rounds)


def test_standard_error_of_one_round_and_of_one_sample() -> None:
    one_round = [[8, 9, 10, 11, 12]]  # median absolute deviation 1
    assert standard_error_of_median(one_round) == pytest.approx(1.2533141 * 1.4826 / math.sqrt(5))
    assert standard_error_of_median([[7]]) == 7
