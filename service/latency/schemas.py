"""What API clients say and see of models, latency queries and measurements. All latencies are milliseconds
of one inference.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from devices.measurement import Level
from devices.model_ref import InputSpec, Size
from service.latency.ranking import Fits
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


class Decision(StrEnum):
    """How a latency was found for a query that states what it needs. `queued`: a job is measuring it; the
    best answer there is now stands beside.
    """

    MEASURED = "measured"
    PREDICTED = "predicted"
    QUEUED = "queued"


class Ranked(StrEnum):
    """What a ranking orders: the models on one target, or the targets for one model."""

    MODELS = "models"
    TARGETS = "targets"


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
    """Every model is asked of every target.

    `max_relative_error` and `deadline_s` say how good an answer must be and how long it may take: what
    neither a measurement nor a prediction answers well enough is measured, where the API key may
    (`measure`).
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "example": {
                "models": [{"model": "mdl_01k9m2x7wq4v", "input_shapes": {"input": [1, 3, 224, 224]}}],
                "targets": ["rpi5-8gb/onnxruntime-1.31/cpu/t4"],
                "coverage": 0.9,
                "source": "best",
                "max_relative_error": 0.1,
                "deadline_s": 60,
            }
        },
    )

    models: tuple[QueriedModel, ...] = Field(min_length=1, max_length=MAX_QUERY_MODELS)
    targets: (
        Annotated[tuple[TargetName, ...], Field(min_length=1, max_length=MAX_QUERY_TARGETS)] | Literal["all"]
    ) = Field(description='Ids or keys, or `"all"`: every target of the project that is ready.')
    coverage: float = Field(
        default=0.9, ge=0.5, le=0.99, description="Share of true latencies that the interval is to hold."
    )
    source: Source = Source.BEST
    max_relative_error: float | None = Field(
        default=None,
        ge=0.001,
        le=1.0,
        description="Half the interval's width over the median may be so much; else a measurement is queued.",
    )
    deadline_s: float | None = Field(
        default=None,
        ge=0,
        le=604_800,
        description="How long a better answer may take. 0: now. Null, with `max_relative_error`: any time.",
    )
    below_ms: float | None = Field(
        default=None, gt=0, le=1e9, description="Each answer says whether it `fits` below this limit."
    )
    rank: Ranked | None = Field(
        default=None, description="Also order the answers; null with `below_ms` orders the targets."
    )

    @property
    def states_need(self) -> bool:
        """Whether answers say how they came about, and measurements may be queued for better ones."""
        return self.max_relative_error is not None or self.deadline_s is not None


class AnswerError(BaseModel):
    """Why one model and one target have no latency. `code` is stable; `detail` says what to do."""

    code: str = Field(examples=["target_not_ready"])
    detail: str


class Answer(BaseModel):
    """The latency of one model on one target: measured, or else predicted; or why there is none (`error`).
    The last five fields answer `max_relative_error`, `deadline_s` and `below_ms`.
    """

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
    decision: Decision | None = Field(
        default=None, description="Null also where there is neither an answer nor a way to measure one."
    )
    because: str | None = Field(default=None, description="Why it was decided so.")
    job_id: str | None = Field(default=None, description="The measurement that was queued, or joined.")
    expected_s: float | None = Field(default=None, description="When that job is likely to be done.")
    fits: Fits | None = Field(
        default=None, description="Whether the whole interval is below `below_ms`, none of it, or a part."
    )


class RankedPlace(BaseModel):
    """One of the latencies in their order. `answer` is its position in `answers`, from 0."""

    answer: int
    model_id: str
    target_id: str
    target_key: str
    median_ms: float
    fits: Fits | None = None
    overlaps_next: bool | None = Field(
        description="Whether its interval and the next one's overlap: the two cannot be told apart. Null "
        "for the last, and where a measurement has too few rounds for an interval."
    )


class Ranking(BaseModel):
    """The models on one target, or the targets for one model, fastest median first."""

    of: Ranked
    model_id: str | None = Field(description="Whose targets these are; null where models are ranked.")
    target_id: str | None = Field(description="Where these models run; null where targets are ranked.")
    target_key: str | None
    places: list[RankedPlace]
    without_latency: list[int] = Field(description="Positions in `answers` of those that have none.")


class LatencyAnswers(BaseModel):
    """One answer per model and target, models first, in the order of the query."""

    answers: list[Answer]
    rankings: list[Ranking] | None = Field(
        default=None, description="For `rank` and `below_ms`: one for each model, or for each target."
    )


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
