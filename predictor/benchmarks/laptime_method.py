"""Laptime's own predictor as a row of the table: `predictor.few_shot`."""

from __future__ import annotations

from pathlib import Path

from predictor.benchmarks.method import Adapted, Indices, Meter, Method, Predicted, Source, Trained
from predictor.benchmarks.operations import operations_of
from predictor.few_shot.config import FewShotConfig
from predictor.few_shot.model import AdaptedTarget, FewShot
from predictor.few_shot.regressors import Regressors
from predictor.few_shot.scaling import Counted


class LaptimeMethod:
    """Learns surrogates of the source devices; one configuration for all spaces and tasks."""

    def __init__(self, config: FewShotConfig | None = None) -> None:
        self._config = config or FewShotConfig()

    def train(self, source: Source) -> Trained:
        """Fit the source devices, and describe all architectures once."""
        known = Counted(source.architectures.features, operations_of(source.architectures))
        measured = source.measured
        few_shot = FewShot.fit(known.take(measured), source.latency_ms[measured], self._config)
        return _Trained(few_shot, few_shot.describe(known), source.query)


class _Trained:
    def __init__(self, few_shot: FewShot, regressors: Regressors, query: Indices) -> None:
        self._few_shot = few_shot
        self._regressors = regressors
        self._query = query

    def adapt(self, meter: Meter) -> Adapted:
        """The drawn architectures, or those that tell the most about the query."""
        if meter.selection == "active":
            pool, query = self._regressors.take(meter.pool), self._regressors.take(self._query)
            chosen = meter.pool[self._few_shot.select(pool, query, count=meter.budget, rng=meter.rng)]
        else:
            chosen = meter.draw(meter.budget)
        adapted = self._few_shot.adapt(self._regressors.take(chosen), meter.measure(chosen))
        return _Adapted(adapted, self._regressors)


class _Adapted:
    def __init__(self, adapted: AdaptedTarget, regressors: Regressors) -> None:
        self._adapted = adapted
        self._regressors = regressors

    def predict(self, indices: Indices) -> Predicted:
        """Medians and 90 % intervals."""
        predicted = self._adapted.predict(self._regressors.take(indices))
        return Predicted(predicted.median_ms, predicted.lower_ms, predicted.upper_ms)


def make(key: str, work: Path) -> Method:  # noqa: ARG001 - trained in seconds, nothing is kept
    """The method by its key in the registry."""
    return LaptimeMethod()
