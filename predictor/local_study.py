"""How well a predictor does on this very machine: measure the reference set, adapt, and compare with a
folder of models.

Measurements go through the same sandbox as an agent's, and every valid one is kept in a JSON-lines file, so
a study that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from devices.errors import DevicesError
from devices.measurement import Level, Measurement, MeasurementPlan
from devices.model_ref import ModelRef, sha256_of
from devices.sandbox import MeasurementRequest, run_measurement
from devices.target import Device, Runtime, Target
from predictor.adapt import Observation, TargetFacts, adapt
from predictor.errors import GraphRejected, PredictorError
from predictor.evaluate import COVERAGE, AccuracyCard, accuracy_card, card_of
from predictor.graph import ModelGraph
from predictor.model_files import MANIFEST, read_manifest, stated_shapes
from predictor.predict import Prediction, Predictor
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_candidates, reference_models

_TRIES = 3  # a busy machine breaks the rules of the protocol now and then

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure: its name, bytes, and the sizes of its inputs."""

    name: str
    model: bytes
    input_shapes: Mapping[str, Sequence[int]]

    def built(self) -> tuple[bytes, dict[str, tuple[int, ...]]]:
        """Bytes and sizes, as the models of families are built."""
        return self.model, {name: tuple(sizes) for name, sizes in self.input_shapes.items()}


@dataclass(frozen=True, slots=True)
class Row:
    """One model of a study. `failure` says why there is no prediction or no measurement; None where all
    went well.
    """

    name: str
    family: str = ""
    prediction: Prediction | None = None
    measured_ms: float | None = None
    failure: str | None = None

    @property
    def error(self) -> float | None:
        """Relative error of the prediction, signed: positive is too slow."""
        if self.prediction is None or self.measured_ms is None:
            return None
        return self.prediction.median_ms / self.measured_ms - 1.0


@dataclass(frozen=True, slots=True)
class Study:
    """Predictions beside measurements on one target. `card`: by the reference set alone; `summary`: over
    the rows.
    """

    target_key: str
    card: AccuracyCard
    rows: tuple[Row, ...]
    summary: AccuracyCard | None


class MeasurementFile:
    """Valid measurements in a JSON-lines file, by target, model, sizes and level. Lines that do not
    parse are skipped.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Measurement] = {}
        for line in self._lines():
            try:
                measurement = Measurement.model_validate_json(line)
            except ValidationError:
                continue  # a line that was cut off when a study was killed
            self._known[
                _key(measurement.device_key, measurement.runtime, measurement.model, measurement.plan)
            ] = measurement

    def find(self, request: MeasurementRequest) -> Measurement | None:
        """The measurement that answers a request, if it was taken before."""
        return self._known.get(_key(request.device_key, request.runtime, request.model, request.plan))

    def add(self, measurement: Measurement) -> None:
        """Keep a measurement, on disk where there is a file."""
        self._known[
            _key(measurement.device_key, measurement.runtime, measurement.model, measurement.plan)
        ] = measurement
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(measurement.model_dump_json() + "\n")

    def _lines(self) -> Iterator[str]:
        if self._path is not None and self._path.exists():
            with self._path.open(encoding="utf-8", errors="replace") as file:
                yield from file


def subjects_in(folder: Path) -> list[Subject]:
    """The ONNX files of a folder, by name. `manifest.json`, where there is one, gives sizes: {file:
    {"input_shapes": ...}}.

    Raises `PredictorError` for a folder without models or with a manifest that does not parse.
    """
    paths = sorted(folder.glob("*.onnx"))
    if not paths:
        raise PredictorError(f"no .onnx file is in {folder}")
    manifest = folder / MANIFEST
    described = read_manifest(manifest)
    return [
        Subject(path.name, path.read_bytes(), stated_shapes(described, path.name, manifest)) for path in paths
    ]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a study measures: this device, one runtime, a level, and the file of what was measured before."""

    device: Device
    runtime: Runtime
    level: Level
    file: MeasurementFile
    report: Report

    @property
    def target(self) -> TargetFacts:
        """The target of all measurements here."""
        key = Target(device_key=self.device.key, runtime=self.runtime).key
        return TargetFacts(key=key, runtime=self.runtime, hardware=self.device.hardware)

    def measure(self, subject: Subject, graph: ModelGraph) -> Measurement:
        """Measure a model, or find it measured. The verdict may be invalid after all tries. Raises
        `DevicesError`.
        """
        shapes = {tensor.name: tensor.shape for tensor in graph.inputs}
        request = MeasurementRequest(
            device_key=self.device.key,
            runtime=self.runtime,
            model=ModelRef(sha256=sha256_of(subject.model), input_shapes=shapes),
            plan=MeasurementPlan(level=self.level),
        )
        known = self.file.find(request)
        if known is not None:
            return known
        for _ in range(_TRIES):
            measurement = run_measurement(request, subject.model)
            if measurement.verdict.is_valid:
                self.file.add(measurement)
                break
        return measurement

    def observe(self, subject: Subject) -> Observation:
        """Measure a reference model. Raises `PredictorError` or `DevicesError` where it has no valid
        measurement.
        """
        graph = read_graph(subject.model, subject.input_shapes)
        measurement = self.measure(subject, graph)
        if not measurement.verdict.is_valid:
            raise PredictorError(f"no valid measurement: {'; '.join(measurement.verdict.reasons)}")
        estimate = measurement.estimate
        return Observation(
            target_key=self.target.key,
            runtime=self.runtime,
            hardware=self.device.hardware,
            graph=graph,
            median_ms=estimate.median_ms,
            standard_error_ms=estimate.standard_error_ms,
            name=subject.name,
        )


