"""What API clients say and see of models, latency queries and measurements. All latencies are milliseconds
of one inference.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from devices.measurement import Level
from devices.model_ref import InputSpec, Size
from service.targets import TargetName

MAX_QUERY_MODELS = 100
MAX_QUERY_TARGETS = 100
MAX_AXES = 16
MAX_INPUTS = 256

ModelName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_]{1,80}$"),
    Field(description="A model's id, or the SHA-256 of its bytes.", examples=["mdl_01k9m2x7wq4v"]),
]
InputName = Annotated[str, StringConstraints(min_length=1, max_length=500)]
InputShapes = Annotated[
    dict[InputName, Annotated[tuple[Size, ...], Field(max_length=MAX_AXES)]],
    Field(
        max_length=MAX_INPUTS,
        description="Sizes of each input with dynamic axes, never guessed; fixed inputs need no mention.",
        examples=[{"input": [1, 3, 224, 224]}],
    ),
]


class Origin(StrEnum):
    """Where a model came from: a caller, the reference set that onboards targets, or a search."""

    UPLOAD = "upload"
    REFERENCE = "reference"
    SEARCH = "search"


class Source(StrEnum):
    """Where an answer may come from. `best`: a valid measurement if there is one, else the target's live
    predictor.
    """

    BEST = "best"
    PREDICTION = "prediction"
    MEASUREMENT = "measurement"


class ModelView(BaseModel):
    """An ONNX file of this project."""

    id: str = Field(examples=["mdl_01k9m2x7wq4v"])
    sha256: str
    name: str
    size_bytes: int
    inputs: list[InputSpec] = Field(description="A number is a fixed size; a name or null is a dynamic axis.")
    summary: dict[str, JsonValue] = Field(
        description="Operators, parameters, multiply-accumulates, opset: what the graph says."
    )
    origin: Origin
    created_at: dt.datetime


class QueriedModel(BaseModel):
    """A model at some input sizes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelName
    input_shapes: InputShapes = Field(default_factory=dict)


class LatencyQuery(BaseModel):
    """Every model is asked of every target."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "example": {
                "models": [{"model": "mdl_01k9m2x7wq4v", "input_shapes": {"input": [1, 3, 224, 224]}}],
                "targets": ["rpi5-8gb/onnxruntime-1.31/cpu/t4"],
                "coverage": 0.9,
                "source": "best",
            }
        },
    )

    models: tuple[QueriedModel, ...] = Field(min_length=1, max_length=MAX_QUERY_MODELS)
    targets: tuple[TargetName, ...] = Field(min_length=1, max_length=MAX_QUERY_TARGETS)
    coverage: float = Field(
        default=0.9, ge=0.5, le=0.99, description="Share of true latencies that the interval is to hold."
    )
    source: Source = Source.BEST


class AnswerError(BaseModel):
    """Why one model and one target have no latency. `code` is stable; `detail` says what to do."""

    code: str = Field(examples=["target_not_ready"])
    detail: str


class Answer(BaseModel):
    """The latency of one model on one target: measured, or else predicted; or why there is none (`error`)."""

    model_id: str
    input_shapes: dict[str, tuple[int, ...]]
    target_id: str
    target_key: str
    source: Source | None = Field(description="`measurement` or `prediction`; null when there is no latency.")
    median_ms: float | None
    lower_ms: float | None = Field(description="Null where a measurement has too few rounds to say.")
    upper_ms: float | None
    coverage: float | None
    extrapolates: bool | None = Field(
        description="Whether a prediction goes beyond what its predictor has seen."
    )
    reasons: tuple[str, ...] = Field(description="What to know about this number.")
    measurement_id: str | None
    predictor_id: str | None
    error: AnswerError | None


class LatencyAnswers(BaseModel):
    """One answer per model and target, models first, in the order of the query."""

    answers: list[Answer]


class MeasurementCreate(BaseModel):
    """Measure one model on one target. The sizes are checked at once; the work is a job."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "example": {
                "model": "mdl_01k9m2x7wq4v",
                "input_shapes": {"input": [1, 3, 224, 224]},
                "target": "rpi5-8gb/onnxruntime-1.31/cpu/t4",
                "level": "standard",
            }
        },
    )

    model: ModelName
    input_shapes: InputShapes = Field(default_factory=dict)
    target: TargetName
    level: Level = Field(
        default=Level.STANDARD, description="quick (seconds), standard, or certified (minutes)."
    )
    with_layers: bool = Field(default=False, description="Also time each layer, in a run of its own.")


class MeasurementView(BaseModel):
    """A finished measurement. An invalid one is kept, says why, and answers no query."""

    id: str = Field(examples=["mea_01k9m2x7wq4v"])
    job_id: str
    target_id: str
    target_key: str
    model_id: str
    model_sha256: str
    input_shapes: dict[str, tuple[int, ...]]
    level: Level
    is_valid: bool
    is_reference: bool = Field(description="Whether it was taken to onboard the target.")
    reasons: list[str] = Field(description="The rules of its level that it breaks.")
    median_ms: float
    p90_ms: float | None
    standard_error_ms: float
    created_at: dt.datetime
