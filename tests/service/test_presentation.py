"""What people read: architectures in words, and what follows from measurements that do not count."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from devices.measurement import Level
from search.genome import Option
from search.spaces.digits_cnn import DigitsCnn
from search.trial import TrialState
from search.verification import VerificationSummary
from service.fleet.schemas import DeviceView, TargetState, TargetView
from service.latency.schemas import MeasurementView
from service.presentation import (
    architecture_of,
    comparison_table,
    front_summary,
    target_notes,
    targets_table,
    validity_note,
)
from service.searches.schemas import FrontView, TrialView
from service.terminal import Terminal


def trial(genome: dict[str, Option]) -> TrialView:
    return TrialView(
        number=0,
        genome=dict(genome),
        state=TrialState.SCORED,
        objectives={},
        predicted_ms=1.0,
        predicted_lower_ms=0.9,
        predicted_upper_ms=1.1,
        on_predicted_front=True,
        on_verified_front=False,
        measurement_id=None,
        measured_ms=None,
        measured_standard_error_ms=None,
        measured_is_valid=None,
        model_id=None,
        model_href=None,
        failure=None,
    )


def digits_genome(**changed: Option) -> dict[str, Option]:
    first = {choice.name: choice.options[0] for choice in DigitsCnn().choices}
    assert changed.keys() <= first.keys()
    return first | changed


@pytest.mark.parametrize(
    ("genome", "words"),
    [
        (digits_genome(), "1 stage, 4 px, width 4, conv 3"),
        (
            digits_genome(
                depth=3,
                resolution=16,
                width=24,
                **{f"stage{i}.block": "separable" for i in (1, 2, 3)},
                **{"stage2.kernel": 5, "stage3.kernel": 5},
            ),
            "3 stages, 16 px, width 24, separable 3-5-5",
        ),
        (
            digits_genome(depth=2, growth=2, **{"stage2.block": "separable", "stage3.kernel": 5}),
            "2 stages, 4 px, width 4 doubling, conv 3, separable 3",
        ),
        ({"precision": "int8", "level1": 2, "level0": 1}, "level0=1 level1=2"),
        ({f"block{i:02d}": f"k{i}" for i in range(10)}, "k0 k1 k2 k3 k4 k5 k6 k7 k8 k9"),
    ],
)
def test_an_architecture_is_told_in_a_few_words(genome: dict[str, Option], words: str) -> None:
    assert architecture_of(trial(genome)) == words


def measurement(*reasons: str) -> MeasurementView:
    return MeasurementView(
        id="mea_1",
        job_id="job_1",
        target_id="tgt_1",
        target_key="board/fake-1.0/cpu/t1",
        model_id="mdl_1",
        model_sha256="0" * 64,
        input_shapes={},
        level=Level.STANDARD,
        is_valid=not reasons,
        is_reference=False,
        reasons=list(reasons),
        median_ms=2.0,
        p90_ms=None,
        standard_error_ms=0.1,
        created_at=dt.datetime.now(dt.UTC),
    )


def test_an_invalid_measurement_says_what_follows_and_why() -> None:
    assert validity_note(measurement()) == []
    reasons = ("unstable: it swings; measure again", "preempted: others ran; stop them")
    meaning, *why = validity_note(measurement(*reasons))
    assert "answers no query" in meaning
    assert [line.strip() for line in why] == list(reasons)
    [notes] = list(comparison_table("m", None, measurement(*reasons)).columns[-1].cells)
    assert notes == "standard, not valid (unstable, preempted)"


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"candidates": 0, "measured": 0, "invalid": 0, "missing": 0}, "slower than the limit"),
        ({"candidates": 4, "measured": 0, "invalid": 3, "missing": 1}, "None of the 4 candidates"),
        ({"candidates": 4, "measured": 2, "invalid": 2, "missing": 0}, "2 of 4 candidates"),
    ],
)
def test_a_front_that_was_not_verified_says_why(counts: dict[str, Any], told: str) -> None:
    summary = VerificationSummary.model_validate(counts)
    assert told in front_summary(FrontView(predicted=[], verified=[], summary=summary))


def test_a_line_is_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    token = "lt_tok_" + "0" * 400
    Terminal(as_json=False).say(token)
    assert capsys.readouterr().out == f"{token}\n"


def test_a_long_reason_stands_below_the_table_of_targets() -> None:
    reason = "3 reference models have a valid measurement, 6 are needed: encoder: preempted; decoder: crashed"
    target = TargetView.model_construct(
        key="board/fake-1.0/cpu/t1",
        device_id="dev_1",
        state=TargetState.FAILED,
        state_reason=reason,
        predictor=None,
    )
    device = DeviceView.model_construct(id="dev_1", key="board", agent=None)
    [notes] = list(targets_table([device], [target]).columns[-1].cells)
    assert notes == "3 reference models have a valid measurement, 6 are needed"
    assert target_notes([target]) == [f"{target.key}: {reason}"]
