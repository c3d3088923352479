"""Picking what to measure, and comparing predictions with measurements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from search.genome import Genome
from search.trial import Trial, TrialState
from search.verification import VerifiedLatency, pick_spread, spearman, summarise, with_verification

NAMES = ("accuracy", "latency_ms")


def trial(number: int, accuracy: float, predicted_ms: float) -> Trial:
    return Trial(
        number=number,
        genome=Genome.of({"n": number}),
        state=TrialState.SCORED,
        objectives={"accuracy": accuracy, "latency_ms": predicted_ms},
        predicted_ms=predicted_ms,
        predicted_lower_ms=0.8 * predicted_ms,
        predicted_upper_ms=1.25 * predicted_ms,
    )


def measured(median_ms: float, *, is_valid: bool = True, reasons: tuple[str, ...] = ()) -> VerifiedLatency:
    return VerifiedLatency(
        median_ms=median_ms, lower_ms=median_ms, upper_ms=median_ms, is_valid=is_valid, reasons=reasons
    )


def test_picks_are_the_ends_and_then_the_widest_gap() -> None:
    front = [[0.0, 10.0], [0.5, 9.5], [5.0, 5.0], [5.1, 4.9], [10.0, 0.0]]
    assert pick_spread(front, 1) == [0]
    assert pick_spread(front, 2) == [0, 4]
    assert pick_spread(front, 3) == [0, 2, 4]
    assert pick_spread(front, 9) == [0, 1, 2, 3, 4]
    assert pick_spread(np.zeros((0, 3)), 4) == []


def test_picks_hold_the_best_of_each_of_three_objectives() -> None:
    front = [[3.0, 3.0, 3.0], [0.0, 5.0, 5.0], [5.0, 0.0, 5.0], [5.0, 5.0, 0.0], [2.0, 4.0, 4.0]]
    assert pick_spread(front, 3) == [1, 2, 3]
    assert pick_spread(front, 4) == [0, 1, 2, 3]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_spearman_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ours = spearman(a, b)
    if len(pairs) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(stats.spearmanr(a, b).statistic)


def test_summary_by_hand() -> None:
    candidates = [
        trial(0, 0.9, 2.0),
        trial(1, 0.8, 1.0),
        trial(2, 0.7, 0.5),
        trial(3, 0.6, 0.4),
        trial(4, 0.5, 0.3),
    ]
    verified = {
        0: measured(4.0),  # predicted 2: outside the interval, off by half
        1: measured(1.0),
        2: measured(0.5),
        3: measured(9.0, is_valid=False, reasons=("the machine was busy",)),
        4: None,
    }
    after = [with_verification(t, verified[t.number]) for t in candidates]
    assert [t.state for t in after] == [TrialState.VERIFIED] * 3 + [TrialState.SCORED] * 2
    assert after[3].verification_reasons == ("the machine was busy",)
    assert after[3].verified_ms is None
    assert after[4].verification_reasons == ("it was not measured",)
    assert after[0].objectives == candidates[0].objectives  # predictions stay what they were
    assert after[0].verified_objectives == {"accuracy": 0.9, "latency_ms": 4.0}

    summary = summarise(after, verified, NAMES)
    assert (summary.candidates, summary.measured, summary.invalid, summary.missing) == (5, 3, 1, 1)
    assert summary.rank_correlation == pytest.approx(1.0)
    assert summary.mape == pytest.approx(0.5 / 3)
    assert summary.interval_coverage == pytest.approx(2 / 3)
    # box: accuracy 0.9 down to 0.7 - 0.02, latency 0.5 up to 4 + 0.35
    assert summary.ideal_point == pytest.approx({"accuracy": 0.9, "latency_ms": 0.5})
    assert summary.reference_point == pytest.approx({"accuracy": 0.68, "latency_ms": 4.35})
    box = 0.22 * 3.85
    predicted = 0.22 * 2.35 + 0.12 * 1.0 + 0.02 * 0.5
    observed = 0.22 * 0.35 + 0.12 * 3.0 + 0.02 * 0.5
    assert summary.hypervolume_predicted == pytest.approx(predicted / box)
    assert summary.hypervolume_verified == pytest.approx(observed / box)


def test_summary_says_nothing_that_it_cannot_know() -> None:
    nothing = summarise([], {}, NAMES)
    assert (nothing.candidates, nothing.measured, nothing.mape) == (0, 0, None)
    missing = summarise([with_verification(trial(0, 0.9, 2.0), None)], {}, NAMES)
    assert (missing.missing, missing.hypervolume_verified, missing.reference_point) == (1, None, {})
    one = summarise([with_verification(trial(0, 0.9, 2.0), measured(2.5))], {0: measured(2.5)}, NAMES)
    assert one.rank_correlation is None
    assert one.mape == pytest.approx(0.2)
    assert one.hypervolume_predicted is not None
