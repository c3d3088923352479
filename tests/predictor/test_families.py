"""The families of models that a machine measures: as many and as varied as promised, sound, and the same
everywhere.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from hashlib import sha256

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from devices.hardware import read_device
from devices.inputs import make_tensors
from predictor import reference_set
from predictor.families.registry import FAMILY_VERSION, Specimen, specimens
from predictor.families.sweeps import Design
from predictor.reading.reader import read_graph, read_inputs
from predictor.reference_set import reference_models

NAMED = {specimen.name: specimen for specimen in specimens()}
SAMPLE = random.Random(4).sample([one for one in specimens() if "/w2048-" not in one.name], 40)
QUANTISED = {
    "int8": ("residual/w16-d3-s32-b8", "inverted/w8-d2-s96-b1-relu6", "shuffle/w32-d3-s96-b1-split",
             "unet/w8-d2-s64-b1-nearest", "encoder/w256-d2-s32-b1", "inverted/w16-d2-s128-b1-hardswish-se"),
    "int8-dynamic": ("encoder/w128-d2-s64-b1-pre", "decode/w256-d2-s128-b1-silu2",
                     "rows/w256-d3-s128-b1-relu", "recurrent/w128-d1-s32-b1-lstm"),
    "w4": ("decode/w128-d4-s64-b1-silu1", "prefill/w128-d2-s32-b1-silu1"),
    "fp16": ("residual/w32-d1-s96-b1", "dense/w16-d4-s96-b1", "upscaler/w32-d2-s160-b1-shuffle2"),
}  # fmt: skip
# avx_vnni, avx512_vnni, or the instructions of ARM
ADDS_BYTES_EXACTLY = any(
    "vnni" in flag or flag.startswith("asimd") for flag in read_device("here").hardware.isa_flags
)
PAIRS = [(stem, precision) for precision, stems in QUANTISED.items() for stem in stems]
LARGEST_ERROR = {"int8": 0.35, "int8-dynamic": 0.1, "w4": 0.3, "fp16": 0.02}
PINNED = {
    "tiny/w8-d2-s28-b1-digits/fp32": "640631b440fc",
    "shuffle/w24-d2-s64-b1-split/int8": "48d146d5dad3",
    "decode/w64-d2-s16-b1-silu1/fp32": "5b2cd8fb6ee8",
    "encoder/w64-d2-s16-b1/int8-dynamic": "b7e89606df16",
    "decode/w128-d4-s64-b1-silu1/w4": "0c8a2f9ccd1b",
    "states/w128-d4-s64-b1-32/w4": "f4112b1b37ba",
    "medley-images/c4-s37-n8-b1/fp32": "5155f499db8e",
    "medley-image-rarities/c32-s92-n14-b1/int8": "574b3830e2b1",
    "medley-row-rarities/m128-k160-n8-b1/fp32": "d5a6cfc3308d",
    "medley-rows/m81-k48-n8-b4/fp32": "b5c63d6c1ec4",
    "medley-steps/m1-k96-n9-b1/fp32": "a68c89aceb78",
    "medley-streams/dense-m1-n2-w2728/fp32": "a7147bec2b2e",
    "waves/w16-d3-s8000-b1-codec/fp32": "5b384edef624",
    "step/w64-d1-s1-b1-lstm/fp32": "3d42355a80b0",
    "medley-signals/c16-s834-n3-b2/fp32": "31947aea63f4",
    "medley-grids/c16-s28-n2-b1/fp32": "fbf3935f297a",
    "medley-dense-stacks/m1-k32-n6-t0/int8-dynamic": "3137abf3323b",
    "medley-carried-stacks/t4-k536-n2-b4-lstm/fp32": "31b9b39f1111",
    "medley-bytes/s25-n13-b1/int8": "a5847f8b4bdb",
    "medley-small-images/c16-s70-n5-last0-p0/fp32": "009e747fcfd2",
    "medley-small-rows/m4-k326-n7/fp32": "a02f914a62e9",
    "medley-oblong-images/c48-s40x160-n5/fp32": "c15e96051aad",
    "medley-packed-rows/m224-k320-n5-b1/w8": "61d438c3e3a1",
    "medley-round-rows/m5-k512-n8-b1/fp16": "72328b960af9",
    "medley-round-streams/gated-m2-n5-w2621/fp32": "3ad08f506ea8",
    "medley-heavy-rows/m4-k768-n2-v0/int8-dynamic": "cdea5d455f53",
    "medley-replaceable-images/c8-s145-n6-b1/fp32": "a75d9d6edf42",
    "medley-long-waves/c1-s563-n3-i0/int8": "8578d2e382c8",
    "medley-long-pictures/c8-s43x47-n8/fp32": "8a90cc57543d",
    "medley-image-batches/c7-s5-n5-b67/int8": "9935925ef91b",
    "medley-many-images/c8-s55-n15-b1/int8": "e8fa5ef46994",
    "medley-many-rows/m320-k64-n23-b1/w4": "c41f6fe7b5b5",
    "medley-many-steps/m1-k336-n23/int8-dynamic": "50be673ebd6b",
}


def run_of(specimen: Specimen) -> list[NDArray[np.generic]]:
    """The model's outputs for one made-up input."""
    model, shapes = specimen.build()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.generic]] = session.run(None, make_tensors(read_inputs(model), shapes, seed=1))
    return outputs


