"""Predict or measure, as a function of what is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.measurement import Level
from service.latency.decision import Chance, Decided, Known, Need, decide, expected_error, levels_for
from service.latency.ranking import Latency
from service.latency.schemas import Decision

CHANCE = Chance(
    obstacle=None,
    is_agent_alive=True,
    ahead_s=10.0,
    job_s={Level.QUICK: 5.0, Level.STANDARD: 20.0, Level.CERTIFIED: 100.0},
    errors={},
)
NEED = Need(max_relative_error=0.1, deadline_s=None, below_ms=None, coverage=0.9)


def known(half_width: float, level: Level | None = None, *, extrapolates: bool = False) -> Known:
    """An answer of 10 ms, give or take."""
    return Known(Latency(10.0, 10.0 * (1 - half_width), 10.0 * (1 + half_width)), level, extrapolates)


@pytest.mark.parametrize(
    ("measured", "predicted", "decision", "level"),
    [
        (known(0.05, Level.QUICK), None, Decision.MEASURED, None),
        (known(0.2, Level.QUICK), known(0.05), Decision.PREDICTED, None),
        (known(0.2, Level.QUICK), known(0.3), Decision.QUEUED, Level.STANDARD),
        (None, known(0.3), Decision.QUEUED, Level.QUICK),
        (None, known(0.05, extrapolates=True), Decision.QUEUED, Level.QUICK),
        (None, None, Decision.QUEUED, Level.QUICK),
        (known(0.2, Level.CERTIFIED), known(0.3), Decision.MEASURED, None),  # no level is above
    ],
)
def test_the_first_that_is_good_enough_answers(
    measured: Known | None, predicted: Known | None, decision: Decision, level: Level | None
) -> None:
    decided = decide(NEED, measured, predicted, CHANCE)
    assert (decided.decision, decided.level) == (decision, level), decided.because
    assert decided.because


def test_a_finer_bound_asks_for_a_higher_level() -> None:
    wanted = [
        decide(replace(NEED, max_relative_error=bound), None, None, CHANCE).level for bound in (0.1, 0.02)
    ]
    assert wanted == [Level.QUICK, Level.STANDARD]
    noisy = replace(CHANCE, errors={Level.QUICK: 0.2})
    assert decide(NEED, None, None, noisy).level is Level.STANDARD  # as measurements here have been of late
    hopeless = decide(replace(NEED, max_relative_error=0.001), None, known(0.3), CHANCE)
    assert (hopeless.decision, hopeless.level) == (Decision.PREDICTED, None)
    assert "no level" in hopeless.because


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"obstacle": "the API key lacks the scope 'measure'"}, "scope 'measure'"),
        ({"is_agent_alive": False}, "no agent"),
        ({"ahead_s": 60.0}, "about 65 s"),
    ],
)
def test_what_cannot_be_measured_in_time_is_not_queued(change: dict[str, object], words: str) -> None:
    hurried = replace(NEED, deadline_s=30.0)
    assert decide(hurried, None, known(0.3), CHANCE).expected_s == 15.0
    decided = decide(hurried, None, known(0.3), replace(CHANCE, **change))  # type: ignore[arg-type]
    assert (decided.decision, decided.level) == (Decision.PREDICTED, None)
    assert words in decided.because
    assert decide(hurried, None, None, replace(CHANCE, **change)).decision is None  # type: ignore[arg-type]


def test_a_slow_model_takes_longer_than_a_usual_job() -> None:
    slow = Known(Latency(2000.0, 100.0, 4000.0), None)
    assert decide(NEED, None, slow, CHANCE).expected_s == pytest.approx(10.0 + 2 * 10 * 2.0)


def test_without_an_agent_a_patient_query_waits() -> None:
    decided = decide(NEED, None, None, replace(CHANCE, is_agent_alive=False))
    assert (decided.decision, decided.expected_s) == (Decision.QUEUED, None)


def test_a_deadline_alone_asks_for_a_measurement_and_a_limit_for_a_verdict() -> None:
    patient = Need(None, 60.0, None, 0.9)
    assert decide(patient, None, known(0.01), CHANCE).level is Level.STANDARD
    assert decide(replace(patient, deadline_s=20.0), None, known(0.01), CHANCE).level is Level.QUICK
    assert decide(patient, known(0.3, Level.QUICK), None, CHANCE).decision is Decision.MEASURED
    limited = replace(patient, below_ms=20.0)
    assert decide(limited, None, known(0.5), CHANCE).decision is Decision.PREDICTED
    assert decide(replace(limited, below_ms=12.0), None, known(0.5), CHANCE).level is Level.STANDARD
    now = decide(replace(limited, below_ms=12.0, deadline_s=0.0), None, known(0.5), CHANCE)
    assert (now.decision, now.level) == (Decision.PREDICTED, None)


maybe_known = st.none() | st.builds(
    known, st.floats(0.001, 0.9), st.sampled_from([None, *Level]), extrapolates=st.booleans()
)
needs = st.builds(
    Need,
    max_relative_error=st.none() | st.floats(0.001, 1.0),
    deadline_s=st.none() | st.floats(0.0, 500.0),
    below_ms=st.none() | st.floats(1.0, 30.0),
    coverage=st.floats(0.5, 0.99),
)


@given(needs, maybe_known, maybe_known, st.booleans(), st.none() | st.just("no right"))
def test_what_is_queued_keeps_every_promise(
    need: Need, one: Known | None, other: Known | None, is_alive: bool, obstacle: str | None
) -> None:
    measured = one if one is not None and one.level is not None else None
    predicted = other if other is not None and other.level is None else None
    chance = replace(CHANCE, is_agent_alive=is_alive, obstacle=obstacle)
    decided: Decided = decide(need, measured, predicted, chance)
    assert (decided.level is not None) is (decided.decision is Decision.QUEUED)
    if decided.level is not None:
        assert obstacle is None
        assert decided.level in levels_for(need, measured, {})
        if need.deadline_s is not None:
            assert is_alive
            assert decided.expected_s is not None
            assert decided.expected_s <= need.deadline_s
        if need.max_relative_error is not None:
            assert expected_error(decided.level, need.coverage, {}) <= need.max_relative_error
    elif decided.decision is None:
        assert (measured, predicted) == (None, None)
