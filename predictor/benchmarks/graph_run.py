"""One method on one split: learn once, adapt to each left-out target, predict the held-out models.

A finished split is a JSON file in the work folder, and is not run again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from pydantic import TypeAdapter

from predictor.benchmarks.graph_data import reference_rows
from predictor.benchmarks.graph_method import (
    AdaptedGraphs,
    Floats,
    GraphData,
    GraphMethod,
    GraphPredictions,
    Indices,
    LearnedFromSweeps,
    LearnedGraphs,
    SweepMeter,
)
from predictor.benchmarks.graph_splits import ALL, GraphSplit, held_out_rows, judged_columns, sources_of


@dataclass(frozen=True, slots=True)
class TargetPredictions:
    """What a method said of models on one target. `device_ms`: device time that it spent there; `samples`:
    models measured. `extrapolates`, `lower_ms` and `upper_ms` are empty where it has none.
    """

    target_key: str
    names: tuple[str, ...]
    median_ms: tuple[float, ...]
    lower_ms: tuple[float, ...]
    upper_ms: tuple[float, ...]
    extrapolates: tuple[bool, ...]
    samples: int
    device_ms: float
    adapt_s: float


@dataclass(frozen=True, slots=True)
class SplitResult:
    """Of one method on one split."""

    learn_s: float
    targets: tuple[TargetPredictions, ...]

    def to_json(self) -> str:
        """One object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SplitResult:
        """What `to_json` wrote."""
        return _RESULT.validate_json(text)


_RESULT = TypeAdapter(SplitResult)


@dataclass(frozen=True, slots=True, eq=False)
class GraphTask:
    """The data of a benchmark, the fold of each family, and real models where there are any."""

    data: GraphData
    folds: dict[str, int]
    published: GraphData | None = None


def run_stored(method: GraphMethod, task: GraphTask, split: GraphSplit, *, folder: Path) -> SplitResult:
    """`run_split`, unless `folder` holds its result."""
    file = folder / method.name / f"{split.label}.json"
    if file.is_file():
        return SplitResult.from_json(file.read_text())
    result = run_split(method, task, split)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(result.to_json())
    partial.replace(file)
    return result


def run_split(method: GraphMethod, task: GraphTask, split: GraphSplit) -> SplitResult:
    """Learn from the sources and predict what was left out. Raises `BenchmarkRejected` if a prediction is
    not a latency.
    """
    started = perf_counter()
    learned = method.learn(sources_of(task.data, split, task.folds))
    learn_s = perf_counter() - started
    columns = np.flatnonzero(judged_columns(task.data, split))
    found = [_on_target(learned, task, split, int(column)) for column in columns]
    return SplitResult(learn_s, tuple(one for one in found if one is not None))


def _on_target(
    learned: LearnedGraphs, task: GraphTask, split: GraphSplit, column: int
) -> TargetPredictions | None:
    """None where nothing was measured to adapt from, or to compare with."""
    data, target = task.data, task.data.targets[column]
    asked = _asked(task, split, column)
    support = reference_rows(data, column)
    if asked is None or not len(asked) or not support:
        return None
    started = perf_counter()
    adapted, samples, device_ms = _adapted(learned, data, column, support)
    adapt_s = perf_counter() - started
    said = adapted.predict(asked.graphs)
    said.check(len(asked))
    return _predictions(
        said, target_key=target.key, names=asked.names.tolist(),
        spent=(samples, device_ms), adapt_s=adapt_s,
    )  # fmt: skip


def _adapted(
    learned: LearnedGraphs, data: GraphData, column: int, support: Sequence[int]
) -> tuple[AdaptedGraphs, int, float]:
    """With the number of models that were measured, and the device time of one run of each."""
    target, latency_ms = data.targets[column], data.latency_ms[:, column]
    budget_ms = float(latency_ms[support].sum())
    if isinstance(learned, LearnedFromSweeps):
        meter = _sweep_meter(data, latency_ms, support)
        return learned.adapt_to_sweeps(target, meter), len(meter.known), meter.spent_ms
    measured = [(data.graphs[row], float(latency_ms[row])) for row in support]
    return learned.adapt(target, measured), len(support), budget_ms


def _sweep_meter(data: GraphData, latency_ms: Floats, support: Sequence[int]) -> SweepMeter:
    """With as much device time as one run of each model of the support."""
    sweeps = np.flatnonzero(data.is_sweep & np.isfinite(latency_ms))
    rows: Indices = np.concatenate([sweeps, np.asarray(support, dtype=np.int64)])
    return SweepMeter(
        [data.graphs[row] for row in rows],
        lambda index: float(latency_ms[rows[index]]),
        budget_ms=float(latency_ms[support].sum()),
        whole=range(len(sweeps), len(rows)),
    )


def _asked(task: GraphTask, split: GraphSplit, column: int) -> GraphData | None:
    """The models to predict on a target: those with a latency there."""
    if split.fold != ALL:
        data = task.data
        return data.rows(held_out_rows(data, split, task.folds) & np.isfinite(data.latency_ms[:, column]))
    if task.published is None:
        return None
    key = task.data.targets[column].key
    places = [index for index, one in enumerate(task.published.targets) if one.key == key]
    if not places:
        return None
    return task.published.rows(np.isfinite(task.published.latency_ms[:, places[0]]))


def _predictions(
    said: GraphPredictions, *, target_key: str, names: Sequence[str], spent: tuple[int, float], adapt_s: float
) -> TargetPredictions:
    return TargetPredictions(
        target_key=target_key,
        names=tuple(names),
        median_ms=tuple(said.median_ms.tolist()),
        lower_ms=() if said.lower_ms is None else tuple(said.lower_ms.tolist()),
        upper_ms=() if said.upper_ms is None else tuple(said.upper_ms.tolist()),
        extrapolates=() if said.extrapolates is None else tuple(said.extrapolates.tolist()),
        samples=spent[0],
        device_ms=spent[1],
        adapt_s=adapt_s,
    )
