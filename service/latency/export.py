"""A project's valid measurements as lines of a measurement file (`predictor.measurement_file`), if the
project shares them.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from devices.target import Hardware, Runtime
from predictor.measurement_file import line_of, text_of
from service.db import tables
from service.dependencies import Services
from service.errors import Conflict
from service.measurements import decode_document
from service.targets import find_target

MEDIA_TYPE = "application/jsonl"
LINES_AT_ONCE = 100  # with all their samples in memory


def exported(services: Services, project_id: str, *, target: str | None, with_samples: bool) -> Iterator[str]:
    """The lines, oldest measurement first, read while they are sent; all at once are never in memory.

    Raises `Conflict` (measurements_not_shared), and `NotFound` for a target that the project has not.
    """
    with services.database.read() as session:
        if not session.get_one(tables.Project, project_id).shares_measurements:
            detail = (
                "this project does not share its measurements: an administrator allows it with "
                '`PATCH /v1/project` {"shares_measurements": true}'
            )
            raise Conflict("measurements_not_shared", detail)
        target_id = None if target is None else find_target(session, project_id, target).id
    return _lines(services, project_id, target_id, with_samples=with_samples)


def _lines(
    services: Services, project_id: str, target_id: str | None, *, with_samples: bool
) -> Iterator[str]:
    last = ""
    while True:
        with services.database.read() as session:
            page = _page(session, project_id, target_id, after=last, with_samples=with_samples)
        if not page:
            return
        last = page[-1][0]
        yield "".join(text for _, text in page)


def _page(
    session: Session, project_id: str, target_id: str | None, *, after: str, with_samples: bool
) -> list[tuple[str, str]]:
    """Measurement id and line of each."""
    row = tables.Measurement
    statement = (
        select(row, tables.Target, tables.Device, tables.Model)
        .join(tables.Target, tables.Target.id == row.target_id)
        .join(tables.Device, tables.Device.id == tables.Target.device_id)
        .join(tables.Model, tables.Model.id == row.model_id)
        .where(row.project_id == project_id, row.is_valid, row.id > after)
        .order_by(row.id)
        .limit(LINES_AT_ONCE)
    )
    if target_id is not None:
        statement = statement.where(row.target_id == target_id)
    if with_samples:
        statement = statement.options(undefer(row.document))
    return [
        (measurement.id, _line(measurement, target, device, model, with_samples=with_samples))
        for measurement, target, device, model in session.execute(statement)
    ]


def _line(
    measurement: tables.Measurement,
    target: tables.Target,
    device: tables.Device,
    model: tables.Model,
    *,
    with_samples: bool,
) -> str:
    line = line_of(
        model_sha256=model.sha256,
        graph_digest=None,
        input_shapes=measurement.input_shapes,
        target_key=target.key,
        runtime=Runtime.model_validate(target.runtime),
        hardware=Hardware.model_validate(device.hardware),
        median_ms=measurement.median_ms,
        standard_error_ms=measurement.standard_error_ms,
        samples_ns=decode_document(measurement.document).samples_ns if with_samples else (),
        name=model.name or None,
    )
    return text_of(line)
