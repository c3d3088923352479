"""Models and measurements as API clients see them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from devices.measurement import Level, MeasurementPlan
from devices.model_ref import InputSpec
from service import models
from service.artifacts import Incoming, Stored
from service.db import tables
from service.dependencies import Services
from service.errors import Conflict, Invalid, TooLarge
from service.jobs.schemas import JobView, job_view
from service.latency import repository
from service.latency.findings import resolved_shapes
from service.latency.schemas import MeasurementCreate, MeasurementView, ModelView, Origin
from service.measurements import decompressed
from service.paging import PageOf, PageRequest
from service.profiling import submit_profile
from service.targets import find_target

_DIGEST = re.compile(r"\s*sha-256=:([A-Za-z0-9+/=]+):\s*")


def expected_sha256(content_digest: str | None) -> str | None:
    """The SHA-256 that a `Content-Digest` header (RFC 9530) names, in hexadecimal; None without a header.

    Raises `Invalid` (content_digest_invalid) for a header without a well-formed sha-256.
    """
    if content_digest is None:
        return None
    for member in content_digest.split(","):
        match = _DIGEST.fullmatch(member)
        if match is not None:
            try:
                digest = base64.b64decode(match[1], validate=True)
            except binascii.Error:
                break
            if len(digest) == 32:
                return digest.hex()
    detail = f"Content-Digest must be `sha-256=:<base64 of 32 bytes>:`, got {content_digest!r}"
    raise Invalid("content_digest_invalid", detail)


@asynccontextmanager
async def receive_upload(
    services: Services,
    chunks: AsyncIterable[bytes],
    *,
    content_length: int | None,
    content_digest: str | None,
) -> AsyncIterator[Incoming]:
    """Uploaded bytes, all there but not stored yet; both headers are checked as far as they were sent.

    Raises `TooLarge`, and `Invalid` for no bytes (model_empty), for other bytes than announced
    (content_digest_mismatch), and for a caller who leaves before the last (upload_incomplete).
    """
    max_bytes = services.settings.max_model_bytes
    if content_length is not None and content_length > max_bytes:
        raise TooLarge(max_bytes)
    expected = expected_sha256(content_digest)
    try:
        async with services.artifacts.receive(chunks, max_bytes=max_bytes) as upload:
            _check_is_announced(upload.stored, expected)
            yield upload
    except ClientDisconnect:
        raise Invalid("upload_incomplete", "the connection ended before the whole model came") from None


def _check_is_announced(came: Stored, expected: str | None) -> None:
    if came.size_bytes == 0:
        raise Invalid("model_empty", "the request has no body; send the ONNX file's bytes as the body")
    if expected is not None and expected != came.sha256:
        detail = f"Content-Digest announces SHA-256 {expected}, what came has {came.sha256}; send again"
        raise Invalid("content_digest_mismatch", detail)


def register_upload(
    services: Services, project_id: str, upload: Incoming, *, name: str
) -> tuple[ModelView, bool]:
    """The model of uploaded bytes, and whether it is new to the project. Parses what is new, then stores it:
    slow for large files.

    Raises `Invalid` for bytes that are no usable ONNX model; the message names the operator or the axis.
    """
    sha256 = upload.stored.sha256
    with services.database.read() as session:
        known = models.find_model(session, project_id, sha256)
    if known is not None:
        upload.keep()  # they are there, unless the store has lost them
        return _model_view(known), False
    facts = models.inspect_model(services.artifacts, upload.read())
    with services.database.write() as session:
        is_new = models.find_model(session, project_id, sha256) is None
        row = models.register(session, facts, project_id=project_id, name=name, origin="upload")
        session.refresh(row)
    return _model_view(row), is_new


def list_models(
    services: Services, project_id: str, page: PageRequest, *, origin: str | None
) -> PageOf[ModelView]:
    """Newest first."""
    with services.database.read() as session:
        return repository.models(session, project_id, page, origin=origin).shown(_model_view)


def get_model(services: Services, project_id: str, name: str) -> ModelView:
    """By id or SHA-256. Raises `NotFound`."""
    with services.database.read() as session:
        return _model_view(models.get_model(session, project_id, name))


def model_file(services: Services, project_id: str, name: str) -> tuple[Path, str]:
    """Where a model's bytes are, and a file name for whoever saves them. Raises `NotFound`."""
    with services.database.read() as session:
        row = models.get_model(session, project_id, name)
    return services.artifacts.path(row.sha256), f"{row.id}.onnx"


