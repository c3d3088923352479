"""Adaptation: a truth that is recovered, intervals that hold, and others' measurements that help."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from devices.target import Runtime
from predictor.adapt import (
    MAX_POOLED_TARGETS,
    MIN_POOLED_MEASUREMENTS,
    Observation,
    Pool,
    adapt,
    adapt_described,
    pool_of,
)
from predictor.description import Described
from predictor.errors import AdaptationRejected, CheckpointRejected, PredictorError
from predictor.evaluate import accuracy_card, card_of
from predictor.few_shot.target import NETWORK_SD
from predictor.kernel_costs.table import CLASSES
from predictor.meta_checkpoint import Widenings
from predictor.predict import Prediction, Predictor
from predictor.reading.reader import read_graph
from predictor.roofline import KernelClass
from tests.predictor.onnx_graphs import five_nodes, model_of
from tests.predictor.synthetic_target import (
    SyntheticTarget,
    facts,
    mixtures,
    reference_described,
    reference_graphs,
    synthetic_meta,
)

META = synthetic_meta()


def adapted(observations: list[Observation], pool: list[Observation] | None = None) -> Predictor:
    """To the target of `facts`."""
    return Predictor(adapt(facts(), observations, pool or [], meta=META), META)


def made_up(seed: int = 3) -> list[Observation]:
    return SyntheticTarget.drawn(np.random.default_rng(seed)).observations()


def test_a_target_without_noise_is_recovered_from_ten_measurements() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        target = SyntheticTarget.drawn(rng)
        models = mixtures(50, rng)
        predictions = adapted(target.observations()).predict_described(models)
        errors = np.asarray([one.median_ms for one in predictions]) / target.latencies_ms(models) - 1
        assert np.median(np.abs(errors)) < 0.03
        guessed = np.asarray([one.total_ms.mean() for one in models]) / target.latencies_ms(models)
        assert np.median(np.abs(errors)) < 0.7 * np.std(np.log(guessed))  # of what the sources alone miss


@pytest.mark.parametrize(("coverage", "most"), [(0.5, 0.75), (0.9, 0.95)])
def test_intervals_hold_as_often_as_they_say(coverage: float, most: float) -> None:
    """Over many targets and new measurements of new models on them, which the network misses as it misses
    families that it never saw. One normal distribution stands for a mixture of noise levels, which is
    narrower in the middle: there more is held.
    """
    rng = np.random.default_rng(7)
    held, widths = [], []
    for _ in range(120):
        target = SyntheticTarget.drawn(rng)
        models = mixtures(12, rng)
        checkpoint = adapt_described(
            facts(), target.observations(rng), reference_described(), pool=Pool(), meta=META
        )
        predictions = Predictor(checkpoint, META).predict_described(models, coverage)
        missed = np.exp(NETWORK_SD * rng.normal(size=len(models)))
        for prediction, latency in zip(predictions, missed * target.latencies_ms(models, rng), strict=True):
            assert 0 < prediction.lower_ms <= prediction.median_ms <= prediction.upper_ms
            held.append(prediction.lower_ms <= latency <= prediction.upper_ms)
            widths.append(prediction.upper_ms / prediction.lower_ms)
    assert coverage - 0.05 <= np.mean(held) <= most
    assert np.median(widths) < 1.7  # not by being uselessly wide


def test_graphs_are_predicted_alike_however_many_are_asked_for() -> None:
    predictor = adapted(made_up())
    described = [predictor.describe(graph) for _, graph in reference_graphs()]
    alone = [predictor.predict_described([one])[0] for one in described]
    together = predictor.predict_described(described * 130)
    assert len(together) == 130 * len(described) > 1000
    for place, said in enumerate(together):
        expected = alone[place % len(alone)]
        assert said.median_ms == pytest.approx(expected.median_ms)
        assert said.upper_ms == pytest.approx(expected.upper_ms)


def test_adapting_is_deterministic_and_blind_to_order() -> None:
    observations = SyntheticTarget.drawn(np.random.default_rng(3)).observations(np.random.default_rng(4))
    data = adapt(facts(), observations, meta=META).to_bytes()
    assert adapt(facts(), observations, meta=META).to_bytes() == data
    graph = reference_graphs()[0][1]
    turned = adapted(observations[::-1]).predict(graph)
    assert turned.median_ms == pytest.approx(adapted(observations).predict(graph).median_ms, rel=1e-6)


def test_more_measurements_narrow_the_interval() -> None:
    rng = np.random.default_rng(3)
    models = mixtures(20, rng)
    observations = SyntheticTarget.drawn(rng).observations()

    def width(count: int) -> float:
        said = adapted(observations[:count]).predict_described(models)
        return float(np.mean([np.log(one.upper_ms / one.lower_ms) for one in said]))

    assert width(2) > width(4) > width(10)


def test_an_engine_that_no_source_has_gets_the_width_of_strangers() -> None:
    stranger = Runtime(engine="abacus", version="1", provider="beads", threads=1)

    def half_width(runtime: Runtime, **widenings: float) -> float:
        facts_of_it = META.facts.model_copy(update={"widenings": Widenings(**widenings)})
        meta = dataclasses.replace(META, facts=facts_of_it)
        target = facts().model_copy(update={"runtime": runtime})
        own = [dataclasses.replace(one, runtime=runtime) for one in made_up()]
        said = Predictor(adapt(target, own, meta=meta), meta).predict(reference_graphs()[0][1])
        return float(np.log(said.upper_ms / said.median_ms))

    for runtime, times in ((facts().runtime, 1.0), (stranger, 3.0)):
        plain = half_width(runtime, of_known_engines=1.0, of_strangers=1.0)
        assert half_width(runtime, of_known_engines=1.0, of_strangers=3.0) == pytest.approx(times * plain)


def test_what_an_engine_that_nobody_knows_has_not_run_is_a_guess() -> None:
    """A softmax over rows, to one who was told by three models of convolutions."""
    stranger = Runtime(engine="abacus", version="1", provider="cpu", threads=1)
    rows = dict(reference_graphs())["mixed-rows"]
    for runtime, is_said in ((stranger, True), (facts().runtime, False)):
        own = [dataclasses.replace(one, runtime=runtime) for one in made_up()[:3]]
        predictor = Predictor(adapt(facts().model_copy(update={"runtime": runtime}), own, meta=META), META)
        reasons = "; ".join(predictor.predict(rows).reasons)
        assert ("operator Softmax was never measured here, nor with abacus elsewhere" in reasons) is is_said


def test_a_target_like_a_pooled_one_is_predicted_better_with_it() -> None:
    """Three measurements of its own; three others' ten are the same latencies times one, two and three."""
    rng = np.random.default_rng(5)
    alone, together = [], []
    for _ in range(10):
        target = SyntheticTarget.drawn(rng)
        models = mixtures(20, rng)
        own = target.observations()
        pool = [
            dataclasses.replace(one, target_key=f"other-{n}/x", median_ms=n * one.median_ms)
            for n in (1, 2, 3)
            for one in target.observations()
        ]
        truth = target.latencies_ms(models)
        for predictor, errors in ((adapted(own[:3]), alone), (adapted(own[:3], pool), together)):
            said = np.asarray([one.median_ms for one in predictor.predict_described(models)])
            errors.append(float(np.mean(np.abs(said / truth - 1))))
    assert np.mean(together) < 0.7 * np.mean(alone)
    assert sum(a > b for a, b in zip(alone, together, strict=True)) >= 8


