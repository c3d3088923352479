"""Metrics against hand-worked values and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from predictor.benchmarks.method import Floats, Predicted
from predictor.benchmarks.metrics import interval_of, narrowest_window, scores_of, spearman

LATENCY = np.asarray([1.0, 2.0, 4.0, 8.0])


def test_scores_of_a_hand_worked_prediction() -> None:
    predicted = Predicted(np.asarray([1.1, 1.8, 5.0, 8.0]))
    scores = scores_of(predicted, LATENCY)
    assert scores.spearman == pytest.approx(1.0)
    assert scores.mape == pytest.approx((0.1 + 0.1 + 0.25 + 0.0) / 4)
    assert scores.median_ape == pytest.approx(0.1)
    assert scores_of(Predicted(LATENCY * [1.09, 0.91, 1.2, 0.8]), LATENCY).acc10 == 0.5
    assert scores.interval is None


def test_a_method_may_rank_by_something_else_than_its_milliseconds() -> None:
    predicted = Predicted(LATENCY, score=-LATENCY)
    assert scores_of(predicted, LATENCY).spearman == pytest.approx(-1.0)
    assert scores_of(predicted, LATENCY).mape == 0.0


def test_ties_share_a_rank_and_a_constant_ranks_nothing() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 5, (2, 50)).astype(np.float64)
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert spearman(np.ones(50), second) == 0.0


def test_an_interval_is_charged_its_width_and_twenty_times_what_it_missed_by() -> None:
    predicted = Predicted(LATENCY, lower_ms=LATENCY / np.e, upper_ms=LATENCY)
    interval = scores_of(predicted, LATENCY * [1.0, 1.0, np.e, 1.0 / np.e**2]).interval
    assert interval is not None
    assert interval.coverage == 0.5
    assert interval.width == pytest.approx(1.0)
    assert interval.score == pytest.approx((1.0 + 1.0 + 21.0 + 21.0) / 4)


@given(
    arrays(np.float64, st.integers(1, 12), elements=st.floats(-3, 3, width=16)), st.floats(0.05, 1.0)
)  # fmt: skip
def test_the_narrowest_window_is_the_narrowest_of_all_between_two_residuals(
    residuals: Floats, coverage: float
) -> None:
    low, high = narrowest_window(residuals, coverage)
    zero = np.zeros_like(residuals)
    assert interval_of(zero + low, zero + high, residuals).coverage >= coverage - 1e-9
    held = [
        b - a
        for a in residuals
        for b in residuals
        if b >= a and np.mean((residuals >= a) & (residuals <= b)) >= coverage - 1e-9
    ]
    assert high - low == min(held)
