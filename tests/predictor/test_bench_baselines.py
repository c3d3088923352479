"""Baselines: closed forms against brute force, and targets that they should know exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from predictor.benchmarks.architectures import Architectures
from predictor.benchmarks.flops import FlopsMethod
from predictor.benchmarks.linear import fit_ridge, half_width
from predictor.benchmarks.metrics import scores_of
from predictor.benchmarks.mixture import MixtureMethod
from predictor.benchmarks.operations import counts_of, operations_of, pairs_of
from predictor.benchmarks.registry import METHODS, make_methods
from predictor.benchmarks.ridge import RidgeMethod
from predictor.benchmarks.run import Protocol, run_method
from predictor.benchmarks.tables import LatencyTable
from predictor.benchmarks.tasks import meter_of, source_of
from tests.predictor.published_tables import DEVICES, made_up_task, nb201_table, with_counts


def test_left_out_residuals_are_those_of_fitting_without() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(9, 14)), rng.normal(size=(9, 1))
    model = fit_ridge(x, y)
    centred = x - model.centre
    strength = _strength_of(centred, y, model.weights)
    for row in range(9):
        kept = np.arange(9) != row
        xk, yk = x[kept] - x[kept].mean(axis=0), y[kept] - y[kept].mean()
        weights = np.linalg.solve(xk.T @ xk + strength * np.eye(14), xk.T @ yk)
        said = y[kept].mean() + (x[row] - x[kept].mean(axis=0)) @ weights
        assert model.residuals[row] == pytest.approx(y[row] - said, rel=1e-6)


def _strength_of(centred: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """From the normal equations X'(y - Xw) = l w, at the largest weight."""
    at = int(np.argmax(np.abs(weights)))
    missed = centred.T @ (y - y.mean() - centred @ weights)
    return float(missed[at, 0] / weights[at, 0])


def test_a_ridge_finds_a_line_without_noise_and_says_so() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 3))
    y = x @ np.asarray([[1.0, 0.0], [-2.0, 1.0], [0.5, 3.0]]) + np.asarray([7.0, -1.0])
    model = fit_ridge(x, y)
    fresh = rng.normal(size=(5, 3))
    assert model(fresh) == pytest.approx(
        fresh @ [[1.0, 0.0], [-2.0, 1.0], [0.5, 3.0]] + np.asarray([7.0, -1.0]), abs=1e-3
    )
    assert half_width(model.residuals[:, 0]) < 1e-3


def test_operations_stand_in_their_places() -> None:
    cell = Architectures("nb201", np.asarray([[0, 4, 1, 1, 3, 2]]), np.zeros((1, 1)))
    columns = operations_of(cell)
    assert np.flatnonzero(columns[0]).tolist() == [0, 9, 11, 16, 23, 27]
    assert counts_of(cell, columns).tolist() == [[1.0, 2.0, 1.0, 1.0, 1.0]]
    chain = Architectures("fbnet", np.full((1, 22), 8), np.zeros((1, 1)))
    assert counts_of(chain, operations_of(chain)).tolist() == [[0.0] * 8 + [22.0]]


def test_blocks_beyond_a_stage_are_absent_and_weigh_as_their_area() -> None:
    genome = [7] * 20 + [6] * 20 + [2, 3, 4, 2, 2] + [112]
    network = Architectures("ofa", np.asarray([genome]), np.zeros((1, 1)))
    columns = operations_of(network)
    assert columns.shape == (1, 181)
    assert columns[0, -1] == 0.25
    present = columns[0, :-1].reshape(20, 9)
    assert present[:, 8].reshape(5, 4).tolist() == [
        [0.25, 0.25, 0, 0], [0.25] * 3 + [0], [0.25] * 4, [0.25, 0.25, 0, 0], [0.25, 0.25, 0, 0]
    ]  # fmt: skip
    assert present[:, :8].sum() == 0.0
    assert counts_of(network, columns)[0, 8] == pytest.approx(13 * 0.25)


def test_pairs_are_those_that_occur_together() -> None:
    operations = np.asarray([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    pairs = pairs_of(operations)
    assert pairs.count == 1
    assert pairs(np.asarray([[2.0, 1.0, 3.0]])).tolist() == [[6.0]]


def test_a_mixture_knows_a_target_that_is_one() -> None:
    table = nb201_table(rows=600)
    latency = table.latency_ms.copy()
    latency[:, 4] = 1.7 * latency[:, 0] ** 0.3 * latency[:, 2] ** 0.7
    table = LatencyTable("nb201", table.genomes, DEVICES, latency, table.reference)
    protocol = Protocol(samples=10, selection="random", seeds=2)
    task = made_up_task(table, source_samples=500)
    result = run_method(MixtureMethod(), task, table, with_counts(table), protocol=protocol)
    assert result["fpga"].spearman > 0.93
    assert result["fpga"].mape < 0.03
    assert result["fpga"].measurements == 10


def test_a_ridge_on_operations_knows_a_target_to_which_they_cost_alike_everywhere() -> None:
    table = nb201_table()
    protocol = Protocol(samples=30, selection="random", seeds=2)
    result = run_method(RidgeMethod(), made_up_task(table), table, with_counts(table), protocol=protocol)
    assert min(one.spearman for one in result.values()) > 0.9
    assert max(one.mape for one in result.values()) < 0.1


def test_multiply_accumulates_of_every_edge_are_a_line_to_milliseconds() -> None:
    table = nb201_table()
    weights = np.asarray([0.0, 0.0, 1.0, 9.0, 0.0])[table.genomes].sum(axis=1)  # 3x3 against 1x1 convolution
    latency = table.latency_ms.copy()
    latency[:, 4] = 5.0 + 2.0 * weights
    table = LatencyTable("nb201", table.genomes, DEVICES, latency, table.reference)
    task = made_up_task(table)
    trained = FlopsMethod().train(source_of(task, table, with_counts(table)))
    adapted = trained.adapt(meter_of(task, table, "fpga", budget=5, selection="random", seed=0))
    predicted = adapted.predict(np.arange(240))
    scores = scores_of(predicted, latency[:, 4])
    assert scores.spearman == pytest.approx(1.0, abs=1e-9)
    assert scores.mape < 1e-3


def test_every_baseline_gives_positive_milliseconds_around_its_median() -> None:
    table = nb201_table()
    task = made_up_task(table)
    methods = make_methods(["ridge", "mixture", "flops"], Path())
    for method in methods.values():
        trained = method.train(source_of(task, table, with_counts(table)))
        adapted = trained.adapt(meter_of(task, table, "watch", budget=3, selection="random", seed=1))
        predicted = adapted.predict(np.arange(240))
        assert predicted.lower_ms is not None
        assert predicted.upper_ms is not None
        assert (predicted.lower_ms > 0).all()
        assert (predicted.lower_ms <= predicted.median_ms).all()
        assert (predicted.median_ms <= predicted.upper_ms).all()


def test_every_key_of_the_registry_is_one_of_the_published_eight() -> None:
    expected = {"laptime", "help", "maml", "metasgd", "brpnas", "ridge", "mixture", "flops"}
    assert isinstance(METHODS, Mapping)
    assert set(METHODS) == expected
