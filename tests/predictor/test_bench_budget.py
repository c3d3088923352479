"""No latency of a target beyond the budget is read: without all the others, predictions are the same.

The tables are copied, every latency that the protocol does not grant is replaced by NaN, also those of source
devices beyond the source budget, and every method must say the same about all architectures, bit by bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from predictor.benchmarks.architectures import Architectures
from predictor.benchmarks.brpnas import BrpNas, BrpNasConfig
from predictor.benchmarks.help_method import make as make_help
from predictor.benchmarks.method import Indices, Method, Predicted, Selection
from predictor.benchmarks.registry import METHODS, make_methods
from predictor.benchmarks.tables import DATA_VARIABLE, LatencyTable, data_folder, load_table
from predictor.benchmarks.tasks import Task, meter_of, read_splits, source_of, task_of
from tests.predictor.published_tables import made_up_task, nb201_table, with_counts

BUDGET = 14


def brief_help(key: str, work: Path) -> Method:
    """The meta-learned methods after a few episodes: what they read does not depend on how many."""
    method = make_help(key, work)
    return replace(method, config=replace(method.config, episodes=2, width=12, query=20, draws=2))


def brief_brpnas(key: str, work: Path) -> Method:
    """Trained shortly, for the same reason."""
    return BrpNas(BrpNasConfig(epochs=3, members=2, width=8))


def from_registry(key: str, work: Path) -> Method:
    """The method as the benchmarks run it."""
    return make_methods([key], work)[key]


BRIEF: dict[str, Callable[[str, Path], Method]] = {
    "help": brief_help,
    "maml": brief_help,
    "metasgd": brief_help,
    "brpnas": brief_brpnas,
}
KEYS = [key for key, module in METHODS.items() if find_spec(module) is not None]


def predictions(
    method: Method, task: Task, table: LatencyTable, architectures: Architectures, selection: Selection
) -> dict[str, tuple[Predicted, Indices]]:
    """By device: of every architecture, and what was measured for it."""
    trained = method.train(source_of(task, table, architectures))
    found = {}
    for device in task.test:
        meter = meter_of(task, table, device, budget=BUDGET, selection=selection, seed=3)
        predicted = trained.adapt(meter).predict(np.arange(len(table.genomes)))
        assert len(meter.measured) <= BUDGET
        found[device] = predicted, meter.measured
    return found


def blanked(task: Task, table: LatencyTable, measured: dict[str, Indices]) -> LatencyTable:
    """The table with nothing but what the protocol grants: NaN in all other places and devices."""
    latency = np.full_like(table.latency_ms, np.nan)
    granted = {
        **dict.fromkeys(task.train, task.source_rows),
        **dict.fromkeys(task.validation, np.union1d(task.source_rows, task.query)),
        **measured,
    }
    for device, rows in granted.items():
        column = table.devices.index(device)
        latency[rows, column] = table.latency_ms[rows, column]
    return LatencyTable(table.space, table.genomes, table.devices, latency, table.reference)


def assert_same(one: Predicted, other: Predicted) -> None:
    assert np.isfinite(one.median_ms).all()
    assert np.array_equal(one.median_ms, other.median_ms)
    for first, second in (
        (one.lower_ms, other.lower_ms), (one.upper_ms, other.upper_ms), (one.score, other.score)
    ):  # fmt: skip
        assert (first is None) == (second is None)
        assert first is None or second is None or np.array_equal(first, second)


@pytest.mark.parametrize("selection", ["random", "active"])
@pytest.mark.parametrize("key", KEYS)
def test_predictions_stand_without_any_other_latency(key: str, selection: Selection, tmp_path: Path) -> None:
    make = BRIEF.get(key, from_registry)
    table = nb201_table()
    task, architectures = made_up_task(table), with_counts(table)
    before = predictions(make(key, tmp_path / "a"), task, table, architectures, selection)
    measured = {device: rows for device, (_, rows) in before.items()}
    bare = blanked(task, table, measured)
    after = predictions(make(key, tmp_path / "b"), task, bare, architectures, selection)
    for device in task.test:
        assert np.array_equal(before[device][1], after[device][1])
        assert_same(before[device][0], after[device][0])


@pytest.mark.parametrize("name", ["help-nb201", "FD"])
def test_predictions_stand_on_the_published_tables_too(name: str, tmp_path: Path) -> None:
    if not os.environ.get(DATA_VARIABLE):
        pytest.skip(f"{DATA_VARIABLE} names no folder with data/nas-latency")
    folder = data_folder(None)
    split = read_splits(folder)[name]
    table = load_table(split.space, folder)
    task = task_of(split, table)
    architectures = with_counts(table)
    for key, method in make_methods(["laptime", "ridge", "mixture", "flops"], tmp_path).items():
        selection: Selection = "active" if key == "laptime" else "random"
        before = predictions(method, task, table, architectures, selection)
        bare = blanked(task, table, {device: rows for device, (_, rows) in before.items()})
        after = predictions(method, task, bare, architectures, selection)
        for device in task.test:
            assert_same(before[device][0], after[device][0])