def kinds_of(specimen: Specimen) -> Counter[str]:
    """How often each operator stands in the model."""
    return Counter(node.op_type for node in onnx.load_from_string(specimen.build()[0]).graph.node)


def weighted_products(specimen: Specimen) -> int:
    """How many products of matrices have a constant on their right."""
    graph = onnx.load_from_string(specimen.build()[0]).graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return sum(node.op_type in ("MatMul", "Gemm") and node.input[1] in constants for node in graph.node)


def test_there_are_as_many_and_as_varied_models_as_a_predictor_needs() -> None:
    whole = [specimen for specimen in specimens() if not specimen.is_sweep]
    families = Counter(specimen.family for specimen in whole)
    assert len(whole) >= 450
    assert sum(specimen.family.startswith("sweep-") for specimen in specimens()) >= 350
    assert sum(specimen.family.startswith("medley-") for specimen in specimens()) >= 900
    assert len(families) >= 20
    assert all(15 <= count <= 40 for count in families.values()), families
    assert sum(specimen.precision != "fp32" for specimen in whole) >= len(whole) / 4


def test_names_are_unique_and_none_is_of_the_reference_set() -> None:
    assert len(NAMED) == len(specimens())
    assert not NAMED.keys() & {model.name for model in reference_models()}
    assert all(specimen.name.startswith(f"{specimen.family}/") for specimen in specimens())
    assert all(specimen.name.endswith(f"/{specimen.precision}") for specimen in specimens())


def test_which_reference_models_are_medleys_of_the_dataset_too() -> None:
    """Five are points of its designs, and equal sizes are drawn into equal networks."""
    drawn = {name.rsplit("/", 1)[0].removeprefix("medley-") for name in NAMED}
    known = []
    for each in (*reference_set.CHOICES, *reference_set.STAND_INS):
        stem = each.design.at(each.index, each.precision).name.rsplit("/", 1)[0]
        known += [each.name] * (stem.removeprefix("reference-").removeprefix("medley-") in drawn)
    assert known == [
        "long-rows", "float16-convs", "large-images", "many-convs", "wide-images", "small-image",
    ]  # fmt: skip


@pytest.mark.parametrize("specimen", SAMPLE, ids=lambda specimen: specimen.name)
def test_a_model_is_read_and_runs_with_finite_outputs_of_the_shapes_that_were_read(
    specimen: Specimen,
) -> None:
    model, shapes = specimen.build()
    graph = read_graph(model, shapes)
    outputs = run_of(specimen)
    assert [output.shape for output in outputs] == [output.shape for output in graph.outputs]
    assert all(np.isfinite(output).all() for output in outputs)
    assert specimen.build()[0] == model


def test_bytes_change_only_with_the_version() -> None:
    found = {name: sha256(NAMED[name].build()[0]).hexdigest()[:12] for name in PINNED}
    assert (FAMILY_VERSION, found) == (1, PINNED)


@pytest.mark.parametrize(("stem", "precision"), PAIRS)
def test_lower_precision_stays_near_float(stem: str, precision: str) -> None:
    if precision == "int8-dynamic" and not ADDS_BYTES_EXACTLY:
        pytest.skip(
            "without instructions for it, x86 processors cut off sums of products of bytes at 16 bits"
        )
    exact, lower = (run_of(NAMED[f"{stem}/{name}"])[0].astype(np.float64) for name in ("fp32", precision))
    error = np.linalg.norm(exact - lower) / np.linalg.norm(exact)
    assert 0.0 < error < LARGEST_ERROR[precision]


