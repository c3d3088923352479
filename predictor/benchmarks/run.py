"""One method on one task: train on the source devices, then adapt to every target with every seed and score.

A result is a value; its JSON form is made at the edge (`predictor.benchmarks.report`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from predictor.benchmarks.architectures import Architectures
from predictor.benchmarks.errors import BenchmarkRejected
from predictor.benchmarks.method import Floats, Indices, Method, Predicted, Selection, Trained
from predictor.benchmarks.metrics import Scores, interval_of, narrowest_window, scores_of
from predictor.benchmarks.tables import LatencyTable
from predictor.benchmarks.tasks import Task, meter_of, scored_rows, source_of


@dataclass(frozen=True, slots=True)
class Protocol:
    """`samples`: measurements that a method may take on a target; `seeds`: how many draws of them are
    scored.
    """

    samples: int
    selection: Selection
    seeds: int


@dataclass(frozen=True, slots=True)
class DeviceResult:
    """Means over seeds, of one method on one target; fractions, not per cent. None: no intervals.

    `measurements`: the most that any seed took. `width`, `interval_score`: of the 90 % intervals, in
    log-latency. `constant_width`, `constant_interval_score`: of the narrowest interval of one relative width
    for all targets and seeds of the task that covers as much, chosen in hindsight. `own_constant_width`: the
    same, chosen in hindsight for every target and seed by itself. Times are medians over seeds; `train_s` is
    the whole task's.
    """

    spearman: float
    spearman_std: float
    mape: float
    mape_std: float
    median_ape: float
    acc10: float
    coverage90: float | None
    width: float | None
    interval_score: float | None
    constant_width: float | None
    constant_interval_score: float | None
    own_constant_width: float | None
    adapt_ms: float
    predictions_per_s: float
    train_s: float
    measurements: int
    scored: int


MethodResult = Mapping[str, DeviceResult]  # by device
TaskResult = Mapping[str, MethodResult]  # by method


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One target, one seed. `residuals`: log(latency / median) of what was scored (Q,)."""

    scores: Scores
    residuals: Floats
    measured: Indices
    adapt_ms: float
    predictions_per_s: float


def run_method(
    method: Method, task: Task, table: LatencyTable, architectures: Architectures, *, protocol: Protocol
) -> dict[str, DeviceResult]:
    """Results by test device."""
    started = perf_counter()
    trained = method.train(source_of(task, table, architectures))
    train_s = perf_counter() - started
    trials = {
        device: [
            run_trial(trained, task, table, device, protocol=protocol, seed=seed)
            for seed in range(protocol.seeds)
        ]
        for device in task.test
    }
    return _summary(trials, train_s)


def run_trial(
    trained: Trained, task: Task, table: LatencyTable, device: str, *, protocol: Protocol, seed: int
) -> Trial:
    """Adapt to one target and score. Raises `BenchmarkRejected` if a prediction is not a latency."""
    meter = meter_of(
        task, table, device, budget=protocol.samples, selection=protocol.selection, seed=seed
    )  # fmt: skip
    started = perf_counter()
    adapted = trained.adapt(meter)  # measuring is looking up a number: about a microsecond of this
    adapted_at = perf_counter()
    latency = table.column(device)
    rows = scored_rows(task, latency, meter.measured)
    asked_at = perf_counter()
    predicted = adapted.predict(rows)
    predict_s = perf_counter() - asked_at
    _check(predicted, len(rows))
    return Trial(
        scores=scores_of(predicted, latency[rows]),
        residuals=np.log(latency[rows] / predicted.median_ms),
        measured=meter.measured,
        adapt_ms=1e3 * (adapted_at - started),
        predictions_per_s=len(rows) / predict_s,
    )


def _check(predicted: Predicted, count: int) -> None:
    parts = {
        "median_ms": predicted.median_ms, "lower_ms": predicted.lower_ms, "upper_ms": predicted.upper_ms
    }  # fmt: skip
    for name, values in parts.items():
        if values is None:
            continue
        if values.shape != (count,) or not np.all(np.isfinite(values) & (values > 0)):
            raise BenchmarkRejected(f"{name} of shape {values.shape} are not {count} positive latencies")
    if predicted.score is not None and not np.isfinite(predicted.score).all():
        raise BenchmarkRejected("scores are not finite")


def _summary(trials: Mapping[str, Sequence[Trial]], train_s: float) -> dict[str, DeviceResult]:
    everything = [trial for group in trials.values() for trial in group]
    covered = [trial.scores.interval.coverage for trial in everything if trial.scores.interval is not None]
    window = None
    if len(covered) == len(everything):
        window = narrowest_window(
            np.concatenate([trial.residuals for trial in everything]), float(np.mean(covered))
        )
    return {device: _device_result(group, window, train_s) for device, group in trials.items()}


def _device_result(
    trials: Sequence[Trial], window: tuple[float, float] | None, train_s: float
) -> DeviceResult:
    scores = [trial.scores for trial in trials]
    intervals = [score.interval for score in scores if score.interval is not None]
    has_intervals = window is not None
    constant = None if window is None else [_constant(trial.residuals, window) for trial in trials]
    own = [
        float(np.subtract(*narrowest_window(trial.residuals, interval.coverage)[::-1]))
        for trial, interval in zip(trials, intervals, strict=False)
    ]
    return DeviceResult(
        spearman=float(np.mean([score.spearman for score in scores])),
        spearman_std=float(np.std([score.spearman for score in scores])),
        mape=float(np.mean([score.mape for score in scores])),
        mape_std=float(np.std([score.mape for score in scores])),
        median_ape=float(np.mean([score.median_ape for score in scores])),
        acc10=float(np.mean([score.acc10 for score in scores])),
        coverage90=float(np.mean([one.coverage for one in intervals])) if has_intervals else None,
        width=float(np.mean([one.width for one in intervals])) if has_intervals else None,
        interval_score=float(np.mean([one.score for one in intervals])) if has_intervals else None,
        constant_width=None if window is None else window[1] - window[0],
        constant_interval_score=None if constant is None else float(np.mean(constant)),
        own_constant_width=float(np.mean(own)) if has_intervals else None,
        adapt_ms=float(np.median([trial.adapt_ms for trial in trials])),
        predictions_per_s=float(np.median([trial.predictions_per_s for trial in trials])),
        train_s=train_s,
        measurements=max(len(trial.measured) for trial in trials),
        scored=min(len(trial.residuals) for trial in trials),
    )


def _constant(residuals: Floats, window: tuple[float, float]) -> float:
    """Interval score of one window for all."""
    lower, upper = (np.full(len(residuals), bound) for bound in window)
    return interval_of(lower, upper, residuals).score
