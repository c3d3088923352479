"""What a predictor learns from: the stored, valid measurements of a target and of its neighbours, as graphs
with latencies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from devices.target import Hardware, Runtime
from predictor.adapt import Observation
from predictor.errors import GraphRejected
from predictor.graph import ModelGraph
from predictor.reading.reader import read_graph
from service.artifacts import ArtifactLost, ArtifactStore
from service.db import tables

# Bounds on memory: the newest measurements count, and graphs that targets share are read once.
MAX_OWN = 400
MAX_POOL = 800

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ObservedRow:
    """One valid measurement as the database has it."""

    target_key: str
    runtime: Mapping[str, object]
    hardware: Mapping[str, object]
    model_id: str
    model_name: str
    model_sha256: str
    shapes_sha256: str
    input_shapes: Mapping[str, Sequence[int]]
    median_ms: float
    standard_error_ms: float
    is_reference: bool


def observed_rows(
    session: Session, target: tables.Target
) -> tuple[tuple[ObservedRow, ...], tuple[ObservedRow, ...]]:
    """The target's own measurements, references first, and those of the project's other targets.

    Of each model and input sizes on each target the newest measurement counts.
    """
    own = session.execute(_valid(target.project_id).where(tables.Target.id == target.id).limit(MAX_OWN)).all()
    pool = session.execute(
        _valid(target.project_id).where(tables.Target.id != target.id).limit(MAX_POOL)
    ).all()
    return tuple(sorted(_newest(own), key=lambda row: not row.is_reference)), _newest(pool)


class ObservationReader:
    """Turns rows into observations; keeps each graph that it has read."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._graphs: dict[tuple[str, str], ModelGraph | None] = {}

    def read(self, rows: Iterable[ObservedRow]) -> tuple[Observation, ...]:
        """Rows whose model can be costed; one that cannot be is logged and left out."""
        observations = []
        for row in rows:
            graph = self._graph(row)
            if graph is not None:
                observations.append(_observation(row, graph))
        return tuple(observations)

    def _graph(self, row: ObservedRow) -> ModelGraph | None:
        key = (row.model_sha256, row.shapes_sha256)
        if key not in self._graphs:
            try:
                self._graphs[key] = read_graph(self._artifacts.read(row.model_sha256), row.input_shapes)
            except (GraphRejected, ArtifactLost) as rejected:
                log.warning("model_left_out", model=row.model_id, reason=str(rejected))
                self._graphs[key] = None
        return self._graphs[key]


def _observation(row: ObservedRow, graph: ModelGraph) -> Observation:
    return Observation(
        target_key=row.target_key,
        runtime=Runtime.model_validate(row.runtime),
        hardware=Hardware.model_validate(row.hardware),
        graph=graph,
        median_ms=row.median_ms,
        standard_error_ms=row.standard_error_ms,
        name=row.model_name,
    )


def _valid(project_id: str) -> Select[tables.Measurement, tables.Target, tables.Device, tables.Model]:
    measurement = tables.Measurement
    return (
        select(measurement, tables.Target, tables.Device, tables.Model)
        .join(tables.Target, tables.Target.id == measurement.target_id)
        .join(tables.Device, tables.Device.id == tables.Target.device_id)
        .join(tables.Model, tables.Model.id == measurement.model_id)
        .where(measurement.project_id == project_id, measurement.is_valid)
        .order_by(measurement.is_reference.desc(), measurement.created_at.desc(), measurement.id.desc())
    )


def _newest(
    rows: Iterable[Row[tables.Measurement, tables.Target, tables.Device, tables.Model]],
) -> tuple[ObservedRow, ...]:
    newest: dict[tuple[str, str, str], tuple[str, ObservedRow]] = {}
    is_reference: dict[tuple[str, str, str], bool] = {}  # a reference model that is measured again stays one
    for measurement, target, device, model in rows:
        key = (target.id, model.id, measurement.shapes_sha256)
        known = newest.get(key)
        if known is None or known[0] < measurement.id:
            newest[key] = (measurement.id, _row(measurement, target, device, model))
        is_reference[key] = is_reference.get(key, False) or measurement.is_reference
    return tuple(replace(row, is_reference=is_reference[key]) for key, (_, row) in newest.items())


def _row(
    measurement: tables.Measurement, target: tables.Target, device: tables.Device, model: tables.Model
) -> ObservedRow:
    return ObservedRow(
        target_key=target.key,
        runtime=target.runtime,
        hardware=device.hardware,
        model_id=model.id,
        model_name=model.name,
        model_sha256=model.sha256,
        shapes_sha256=measurement.shapes_sha256,
        input_shapes=measurement.input_shapes,
        median_ms=measurement.median_ms,
        standard_error_ms=measurement.standard_error_ms,
        is_reference=measurement.is_reference,
    )
