"""Latency queries: many models asked of many targets. What was measured wins over what is predicted.

The measurement that answers is a valid one of the highest level there is for this model, these sizes and this
target, and of those the newest. Any level answers: even a quick measurement is nearer to the truth than a
prediction, and its interval says how near.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from devices.errors import MissingInputSizes, ModelRejected
from devices.model_ref import InputSpec, resolve_input_shapes
from predictor.errors import PredictorError
from predictor.graph import ModelGraph
from predictor.predict import Prediction, Predictor
from service.db import tables
from service.dependencies import Services
from service.errors import Conflict, Invalid
from service.latency import repository
from service.latency.graphs import Rejection, graph_of
from service.latency.intervals import measured_interval
from service.latency.schemas import Answer, AnswerError, LatencyQuery, Source
from service.measurements import shapes_sha256

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class AskedModel:
    """A model at complete sizes."""

    row: tables.Model
    input_shapes: Shapes
    shapes_sha256: str

    def on(self, target: tables.Target) -> repository.Place:
        """What names its latency on a target."""
        return target.id, self.row.id, self.shapes_sha256


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurement that answers, and how many rounds its standard error comes from."""

    row: tables.Measurement
    round_count: int


@dataclass(frozen=True, slots=True)
class LivePredictor:
    """The predictor that answers for a target."""

    id: str
    predictor: Predictor


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a live predictor says."""

    predictor_id: str
    prediction: Prediction


Finding = Measured | Predicted | AnswerError


def answer_query(services: Services, project_id: str, query: LatencyQuery) -> list[Answer]:
    """One answer per model and target, models first.

    Raises `NotFound`, and `Invalid` for sizes that are missing or wrong; what is wrong with one target or one
    graph is told in its answers.
    """
    with services.database.read() as session:
        models = _asked_models(session, project_id, query)
        named = repository.targets_by_name(session, project_id, query.targets)
        targets = [named[name] for name in query.targets]
        findings = _measured(session, project_id, query, models, targets)
        live = {target.id: _live(services, session, target) for target in targets if _needs_predictor(query)}
    for target in targets:
        wanted = [model for model in models if model.on(target) not in findings]
        findings |= _predicted(services, target, live.get(target.id), wanted, query.coverage)
    return [
        _answer(model, target, findings[model.on(target)], query.coverage)
        for model in models
        for target in targets
    ]


def resolved_shapes(model: tables.Model, given: Mapping[str, Sequence[int]], *, where: str) -> Shapes:
    """Complete sizes of a model's inputs.

    Raises `Invalid` (missing_input_sizes, inputs_invalid), which names `where` in the request the sizes are.
    """
    declared = [InputSpec.model_validate(spec) for spec in model.inputs]
    try:
        return resolve_input_shapes(declared, given)
    except MissingInputSizes as error:
        missing = list(error.missing)
        raise Invalid("missing_input_sizes", f"{where}: {error}", where=where, missing=missing) from None
    except ModelRejected as error:
        raise Invalid("inputs_invalid", f"{where}: {error}", where=where) from None


def _needs_predictor(query: LatencyQuery) -> bool:
    return query.source is not Source.MEASUREMENT


def _asked_models(session: Session, project_id: str, query: LatencyQuery) -> list[AskedModel]:
    rows = repository.models_by_name(session, project_id, [asked.model for asked in query.models])
    models: list[AskedModel] = []
    for index, asked in enumerate(query.models):
        row = rows[asked.model]
        shapes = resolved_shapes(row, asked.input_shapes, where=f"models.{index}.input_shapes")
        models.append(AskedModel(row, shapes, shapes_sha256(shapes)))
    return models


def _measured(
    session: Session,
    project_id: str,
    query: LatencyQuery,
    models: Sequence[AskedModel],
    targets: Sequence[tables.Target],
) -> dict[repository.Place, Finding]:
    if query.source is Source.PREDICTION:
        return {}
    best = repository.best_measurements(
        session,
        project_id,
        target_ids={target.id for target in targets},
        model_ids={model.row.id for model in models},
        shapes={model.shapes_sha256 for model in models},
    )
    rounds = repository.round_counts(session, project_id, [row.id for row in best.values()])
    return {place: Measured(row, rounds[row.id]) for place, row in best.items()}


def _live(services: Services, session: Session, target: tables.Target) -> LivePredictor | AnswerError:
    try:
        return LivePredictor(*services.predictors.live(session, target))
    except Conflict as error:
        return AnswerError(code=error.code, detail=error.detail)
    except PredictorError as error:  # a checkpoint of another version of the service
        detail = f"the predictor of target {target.key} cannot be used ({error}); onboard the target again"
        return AnswerError(code="predictor_unusable", detail=detail)


def _predicted(
    services: Services,
    target: tables.Target,
    live: LivePredictor | AnswerError | None,
    models: Sequence[AskedModel],
    coverage: float,
) -> dict[repository.Place, Finding]:
    """For each of the models a prediction, or why there is none. `live` is None where only measurements
    count.
    """
    if live is None:
        detail = f"no valid measurement of this model on target {target.key}; POST /v1/measurements makes one"
        return {model.on(target): AnswerError(code="no_measurement", detail=detail) for model in models}
    if isinstance(live, AnswerError):
        return {model.on(target): live for model in models}
    findings: dict[repository.Place, Finding] = {}
    graphs: dict[repository.Place, ModelGraph] = {}
    for model in models:
        read = graph_of(services.artifacts, model.row.sha256, model.input_shapes)
        if isinstance(read, Rejection):
            findings[model.on(target)] = AnswerError(code=read.code, detail=read.detail)
        else:
            graphs[model.on(target)] = read
    predictions = live.predictor.predict_many(list(graphs.values()), coverage)
    for place, prediction in zip(graphs, predictions, strict=True):
        findings[place] = Predicted(live.id, prediction)
    return findings


def _answer(model: AskedModel, target: tables.Target, finding: Finding, coverage: float) -> Answer:
    blank = Answer(
        model_id=model.row.id,
        input_shapes=model.input_shapes,
        target_id=target.id,
        target_key=target.key,
        source=None,
        median_ms=None,
        lower_ms=None,
        upper_ms=None,
        coverage=None,
        extrapolates=None,
        reasons=(),
        measurement_id=None,
        predictor_id=None,
        error=None,
    )
    match finding:
        case AnswerError():
            return blank.model_copy(update={"error": finding})
        case Measured():
            return blank.model_copy(update=_of_measurement(finding, coverage))
        case Predicted():
            return blank.model_copy(update=_of_prediction(finding))


def _of_measurement(measured: Measured, coverage: float) -> dict[str, object]:
    row = measured.row
    interval = measured_interval(
        row.median_ms, row.standard_error_ms, round_count=measured.round_count, coverage=coverage
    )
    lower_ms, upper_ms = interval or (None, None)
    return {
        "source": Source.MEASUREMENT,
        "median_ms": row.median_ms,
        "lower_ms": lower_ms,
        "upper_ms": upper_ms,
        "coverage": None if interval is None else coverage,
        "extrapolates": False,
        "reasons": tuple(row.reasons),
        "measurement_id": row.id,
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