def test_the_pool_takes_other_targets_with_enough_measurements() -> None:
    many = [one for n in range(12) for one in SyntheticTarget.drawn(np.random.default_rng(n)).observations(
        key=f"other-{n:02}/x")][: 12 * 10 - 1]  # fmt: skip
    few = [dataclasses.replace(one, target_key="few/x") for one in made_up()[: MIN_POOLED_MEASUREMENTS - 1]]
    pool = pool_of([*few, *made_up(), *many], facts(), META)
    assert pool.keys == tuple(f"other-{n:02}/x" for n in range(MAX_POOLED_TARGETS))
    turned = pool_of([*many[::-1], *few], facts(), META)
    assert turned.keys == pool.keys
    own = pool_of(many, facts("other-03/x"), META)
    assert "other-03/x" not in own.keys  # a target never pools itself
    assert pool_of(made_up(), facts(), META) == Pool()


def test_what_was_never_measured_is_named_and_widens_the_interval() -> None:
    predictor = adapted(made_up())
    known = reference_described()[0]
    foreign = dataclasses.replace(known, strange={"com.acme/Warp": 0.6, "Conv, larger": 0.2, "Exp": 0.01})
    usual, other = predictor.predict_described([known, foreign])
    assert not usual.extrapolates
    assert other.extrapolates
    assert other.reasons == (
        "operator com.acme/Warp was never measured (60% of the estimated time)",
        "operator Conv, larger than was ever measured (20% of the estimated time)",
    )
    assert other.median_ms == usual.median_ms
    assert other.upper_ms / other.lower_ms > 1.3 * usual.upper_ms / usual.lower_ms


