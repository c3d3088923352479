"""Meta-training on a dozen small graphs: what it learns from, what it must not see, and that it repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from predictor.adapt import TargetFacts, adapt
from predictor.campaign.examples import MeasuredModel, MeasuredModels, examples_of
from predictor.graph import ModelGraph
from predictor.kernel_costs.features import COMPANY, FEATURE_COUNT
from predictor.kernel_costs.network import to_arrays
from predictor.kernel_costs.pricing import NOMINAL_COUNT, Pricer, encode
from predictor.kernel_costs.table import View
from predictor.kernel_costs.training import TrainingConfig, train, view_examples
from predictor.meta_checkpoint import MAX_META_BYTES, MetaCheckpoint, Widenings
from predictor.meta_training import (
    REFERENCE_FAMILY,
    MetaConfig,
    calibrated_widenings,
    family_folds,
    price_models,
    train_meta,
    without_families,
)
from predictor.predict import Predictor
from predictor.reading.reader import read_graph
from tests.predictor.onnx_graphs import model_of, noise
from tests.predictor.synthetic_target import (
    HARDWARE,
    SOURCES,
    SyntheticTarget,
    facts,
    reference_graphs,
    synthetic_network,
)

TARGETS = tuple(
    TargetFacts(key=f"bench/{one.key}", runtime=one, hardware=HARDWARE)
    for one in (SOURCES[0], SOURCES[2], SOURCES[1])
)
QUICK = TrainingConfig(hidden=8, members=2, steps=30)
CONFIG = MetaConfig(training=QUICK, folds=3)


def convs(size: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    return model_of(nodes, {"x": [1, size, 12, 12]}, ["y"], stored={"w": noise(2 * size, size, 3, 3)})


def products(size: int) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Softmax", ["m"], ["y"])]
    return model_of(nodes, {"x": [size, 64]}, ["y"], stored={"w": noise(64, 4 * size)})


def curves(size: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Concat", ["e", "x"], ["y"], axis=0)]
    return model_of(nodes, {"x": [64 * size, 33]}, ["y"])


@lru_cache(maxsize=1)
def models() -> tuple[MeasuredModel, ...]:
    found = [_model(REFERENCE_FAMILY, name, graph) for name, graph in reference_graphs()]
    for family in (convs, products, curves):
        for size in (4, 8, 16, 24):
            graph = read_graph(family(size).SerializeToString(), {})
            found.append(_model(family.__name__, f"{family.__name__}/{size}", graph))
    return tuple(found)


def _model(family: str, name: str, graph: ModelGraph) -> MeasuredModel:
    encoded = encode(graph, tuple(View))
    return MeasuredModel(
        name=name,
        family=family,
        precision="fp32",
        is_sweep=family == "curves",
        digest=graph.digest,
        encoded=encoded,
        timed={},
    )


@pytest.fixture
def data() -> MeasuredModels:
    """Latencies of a made-up network that training knows nothing of, with noise; two were not measured."""
    unmeasured = MeasuredModels(models(), TARGETS, np.full((len(models()), len(TARGETS)), np.nan))
    pricer = Pricer.of(synthetic_network(seed=8, sources=3), [target.runtime for target in TARGETS])
    priced = price_models(unmeasured, pricer, TARGETS[0]).total_ms
    latency = 3.0 * priced[:, :-NOMINAL_COUNT]  # the nominal machines' stand last
    latency *= np.exp(0.02 * np.random.default_rng(0).normal(size=latency.shape))
    latency[12, 1] = latency[15, 2] = np.nan
    return replace(unmeasured, latency_ms=latency)


def trained(data: MeasuredModels) -> MetaCheckpoint:
    return train_meta(data, CONFIG, dataset_sha256="ab" * 32, command="made up")


def test_a_checkpoint_repeats_and_is_read_back(data: MeasuredModels) -> None:
    checkpoint = trained(data)
    written = checkpoint.to_bytes()
    assert trained(data).to_bytes() == written
    assert len(written) <= MAX_META_BYTES
    again = MetaCheckpoint.from_bytes(written)
    assert again.to_bytes() == written
    said = again.facts
    assert said.widenings.of_known_engines >= 1.0
    assert said.widenings.of_strangers >= 1.0
    assert (said.model_count, said.measurement_count, said.members) == (22, 22 * 3 - 2, 2)
    assert [source.target_key for source in said.sources] == [target.key for target in TARGETS]
    assert {"Conv", "MatMul", "Exp", "Softmax"} <= set(said.seen_names)  # the reference set counts as seen
    observations = SyntheticTarget.drawn(np.random.default_rng(3)).observations()
    predictor = Predictor(adapt(facts(), observations, meta=again), again)
    for _, graph in reference_graphs():
        assert 0 < predictor.predict(graph).median_ms < 1e3


def test_a_target_without_whole_networks_teaches_and_is_no_source(data: MeasuredModels) -> None:
    is_network = np.array([not one.is_sweep and one.family != REFERENCE_FAMILY for one in data.models])
    latency = data.latency_ms.copy()
    latency[is_network, 2] = np.nan
    checkpoint = trained(replace(data, latency_ms=latency))
    assert [source.target_key for source in checkpoint.facts.sources] == [one.key for one in TARGETS[:2]]
    assert checkpoint.facts.measurement_count == int(np.isfinite(latency).sum())
    latency[:, 2] = np.nan
    alone = trained(replace(data, latency_ms=latency))
    rows = data.models[0].encoded.features[View.FUSED]
    assert not np.allclose(checkpoint.network.log_factors(rows), alone.network.log_factors(rows))


def test_training_learns_what_kernels_cost(data: MeasuredModels) -> None:
    """An untrained network says the nominal, a third of the truth."""
    whole = data.take(range(10, 22), range(3))
    runtimes = [target.runtime for target in whole.targets]

    def missed(steps: int) -> float:
        network = train(examples_of(whole), replace(QUICK, members=1, steps=steps))
        said = price_models(whole, Pricer.of(network, runtimes), TARGETS[0]).total_ms[:, :-NOMINAL_COUNT]
        return float(np.nanmean(np.abs(np.log(said / whole.latency_ms))))

    assert missed(4) > 0.7
    assert missed(300) < 0.15


def test_timed_layers_say_which_kernel_takes_the_time(data: MeasuredModels) -> None:
    """The same totals with the first kernel's time or the second's known: prices of kernels follow."""
    rows = range(14, 18)  # a product, then a softmax
    whole = data.take(rows, [0])

    def first_share(share: float) -> float:
        known = []
        for row, model in enumerate(whole.models):
            latency = float(whole.latency_ms[row, 0])
            times = np.asarray([share * latency, (1 - share) * latency, np.nan])
            known.append(replace(model, timed={(View.FUSED, 0): times}))
        told = replace(whole, models=tuple(known), latency_ms=10.0 * whole.latency_ms)
        for model in told.models:
            model.timed[View.FUSED, 0][:] *= 10.0  # profiles tell nothing of microseconds
        network = train(examples_of(told), replace(QUICK, hidden=16, members=1, steps=400))
        pricer = Pricer.of(network, [whole.targets[0].runtime])
        priced = pricer.price(
            pricer.encode(read_graph(products(16).SerializeToString(), {})), SOURCES[0], HARDWARE
        )
        times = priced.kernel_ms[View.FUSED][:, 0]
        return float(times[0] / times[:2].sum())

    assert first_share(0.8) > 0.65
    assert first_share(0.2) < 0.4


def test_equal_kernels_of_a_graph_are_one_example() -> None:
    a, b = np.ones(FEATURE_COUNT, np.float32), np.zeros(FEATURE_COUNT, np.float32)
    nan = np.nan
    nominal, timed = np.asarray([[1.0, 5.0, 2.0, 3.0]]).T, np.asarray([[4.0, nan, nan, 6.0]]).T
    other = (np.stack([b]), np.asarray([[7.0]]), np.asarray([[8.0]]))
    encoded = [(np.stack([a, b, a, a]), nominal, timed), other]
    view = view_examples(encoded, [2])
    assert view.graphs.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(view.features, [b, a, b])
    np.testing.assert_array_equal(view.nominal[:, 0], [5.0, 6.0, 7.0])
    np.testing.assert_array_equal(view.timed[:, 0], [nan, 15.0, 8.0])  # 4 and 6 stand for three
    assert view.sources.tolist() == [2]


def test_folds_hold_whole_families_and_never_the_reference_set(data: MeasuredModels) -> None:
    for seed in range(5):
        folds = family_folds(data, 2, seed)
        assert sorted(family for fold in folds for family in fold) == ["convs", "products"]
    for fold in (("convs",), ("convs", "products")):
        left = {model.family for model in without_families(data, fold).models}
        assert left == {"convs", "products", "curves"} - set(fold)


def test_every_second_member_does_not_see_what_else_is_in_a_graph(data: MeasuredModels) -> None:
    network = train(examples_of(data), replace(QUICK, members=3))
    is_company = np.isin(np.arange(FEATURE_COUNT), COMPANY)
    unseen = np.concatenate([is_company, np.isin(network.bins.fields, COMPANY)])
    assert np.isin(network.bins.fields, COMPANY).any()
    for number, member in enumerate(network.members):
        is_used = np.abs(member.weights[0]).max(axis=1) > 0
        np.testing.assert_array_equal(is_used, ~unseen if number == 1 else np.ones_like(unseen))


def test_networks_that_only_calibrate_are_trained_no_longer_than_needed() -> None:
    long = MetaConfig(training=TrainingConfig(members=3, steps=5000, hidden=16))
    assert long.of_folds == TrainingConfig(members=2, steps=1000, hidden=16)
    assert MetaConfig(training=QUICK).of_folds.steps == QUICK.steps
    assert MetaConfig(calibration=QUICK).of_folds is QUICK


def arrays_of(data: MeasuredModels) -> dict[str, NDArray[np.generic]]:
    return to_arrays(trained(data).network)


def test_the_network_never_learns_from_the_reference_set(data: MeasuredModels) -> None:
    other = data.latency_ms.copy()
    other[:10] *= np.random.default_rng(0).lognormal(size=(10, 3))
    _same(arrays_of(data), arrays_of(replace(data, latency_ms=other)))
    changed = data.latency_ms.copy()
    changed[10] *= 0.05
    name = "member0.layer2.bias"
    assert not np.array_equal(arrays_of(data)[name], arrays_of(replace(data, latency_ms=changed))[name])


def test_a_target_that_is_taken_out_has_no_say(data: MeasuredModels) -> None:
    """Neither its latencies nor its layers; the others keep theirs."""
    other = data.latency_ms.copy()
    other[::2, 1] = np.nan
    other[1::2, 1] *= 7.0
    with_layers = []
    for model in models():
        times = {
            (View.CHAINED, 1): np.full(len(model.encoded.tables[View.CHAINED]), 9.0),
            (View.LISTED, 2): np.full(len(model.encoded.tables[View.LISTED]), 2.0),
        }
        with_layers.append(replace(model, timed=times))
    kept = replace(data, models=tuple(with_layers), latency_ms=other).take(range(22), [0, 2])
    bare = tuple(replace(one, timed={(View.LISTED, 2): one.timed[View.LISTED, 2]}) for one in with_layers)
    plain = replace(data, models=bare).take(range(22), [0, 2])
    assert [target.key for target in kept.targets] == [TARGETS[0].key, TARGETS[2].key]
    assert all(set(model.timed) == {(View.LISTED, 1)} for model in kept.models)
    _same(arrays_of(kept), arrays_of(plain))
    assert calibrated_widenings(kept, CONFIG) == calibrated_widenings(plain, CONFIG)


def test_a_reference_model_is_not_trained_on_under_another_name(data: MeasuredModels) -> None:
    renamed = replace(data.models[3], family="medley-images", name="medley-images/again", is_sweep=True)
    twice = MeasuredModels(
        (*data.models, renamed), data.targets, np.vstack([data.latency_ms, 50.0 * data.latency_ms[3]])
    )
    _same(arrays_of(twice), arrays_of(data))


def _same(a: dict[str, NDArray[np.float32]], b: dict[str, NDArray[np.float32]]) -> None:
    assert set(a) == set(b)
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name])


def test_intervals_widen_by_what_left_out_families_miss(data: MeasuredModels) -> None:
    rng = np.random.default_rng(1)
    noisy = data.latency_ms.copy()
    noisy[10:] *= np.exp(0.8 * rng.normal(size=(12, 3)))  # the references fit, the rest does not
    wide, plain = (
        calibrated_widenings(replace(data, latency_ms=noisy), CONFIG),
        calibrated_widenings(data, CONFIG),
    )
    assert wide.of_known_engines > 1.5 * plain.of_known_engines
    assert wide.of_strangers > 1.5 * plain.of_strangers


def test_without_references_nothing_can_be_calibrated(data: MeasuredModels) -> None:
    rows: Sequence[int] = range(10, 22)
    unknown = Widenings(of_known_engines=1.0, of_strangers=1.0)
    assert calibrated_widenings(data.take(rows, range(3)), CONFIG) == unknown
