"""Whatever the bytes, the answer is a graph or a refusal: never another exception."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from predictor.errors import GraphRejected
from predictor.features import features_of
from predictor.onnx_reader import read_graph, read_inputs, summarise
from tests.predictor.onnx_graphs import branching, five_nodes, model_of, noise
from tests.predictor.synthetic_target import HARDWARE, RUNTIME


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
    stored = {"g": noise(32), "b": np.zeros((8, 1, 16), np.uint8), "s": noise(8)}
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
    assert np.all(np.isfinite(features_of(graph, RUNTIME, HARDWARE)))  # and what is accepted can be predicted
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
