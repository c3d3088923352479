"""How good a target's predictor is, by its own measurements: each one is predicted from all the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from devices.vocabulary import Value
from predictor.adapt import Observation, TargetFacts, adapt_described, describe_observation, pool_of
from predictor.kernel_costs.features import FEATURE_VERSION
from predictor.meta_checkpoint import MetaCheckpoint, shipped
from predictor.predict import Prediction, Predictor

MIN_OBSERVATIONS = 3  # fewer leave nothing to learn from when one is held out
COVERAGE = 0.9
FAR_OFF = 2.0  # a factor: a prediction that misses by more wants a warning


class FamilyAccuracy(Value):
    """Errors over the models that spend most of their time in one class of kernels."""

    mape: float
    sample_count: int


class AccuracyCard(Value):
    """Leave-one-out errors over a target's own measurements. Fractions, not per cent; None where too few
    were measured.

    `mean_interval_width`: of the 90 % intervals, upper over lower, geometric mean. `trained_on`: names of
    the measured models.
    """

    mape: float | None
    median_ape: float | None
    within_10_percent: float | None
    within_25_percent: float | None
    coverage_90: float | None
    mean_interval_width: float | None
    sample_count: int
    by_family: dict[str, FamilyAccuracy] = Field(default_factory=dict)
    trained_on: tuple[str, ...]
    pooled_targets: tuple[str, ...] = ()
    feature_version: int = FEATURE_VERSION


def accuracy_card(
    target: TargetFacts,
    observations: Sequence[Observation],
    pool: Sequence[Observation] = (),
    *,
    meta: MetaCheckpoint | None = None,
) -> AccuracyCard:
    """The card of a target. Raises `AdaptationRejected` as `adapt` does.

    What is left out is left out of the target's own measurements: the pool keeps the same model as other
    targets ran it, which is what there is to go by when this target is asked for a model new to it.
    """
    meta = meta or shipped()
    described = [describe_observation(observation, target, meta) for observation in observations]
    pooled = pool_of(pool, target, meta)
    names = tuple(sorted(observation.name or observation.graph.digest for observation in observations))
    if len(observations) < MIN_OBSERVATIONS:
        return AccuracyCard(
            mape=None,
            median_ape=None,
            within_10_percent=None,
            within_25_percent=None,
            coverage_90=None,
            mean_interval_width=None,
            sample_count=len(observations),
            trained_on=names,
            pooled_targets=pooled.keys,
        )
    predictions: list[Prediction] = []
    for held_out in range(len(observations)):
        kept = [index for index in range(len(observations)) if index != held_out]
        checkpoint = adapt_described(
            target,
            [observations[i] for i in kept],
            [described[i] for i in kept],
            pool=pooled,
            meta=meta,
        )
        predictions += Predictor(checkpoint, meta).predict_described([described[held_out]], COVERAGE)
    measured = [observation.median_ms for observation in observations]
    families = [one.family for one in described]
    return card_of(predictions, measured, families).model_copy(
        update={"trained_on": names, "pooled_targets": pooled.keys}
    )


def card_of(
    predictions: Sequence[Prediction], measured_ms: Sequence[float], families: Sequence[str]
) -> AccuracyCard:
    """Errors of predictions against measurements; at least one of each."""
    measured = np.asarray(measured_ms)
    median = np.asarray([prediction.median_ms for prediction in predictions])
    lower = np.asarray([prediction.lower_ms for prediction in predictions])
    upper = np.asarray([prediction.upper_ms for prediction in predictions])
    errors = np.abs(median - measured) / measured
    groups = {family: errors[[name == family for name in families]] for family in sorted(set(families))}
    return AccuracyCard(
        mape=float(errors.mean()),
        median_ape=float(np.median(errors)),
        within_10_percent=float(np.mean(errors <= 0.10)),
        within_25_percent=float(np.mean(errors <= 0.25)),
        coverage_90=float(np.mean((lower <= measured) & (measured <= upper))),
        mean_interval_width=float(np.exp(np.mean(np.log(upper / lower)))),
        sample_count=len(predictions),
        by_family={
            name: FamilyAccuracy(mape=float(e.mean()), sample_count=len(e)) for name, e in groups.items()
        },
        trained_on=(),
    )
