"""Verification: which members of the predicted front to measure, and what the measurements say about the
predictions.

Predicted and verified values are kept apart: the predicted front is computed from predicted latencies, the
verified front from measured ones only, and the summary compares the two over the same trials with the same
reference point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from devices.vocabulary import Value
from search import pareto
from search.objectives import points_of
from search.trial import Trial, TrialState

REFERENCE_MARGIN = 0.1  # how far beyond the worst value the reference point lies, as a share of the range


class VerifiedLatency(Value):
    """What a device measured for one trial: median with its interval. An invalid one says why and does not
    count.
    """

    median_ms: float = Field(gt=0, allow_inf_nan=False)
    lower_ms: float = Field(ge=0, allow_inf_nan=False)
    upper_ms: float = Field(ge=0, allow_inf_nan=False)
    is_valid: bool
    reasons: tuple[str, ...] = ()


class VerificationSummary(Value):
    """Predictions beside measurements, over the measured trials.

    Hypervolumes are shares of the box between `ideal_point` and `reference_point` (values in the
    objectives' own units and directions): the trials' values with predicted, and with measured latencies.
    None: too few trials to say.
    """

    candidates: int  # trials that were to be measured
    measured: int  # of those, with a valid measurement
    invalid: int  # with a measurement that breaks the protocol's rules
    missing: int  # with none
    rank_correlation: float | None = None  # Spearman, predicted against measured latency; needs 3
    mape: float | None = None  # mean of |predicted - measured| / measured
    interval_coverage: float | None = None  # share of measured medians within the predicted interval
    hypervolume_predicted: float | None = None
    hypervolume_verified: float | None = None
    ideal_point: dict[str, float] = Field(default_factory=dict)
    reference_point: dict[str, float] = Field(default_factory=dict)


def pick_spread(points: ArrayLike, count: int) -> list[int]:
    """Up to `count` rows of a front `(N, M)`, spread along it, in ascending order.

    First the best of each objective (ties: the better in the others, then the earlier), in the objectives'
    order as far as `count` goes; then always the row farthest from those picked, each objective scaled to
    its range.
    """
    p = np.asarray(points, dtype=np.float64)
    if len(p) == 0 or count < 1:
        return []
    span = np.ptp(p, axis=0)
    scaled = (p - p.min(axis=0)) / np.where(span > 0, span, 1.0)
    picked: list[int] = []
    for objective in range(p.shape[1]):
        best = int(np.lexsort((scaled.sum(axis=1), p[:, objective]))[0])
        if best not in picked:
            picked.append(best)
    picked = picked[:count]
    while len(picked) < min(count, len(p)):
        gaps = np.linalg.norm(scaled[:, None, :] - scaled[None, picked, :], axis=2).min(axis=1)
        gaps[picked] = -1.0
        picked.append(int(np.argmax(gaps)))
    return sorted(picked)


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's rank correlation with mean ranks for ties; None below 3 pairs, or where one side is
    constant.
    """
    x, y = _mean_ranks(np.asarray(a, dtype=np.float64)), _mean_ranks(np.asarray(b, dtype=np.float64))
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    below: NDArray[np.float64] = np.asarray(values[None, :] < values[:, None]).sum(axis=1, dtype=np.float64)
    equal: NDArray[np.float64] = np.asarray(values[None, :] == values[:, None]).sum(axis=1, dtype=np.float64)
    return below + (equal + 1.0) / 2.0


def with_verification(trial: Trial, latency: VerifiedLatency | None) -> Trial:
    """The trial with its measurement; one that is missing or invalid leaves it `scored`, with the reasons."""
    if latency is None:
        return trial.model_copy(update={"verification_reasons": ("it was not measured",)})
    if not latency.is_valid:
        reasons = latency.reasons or ("the measurement is invalid",)
        return trial.model_copy(update={"verification_reasons": reasons})
    return trial.model_copy(
        update={
            "state": TrialState.VERIFIED,
            "verified_ms": latency.median_ms,
            "verified_lower_ms": latency.lower_ms,
            "verified_upper_ms": latency.upper_ms,
            "verification_reasons": (),
        }
    )


def summarise(
    candidates: Sequence[Trial], verified: Mapping[int, VerifiedLatency | None], names: Sequence[str]
) -> VerificationSummary:
    """Compare predicted with measured values of the candidates, as `with_verification` left them."""
    measured = [trial for trial in candidates if trial.state is TrialState.VERIFIED]
    missing = sum(verified.get(trial.number) is None for trial in candidates)
    counts = VerificationSummary(
        candidates=len(candidates),
        measured=len(measured),
        missing=missing,
        invalid=len(candidates) - len(measured) - missing,
    )
    if not measured:
        return counts
    predicted_ms = np.array([trial.predicted_ms for trial in measured], dtype=np.float64)
    lower_ms = np.array([trial.predicted_lower_ms for trial in measured], dtype=np.float64)
    upper_ms = np.array([trial.predicted_upper_ms for trial in measured], dtype=np.float64)
    verified_ms = np.array([trial.verified_ms for trial in measured], dtype=np.float64)
    return counts.model_copy(
        update={
            "rank_correlation": spearman(predicted_ms, verified_ms),
            "mape": float(np.mean(np.abs(predicted_ms - verified_ms) / verified_ms)),
            "interval_coverage": float(np.mean((lower_ms <= verified_ms) & (verified_ms <= upper_ms))),
            **_hypervolumes(measured, names),
        }
    )


def _hypervolumes(measured: Sequence[Trial], names: Sequence[str]) -> dict[str, object]:
    predicted = points_of([trial.objectives for trial in measured], names)
    verified = points_of([trial.verified_objectives for trial in measured], names)
    both = np.concatenate([predicted, verified])
    ideal, worst = both.min(axis=0), both.max(axis=0)
    # an objective in which all agree would make the box flat, so it gets a side of its own
    side = np.where(worst > ideal, worst - ideal, np.maximum(np.abs(worst), 1.0))
    reference = worst + REFERENCE_MARGIN * side
    box = float(np.prod(reference - ideal))
    signs = points_of([dict.fromkeys(names, 1.0)], names)[0]
    return {
        "hypervolume_predicted": pareto.hypervolume(predicted, reference) / box,
        "hypervolume_verified": pareto.hypervolume(verified, reference) / box,
        "ideal_point": dict(zip(names, (signs * ideal).tolist(), strict=True)),
        "reference_point": dict(zip(names, (signs * reference).tolist(), strict=True)),
    }