def run_study(bench: Bench, subjects: Sequence[Subject]) -> Study:
    """Measure the reference set, adapt, then predict and measure every subject. Raises `PredictorError`
    without references.
    """
    observations: list[Observation] = []
    for reference in reference_candidates():
        if len(observations) == len(reference_models()):
            break
        try:
            observation = bench.observe(Subject(reference.name, reference.model, reference.input_shapes))
        except (PredictorError, DevicesError) as error:
            bench.report(f"reference {reference.name}: left out, {error}")
            continue
        bench.report(f"reference {reference.name}: {observation.median_ms:.3f} ms")
        observations.append(observation)
    predictor = Predictor(adapt(bench.target, observations))
    rows = tuple(_row(bench, predictor, subject) for subject in subjects)
    good = [row for row in rows if row.prediction is not None and row.measured_ms is not None]
    summary = card_of(
        [row.prediction for row in good if row.prediction is not None],
        [row.measured_ms for row in good if row.measured_ms is not None],
        [row.family for row in good],
    ) if good else None  # fmt: skip
    return Study(bench.target.key, accuracy_card(bench.target, observations), rows, summary)


def _row(bench: Bench, predictor: Predictor, subject: Subject) -> Row:
    try:
        graph = read_graph(subject.model, subject.input_shapes)
    except GraphRejected as error:
        bench.report(f"{subject.name}: refused, {error}")
        return Row(subject.name, failure=f"{error.code.value}: {error}")
    described = predictor.describe(graph)
    prediction = predictor.predict_described([described], COVERAGE)[0]
    try:
        measurement = bench.measure(subject, graph)
    except DevicesError as error:
        bench.report(f"{subject.name}: not measured, {error}")
        return Row(subject.name, described.family, prediction, failure=str(error))
    if not measurement.verdict.is_valid:
        reasons = "; ".join(measurement.verdict.reasons)
        bench.report(f"{subject.name}: not measured, {reasons}")
        return Row(subject.name, described.family, prediction, failure=reasons)
    bench.report(f"{subject.name}: {measurement.estimate.median_ms:.3f} ms")
    return Row(subject.name, described.family, prediction, measurement.estimate.median_ms)


def _key(device_key: str, runtime: Runtime, model: ModelRef, plan: MeasurementPlan) -> str:
    shapes = sorted((name, list(shape)) for name, shape in model.input_shapes.items())
    return json.dumps([device_key, runtime.key, runtime.version, model.sha256, shapes, plan.level.value])
