"""Adapt a predictor to one target from about ten measurements: closed form, deterministic, milliseconds of
work.

The physical prior (`PHYSICAL`) says how far a real target may be off the nominal machine before anything
was measured: by a common factor (clock, memory, neighbours), and by one factor per class of kernels (the
runtime's quality for that class). Where measurements of other targets are at hand (`pool`), what they have
in common moves the prior first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.target import Hardware, Runtime
from predictor.checkpoint import Checkpoint, Provenance
from predictor.checkpoint import TargetFacts as TargetFacts  # adapting is where callers meet it
from predictor.errors import AdaptationRejected
from predictor.features import CLASSES, FEATURE_NAMES, Described, class_times_ms, describe
from predictor.graph import ModelGraph
from predictor.regression import Data, Gaussian, common_prior, fit

_SIZE = FEATURE_NAMES.index("log_nominal_ms")
_PRESSURE = FEATURE_NAMES.index("cache_pressure")
CORRECTIONS = 2


@dataclass(frozen=True, slots=True)
class Observation:
    """One valid measurement of one model on one target. `name`: of the model, for the accuracy card."""

    target_key: str
    runtime: Runtime
    hardware: Hardware
    graph: ModelGraph
    median_ms: float
    standard_error_ms: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviations of the logarithms that a prior allows: of all classes together, of each one,
    of the corrections.
    """

    common: float
    each: float
    correction: float

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(P, P): classes first, then corrections."""
        classes, parameters = len(CLASSES), len(CLASSES) + CORRECTIONS
        covariance = np.zeros((parameters, parameters))
        covariance[:classes, :classes] = self.common**2
        variances = [self.each**2] * classes + [self.correction**2] * CORRECTIONS
        return covariance + np.diag(variances)


# A laptop core differs from another, and a library from another, by a factor of about two either way. Of
# that, more belongs to the target than to what the nominal machine gets wrong everywhere.
SHARED = Spread(common=0.3, each=0.35, correction=0.04)
OWN = Spread(common=0.5, each=0.4, correction=0.03)


def physical_prior() -> Gaussian:
    """The prior when no other target was ever measured."""
    return Gaussian(np.zeros(len(CLASSES) + CORRECTIONS), SHARED.covariance + OWN.covariance)


def adapt(
    target: TargetFacts, observations: Sequence[Observation], pool: Sequence[Observation] = ()
) -> Checkpoint:
    """A predictor for `target` from its own measurements, with a prior from those of other targets
    (`pool`).

    Raises `AdaptationRejected` where there are no observations, where one is of another target, or where a
    latency, of the pool too, is not a positive number. The order of observations does not matter beyond
    rounding.
    """
    described = [describe_observation(observation) for observation in observations]
    return adapt_described(target, observations, described, prior=prior_from(pool, target.key))


def describe_observation(observation: Observation) -> Described:
    """The features of a measured model on its own target."""
    return describe(observation.graph, observation.runtime, observation.hardware)


def adapt_described(
    target: TargetFacts,
    observations: Sequence[Observation],
    described: Sequence[Described],
    *,
    prior: tuple[Gaussian, tuple[str, ...]],
) -> Checkpoint:
    """`adapt`, with the features and the prior already at hand."""
    _check(target, observations)
    gaussian, pooled = prior
    posterior = fit(_data(observations, described), gaussian)
    provenance = Provenance(
        target=target,
        trained_on=tuple(
            sorted(observation.name or observation.graph.digest for observation in observations)
        ),
        pooled_targets=pooled,
        seen_kinds=tuple(sorted({kind for one in described for kind in one.shares})),
        shortest_ms=min(observation.median_ms for observation in observations),
        longest_ms=max(observation.median_ms for observation in observations),
    )
    return Checkpoint(provenance, posterior)


def prior_from(pool: Sequence[Observation], own_key: str) -> tuple[Gaussian, tuple[str, ...]]:
    """The prior that other targets' measurements leave, and their keys; measurements of `own_key` are
    left out. Raises `AdaptationRejected` for a latency that is not a positive number.
    """
    groups: dict[str, list[Observation]] = {}
    for observation in pool:
        if observation.target_key != own_key:
            _check_latency(observation)
            groups.setdefault(observation.target_key, []).append(observation)
    if not groups:
        return physical_prior(), ()
    keys = sorted(groups)
    data = [_data(groups[key], [describe_observation(one) for one in groups[key]]) for key in keys]
    shared = Gaussian(np.zeros(len(CLASSES) + CORRECTIONS), SHARED.covariance)
    return common_prior(data, shared, OWN.covariance), tuple(keys)


def regressors(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (N, F) as the regression takes them: nominal times by class (N, C), and corrections (N, B).

    Corrections are centred on a model of 5 ms, and on one as large as the cache.
    """
    size = values[:, _SIZE] - math.log(5.0)
    pressure = values[:, _PRESSURE] - math.log(2.0)
    return class_times_ms(values), np.stack([size, pressure], axis=1)


def _data(observations: Sequence[Observation], described: Sequence[Described]) -> Data:
    x, z = regressors(np.stack([one.values for one in described]))
    median = np.asarray([observation.median_ms for observation in observations])
    error = np.asarray([observation.standard_error_ms for observation in observations])
    return Data(x=x, z=z, y=np.log(median), variance=(error / median) ** 2)


def _check(target: TargetFacts, observations: Sequence[Observation]) -> None:
    if not observations:
        raise AdaptationRejected(f"no measurement of {target.key}; measure the reference set first")
    for observation in observations:
        if observation.target_key != target.key:
            raise AdaptationRejected(
                f"a measurement of {observation.target_key} cannot adapt {target.key}; pass it in the pool"
            )
        _check_latency(observation)


def _check_latency(observation: Observation) -> None:
    median_ms, error_ms = observation.median_ms, observation.standard_error_ms
    is_positive = math.isfinite(median_ms) and median_ms > 0
    if not is_positive or not math.isfinite(error_ms) or error_ms < 0:
        raise AdaptationRejected(
            f"{observation.name or 'a model'} has {median_ms} ms with a standard error of {error_ms} ms on "
            f"{observation.target_key}; latencies are positive and finite"
        )
