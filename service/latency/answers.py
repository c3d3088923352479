"""Answers as they are shown, and their rankings.

They are made without validation, for every value is the service's own; only fields that the query asked for
are set, and only those are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.latency.decision import Decided, Known
from service.latency.findings import AskedModel, Measured, Predicted
from service.latency.intervals import measured_interval
from service.latency.ranking import Latency, fits_below, ranked
from service.latency.repository import TargetNow
from service.latency.schemas import Answer, AnswerError, LatencyAnswers, Ranked, RankedPlace, Ranking, Source

Finding = Measured | Predicted | AnswerError


def known_of(finding: Finding | None, coverage: float) -> Known | None:
    """What a finding says of the latency; None for one that says nothing."""
    match finding:
        case Measured():
            interval = _interval(finding, coverage) or (None, None)
            return Known(Latency(finding.median_ms, *interval), finding.level)
        case Predicted():
            said = finding.prediction
            return Known(Latency(said.median_ms, said.lower_ms, said.upper_ms), None, said.extrapolates)
        case _:
            return None


def answer_of(
    model: AskedModel,
    target: TargetNow,
    finding: Finding,
    *,
    coverage: float,
    below_ms: float | None = None,
    decided: Decided | None = None,
) -> Answer:
    """One answer, with what was decided where the query states what it needs."""
    values: dict[str, Any] = {
        "model_id": model.id,
        "input_shapes": model.input_shapes,
        "target_id": target.id,
        "target_key": target.key,
        "source": None,
        "median_ms": None,
        "lower_ms": None,
        "upper_ms": None,
        "coverage": None,
        "extrapolates": None,
        "reasons": (),
        "measurement_id": None,
        "predictor_id": None,
        "error": None,
    }
    match finding:
        case AnswerError():
            values["error"] = finding
        case Measured():
            values |= _of_measurement(finding, coverage)
        case Predicted():
            values |= _of_prediction(finding)
    if decided is not None:
        values |= {
            "decision": decided.decision,
            "because": decided.because,
            "job_id": None,
            "expected_s": decided.expected_s,
        }
    if below_ms is not None:
        known = known_of(finding, coverage)
        values["fits"] = None if known is None else fits_below(known.latency, below_ms)
    return Answer.model_construct(**values)


def rankings_of(answers: Sequence[Answer], *, of: Ranked, target_count: int) -> list[Ranking]:
    """The answers of each model over the targets, or of each target over the models. `answers` are of
    `target_count` targets, models first.
    """
    count = len(answers)
    if not count:
        return []
    if of is Ranked.TARGETS:
        groups = [range(start, start + target_count) for start in range(0, count, target_count)]
    else:
        groups = [range(start, count, target_count) for start in range(target_count)]
    return [_ranking(answers, group, of) for group in groups]


def encoded(answers: LatencyAnswers) -> bytes:
    """JSON of the fields that are set."""
    return answers.__pydantic_serializer__.to_json(answers, exclude_unset=True)


def _ranking(answers: Sequence[Answer], group: Sequence[int], of: Ranked) -> Ranking:
    first = answers[group[0]]
    latencies = [_latency_of(answers[index]) for index in group]
    is_of_models = of is Ranked.MODELS
    return Ranking.model_construct(
        of=of,
        model_id=None if is_of_models else first.model_id,
        target_id=first.target_id if is_of_models else None,
        target_key=first.target_key if is_of_models else None,
        places=[
            _place(answers[group[place.index]], group[place.index], overlaps_next=place.overlaps_next)
            for place in ranked(latencies)
        ],
        without_latency=[index for index, found in zip(group, latencies, strict=True) if found is None],
    )


def _place(answer: Answer, index: int, *, overlaps_next: bool | None) -> RankedPlace:
    assert answer.median_ms is not None  # only what has a latency has a place
    return RankedPlace.model_construct(
        answer=index,
        model_id=answer.model_id,
        target_id=answer.target_id,
        target_key=answer.target_key,
        median_ms=answer.median_ms,
        fits=answer.fits,
        overlaps_next=overlaps_next,
    )


def _latency_of(answer: Answer) -> Latency | None:
    if answer.median_ms is None:
        return None
    return Latency(answer.median_ms, answer.lower_ms, answer.upper_ms)


def _interval(measured: Measured, coverage: float) -> tuple[float, float] | None:
    return measured_interval(
        measured.median_ms,
        measured.standard_error_ms,
        round_count=measured.round_count,
        coverage=coverage,
    )


def _of_measurement(measured: Measured, coverage: float) -> dict[str, object]:
    interval = _interval(measured, coverage)
    lower_ms, upper_ms = interval or (None, None)
    return {
        "source": Source.MEASUREMENT,
        "median_ms": measured.median_ms,
        "lower_ms": lower_ms,
        "upper_ms": upper_ms,
        "coverage": None if interval is None else coverage,
        "extrapolates": False,
        "reasons": measured.reasons,
        "measurement_id": measured.id,
    }


def _of_prediction(predicted: Predicted) -> dict[str, object]:
    prediction = predicted.prediction
    return {
        "source": Source.PREDICTION,
        "median_ms": prediction.median_ms,
        "lower_ms": prediction.lower_ms,
        "upper_ms": prediction.upper_ms,
        "coverage": prediction.coverage,
        "extrapolates": prediction.extrapolates,
        "reasons": prediction.reasons,
        "predictor_id": predicted.predictor_id,
    }
