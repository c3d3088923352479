"""What is known of a model's latency on a target: its best stored measurement, and what the target's live
predictor says.

Answers are made from rows, graphs and predictors that hardly ever change, so a process keeps what it worked
out (`service.latency.cache`) under keys that name all it came from. What may change is read anew for every
query: the targets' rows, whose `revision` rises with every measurement. So several servers on one database
never answer from what is no longer so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from devices.errors import MissingInputSizes, ModelRejected
from devices.measurement import Level
from devices.model_ref import InputSpec, resolve_input_shapes
from predictor.description import Described
from predictor.errors import PredictorError
from predictor.predict import Prediction, Predictor
from service.db import tables
from service.db.session import Snapshot
from service.dependencies import Services
from service.errors import Conflict, Invalid
from service.latency import repository
from service.latency.cache import Recent
from service.latency.graphs import Rejection, graph_of
from service.latency.recalibration import (
    IDENTITY,
    LATEST,
    REFERENCE_COVERAGE,
    Recalibration,
    Residual,
    recalibrated,
)
from service.latency.repository import Place, TargetNow
from service.latency.schemas import AnswerError, QueriedModel
from service.measurements import shapes_sha256

Shapes = dict[str, tuple[int, ...]]
Name = tuple[str, str]  # of a graph: SHA-256 of the model, SHA-256 of its shapes


@dataclass(frozen=True, slots=True)
class AskedModel:
    """A model at complete sizes."""

    id: str
    sha256: str
    input_shapes: Shapes
    shapes_sha256: str

    @property
    def name(self) -> Name:
        """What names its graph."""
        return self.sha256, self.shapes_sha256

    def on(self, target: TargetNow) -> Place:
        """What names its latency on a target."""
        return target.id, self.id, self.shapes_sha256


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurement that answers, and how many rounds its standard error comes from."""

    id: str
    level: Level
    median_ms: float
    standard_error_ms: float
    reasons: tuple[str, ...]
    round_count: int


