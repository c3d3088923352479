"""From the dataset to what the cost network trains on: the graphs rebuilt, their kernels, latencies and
layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from devices.measurement import LayerProfile
from predictor.campaign.dataset import Row
from predictor.campaign.models import model_builders
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph
from predictor.kernel_costs.layers import timed_kernels
from predictor.kernel_costs.nominal import nominal_times
from predictor.kernel_costs.pricing import Encoded, encode
from predictor.kernel_costs.table import KernelTable, View, kernels_in, under_each_other, view_of
from predictor.kernel_costs.training import Examples, view_examples
from predictor.kernels import Kernel
from predictor.reading.reader import read_graph
from predictor.roofline import machine_of

Floats = NDArray[np.float64]

SWEEP_WEIGHT = 2.0  # of single operators and medleys, which are there to show kernels of every size


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A rebuilt model of the dataset. `timed`: for a view and a column of the latencies, milliseconds of each
    of its kernels.
    """

    name: str
    family: str
    precision: str
    is_sweep: bool
    digest: str
    encoded: Encoded
    timed: Mapping[tuple[View, int], Floats]


@dataclass(frozen=True, slots=True)
class MeasuredModels:
    """G models on T targets: `latency_ms` (G, T), NaN where not measured."""

    models: tuple[MeasuredModel, ...]
    targets: tuple[TargetFacts, ...]
    latency_ms: Floats

    def take(self, rows: Sequence[int] | NDArray[np.intp], columns: Sequence[int]) -> MeasuredModels:
        """Some models on some targets."""
        kept = list(columns)
        models = tuple(_on_columns(self.models[row], kept) for row in rows)
        targets = tuple(self.targets[column] for column in kept)
        indices = np.asarray(rows, dtype=np.intp)  # of none too
        return MeasuredModels(models, targets, self.latency_ms[indices][:, kept])


def measured_models(rows: Iterable[Row], report: Callable[[str], None] = lambda _: None) -> MeasuredModels:
    """The models of the dataset with their latencies; several measurements of one become their geometric
    mean.

    A row of a model that is built differently today is left out, and so is one of a model that nobody can
    rebuild.
    """
    by_name: dict[str, list[Row]] = defaultdict(list)
    targets: dict[str, TargetFacts] = {}
    for row in rows:
        by_name[row.name].append(row)
        targets[row.target_key] = TargetFacts(key=row.target_key, runtime=row.runtime, hardware=row.hardware)
    keys = sorted(targets)
    builders = model_builders()
    models, latencies = [], []
    for name in sorted(set(by_name) & set(builders)):
        graph = read_graph(*builders[name]())
        own = [row for row in by_name[name] if row.graph_digest == graph.digest]
        if own:
            latency = _latencies(own, keys)
            models.append(_of_rows(graph, own, [targets[key] for key in keys], latency))
            latencies.append(latency)
        if len(models) % 200 == 0:
            report(f"{len(models)} models rebuilt")
    latency_ms = np.reshape(latencies, (len(models), len(keys)))  # of no model too
    return MeasuredModels(tuple(models), tuple(targets[key] for key in keys), latency_ms)


def examples_of(data: MeasuredModels) -> Examples:
    """All of it, to train on."""
    views = [view_of(target.runtime) for target in data.targets]
    parts = []
    for view in sorted(set(views)):
        columns = [index for index, own in enumerate(views) if own is view]
        tables = [model.encoded.tables[view] for model in data.models]
        nominal = _nominal_ms(under_each_other(tables), [data.targets[column] for column in columns])
        starts = np.cumsum([len(table) for table in tables])[:-1]
        rows = []
        for model, own in zip(data.models, np.split(nominal, starts), strict=True):
            blank = np.full(len(own), np.nan)
            timed = np.stack([model.timed.get((view, column), blank) for column in columns], axis=1)
            rows.append((model.encoded.features[view], own, timed))
        parts.append(view_examples(rows, columns))
    weights = np.array([SWEEP_WEIGHT if model.is_sweep else 1.0 for model in data.models])
    engines = tuple(target.runtime.engine for target in data.targets)
    return Examples(tuple(parts), data.latency_ms, weights, engines)


def _nominal_ms(table: KernelTable, targets: Sequence[TargetFacts]) -> Floats:
    """Of K kernels on the nominal machines of T targets, (K, T), each machine once."""
    machines = [machine_of(target.runtime, target.hardware) for target in targets]
    times = {
        machine: nominal_times(table, machine, has_generic_paths=False).total
        for machine in dict.fromkeys(machines)
    }
    return np.stack([times[machine] for machine in machines], axis=1)


def _latencies(rows: Sequence[Row], keys: Sequence[str]) -> Floats:
    logs = [[np.log(row.median_ms) for row in rows if row.target_key == key] for key in keys]
    return np.array([float(np.exp(np.mean(own))) if own else np.nan for own in logs])


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is made of a graph whatever was measured of it."""

    digest: str
    kernels: Mapping[View, tuple[Kernel, ...]]
    encoded: Encoded

    @classmethod
    def of(cls, graph: ModelGraph) -> Prepared:
        """In all views."""
        kernels = {view: kernels_in(graph, view) for view in View}
        return cls(graph.digest, kernels, encode(graph, tuple(View)))


def measured_model(
    prepared: Prepared,
    *,
    name: str,
    family: str,
    precision: str,
    is_sweep: bool,
    targets: Sequence[TargetFacts],
    latency_ms: Floats,
    profiles: Sequence[LayerProfile | None],
) -> MeasuredModel:
    """A graph with its kernels in all views. `latency_ms` and `profiles` are by target."""
    timed: dict[tuple[View, int], Floats] = {}
    for column, (target, profile) in enumerate(zip(targets, profiles, strict=True)):
        if profile is not None and np.isfinite(latency_ms[column]):
            view = view_of(target.runtime)
            timed[view, column] = timed_kernels(
                prepared.kernels[view],
                profile,
                float(latency_ms[column]),
                engine=target.runtime.engine,
            )
    return MeasuredModel(
        name=name,
        family=family,
        precision=precision,
        is_sweep=is_sweep,
        digest=prepared.digest,
        encoded=prepared.encoded,
        timed=timed,
    )


def _of_rows(
    graph: ModelGraph, rows: Sequence[Row], targets: Sequence[TargetFacts], latency_ms: Floats
) -> MeasuredModel:
    newest = {row.target_key: row.layers for row in rows if row.layers is not None}
    first = rows[0]
    return measured_model(
        Prepared.of(graph),
        name=first.name,
        family=first.family,
        precision=first.precision,
        is_sweep=first.is_sweep,
        targets=targets,
        latency_ms=latency_ms,
        profiles=[newest.get(target.key) for target in targets],
    )


def _on_columns(model: MeasuredModel, columns: Sequence[int]) -> MeasuredModel:
    timed = {
        (view, columns.index(column)): times
        for (view, column), times in model.timed.items()
        if column in columns
    }
    return replace(model, timed=timed)
