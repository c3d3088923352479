"""Measurements as they are stored: columns for what is searched, and the whole document compressed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from devices.measurement import Measurement
from devices.model_ref import sha256_of
from devices.target import Runtime
from service.db import tables
from service.errors import Invalid
from service.ids import new_id

MAX_DOCUMENT_BYTES = 256 << 20  # of a decompressed document


def shapes_sha256(input_shapes: Mapping[str, Sequence[int]]) -> str:
    """A name for input sizes, independent of the order of the inputs."""
    canonical = {name: list(shape) for name, shape in input_shapes.items()}
    return sha256_of(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode())


def encode_document(measurement: Measurement) -> bytes:
    """Compressed JSON, raw samples and all."""
    return zlib.compress(measurement.model_dump_json().encode(), 6)


def decode_document(document: bytes) -> Measurement:
    """What `encode_document` was given. Raises ValueError for anything else."""
    return Measurement.model_validate_json(decompressed(document))


def decompressed(document: bytes) -> bytes:
    """The JSON text of a stored document. Raises ValueError if it is damaged or absurdly large."""
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(document, MAX_DOCUMENT_BYTES)
    except zlib.error as error:
        raise ValueError(f"a stored measurement is damaged: {error}") from None
    if not inflate.eof:
        raise ValueError(f"a stored measurement is cut off, or larger than {MAX_DOCUMENT_BYTES} bytes")
    return text


def record(session: Session, *, job: tables.Job, measurement: Measurement) -> tables.Measurement:
    """Store what a profile job measured, once: a repeated report finds the first one's row.

    The job must be locked by this transaction (`queue.hold`), which then says `queue.complete`. Raises
    `Invalid` (measurement_mismatch) for a measurement of something else than the job asked for.
    """
    known = session.scalar(select(tables.Measurement).where(tables.Measurement.job_id == job.id))
    if known is not None:
        return known
    _check_is_asked(session, job, measurement)
    estimate = measurement.estimate
    row = tables.Measurement(
        id=new_id("mea"),
        project_id=job.project_id,
        target_id=job.target_id,
        model_id=job.payload["model_id"],
        shapes_sha256=shapes_sha256(measurement.model.input_shapes),
        input_shapes={name: list(shape) for name, shape in measurement.model.input_shapes.items()},
        job_id=job.id,
        level=measurement.plan.level.value,
        is_valid=measurement.verdict.is_valid,
        is_reference=bool(job.payload.get("is_reference", False)),
        median_ms=estimate.median_ms,
        p90_ms=estimate.p90_ms,
        standard_error_ms=estimate.standard_error_ms,
        reasons=list(measurement.verdict.reasons),
        document=encode_document(measurement),
    )
    session.add(row)
    target = tables.Target
    session.execute(update(target).where(target.id == job.target_id).values(revision=target.revision + 1))
    session.flush()
    return row


def _check_is_asked(session: Session, job: tables.Job, measurement: Measurement) -> None:
    target = session.get_one(tables.Target, job.target_id)
    asked_shapes = {name: tuple(shape) for name, shape in job.payload["input_shapes"].items()}
    given_shapes = {name: tuple(shape) for name, shape in measurement.model.input_shapes.items()}
    pairs = {
        "model": (job.payload["sha256"], measurement.model.sha256),
        "input_shapes": (asked_shapes, {name: given_shapes.get(name) for name in asked_shapes}),
        "runtime": (Runtime.model_validate(target.runtime), measurement.runtime),
        "level": (job.payload["plan"]["level"], measurement.plan.level.value),
    }
    for what, (asked, given) in pairs.items():
        if asked != given:
            raise Invalid(
                "measurement_mismatch",
                f"job {job.id} asked for {what} {asked!r}, the measurement has {given!r}",
            )
