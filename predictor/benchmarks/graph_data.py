"""Datasets of campaigns as the graph benchmark takes them: one latency for each model on each target, and the
graphs, built anew from the models' names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from predictor.benchmarks.errors import TableRejected
from predictor.benchmarks.graph_method import PUBLISHED, REFERENCE, Floats, GraphData, device_of
from predictor.campaign.dataset import Row, read_dataset
from predictor.campaign.models import Builders, built_graph, model_builders
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph
from predictor.local_study import subjects_in
from predictor.reference_set import telling

Report = Callable[[str], None]

_EVERY = 200  # graphs between reports
FEWEST_SHARE = 0.04  # of the models: a target with fewer has not been measured yet


def load_graph_data(path: Path, *, report: Report) -> GraphData:
    """A campaign's families, sweeps and reference models. Rows of models that are built differently today are
    left out. Raises `TableRejected` where nothing remains.
    """
    rows = [row for row in read_dataset(path) if row.family != PUBLISHED]
    return graph_data_of(rows, model_builders(), report=report)


def load_published(path: Path, folder: Path, *, data: GraphData, report: Report) -> GraphData:
    """Real models, from the folder that was measured, at the speed that their machine had in `data`."""
    measured = read_dataset(path)
    slower = _slower(data, measured)
    rows = [
        replace(row, median_ms=row.median_ms * slower.get(device_of(row.target_key), 1.0))
        for row in measured
        if row.family == PUBLISHED
    ]
    for device, factor in slower.items():
        report(f"{device} took {factor:.3f} times as long for the reference models in the dataset")
    builders = {one.name: one.built for one in subjects_in(folder)}
    return graph_data_of(rows, builders, report=report)


def _slower(data: GraphData, rows: Sequence[Row]) -> dict[str, float]:
    """By device, how much longer its targets took for the reference models in `data` than in these rows, in
    the median: a virtual machine is not as fast on every day.
    """
    targets = {target.key: column for column, target in enumerate(data.targets)}
    names = {str(name): place for place, name in enumerate(data.names)}
    logs: dict[str, list[float]] = {}
    for row in rows:
        if row.family == REFERENCE and row.name in names and row.target_key in targets:
            known_ms = data.latency_ms[names[row.name], targets[row.target_key]]
            if np.isfinite(known_ms):
                logs.setdefault(device_of(row.target_key), []).append(float(np.log(known_ms / row.median_ms)))
    return {device: float(np.exp(np.median(found))) for device, found in logs.items()}


def graph_data_of(rows: Sequence[Row], builders: Builders, *, report: Report) -> GraphData:
    """Rows with the graphs that their names build."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    graphs = _graphs(sorted(by_name), builders, report)
    fresh = [row for row in rows if row.name in graphs and row.graph_digest == graphs[row.name].digest]
    if len(fresh) < len(rows):
        report(f"{len(rows) - len(fresh)} of {len(rows)} rows are of models that are built differently now")
    if not fresh:
        raise TableRejected("no row of the dataset is of a model that can be built; run a campaign first")
    return _tabulated(fresh, graphs)


def _graphs(names: Sequence[str], builders: Builders, report: Report) -> dict[str, ModelGraph]:
    graphs: dict[str, ModelGraph] = {}
    for number, name in enumerate(names):
        if number % _EVERY == 0:
            report(f"reading graph {number + 1} of {len(names)}")
        if (graph := built_graph(name, builders, report)) is not None:
            graphs[name] = graph
    return graphs


def _tabulated(rows: Sequence[Row], graphs: Mapping[str, ModelGraph]) -> GraphData:
    """Several passes of one model on one target become their geometric mean."""
    logs: dict[tuple[str, str], list[float]] = {}
    of_name: dict[str, Row] = {}
    of_target: dict[str, Row] = {}
    for row in rows:
        logs.setdefault((row.name, row.target_key), []).append(float(np.log(row.median_ms)))
        of_name[row.name] = row
        of_target[row.target_key] = row
    names, keys = sorted(of_name), sorted(of_target)
    latency_ms = np.full((len(names), len(keys)), np.nan)
    places = {name: index for index, name in enumerate(names)}
    columns = {key: index for index, key in enumerate(keys)}
    for (name, key), values in logs.items():
        latency_ms[places[name], columns[key]] = np.exp(np.mean(values))
    enough = np.isfinite(latency_ms).mean(axis=0) >= FEWEST_SHARE
    found = [of_name[name] for name in names]
    data = GraphData(
        names=np.array(names, dtype=np.str_),
        families=np.array([row.family for row in found], dtype=np.str_),
        precisions=np.array([row.precision for row in found], dtype=np.str_),
        is_sweep=np.array([row.is_sweep for row in found], dtype=np.bool_),
        graphs=tuple(graphs[name] for name in names),
        targets=tuple(
            TargetFacts(key=key, runtime=of_target[key].runtime, hardware=of_target[key].hardware)
            for key in keys
        ),
        latency_ms=latency_ms,
        profiles={(row.name, row.target_key): row.layers for row in rows if row.layers is not None},
        again=_again(logs, of_name),
    )
    return data.columns(enough)


def _again(logs: Mapping[tuple[str, str], Sequence[float]], of_name: Mapping[str, Row]) -> Floats:
    whole = {name for name, row in of_name.items() if not row.is_sweep and row.family != REFERENCE}
    found = [values[1] - values[0] for (name, _), values in logs.items() if name in whole and len(values) > 1]
    return np.array(found, dtype=np.float64)


def digest_of(data: GraphData) -> str:
    """A short SHA-256 of the latencies and of what they are of."""
    digest = hashlib.sha256()
    for text in (*data.names, *(graph.digest for graph in data.graphs), *(one.key for one in data.targets)):
        digest.update(f"{text}\n".encode())
    digest.update(np.ascontiguousarray(data.latency_ms).tobytes())
    return digest.hexdigest()[:16]


def reference_rows(data: GraphData, column: int) -> list[int]:
    """Of the reference models that tell a target, in their own order."""
    measured = (data.families == REFERENCE) & np.isfinite(data.latency_ms[:, column])
    places = {str(data.names[row]): int(row) for row in np.flatnonzero(measured)}
    return [places[name] for name in telling(places)]