@pytest.mark.parametrize("stem", QUANTISED["int8"][:4])
def test_static_int8_reaches_every_convolution_and_leaves_no_rectifier(stem: str) -> None:
    graph = read_graph(*NAMED[f"{stem}/int8"].build())
    convs = [op for op in graph.operators if op.kind in ("Conv", "Gemm", "ConvTranspose")]
    assert convs
    assert {op.precision for op in convs} == {"int8"}
    kinds, before = kinds_of(NAMED[f"{stem}/int8"]), kinds_of(NAMED[f"{stem}/fp32"])
    assert kinds["QuantizeLinear"] >= len(convs)
    assert before["Relu"] + before["Clip"] > 0
    assert kinds["Relu"] + kinds["Clip"] == 0


@pytest.mark.parametrize("stem", QUANTISED["int8-dynamic"][:3])
def test_dynamic_int8_replaces_every_product_with_a_constant(stem: str) -> None:
    exact, lower = NAMED[f"{stem}/fp32"], NAMED[f"{stem}/int8-dynamic"]
    kinds = kinds_of(lower)
    assert weighted_products(lower) == 0
    assert kinds["MatMulInteger"] == weighted_products(exact) > 0
    assert 0 < kinds["DynamicQuantizeLinear"] <= kinds["MatMulInteger"]


def test_dynamic_int8_replaces_recurrent_layers() -> None:
    kinds = kinds_of(NAMED["recurrent/w128-d1-s32-b1-lstm/int8-dynamic"])
    assert (kinds["LSTM"], kinds["DynamicQuantizeLSTM"]) == (0, 1)


@pytest.mark.parametrize("stem", QUANTISED["w4"])
def test_four_bits_replace_every_product_with_a_constant(stem: str) -> None:
    exact, lower = NAMED[f"{stem}/fp32"], NAMED[f"{stem}/w4"]
    assert weighted_products(lower) == 0
    assert kinds_of(lower)["MatMulNBits"] == weighted_products(exact) > 0


def test_packed_weights_are_cast_and_scaled_by_the_file_and_stay_near_float() -> None:
    name = "medley-packed-rows/m224-k320-n5-b1/w8"
    lower = NAMED[name]
    exact = replace(lower, precision="fp32")
    graph = read_graph(*lower.build())
    assert weighted_products(lower) == 0 < weighted_products(exact)
    assert 0 < len(graph.unpacked) <= weighted_products(exact)  # small ones do not count
    whole, packed = (run_of(one)[0].astype(np.float64) for one in (exact, lower))
    assert 0.0 < np.linalg.norm(whole - packed) / np.linalg.norm(whole) < 0.05


def test_every_model_of_a_lower_precision_holds_what_its_name_says() -> None:
    marks = {
        "int8": "QuantizeLinear",
        "int8-dynamic": "DynamicQuantizeLinear",
        "w4": "MatMulNBits",
        "w8": "Cast",
        "fp16": "Cast",
    }
    lowered = [
        specimen
        for specimen in specimens()
        # a recurrent layer has no form in four bits
        if specimen.precision in marks and "/recurrent-" not in specimen.name
    ]
    for specimen in random.Random(5).sample(lowered, 30):
        assert kinds_of(specimen)[marks[specimen.precision]] > 0, specimen.name


def test_round_sizes_are_small_multiples_of_powers_of_two() -> None:
    design = Design("any", 3, is_round=True)
    found = {design.rounded(size) for size in range(1, 3000)}
    assert all(size < 5 or size / 2 ** (size.bit_length() - 3) in (4, 5, 6, 7) for size in found)
    assert {1, 14, 64, 96, 112, 160, 1024} <= found
    assert design.rounded(63, 63) == 32  # never above a bound
    assert Design("any", 3).rounded(63) == 63
    assert design.dice("x").is_round


def test_weights_of_some_medleys_may_be_replaced() -> None:
    listed = [one for one in specimens() if one.family == "medley-replaceable-images"]
    assert len(listed) == 50
    graph = read_graph(*listed[0].build())
    weights = [tensor for tensor in graph.tensors.values() if tensor.is_weight]
    assert {tensor.role for tensor in weights} == {"overridable"}


def test_models_come_in_several_dialects() -> None:
    small = [name for name in NAMED if name.startswith(("tiny/", "fire/", "inverted/")) and "fp32" in name]
    models = [onnx.load_from_string(NAMED[name].build()[0]) for name in small]
    assert len({model.opset_import[0].version for model in models}) >= 5
    kinds = [Counter(node.op_type for node in model.graph.node) for model in models]
    for kind in (
        "BatchNormalization",
        "Constant",
        "Shape",
        "ReduceMean",
        "GlobalAveragePool",
        "Gemm",
        "MatMul",
    ):
        assert 0 < sum(kind in found for found in kinds) < len(kinds), kind
    assert any(len(model.graph.input) > 1 for model in models)