def order_measurement(session: Session, project_id: str, wanted: MeasurementCreate) -> JobView:
    """Queue one measurement; its job.

    Raises `NotFound`, `Invalid` for sizes that are missing or wrong, and `Conflict` (target_retired).
    """
    model = models.get_model(session, project_id, wanted.model)
    target = find_target(session, project_id, wanted.target)
    shapes = resolved_shapes(model.inputs, wanted.input_shapes, where="input_shapes")
    if target.state == "retired":
        raise Conflict("target_retired", f"target {target.key} is retired: {target.state_reason}")
    plan = MeasurementPlan(level=wanted.level, with_layers=wanted.with_layers)
    return job_view(submit_profile(session, target=target, model=model, input_shapes=shapes, plan=plan))


def list_measurements(
    services: Services,
    project_id: str,
    page: PageRequest,
    *,
    target: str | None,
    model: str | None,
    job_id: str | None,
) -> PageOf[MeasurementView]:
    """Newest first. `target` and `model` are ids, or a key and a SHA-256. Raises `NotFound` for unknown
    ones.
    """
    with services.database.read() as session:
        target_id = model_id = None
        if target is not None:
            target_id = find_target(session, project_id, target).id
        if model is not None:
            model_id = models.get_model(session, project_id, model).id
        rows = repository.measurements(
            session, project_id, page, target_id=target_id, model_id=model_id, job_id=job_id
        )
        return rows.shown(_measurement_viewer(session, project_id, rows.rows))


def get_measurement(services: Services, project_id: str, measurement_id: str) -> MeasurementView:
    """Raises `NotFound`."""
    with services.database.read() as session:
        row = repository.measurement(session, project_id, measurement_id)
        return _measurement_viewer(session, project_id, [row])(row)


def measurement_document(services: Services, project_id: str, measurement_id: str) -> bytes:
    """The whole measurement (`devices.measurement.Measurement`) as JSON text. Raises `NotFound`."""
    with services.database.read() as session:
        document = repository.measurement(session, project_id, measurement_id).document
    return decompressed(document)


def _model_view(row: tables.Model) -> ModelView:
    return ModelView(
        id=row.id,
        sha256=row.sha256,
        name=row.name,
        size_bytes=row.size_bytes,
        inputs=[InputSpec.model_validate(spec) for spec in row.inputs],
        summary=row.summary,
        origin=Origin(row.origin),
        created_at=row.created_at,
    )


def _measurement_viewer(
    session: Session, project_id: str, rows: Sequence[tables.Measurement]
) -> Callable[[tables.Measurement], MeasurementView]:
    targets = repository.targets_by_id(session, project_id, {row.target_id for row in rows})
    found = repository.models_by_id(session, project_id, {row.model_id for row in rows})

    def view(row: tables.Measurement) -> MeasurementView:
        return MeasurementView(
            id=row.id,
            job_id=row.job_id,
            target_id=row.target_id,
            target_key=targets[row.target_id].key,
            model_id=row.model_id,
            model_sha256=found[row.model_id].sha256,
            input_shapes={name: tuple(shape) for name, shape in row.input_shapes.items()},
            level=Level(row.level),
            is_valid=row.is_valid,
            is_reference=row.is_reference,
            reasons=row.reasons,
            median_ms=row.median_ms,
            p90_ms=row.p90_ms,
            standard_error_ms=row.standard_error_ms,
            created_at=row.created_at,
        )

    return view