@dataclass(frozen=True, slots=True)
class LivePredictor:
    """The predictor that answers for a target, and what was measured there since it was adapted, newest
    first.
    """

    id: str
    predictor: Predictor
    news: tuple[tuple[AskedModel, float], ...]  # with the measured median in milliseconds


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a live predictor says."""

    predictor_id: str
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class _Calibration:
    """What the measurements since the adaptation say of the predictor, all together and one by one."""

    all: Recalibration
    residuals: Mapping[Name, Residual]

    def of(self, name: Name) -> Recalibration:
        """For the prediction of this graph. Its own measurement does not count, so that a prediction stays
        one that can be compared with the measurement.
        """
        if name not in self.residuals:
            return self.all
        return recalibrated([residual for other, residual in self.residuals.items() if other != name])


_ASKED: Recent[tuple[str, str, tuple[tuple[str, tuple[int, ...]], ...]], AskedModel] = Recent(16_384)
_MEASURED: Recent[tuple[int, Place], tuple[Measured | None]] = Recent(65_536)
_ROUNDS: Recent[str, int] = Recent(65_536)
_NEWS: Recent[tuple[str, int, str], tuple[tuple[AskedModel, float], ...]] = Recent(1024)
_CALIBRATIONS: Recent[tuple[str, int, str], _Calibration] = Recent(1024)
_DESCRIBED: Recent[tuple[str, Name], Described] = Recent(4096)
_PREDICTED: Recent[tuple[str, Name, float], Prediction | AnswerError] = Recent(65_536)


def asked_models(snapshot: Snapshot, project_id: str, queried: Sequence[QueriedModel]) -> list[AskedModel]:
    """The models of a query, in its order. Raises `NotFound`, and `Invalid` for sizes that are missing or
    wrong.
    """
    keys = [(project_id, one.model, tuple(sorted(one.input_shapes.items()))) for one in queried]
    known = [_ASKED.get(key) for key in keys]
    if None not in known:
        return [one for one in known if one is not None]
    rows = repository.models_by_name(snapshot.session, project_id, [one.model for one in queried])
    models: list[AskedModel] = []
    for index, (key, one) in enumerate(zip(keys, queried, strict=True)):
        row = rows[one.model]
        where = f"models.{index}.input_shapes"
        shapes = resolved_shapes(row.inputs, one.input_shapes, where=where)
        models.append(_ASKED.keep(key, AskedModel(row.id, row.sha256, shapes, shapes_sha256(shapes))))
    return models


def resolved_shapes(
    inputs: Sequence[Mapping[str, object]], given: Mapping[str, Sequence[int]], *, where: str
) -> Shapes:
    """Complete sizes of a model's inputs, as it declares them (`tables.Model.inputs`).

    Raises `Invalid` (missing_input_sizes, inputs_invalid), which names `where` in the request the sizes are.
    """
    declared = [InputSpec.model_validate(spec) for spec in inputs]
    try:
        return resolve_input_shapes(declared, given)
    except MissingInputSizes as error:
        missing = list(error.missing)
        raise Invalid("missing_input_sizes", f"{where}: {error}", where=where, missing=missing) from None
    except ModelRejected as error:
        raise Invalid("inputs_invalid", f"{where}: {error}", where=where) from None


def measured(
    snapshot: Snapshot, project_id: str, models: Sequence[AskedModel], targets: Sequence[TargetNow]
) -> dict[Place, Measured]:
    """The valid measurement of the highest level for each model on each target, and of those the newest."""
    found: dict[Place, Measured] = {}
    unread: dict[Place, int] = {}
    for target in targets:
        for model in models:
            place = model.on(target)
            kept = _MEASURED.get((target.revision, place))
            if kept is None:
                unread[place] = target.revision
            elif kept[0] is not None:
                found[place] = kept[0]
    if unread:
        read = _read_measured(snapshot.session, project_id, unread)
        for place, revision in unread.items():
            _MEASURED.keep((revision, place), (read.get(place),))
        found |= {place: one for place, one in read.items() if place in unread}
    return found


def _read_measured(session: Session, project_id: str, places: Mapping[Place, int]) -> dict[Place, Measured]:
    best = repository.best_measurements(
        session,
        project_id,
        target_ids={target_id for target_id, _, _ in places},
        model_ids={model_id for _, model_id, _ in places},
        shapes={shapes for _, _, shapes in places},
    )
    unknown = [row.id for row in best.values() if _ROUNDS.get(row.id) is None]
    rounds = repository.round_counts(session, project_id, unknown)
    for row_id, count in rounds.items():
        _ROUNDS.keep(row_id, count)
    return {
        place: Measured(
            row.id,
            Level(row.level),
            row.median_ms,
            row.standard_error_ms,
            tuple(row.reasons),
            rounds[row.id] if row.id in rounds else _ROUNDS.get(row.id) or 0,
        )
        for place, row in best.items()
    }


def live_predictor(services: Services, snapshot: Snapshot, target: TargetNow) -> LivePredictor | AnswerError:
    """Who answers for a target, or why nobody does."""
    try:
        predictor_id, predictor = services.predictors.live(snapshot.connection, target)
    except Conflict as error:
        return AnswerError(code=error.code, detail=error.detail)
    except PredictorError as error:  # a checkpoint of another version of the service
        detail = f"the predictor of target {target.key} cannot be used ({error}); onboard the target again"
        return AnswerError(code="predictor_unusable", detail=detail)
    key = (target.id, target.revision, predictor_id)
    news = _NEWS.get(key)
    if news is None:
        rows = repository.measured_since(snapshot.session, target.id, predictor_id, limit=LATEST)
        news = _NEWS.keep(key, tuple((_asked_again(row, sha256), row.median_ms) for row, sha256 in rows))
    return LivePredictor(predictor_id, predictor, news)


def predicted(
    services: Services,
    target: TargetNow,
    live: LivePredictor | AnswerError,
    models: Sequence[AskedModel],
    coverage: float,
) -> dict[Place, Predicted | AnswerError]:
    """For each of the models a prediction, or why there is none. Reads graphs that are new to the process:
    not for the event loop, nor for a transaction.
    """
    if isinstance(live, AnswerError):
        return {model.on(target): live for model in models}
    calibration = _calibration(services, target, live)
    raw = _predictions(services, live, models, coverage)
    return {
        model.on(target): one
        if isinstance(one, AnswerError)
        else Predicted(live.id, _moved(one, calibration.of(model.name)))
        for model, one in zip(models, raw, strict=True)
    }


def _predictions(
    services: Services, live: LivePredictor, models: Sequence[AskedModel], coverage: float
) -> list[Prediction | AnswerError]:
    """As the predictor says, in the order of the models."""
    found = [_PREDICTED.get((live.id, model.name, coverage)) for model in models]
    if None not in found:
        return [one for one in found if one is not None]
    answers: dict[Name, Prediction | AnswerError] = {}
    described: dict[Name, Described] = {}
    for model, kept in zip(models, found, strict=True):
        if kept is not None:
            answers[model.name] = kept
        else:
            one = _described(services, live, model)
            if isinstance(one, AnswerError):
                answers[model.name] = one
            else:
                described[model.name] = one
    predictions = live.predictor.predict_described(list(described.values()), coverage)
    answers.update(zip(described, predictions, strict=True))
    return [_PREDICTED.keep((live.id, model.name, coverage), answers[model.name]) for model in models]


def _described(services: Services, live: LivePredictor, model: AskedModel) -> Described | AnswerError:
    key = (live.id, model.name)
    kept = _DESCRIBED.get(key)
    if kept is not None:
        return kept
    read = graph_of(services.artifacts, model.sha256, model.input_shapes)
    if isinstance(read, Rejection):
        return AnswerError(code=read.code, detail=read.detail)
    return _DESCRIBED.keep(key, live.predictor.describe(read))


def _calibration(services: Services, target: TargetNow, live: LivePredictor) -> _Calibration:
    if not live.news:
        return _Calibration(IDENTITY, {})
    key = (target.id, target.revision, live.id)
    kept = _CALIBRATIONS.get(key)
    if kept is not None:
        return kept
    models = [model for model, _ in live.news]
    raw = _predictions(services, live, models, REFERENCE_COVERAGE)
    residuals = {
        model.name: Residual(measured_ms, one.median_ms, one.lower_ms, one.upper_ms)
        for (model, measured_ms), one in zip(live.news, raw, strict=True)
        if isinstance(one, Prediction)
    }
    return _CALIBRATIONS.keep(key, _Calibration(recalibrated(list(residuals.values())), residuals))


def _moved(prediction: Prediction, recalibration: Recalibration) -> Prediction:
    if recalibration.count == 0:
        return prediction
    median_ms, lower_ms, upper_ms = recalibration.applied(
        prediction.median_ms, prediction.lower_ms, prediction.upper_ms
    )
    note = f"recalibrated by {recalibration.count} newer measurements of this target"
    reasons = (*prediction.reasons, note)
    return replace(prediction, median_ms=median_ms, lower_ms=lower_ms, upper_ms=upper_ms, reasons=reasons)


def _asked_again(row: tables.Measurement, sha256: str) -> AskedModel:
    shapes = {name: tuple(shape) for name, shape in row.input_shapes.items()}
    return AskedModel(row.model_id, sha256, shapes, row.shapes_sha256)
