"""The digits space end to end: data, training, export, numeric agreement, and the same result in a fresh
process.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from devices.engine import Tensors
from devices.model_ref import sha256_of
from predictor.reading.reader import read_graph
from search.architecture import Architecture, Ranges, Weights
from search.errors import BuildFailed
from search.execution import ModelRunner, cpu_runner
from search.export import export
from search.genome import Genome
from search.quality import OnnxAccuracy
from search.quant import LayerQuant, QuantConfig, TensorQuant, int8_layer, sqnr_db
from search.space import Builder, BuiltModel, SearchSpace
from search.spaces.digits_builder import MIN_SQNR_DB, DigitsBuilder
from search.spaces.digits_cnn import BATCH, DigitsCnn, training_identity
from search.tasks import digits, training
from tests.contracts.space_contract import SpaceContract

SPACE = DigitsCnn()


def genome(**choices: int | str) -> Genome:
    """The cheapest genome, with some choices replaced; `stage1_block` stands for `stage1.block`."""
    named = {
        name.replace("_block", ".block").replace("_kernel", ".kernel"): value
        for name, value in choices.items()
    }
    first = {choice.name: choice.options[0] for choice in SPACE.choices}
    return SPACE.canonical(Genome.of(first | named))


GOOD = {
    "resolution": 8,
    "width": 16,
    "growth": 2,
    "depth": 2,
    "stage1_kernel": 5,
    "stage2_block": "separable",
}


@pytest.fixture(scope="module")
def trained() -> tuple[Architecture, Weights, Ranges]:
    """An fp32 architecture with its weights and calibrated ranges."""
    architecture = SPACE.architecture(genome(**GOOD))
    samples = digits.load().training
    images = samples.at(architecture.resolution)
    weights = training.train(architecture, images, samples.labels, seed=1)
    return architecture, weights, training.calibrate(architecture, weights, images)


def quantised(architecture: Architecture, layer: LayerQuant) -> Architecture:
    names = [convolution.name for convolution in architecture.convolutions] + [architecture.head.name]
    return dataclasses.replace(architecture, quant=QuantConfig.uniform(names, layer))


def run(architecture: Architecture, model: bytes, images: np.ndarray) -> np.ndarray:
    return cpu_runner().outputs(BuiltModel(model, {"image": architecture.input_shape}), images)


class TestDigitsCnn(SpaceContract):
    def space(self) -> SearchSpace:
        return SPACE

    def builder(self) -> Builder:
        return DigitsBuilder(SPACE, cpu_runner())


def test_space_counts_its_distinct_genomes() -> None:
    stages = sum(4**depth for depth in (1, 2, 3))
    assert 3 * 4 * 2 * 2 * stages == 4032  # as its docstring says
    shallow = genome(depth=1, stage2_kernel=5, stage3_block="separable")
    assert shallow == genome(depth=1)
    assert genome(depth=2, stage2_kernel=5) != genome(depth=2)


def test_separable_stages_are_depthwise_and_pointwise() -> None:
    architecture = SPACE.architecture(genome(**GOOD, precision="int8"))
    shapes = [
        (c.name, c.in_channels, c.out_channels, c.kernel, c.stride, c.groups)
        for c in architecture.convolutions
    ]
    assert shapes == [
        ("stem", 1, 16, 3, 1, 1),
        ("stage1", 16, 32, 5, 2, 1),
        ("stage2.depthwise", 32, 32, 3, 2, 32),
        ("stage2.pointwise", 32, 48, 1, 1, 1),  # 64, were there no limit
    ]
    assert architecture.head.in_features == 48
    assert {layer for _, layer in architecture.quant.layers} == {int8_layer(8)}
    assert len(architecture.quant.layers) == 5


def test_data_is_split_once_and_for_all() -> None:
    data = digits.load()
    parts = (data.training, data.validation, data.test)
    assert [len(part.labels) for part in parts] == [1077, 360, 360]
    images = [part.images.tobytes() for part in parts]
    rows = {image.tobytes() for part in parts for image in part.images}
    assert len(rows) > 1790  # parts do not overlap, apart from digits written exactly alike
    assert len(set(images)) == 3
    for part in parts:
        share = np.bincount(part.labels) / len(part.labels)
        assert np.abs(share - 0.1).max() < 0.01
        assert part.images.min() == 0
        assert part.images.max() == 1


def test_resampling_by_hand() -> None:
    halves = digits.resampling(4)
    assert halves[1].tolist() == [0, 0, 0.5, 0.5, 0, 0, 0, 0]
    assert digits.resampling(8).tolist() == np.eye(8).tolist()
    doubles = digits.resampling(16)
    assert doubles[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]  # clamped at the border
    assert doubles[3].tolist() == [0, 0.75, 0.25, 0, 0, 0, 0, 0]
    images = digits.load().test.images[:4]
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images)[:, None], size=(16, 16), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(digits.load().test.at(16)[:4], expected.numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="divide 8 or be larger, got 5"):
        digits.resampling(5)


def test_float_export_computes_what_was_trained(trained: tuple[Architecture, Weights, Ranges]) -> None:
    architecture, weights, ranges = trained
    images = digits.load().validation.at(architecture.resolution)
    actual = run(architecture, export(architecture, weights, ranges), images)
    expected = training.simulate(architecture, weights, ranges, images)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert np.mean(actual.argmax(axis=1) == digits.load().validation.labels) > 0.95


@pytest.mark.parametrize("weight_bits", [8, 7, 4])
def test_int8_export_computes_what_was_simulated(
    trained: tuple[Architecture, Weights, Ranges], weight_bits: int
) -> None:
    architecture, weights, ranges = trained
    images = digits.load().validation.at(architecture.resolution)
    small = quantised(architecture, int8_layer(weight_bits))
    model = export(small, weights, ranges)
    actual = run(small, model, images)
    simulated = training.simulate(small, weights, ranges, images)
    # 8-bit weights saturate where there are no int8 dot products, as `weight_bits_for` knows
    assert sqnr_db(simulated, actual) > (MIN_SQNR_DB if weight_bits == 8 else 25)
    exact = training.simulate(architecture, weights, ranges, images)
    assert sqnr_db(exact, actual) > {8: MIN_SQNR_DB, 7: 18, 4: 3}[weight_bits]
    levels = [
        numpy_helper.to_array(constant)
        for constant in onnx.load_from_string(model).graph.initializer
        if constant.name.endswith("weight.levels")
    ]
    assert len(levels) == 5
    assert {array.dtype for array in levels} == {np.dtype(np.int8)}
    assert max(int(np.abs(array).max()) for array in levels) == 2 ** (weight_bits - 1) - 1


def test_int8_form_is_the_one_that_executes_fast(trained: tuple[Architecture, Weights, Ranges]) -> None:
    architecture, weights, ranges = trained
    model = export(quantised(architecture, int8_layer(8)), weights, ranges)
    proto = onnx.load_from_string(model)
    constants = {constant.name: numpy_helper.to_array(constant) for constant in proto.graph.initializer}
    quantisers = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert {constants[node.input[2]].dtype for node in quantisers} == {np.dtype(np.uint8)}
    assert constants["stage1.weight.scale"].shape == (32,)  # per channel
    assert not constants["stage1.weight.zero"].any()
    assert constants["stage1.bias.levels"].dtype == np.int32
    assert "Relu" not in {node.op_type for node in proto.graph.node}  # clipping at level 0 is that
    assert len(model) < 0.5 * len(export(architecture, weights, ranges))
    graph = read_graph(model, {"image": architecture.input_shape})
    assert (
        graph.macs
        == read_graph(export(architecture, weights, ranges), {"image": architecture.input_shape}).macs
    )


def test_mixed_precision_is_per_layer(trained: tuple[Architecture, Weights, Ranges]) -> None:
    architecture, weights, ranges = trained
    mixed = dataclasses.replace(architecture, quant=QuantConfig.uniform(["stage1", "head"], int8_layer(7)))
    images = digits.load().validation.at(architecture.resolution)
    model = export(mixed, weights, ranges)
    assert sqnr_db(training.simulate(mixed, weights, ranges, images), run(mixed, model, images)) > 25
    kinds = {c.name for c in onnx.load_from_string(model).graph.initializer}
    assert {"stage1.weight.levels", "head.weight.levels", "stem.weight"} <= kinds
    assert "stem.weight.levels" not in kinds


def test_what_cannot_be_exported_says_why(trained: tuple[Architecture, Weights, Ranges]) -> None:
    architecture, weights, ranges = trained
    per_channel = TensorQuant(bits=8, is_symmetric=False, is_per_channel=True)
    with pytest.raises(BuildFailed, match="per tensor"):
        export(quantised(architecture, LayerQuant(per_channel, per_channel)), weights, ranges)
    with pytest.raises(BuildFailed, match=r"'image'.*not calibrated"):
        export(quantised(architecture, int8_layer(8)), weights, {})


def test_training_leaves_the_process_as_it_was() -> None:
    architecture = SPACE.architecture(genome())
    samples = digits.load().training
    torch.manual_seed(5)
    before = torch.get_rng_state()
    threads = torch.get_num_threads()
    images = samples.at(architecture.resolution)[:128]
    recipe = training.Recipe(epochs=1)
    first = training.train(architecture, images, samples.labels[:128], seed=1, recipe=recipe)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(6)
    again = training.train(architecture, images, samples.labels[:128], seed=1, recipe=recipe)
    other = training.train(architecture, images, samples.labels[:128], seed=2, recipe=recipe)
    assert all((first[name].weight == again[name].weight).all() for name in first)
    assert any((first[name].weight != other[name].weight).any() for name in first)


FRESH = """
import json, sys
from devices.model_ref import sha256_of
from search.execution import cpu_runner
from search.genome import Genome
from search.spaces.digits_builder import MIN_SQNR_DB, DigitsBuilder
from search.spaces.digits_cnn import DigitsCnn
built = DigitsBuilder(DigitsCnn(), cpu_runner()).build(Genome.of(json.loads(sys.argv[1])), seed=7)
print(sha256_of(built.model))
"""


def test_a_fresh_process_builds_the_same_bytes() -> None:
    from_other = genome(resolution=8, width=8, growth=2, precision="int8")
    builder = DigitsBuilder(SPACE, cpu_runner())
    builder.build(genome(), seed=1)  # this process has a history
    here = builder.build(from_other, seed=7)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, json.dumps(from_other.as_dict())],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [sha256_of(here.model)]
    assert builder.build(from_other, seed=8).model != here.model


def test_precisions_of_one_network_share_their_training() -> None:
    assert training_identity(genome(precision="int8")) == genome(precision="fp32")
    builder = DigitsBuilder(DigitsCnn(weight_bits=7), cpu_runner())
    data = digits.load()
    quality = OnnxAccuracy(cpu_runner(), data.validation.for_input, data.test.for_input)
    pair = [
        builder.build(genome(resolution=8, width=8, growth=2, precision=p), seed=7) for p in ("fp32", "int8")
    ]
    scores = [quality.estimate(genome(), built) for built in pair]
    assert abs(scores[0].accuracy - scores[1].accuracy) < 0.03
    assert scores[0].accuracy != scores[0].test_accuracy
    assert 0.7 < scores[0].test_accuracy < 1.0


class WrongSession:
    """Computes something else than the file says."""

    def __init__(self, value: float) -> None:
        self.inputs = ()
        self.value = value

    def run(self, tensors: Tensors) -> Tensors:
        return {"logits": np.full((BATCH, 10), self.value, dtype=np.float32)}


@pytest.mark.parametrize(
    ("value", "reason"), [(3.0, "numeric check failed: .* dB only"), (np.nan, "not finite")]
)
def test_a_runtime_that_computes_wrongly_fails_the_trial(value: float, reason: str) -> None:
    class WrongEngine:
        name = "wrong"

        def load(self, *arguments: object) -> WrongSession:
            return WrongSession(value)

    runner = ModelRunner(WrongEngine(), cpu_runner().runtime)
    with pytest.raises(BuildFailed, match=reason):
        DigitsBuilder(SPACE, runner).build(genome(), seed=1)


def test_a_file_that_is_no_model_fails_the_trial() -> None:
    with pytest.raises(BuildFailed, match="does not run the built model"):
        cpu_runner().outputs(
            BuiltModel(b"nonsense", {"image": (BATCH, 1, 8, 8)}), np.zeros((1, 1, 8, 8), np.float32)
        )


def test_a_last_partial_batch_is_answered_in_full(trained: tuple[Architecture, Weights, Ranges]) -> None:
    architecture, weights, ranges = trained
    model = export(architecture, weights, ranges)
    images = digits.load().validation.at(architecture.resolution)
    np.testing.assert_array_equal(
        run(architecture, model, images[:25]), run(architecture, model, images)[:25]
    )
