"""What API clients say and see of searches."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, field_validator

from search.loop import SearchRequest
from search.objectives import ACCURACY, LATENCY_MS, OBJECTIVES, SIZE_BYTES
from search.spaces.registry import SPACES
from search.strategies.registry import STRATEGIES
from search.trial import TrialState
from search.verification import VerificationSummary
from service.jobs.schemas import JobView
from service.targets import TargetName


def _one_of(names: Iterable[str]) -> dict[str, JsonValue]:
    return {"enum": list[JsonValue](sorted(names))}


SearchName = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
ObjectiveName = Annotated[str, Field(json_schema_extra=_one_of(OBJECTIVES))]


class SearchCreate(SearchRequest):
    """Search for models that are good on one target. Everything but the target has a default."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "example": {
                "target": "rpi5-8gb/onnxruntime-1.31/cpu/t4",
                "name": "digits under 2 ms",
                "space": "digits-cnn",
                "strategy": "nsga2",
                "trial_count": 24,
                "max_latency_ms": 2.0,
            }
        },
    )

    target: TargetName = Field(description="The target's id or key. It must be ready.")
    name: SearchName = Field(default="", description="What to call it; any text of one line.")
    space: str = Field(default="digits-cnn", json_schema_extra=_one_of(SPACES))
    strategy: str = Field(default="nsga2", json_schema_extra=_one_of(STRATEGIES))
    objectives: tuple[ObjectiveName, ...] = Field(
        default=(ACCURACY, LATENCY_MS, SIZE_BYTES),
        min_length=1,
        max_length=len(OBJECTIVES),
        json_schema_extra={"uniqueItems": True},
    )

    @field_validator("space")
    @classmethod
    def _space_is_known(cls, space: str) -> str:
        if space not in SPACES:
            raise ValueError(f"space must be one of {sorted(SPACES)}, got {space!r}")
        return space

    @property
    def request(self) -> SearchRequest:
        """What the search loop is given."""
        return SearchRequest.model_validate(self.model_dump(exclude={"target", "name"}))


class SearchView(BaseModel):
    """A search. Its job tells how far it is."""

    id: str = Field(examples=["sea_01k9m2x7wq4v0r8t6y5h3n1b2c"])
    name: str
    target_id: str
    target_key: str
    request: SearchRequest
    job: JobView
    trial_count: int = Field(description="Trials so far; the request holds how many there are to be.")
    predictor_id: str | None = Field(
        description="The predictor that scores all its trials; null before the first."
    )
    summary: VerificationSummary | None = Field(description="Null until the front is verified.")
    created_at: dt.datetime


class TrialView(BaseModel):
    """One genome's history within a search. Predicted and measured values stand side by side and are never
    mixed.
    """

    number: int
    genome: dict[str, JsonValue] = Field(description="The choices that it makes in its space.")
    state: TrialState
    objectives: dict[str, float] = Field(description="As the strategy was told; the latency is predicted.")
    predicted_ms: float | None
    predicted_lower_ms: float | None
    predicted_upper_ms: float | None
    on_predicted_front: bool
    on_verified_front: bool
    measurement_id: str | None
    measured_ms: float | None = Field(description="Median on the device; null if it was not measured.")
    measured_standard_error_ms: float | None
    measured_is_valid: bool | None = Field(
        description="Whether the measurement keeps the rules of its level."
    )
    model_id: str | None
    model_href: str | None = Field(
        description="Where its ONNX file is downloaded.", examples=["/v1/models/mdl_01k9m2x7wq4v/content"]
    )
    failure: str | None


class FrontView(BaseModel):
    """The members of both fronts, by predicted latency and by measured latency, each fastest first."""

    predicted: list[TrialView]
    verified: list[TrialView]
    summary: VerificationSummary | None = Field(
        description="Rank correlation and errors of the predictions; null until the front is verified."
    )
