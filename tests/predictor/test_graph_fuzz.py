"""Whatever the bytes, the answer is a graph or a refusal: never another exception."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.fuzz_models import Report, boxed, case, seeds_of
from predictor.errors import GraphCode, GraphRejected
from predictor.kernel_costs.pricing import encode
from predictor.kernel_costs.table import View
from predictor.reading.reader import read_graph, read_inputs, summarise
from predictor.reading.values import evaluate
from predictor.reading.wire import check_parsed_size
from tests.predictor.hostile_models import hostile_models
from tests.predictor.onnx_graphs import branching, five_nodes, model_of, noise

MUTANTS = 1000


def _shape_computing() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "one", "two"], ["n"]),
        helper.make_node("Concat", ["minus", "n"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["r"]),
        helper.make_node("Constant", [], ["k"], value_ints=[1, 2]),
        helper.make_node("Tile", ["r", "k"], ["y"]),
    ]
    stored = {name: np.asarray([v], np.int64) for name, v in (("one", 1), ("two", 2), ("minus", -1))}
    return model_of(nodes, {"x": [2, 3]}, ["y"], stored=stored)


def _nested() -> onnx.ModelProto:
    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("MatMul", ["x", "w"], [name])], name, [], [out])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("t"), else_branch=branch("e"))
    return model_of(
        [node], {"x": [2, 3], "c": []}, ["y"], stored={"w": noise(3, 4)}, dtypes={"c": TensorProto.BOOL}
    )


def _contrib() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MultiHeadAttention", ["x", "x", "x"], ["a"], domain="com.microsoft", num_heads=2),
        helper.make_node("SkipLayerNormalization", ["a", "x", "g"], ["n"], domain="com.microsoft"),
        helper.make_node(
            "MatMulNBits", ["n", "b", "s"], ["m"], domain="com.microsoft", K=32, N=8, bits=4, block_size=32
        ),
        helper.make_node("FusedMatMul", ["m", "m"], ["y"], domain="com.microsoft", transB=1),
    ]
    stored: dict[str, NDArray[Any]] = {"g": noise(32), "b": np.zeros((8, 1, 16), np.uint8), "s": noise(8)}
    return model_of(nodes, {"x": [2, 3, 32]}, ["y"], stored=stored, opsets={"": 17, "com.microsoft": 1})


SEEDS = {
    "contrib": _contrib().SerializeToString(),
    "five": five_nodes().SerializeToString(),
    "branching": branching().SerializeToString(),
    "shapes": _shape_computing().SerializeToString(),
    "nested": _nested().SerializeToString(),
}


def outcome(data: bytes) -> str:
    """What reading comes to. Any other exception fails the test."""
    try:
        read_inputs(data)
        graph = read_graph(data, {})
    except GraphRejected as refusal:
        return refusal.code.value
    features = encode(graph, tuple(View)).features  # and what is accepted can be predicted
    assert all(np.isfinite(each).all() for each in features.values())
    return str(summarise(graph)["digest"])


@pytest.mark.parametrize("name", SEEDS)
def test_mutated_bytes(name: str) -> None:
    """Bytes flipped, cut out, doubled and inserted."""
    rng, seed = random.Random(name), SEEDS[name]
    outcomes = set()
    for _ in range(1500):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 4)):
            at, length = rng.randrange(len(data)), rng.randint(1, 8)
            change = rng.randrange(4)
            if change == 0:
                data[at] = rng.randrange(256)
            elif change == 1:
                del data[at : at + length]
            elif change == 2:
                data[at:at] = data[at : at + length]
            else:
                data[at:at] = rng.randbytes(length)
            if not data:
                break
        outcomes.add(outcome(bytes(data)))
    assert len(outcomes) > 2  # the mutations reached more than the parser


@pytest.mark.parametrize("name", SEEDS)
def test_every_truncation(name: str) -> None:
    seed = SEEDS[name]
    for end in range(0, len(seed), max(1, len(seed) // 150)):
        outcome(seed[:end])


def _mutate(model: onnx.ModelProto, rng: random.Random) -> None:
    """One change of the graph that the parser accepts."""
    graph = model.graph
    node = rng.choice(graph.node)
    names = [name for other in graph.node for name in (*other.input, *other.output)] + ["", "nothing"]
    change = rng.randrange(9)
    if change == 0 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif change == 1:
        node.op_type = rng.choice(
            ["Conv", "Gemm", "LSTM", "Resize", "Loop", "Split", "Einsum", "QLinearConv", "Pad", "Attention"]
        )
    elif change == 2 and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.ints[:] = [rng.choice([-1, 0, 1, 1 << 40, -(1 << 63)]) for _ in range(rng.randint(0, 4))]
        attribute.i = rng.choice([-5, 0, 9, (1 << 63) - 1])
    elif change == 3:
        del graph.node[rng.randrange(len(graph.node))]
    elif change == 4 and graph.initializer:
        tensor = rng.choice(graph.initializer)
        tensor.dims[:] = [rng.choice([-1, 0, 3, 1 << 33]) for _ in range(rng.randint(0, 4))]
    elif change == 5 and graph.initializer:
        rng.choice(graph.initializer).data_type = rng.randint(0, 40)
    elif change == 6:
        node.output.extend(["extra"])
    elif change == 7 and graph.input:
        dims = graph.input[0].type.tensor_type.shape.dim
        del dims[rng.randrange(len(dims) + 1) :]
        if rng.random() < 0.5:
            dims.add(dim_value=rng.choice([0, 1, 5]))
    elif change == 8:
        node.domain = rng.choice(["com.microsoft", "ai.onnx.ml", "x"])


def test_mutated_graphs() -> None:
    rng = random.Random(4)
    outcomes = set()
    for number in range(1500):
        model = onnx.ModelProto.FromString(SEEDS[list(SEEDS)[number % len(SEEDS)]])
        for _ in range(rng.randint(1, 3)):
            if model.graph.node:
                _mutate(model, rng)
        outcomes.add(outcome(model.SerializeToString()))
    assert {"malformed", "inputs_invalid", "operator_unsupported", "too_large"} <= outcomes


@pytest.fixture(scope="module")
def read_in_a_box() -> Report:
    """The files made to hurt, then mutants of whole networks, read in a process of 4 GiB at most."""
    return boxed(_files)


def _files() -> Iterator[bytes]:
    yield from (data for data, _ in hostile_models().values())
    seeds = seeds_of(None, max_bytes=1 << 18)
    yield from (case(0, number, seeds) for number in range(MUTANTS))


def test_files_made_to_hurt_are_refused(read_in_a_box: Report) -> None:
    expected = {name: code for name, (_, code) in hostile_models().items()}
    assert dict(zip(expected, read_in_a_box.outcomes, strict=False)) == expected


def test_nothing_but_a_refusal(read_in_a_box: Report) -> None:
    """No other exception, no file or socket opened, no case that takes ten seconds or the memory."""
    assert read_in_a_box.findings == []
    assert read_in_a_box.done == len(hostile_models()) + MUTANTS
    assert {code.value for code in GraphCode} | {"graph"} == set(read_in_a_box.outcomes)


def test_the_box_finds_what_it_is_for() -> None:
    report = boxed(_crashing, first=7)
    assert report.findings == [(7, "the process died with exit code 3")]


def _crashing() -> Iterator[bytes]:
    yield b""
    os._exit(3)


def test_refusals_of_size_name_the_bound() -> None:
    for name in (
        "empty nodes",
        "numbers in an attribute",
        "nodes beyond the bound",
        "an input of forty axes",
    ):
        with pytest.raises(GraphRejected, match=r"at most \d+") as refused:
            read_graph(hostile_models()[name][0], {})
        assert refused.value.code is GraphCode.TOO_LARGE


def test_the_size_told_from_the_bytes_bounds_what_parsing_takes() -> None:
    """Weights are raw and cost nothing more; every reference model passes with room to spare."""
    weights = model_of(
        [helper.make_node("Relu", ["x"], ["y"])], {"x": [4]}, ["y"], stored={"w": noise(1 << 20)}
    )
    check_parsed_size(weights.SerializeToString())
    floats = TensorProto(name="w", data_type=1, dims=[1 << 20])
    floats.float_data.extend([1.0] * (1 << 20))
    weights.graph.initializer[0].CopyFrom(floats)
    check_parsed_size(weights.SerializeToString())


def test_a_constant_may_become_text() -> None:
    node = helper.make_node("Cast", ["k"], ["y"], to=TensorProto.STRING)
    assert len(outcome(model_of([node], {}, ["y"], stored={"k": np.asarray([1])}).SerializeToString())) == 64


@pytest.mark.parametrize("kind", ["Max", "Where", "Clip", "Concat"])
def test_values_stay_small(kind: str) -> None:
    """Along three axes of 1024 each, or one behind the other: no such array is made."""
    inputs = [np.ones([1024 if axis == at else 1 for axis in range(3)], np.int64) for at in range(3)]
    if kind == "Concat":
        inputs = [np.ones(1024, np.int64)] * 3
    assert evaluate(kind, inputs, {"axis": 0}) is None
    few = [array.ravel()[:2] for array in inputs]
    assert evaluate(kind, few, {"axis": 0}) is not None
