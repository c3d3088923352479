"""The graph benchmark: what methods may know, what is counted, and that each method predicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from devices.measurement import LayerProfile
from predictor.benchmarks.errors import BenchmarkRejected, BudgetExceeded, NotGranted, TaskRejected
from predictor.benchmarks.graph_gnn import GnnConfig, GraphNetworks
from predictor.benchmarks.graph_help import HelpOnGraphs
from predictor.benchmarks.graph_laptime import PricedSources
from predictor.benchmarks.graph_method import (
    AdaptedGraphs,
    GraphData,
    GraphMethod,
    GraphPredictions,
    LearnedGraphs,
    Support,
    SweepMeter,
)
from predictor.benchmarks.graph_metrics import Said, far_off, graph_scores, ratios_within, said_of, sign_tests
from predictor.benchmarks.graph_networks import RememberedNetworks
from predictor.benchmarks.graph_registry import GRAPH_METHODS, make_graph_methods
from predictor.benchmarks.graph_report import graph_document, graph_lines, method_scores
from predictor.benchmarks.graph_run import GraphTask, SplitResult, TargetPredictions, run_split, run_stored
from predictor.benchmarks.graph_splits import (
    ALL,
    GraphSplit,
    LeftOut,
    fold_of,
    held_out_rows,
    key_of,
    left_out_columns,
    sources_of,
    splits_of,
)
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph
from predictor.help.config import HelpConfig
from predictor.kernel_costs.training_config import TrainingConfig
from predictor.meta_training import MetaConfig
from tests.predictor.graph_fleet import FAMILIES, TARGETS, cache, fleet

CLOSED_FORMS = ("graph-flops", "graph-roofline", "graph-lut")
THIRD = GraphSplit("target", TARGETS[2].key, 1)


def task() -> GraphTask:
    data = fleet()
    return GraphTask(data, fold_of(data, count=4, seed=0))


def methods() -> list[GraphMethod]:
    closed = [make_graph_methods(key, seeds=1, cache=cache())[0] for key in CLOSED_FORMS]
    gnn = GraphNetworks("graph-gnn", 0, cache(), GnnConfig(epochs=8, members=2, width=8))
    few = HelpConfig(width=8, episodes=4, query=16, tasks=2, inner_rate=1e-2)
    training = TrainingConfig(members=1, steps=6, hidden=8)
    ours = PricedSources("laptime", MetaConfig(training=training, folds=2))
    return [*closed, gnn, HelpOnGraphs("graph-help", 0, cache(), few), ours]


def test_a_split_leaves_out_its_targets_and_its_families() -> None:
    job = task()
    assert set(job.folds) == set(FAMILIES)
    assert sorted(job.folds.values()) == [0, 1, 2, 3]  # as many families as folds
    for split in splits_of(job.data, ["target", "engine"], folds=range(4)):
        sources = sources_of(job.data, split, job.folds)
        held = {family for family, fold in job.folds.items() if fold == split.fold}
        assert held
        assert not held & set(sources.families.tolist())
        assert sources.is_sweep.sum() == job.data.is_sweep.sum()
        assert sources.is_reference.sum() == job.data.is_reference.sum()
        left = {one.key for one in TARGETS} - {one.key for one in sources.targets}
        engines = {one.runtime.engine for one in sources.targets}
        assert left == {split.key} if split.left_out == "target" else split.key not in engines
    assert len(splits_of(job.data, ["engine"], folds=[0])) == 3


def test_groups_hold_unlike_targets_and_devices_all_of_theirs() -> None:
    data = fleet()
    groups = [key_of(data, "group", column) for column in range(len(data.targets))]
    engines = [target.runtime.engine for target in data.targets]
    most = max(engines.count(engine) for engine in engines)
    count = len(set(groups))
    for group in set(groups):
        own = [engine for engine, one in zip(engines, groups, strict=True) if one == group]
        assert max(own.count(engine) for engine in own) <= -(-most // count)
    assert {key_of(data, "device", column) for column in range(len(data.targets))} == {
        target.key.split("/")[0] for target in data.targets
    }


@pytest.mark.parametrize("kind", ["target", "group"])
def test_a_target_goes_with_its_twin(kind: LeftOut) -> None:
    """The same runtime on another machine with the same processor."""
    data = task().data
    twins = tuple(one.model_copy(update={"key": f"again-{one.key}"}) for one in data.targets)
    both = replace(
        data,
        targets=(*data.targets, *twins),
        latency_ms=np.concatenate([data.latency_ms, data.latency_ms], axis=1),
    )
    split = GraphSplit(kind, key_of(both, kind, 0), 0)
    left = {both.targets[column].key for column in np.flatnonzero(left_out_columns(both, split))}
    assert both.targets[0].key in left
    assert {key for key in left if key.startswith("again-")} == {
        f"again-{key}" for key in left if not key.startswith("again-")
    }
    assert len(left) < len(both.targets)


def test_trained_networks_are_remembered(tmp_path: Path) -> None:
    """By what they were trained on: the same again is not trained, anything else is."""
    job, split = task(), THIRD
    training = TrainingConfig(members=1, steps=3, hidden=8)
    trainer = RememberedNetworks(tmp_path / "networks")
    ours = PricedSources("laptime", MetaConfig(training=training, folds=2), trainer=trainer)
    first = run_split(ours, job, split).targets[0]
    files = set((tmp_path / "networks").iterdir())
    assert len(files) == 3  # two of the calibration, one to predict with
    assert run_split(ours, job, split).targets[0].median_ms == first.median_ms
    assert set((tmp_path / "networks").iterdir()) == files
    changed = replace(job.data, latency_ms=job.data.latency_ms * 2.0)
    run_split(ours, replace(job, data=changed), split)
    assert len(set((tmp_path / "networks").iterdir())) == 6


def test_profiles_go_with_their_latencies() -> None:
    job = task()
    told = LayerProfile(layers=(), coverage=1.0)
    data = job.data
    everywhere = {(str(name), target.key): told for name in data.names for target in data.targets}
    split = GraphSplit("engine", "onnxruntime", 2)
    sources = sources_of(replace(data, profiles=everywhere), split, job.folds)
    assert len(sources.profiles) == len(sources) * len(sources.targets) > 0
    assert {name for name, _ in sources.profiles} == set(sources.names.tolist())
    assert {key for _, key in sources.profiles} == {target.key for target in sources.targets}


def test_a_graph_that_is_the_same_as_a_held_out_one_is_no_source() -> None:
    data = fleet()
    row = int(np.flatnonzero(data.families == "tiny")[0])
    twin = replace(data.rows(np.array([row])), families=np.array(["plain"]), names=np.array(["twin"]))
    both = replace(
        data,
        names=np.concatenate([data.names, twin.names]),
        families=np.concatenate([data.families, twin.families]),
        precisions=np.concatenate([data.precisions, twin.precisions]),
        is_sweep=np.concatenate([data.is_sweep, twin.is_sweep]),
        latency_ms=np.concatenate([data.latency_ms, twin.latency_ms]),
        graphs=(*data.graphs, *twin.graphs),
    )
    folds = {family: int(family != "tiny") for family in FAMILIES}
    assert "twin" not in sources_of(both, GraphSplit("target", TARGETS[0].key, 0), folds).names
    assert "twin" in sources_of(both, GraphSplit("target", TARGETS[0].key, ALL), folds).names


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_nothing_but_what_is_granted_changes_a_prediction(method: GraphMethod) -> None:
    """Every other latency of the left-out target, and every latency of the left-out families, is
    multiplied by a random factor: the predictions stay as they are, bit for bit.
    """
    job, split = task(), THIRD
    honest = run_split(method, job, split).targets[0]
    rng = np.random.default_rng(1)
    secret = held_out_rows(job.data, split, job.folds)
    latency_ms = job.data.latency_ms.copy()
    latency_ms[secret] *= np.exp(rng.normal(size=latency_ms[secret].shape))
    others = job.data.is_whole & ~secret
    latency_ms[others, 2] *= np.exp(rng.normal(size=int(others.sum())))
    if method.name != "graph-lut":  # which pays for what it reads of these
        latency_ms[job.data.is_sweep, 2] *= np.exp(rng.normal(size=int(job.data.is_sweep.sum())))
    spoilt = run_split(method, replace(job, data=replace(job.data, latency_ms=latency_ms)), split).targets[0]
    assert spoilt.median_ms == honest.median_ms
    assert spoilt.lower_ms == honest.lower_ms
    assert len(honest.names) == int(secret.sum())
    budget_ms = job.data.latency_ms[job.data.is_reference, 2].sum()
    longest_ms = job.data.latency_ms[job.data.is_sweep, 2].max()
    assert honest.device_ms <= budget_ms + (longest_ms if method.name == "graph-lut" else 0.0) + 1e-9


def by_kernel_tables(data: GraphData) -> TargetPredictions:
    """Of the third target, with a fold of families left out."""
    (tables,) = make_graph_methods("graph-lut", seeds=1, cache=cache())
    return run_split(tables, replace(task(), data=data), THIRD).targets[0]


def without_single_operators(data: GraphData, column: int) -> GraphData:
    latency_ms = data.latency_ms.copy()
    latency_ms[data.is_sweep, column] = np.nan
    return replace(data, latency_ms=latency_ms)


def test_a_source_without_single_operators_tells_a_kernel_table_nothing() -> None:
    data = task().data
    absent = replace(data, targets=data.targets[1:], latency_ms=data.latency_ms[:, 1:])
    said = by_kernel_tables(without_single_operators(data, 0))
    assert said.median_ms == by_kernel_tables(absent).median_ms


def test_a_target_without_single_operators_is_nominal_but_for_its_references() -> None:
    data = without_single_operators(task().data, 2)
    said = by_kernel_tables(data)
    assert np.all(np.asarray(said.median_ms) > 0)
    assert len(said.names) == int(held_out_rows(data, THIRD, task().folds).sum())


def test_factors_of_classes_are_found_again() -> None:
    """The fleet's latencies follow the roofline's law, so the roofline explains them, and
    multiply-accumulates do not.
    """
    job = task()
    splits = splits_of(job.data, ["target"], folds=range(4))
    scores = {}
    for method in methods()[:3]:
        results = {split: run_split(method, job, split) for split in splits}
        scores[method.name] = method_scores(results, job).overall
    roofline, flops, tables = scores["graph-roofline"], scores["graph-flops"], scores["graph-lut"]
    assert roofline is not None
    assert flops is not None
    assert tables is not None
    assert roofline.pairs == job.data.is_whole.sum() * len(TARGETS)
    assert roofline.median_ape < 0.15
    assert roofline.median_ape < tables.median_ape < 0.5
    assert roofline.median_ape < flops.median_ape
    assert roofline.coverage is not None
    assert roofline.coverage > 0.8
    assert tables.coverage is None


def test_a_meter_charges_and_refuses() -> None:
    graphs = fleet().graphs[:4]
    times = [3.0, 2.0, np.nan, 1.0]
    meter = SweepMeter(graphs, lambda index: times[index], budget_ms=4.0)
    assert meter.measure(0) == 3.0
    assert meter.measure(0) == 3.0  # paid for once
    with pytest.raises(NotGranted, match="model 2 has no valid measurement"):
        meter.measure(2)
    assert meter.measure(1) == 2.0  # begun with something left
    with pytest.raises(BudgetExceeded, match=r"5\.000 ms of device time are spent, the budget is 4\.000 ms"):
        meter.measure(3)
    assert meter.spent_ms == 5.0
    assert meter.known == {0: 3.0, 1: 2.0}


class Scripted:
    """Says what it is told to."""

    name = "scripted"

    def __init__(self, said: GraphPredictions) -> None:
        self.said = said
        self.learned = 0

    def learn(self, sources: GraphData) -> LearnedGraphs:
        self.learned += 1
        return self

    def adapt(self, target: TargetFacts, support: Support) -> AdaptedGraphs:
        return self

    def predict(self, graphs: Sequence[ModelGraph]) -> GraphPredictions:
        return self.said


def test_a_finished_split_is_not_run_again(tmp_path: Path) -> None:
    job = task()
    split = GraphSplit("engine", "onnxruntime", 0)
    count = int(held_out_rows(job.data, split, job.folds).sum())
    ones = np.ones(count)
    method = Scripted(GraphPredictions(ones, 0.5 * ones, 2.0 * ones, ones > 2))
    first = run_stored(method, job, split, folder=tmp_path)
    again = run_stored(method, job, split, folder=tmp_path)
    assert method.learned == 1
    assert again == first
    assert [one.target_key for one in first.targets] == [TARGETS[0].key, TARGETS[1].key]
    assert SplitResult.from_json(first.to_json()) == first


@pytest.mark.parametrize("median", [np.array([1.0]), np.full(6, np.nan), np.full(6, -1.0)])
def test_what_is_no_latency_is_refused(median: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    with pytest.raises(BenchmarkRejected, match="are not 6 positive latencies"):
        run_split(Scripted(GraphPredictions(median)), task(), GraphSplit("target", TARGETS[0].key, 0))


def table(names: Sequence[str], families: Sequence[str], latency_ms: Sequence[Sequence[float]]) -> GraphData:
    """Models without graphs worth the name, on ONNX Runtime, ncnn and OpenVINO."""
    targets = (TARGETS[0], TARGETS[2], TARGETS[3])
    return GraphData(
        names=np.array(names),
        families=np.array(families),
        precisions=np.array([name.rpartition("/")[2] for name in names]),
        is_sweep=np.zeros(len(names), dtype=np.bool_),
        graphs=fleet().graphs[: len(names)],
        targets=targets,
        latency_ms=np.array(latency_ms, dtype=np.float64),
    )


def said(data: GraphData, median_ms: Sequence[Sequence[float]], *, spread: float = 2.0) -> Said:
    median = np.array(median_ms, dtype=np.float64)
    flags = np.zeros(median.shape, dtype=np.bool_)
    flags[0] = True
    return Said(median, median / spread, median * spread, flags, data.latency_ms)


def test_scores_by_hand() -> None:
    data = table(["a/fp32", "b/fp32"], ["x", "y"], [[1.0, 2.0, 4.0], [10.0, np.nan, 10.0]])
    one = said(data, [[1.05, 2.0, 2.0], [np.nan, 5.0, 13.0]])
    scores = graph_scores(one)
    assert scores is not None
    assert scores.pairs == 4
    assert scores.median_ape == pytest.approx(0.175)  # 0, 0.05, 0.3, 0.5
    assert scores.mape == pytest.approx(0.2125)
    assert scores.within10 == pytest.approx(0.5)
    assert scores.within25 == pytest.approx(0.5)
    assert scores.coverage == 1.0
    assert scores.width == pytest.approx(np.log(4.0))
    tight = graph_scores(said(data, [[1.05, 2.0, 2.0], [np.nan, 5.0, 13.0]], spread=1.2))
    assert tight is not None
    assert tight.coverage == pytest.approx(0.5)
    # Ratios of a: 0.525 for 0.5 (5 % off), 0.525 for 0.25, 1 for 0.5; of b 5 / 13 for nothing.
    pairs, within = ratios_within(one)
    assert pairs == 3
    assert within == pytest.approx(1 / 3)
    # Of these only b is not flagged, and it is 30 % off.
    assert far_off(one, data) == []
    worse = said(data, [[9.0, 9.0, 9.0], [np.nan, np.nan, 21.0]])
    assert [(each.name, each.target_key) for each in far_off(worse, data)] == [("b/fp32", TARGETS[3].key)]


def test_signs_by_hand() -> None:
    names = ["a/fp32", "a/int8", "d/fp32", "d/w4", "p/fp32", "p/w4", "lonely/int8"]
    families = ["x", "x", "decode", "decode", "x", "x", "x"]
    measured: list[list[float]] = [
        [4, 4, 4],
        [2, 2, 3.9],
        [4, 4, 4],
        [8, 8, 2],
        [4, 4, 4],
        [2, 2, 2],
        [1, 1, 1],
    ]
    data = table(names, families, measured)
    one = said(data, [[4, 4, 4], [3, 5, 5], [4, 4, 4], [9, 9, 5], [4, 4, 4], [9, 9, 9], [1, 1, 1]])
    signs = sign_tests(one, data)
    # int8: right on ONNX Runtime, ncnn is not judged, on OpenVINO the true ratio 0.975 decides nothing.
    assert (signs["int8"].pairs, signs["int8"].right) == (1, 1)
    # w4: of decoders alone; right on ONNX Runtime (slower), wrong on OpenVINO.
    assert (signs["w4"].pairs, signs["w4"].right) == (2, 1)


def test_a_report_has_every_part(tmp_path: Path) -> None:
    job = task()
    real = table(["r.onnx", "s.onnx"], ["published"] * 2, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    job = replace(job, published=real)
    method = make_graph_methods("graph-flops", seeds=3, cache=cache())
    assert [one.name for one in method] == ["graph-flops"]  # chance has no part in it
    splits = splits_of(job.data, ["target"], folds=[0, ALL], only="openvino")
    assert len(splits) == 2
    results = {split: run_stored(method[0], job, split, folder=tmp_path) for split in splits}
    scores = method_scores(results, job)
    assert list(scores.published) == [TARGETS[3].key]
    assert scores.published[TARGETS[3].key].pairs == 2
    document = json.loads(json.dumps(graph_document(job, {"target": {"graph-flops": scores}})))
    assert document["target"]["graph-flops"]["overall"]["pairs"] == 6
    assert document["data"]["models"] == 24
    text = "\n".join(graph_lines(job, {"target": {"graph-flops": scores, "graph-flops~1": scores}}))
    for part in ("median %", "ratio %", "+- 2 seeds", "by family", "real, MAPE %", "without a warning"):
        assert part in text


def test_a_report_tells_processors_from_accelerators_and_how_well_measurements_repeat(tmp_path: Path) -> None:
    job = task()
    *others, last = job.data.targets
    gpu = last.model_copy(update={"runtime": last.runtime.model_copy(update={"provider": "cuda"})})
    again = np.log([1.0, 1.2, 0.95, 1.05])
    job = replace(job, data=replace(job.data, targets=(*others, gpu), again=again))
    method = make_graph_methods("graph-flops", seeds=1, cache=cache())[0]
    splits = splits_of(job.data, ["target"], folds=[0])
    scores = method_scores({split: run_stored(method, job, split, folder=tmp_path) for split in splits}, job)
    assert list(scores.parts) == ["cpu", "cuda"]
    pairs = [part.overall.pairs for part in scores.parts.values() if part.overall is not None]
    assert scores.overall is not None
    assert pairs == [scores.overall.pairs * 3 // 4, scores.overall.pairs // 4]
    assert list(scores.parts["cuda"].by_target) == [gpu.key]
    text = "\n".join(graph_lines(job, {"target": {"graph-flops": scores}}))
    for part in (
        "on cpu",
        "on cuda",
        "measured again, 4 times: 5.0 % apart in the median, 75.0 % within 10 %",
    ):
        assert part in text
    document = graph_document(job, {"target": {"graph-flops": scores}})
    assert json.loads(json.dumps(document))["data"]["again"]["within25"] == 1.0


def test_unknown_and_impossible_splits_are_refused() -> None:
    data = fleet()
    with pytest.raises(TaskRejected, match="no target's key contains 'tpu'"):
        splits_of(data, ["target"], folds=[0], only="tpu")
    with pytest.raises(TaskRejected, match="one engine only"):
        splits_of(data.columns(np.array([0, 1])), ["engine"], folds=[0])
    assert set(GRAPH_METHODS) >= {
        "laptime",
        "graph-flops",
        "graph-roofline",
        "graph-lut",
        "graph-gnn",
        "graph-help",
    }


def test_predictions_come_together_by_name_and_target() -> None:
    job = task()
    found = [
        target
        for fold in range(4)
        for target in run_split(methods()[0], job, GraphSplit("target", TARGETS[1].key, fold)).targets
    ]
    joined = said_of(found, job.data)
    assert np.array_equal(joined.is_asked[:, 1], job.data.is_whole)
    assert not joined.is_asked[:, [0, 2, 3]].any()
    first = found[0]
    row = job.data.names.tolist().index(first.names[0])
    assert joined.median_ms[row, 1] == first.median_ms[0]