def test_float16_on_a_processor_unlike_all_that_were_measured_is_said_and_widens_the_interval() -> None:
    short = facts().hardware.model_copy(update={"isa_flags": ("avx2", "fphp")})
    usual = adapted(made_up())
    elsewhere = facts().model_copy(update={"hardware": short})
    other = Predictor(adapt(elsewhere, made_up(), meta=META), META)
    known = dataclasses.replace(reference_described()[0], shares={"Conv (float16)": 0.5, "Relu": 0.5})
    (before,), (said,) = usual.predict_described([known]), other.predict_described([known])
    assert not before.extrapolates
    (reason,) = said.reasons
    assert reason.startswith("float16 was never measured with onnxruntime on a processor like this one (50%")
    assert said.median_ms == pytest.approx(before.median_ms)
    assert said.upper_ms / said.lower_ms > 1.3 * before.upper_ms / before.lower_ms


def test_weights_that_a_file_unpacks_itself_are_said_and_widen_the_interval() -> None:
    width = 64
    nodes = [
        helper.make_node("Cast", ["q"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    stored: dict[str, NDArray[np.generic]] = {"q": np.ones((width, width), np.int8)}
    packed = read_graph(model_of(nodes, {"x": [512, width]}, ["y"], stored=stored).SerializeToString(), {})
    weight: dict[str, NDArray[np.generic]] = {"w": np.ones((width, width), np.float32)}
    plain = read_graph(model_of(nodes[1:], {"x": [512, width]}, ["y"], stored=weight).SerializeToString(), {})
    predictor = adapted(made_up())
    said, before = predictor.predict_many([packed, plain])
    assert said.median_ms == pytest.approx(before.median_ms, rel=0.03)
    assert any("the file itself casts to floats" in reason for reason in said.reasons)
    assert not any("casts" in reason for reason in before.reasons)
    assert said.upper_ms / said.lower_ms > before.upper_ms / before.lower_ms


def test_operators_that_start_others_are_said_however_little_they_move() -> None:
    """Which branch of an If is taken is told by its operators; what entering it takes, by nothing."""
    yes, no = (
        helper.make_graph(
            [helper.make_node(kind, ["x"], [f"{kind}_y"])],
            kind,
            [],
            [helper.make_tensor_value_info(f"{kind}_y", TensorProto.FLOAT, [64, 64])],
        )
        for kind in ("Relu", "Tanh")
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=yes, else_branch=no),
    ]
    stored: dict[str, NDArray[np.generic]] = {"zero": np.zeros((), np.float32)}
    model = model_of(nodes, {"x": [64, 64]}, ["y"], stored=stored)
    predictor = adapted(made_up())
    described = predictor.describe(read_graph(model.SerializeToString(), {}))
    assert described.strange["If"] < 0.1
    plain = dataclasses.replace(
        described, strange={name: share for name, share in described.strange.items() if name != "If"}
    )
    said, before = predictor.predict_described([described, plain])
    assert "operator If was never measured, and takes time beside the operators in it" in said.reasons
    assert not any("operator If" in reason for reason in before.reasons)
    assert said.upper_ms / said.lower_ms > 1.3 * before.upper_ms / before.lower_ms


def test_sizes_and_classes_outside_of_the_measurements_are_said() -> None:
    predictor = adapted(made_up())
    known = reference_described()[0]
    large = dataclasses.replace(known, total_ms=1000 * known.total_ms, class_ms=1000 * known.class_ms)
    apart = np.asarray(
        [0.2, 1.0, 5.0, 20.0, 2.0, 2.0]
    )  # the sources disagree, about what was never measured here
    low_bit = np.zeros_like(known.class_ms)
    low_bit[:, CLASSES.index(KernelClass.LOW_BIT)] = apart
    by_size, by_class = predictor.predict_described([large, Described(apart, low_bit, {}, {})])
    assert any("is outside of what was measured here" in reason for reason in by_size.reasons)
    assert any("no measured model spends its time like this" in reason for reason in by_class.reasons)


def test_many_are_predicted_as_one_by_one() -> None:
    predictor = adapted(made_up())
    graphs = [graph for _, graph in reference_graphs()]
    together = predictor.predict_many(graphs)
    for one, graph in zip(together, graphs, strict=True):
        alone = predictor.predict(graph)
        assert alone.median_ms == pytest.approx(one.median_ms, rel=1e-9)
        assert alone.reasons == one.reasons
    assert predictor.predict_many([]) == ()
    with pytest.raises(PredictorError, match=r"1\.5"):
        predictor.predict(graphs[0], coverage=1.5)


def test_the_parts_of_a_prediction_are_its_kernels() -> None:
    predictor = adapted(made_up())
    for _, graph in reference_graphs():
        rows = predictor.breakdown(graph)
        assert sum(row.ms for row in rows) == pytest.approx(predictor.predict(graph).median_ms)
        assert all(row.ms > 0 for row in rows)
        assert len([name for row in rows for name in row.operators]) == len(graph.operators)
    small = predictor.breakdown(read_graph(five_nodes().SerializeToString(), {}))
    assert [row.kind for row in small] == ["Conv", "MaxPool", "Flatten", "Gemm", "call"]
    assert [len(row.operators) for row in small] == [2, 1, 1, 1, 0]


def test_a_predictor_needs_the_checkpoint_that_it_stands_on() -> None:
    checkpoint = adapt(facts(), made_up(), meta=META)
    with pytest.raises(CheckpointRejected, match="adapt the target again"):
        Predictor(checkpoint, synthetic_meta(1))


def test_observations_that_cannot_be_are_refused() -> None:
    observations = made_up()
    with pytest.raises(AdaptationRejected, match="no measurement"):
        adapt(facts(), [], meta=META)
    with pytest.raises(AdaptationRejected, match="other/x"):
        adapt(facts("other/x"), observations, meta=META)
    for changed in ({"median_ms": 0.0}, {"median_ms": float("nan")}, {"standard_error_ms": -1.0}):
        with pytest.raises(AdaptationRejected, match="positive"):
            adapt(facts(), [dataclasses.replace(observations[0], **changed)], meta=META)
        stranger = dataclasses.replace(observations[0], target_key="other/x", **changed)
        with pytest.raises(AdaptationRejected, match=r"other/x; .*positive"):
            adapt(facts(), observations, [stranger], meta=META)


def test_the_card_of_hand_made_predictions() -> None:
    def one(median: float, lower: float, upper: float) -> Prediction:
        return Prediction(median, lower, upper, 0.9, extrapolates=False, reasons=())

    predictions = [one(1.05, 0.9, 1.2), one(2.0, 1.9, 2.1), one(6.0, 3.0, 12.0), one(4.0, 2.0, 8.0)]
    card = card_of(predictions, [1.0, 2.5, 4.0, 4.0], ["conv", "conv", "gemm", "gemm"])
    assert card.mape == pytest.approx((0.05 + 0.2 + 0.5 + 0.0) / 4)
    assert card.median_ape == pytest.approx(0.125)
    assert (card.within_10_percent, card.within_25_percent, card.coverage_90) == (0.5, 0.75, 0.75)
    assert card.mean_interval_width == pytest.approx((4 / 3 * 21 / 19 * 4 * 4) ** 0.25)
    assert card.by_family["gemm"].mape == pytest.approx(0.25)
    assert card.sample_count == 4


def test_the_accuracy_card_leaves_each_measurement_out() -> None:
    rng = np.random.default_rng(11)
    observations = SyntheticTarget.drawn(rng).observations(rng)
    others = [
        dataclasses.replace(one, target_key="other/x") for one in SyntheticTarget.drawn(rng).observations()
    ]
    for pool in ([], others):
        card = accuracy_card(facts(), observations, pool, meta=META)
        assert card.sample_count == 10
        assert card.trained_on == tuple(sorted(observation.name for observation in observations))
        assert card.pooled_targets == (("other/x",) if pool else ())
        errors = [
            adapted([one for one in observations if one is not left], pool).predict(left.graph).median_ms
            / left.median_ms
            - 1
            for left in observations
        ]
        assert card.mape == pytest.approx(np.mean(np.abs(errors)), rel=1e-6)
    assert accuracy_card(facts(), observations[:2], meta=META).mape is None
