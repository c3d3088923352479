"""Models: ONNX files that a project owns. Parsing happens before the transaction, storing within it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from devices.model_ref import InputSpec
from predictor.errors import GraphCode, GraphRejected
from predictor.reading import reader
from service import artifacts
from service.artifacts import ArtifactStore, Stored
from service.db import tables
from service.db.insert import insert_if_absent
from service.errors import Invalid, NotFound
from service.ids import new_id

MEDIA_TYPE = "application/onnx"
_COSTLESS = {GraphCode.OPERATOR_UNSUPPORTED, GraphCode.MISSING_INPUT_SIZES, GraphCode.INPUTS_INVALID}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What an ONNX file says of itself."""

    stored: Stored
    inputs: tuple[InputSpec, ...]
    summary: dict[str, Any]  # of the graph; {"notes": [...]} where it cannot be costed as it is


def inspect_model(store: ArtifactStore, data: bytes) -> ModelFacts:
    """Parse a model and make its bytes durable. Slow for large files: call it outside a transaction.

    Raises `Invalid` (model_malformed, model_external_data, model_too_large) for what can neither be measured
    nor predicted. A model that only cannot be costed (an unknown operator, dynamic axes) is accepted: a
    device can still measure it.
    """
    try:
        inputs = reader.read_inputs(data)
        summary = _summary(data, inputs)
    except GraphRejected as rejected:
        raise Invalid(f"model_{rejected.code.value}", str(rejected)) from None
    return ModelFacts(store.put_bytes(data), inputs, summary)


def _summary(data: bytes, inputs: tuple[InputSpec, ...]) -> dict[str, Any]:
    dynamic = [spec.name for spec in inputs if spec.is_dynamic]
    if dynamic:
        return {"notes": [f"the cost depends on the sizes of {', '.join(dynamic)}"]}
    try:
        return dict(reader.summarise(reader.read_graph(data, {})))
    except GraphRejected as rejected:
        if rejected.code not in _COSTLESS:
            raise
        return {"notes": [str(rejected)]}


def register(session: Session, facts: ModelFacts, *, project_id: str, name: str, origin: str) -> tables.Model:
    """The project's model with these bytes, made if it is new. A model that is there keeps its name and
    origin.
    """
    artifacts.record(session, facts.stored, media_type=MEDIA_TYPE)
    row = {
        "id": new_id("mdl"),
        "project_id": project_id,
        "sha256": facts.stored.sha256,
        "name": name,
        "size_bytes": facts.stored.size_bytes,
        "inputs": [spec.model_dump(mode="json") for spec in facts.inputs],
        "summary": facts.summary,
        "origin": origin,
    }
    insert_if_absent(session, tables.Model, row, returning=tables.Model.id)
    model = find_model(session, project_id, facts.stored.sha256)
    assert model is not None
    return model


def find_model(session: Session, project_id: str, name: str) -> tables.Model | None:
    """By id or SHA-256."""
    is_named = or_(tables.Model.id == name, tables.Model.sha256 == name)
    return session.scalar(select(tables.Model).where(tables.Model.project_id == project_id, is_named))


def get_model(session: Session, project_id: str, name: str) -> tables.Model:
    """As `find_model`. Raises `NotFound`."""
    model = find_model(session, project_id, name)
    if model is None:
        raise NotFound("model", name)
    return model
