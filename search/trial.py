"""Trial: one genome's history within a search: proposed, scored, verified or failed."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from devices.model_ref import Sha256
from devices.vocabulary import Value
from search.genome import Genome
from search.objectives import LATENCY_MS


class TrialState(StrEnum):
    """Where a trial stands. A trial whose measurement was invalid stays `scored` and says why."""

    PROPOSED = "proposed"
    SCORED = "scored"
    VERIFIED = "verified"
    FAILED = "failed"


class Trial(Value):
    """One genome's history. Values of a trial that failed, or has not come so far, are None or empty.

    `objectives` is what the strategy is told: latency is the predicted median. `test_accuracy` is on data
    that no part of the search looks at. `repeats` is the number of the earlier trial with the same genome
    whose values these are.
    """

    number: int
    genome: Genome
    state: TrialState = TrialState.PROPOSED
    objectives: dict[str, float] = Field(default_factory=dict)
    constraint_violation: float = 0.0  # predicted milliseconds above the request's limit; 0 is feasible
    predicted_ms: float | None = None
    predicted_lower_ms: float | None = None
    predicted_upper_ms: float | None = None
    extrapolates: bool = False
    accuracy: float | None = None
    test_accuracy: float | None = None
    model_sha256: Sha256 | None = None
    input_shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    size_bytes: int | None = None
    repeats: int | None = None
    verified_ms: float | None = None
    verified_lower_ms: float | None = None
    verified_upper_ms: float | None = None
    verification_reasons: tuple[str, ...] = ()  # why its measurement does not count, if it was to be measured
    on_predicted_front: bool = False
    on_verified_front: bool = False
    failure: str | None = None

    @property
    def is_scored(self) -> bool:
        """Whether it has objective values."""
        return self.state in (TrialState.SCORED, TrialState.VERIFIED)

    @property
    def is_feasible(self) -> bool:
        """Whether it is scored and keeps within the constraint."""
        return self.is_scored and self.constraint_violation <= 0

    @property
    def verified_objectives(self) -> dict[str, float]:
        """Objectives with the measured latency in place of the predicted one; empty for a trial that is not
        verified.
        """
        if self.verified_ms is None:
            return {}
        return {
            name: self.verified_ms if name == LATENCY_MS else value for name, value in self.objectives.items()
        }
