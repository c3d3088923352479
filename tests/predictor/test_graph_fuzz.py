"""Whatever the bytes, the answer is a graph or a refusal: never another exception."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from predictor.errors import GraphRejected
from predictor.features import features_of
from predictor.onnx_reader import read_graph, read_inputs, summarise
from predictor.onnx_values import evaluate
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


def _looped(depth: int) -> onnx.ModelProto:
    """A Relu in loops in loops, a million trips each."""
    counter = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    goes_on = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    inner = helper.make_node("Relu", ["v"], ["w"])
    for _ in range(depth):
        ins = [counter, goes_on, helper.make_tensor_value_info("v", TensorProto.FLOAT, [4])]
        outs = [helper.make_tensor_value_info("on", TensorProto.BOOL, [])]
        outs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]))
        body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"]), inner], "body", ins, outs)
        inner = helper.make_node("Loop", ["n", "", "v"], ["w"], body=body)
    inner.input[2], inner.output[0] = "x", "y"
    return model_of([inner], {"x": [4]}, ["y"], stored={"n": np.asarray(1_000_000, np.int64)})


def _scanned() -> onnx.ModelProto:
    """One scanned input, axes for two."""
    element = helper.make_tensor_value_info("e", TensorProto.FLOAT, [4])
    result = helper.make_tensor_value_info("o", TensorProto.FLOAT, [4])
    body = helper.make_graph([helper.make_node("Relu", ["e"], ["o"])], "body", [element], [result])
    node = helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1, scan_input_axes=[0, 0])
    return model_of([node], {"x": [9, 4]}, ["y"])


def _function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a", "c"], ["b"], nodes, imports)


def _heavy_function() -> onnx.ModelProto:
    """A function that holds a megabyte, called three hundred times."""
    tensor = numpy_helper.from_array(np.zeros(1 << 18, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["k"], value=tensor),
        helper.make_node("Add", ["a", "k"], ["b"]),
    ]
    calls = [helper.make_node("Heavy", [f"t{i}", "c"], [f"t{i + 1}"], domain="own") for i in range(300)]
    model = model_of(calls, {"t0": [1], "c": [1]}, ["t300"], opsets={"": 17, "own": 1})
    model.functions.append(_function("Heavy", nodes))
    return model


def _nesting_functions() -> onnx.ModelProto:
    """Ten branches in branches, a call at the bottom: one function keeps within the bound, two do not."""

    def nested(bottom: onnx.NodeProto) -> list[onnx.NodeProto]:
        node = bottom
        for level in range(10):
            name = node.output[0]
            out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            branch = helper.make_graph([node], f"g{level}", [], [out])
            other = helper.make_graph([helper.make_node("Relu", ["a"], [name])], "e", [], [out])
            output = "b" if level == 9 else f"o{level}"
            node = helper.make_node("If", ["c"], [output], then_branch=branch, else_branch=other)
        return [node]

    model = model_of(
        [helper.make_node("Outer", ["x", "c"], ["y"], domain="own")], {"x": [4], "c": []}, ["y"],
        opsets={"": 17, "own": 1}, dtypes={"c": TensorProto.BOOL},
    )  # fmt: skip
    model.functions.append(
        _function("Outer", nested(helper.make_node("Inner", ["a", "c"], ["z"], domain="own")))
    )
    model.functions.append(_function("Inner", nested(helper.make_node("Exp", ["a"], ["z"]))))
    return model


def _hostile() -> dict[str, tuple[onnx.ModelProto, str]]:
    """Files made to hurt, with how each is refused."""

    def one(node: onnx.NodeProto, inputs: dict[str, list[int]], **stored: np.ndarray) -> onnx.ModelProto:
        return model_of([node], inputs, ["y"], stored=stored, opsets={"": 17, "com.microsoft": 1})

    along = {
        name: np.zeros([1024 if axis == at else 1 for axis in range(4)], np.int64)
        for at, name in enumerate("abcd")
    }
    letters = {name: [1 << 18] for name in ("x", "p", "q", "r")}
    grouped = helper.make_node(
        "GroupQueryAttention", ["x", "", ""], ["y"], domain="com.microsoft", num_heads=2, kv_num_heads=-1
    )
    return {
        "four vectors along four axes": (
            one(helper.make_node("Max", list("abcd"), ["y"]), {}, **along), "too_large",
        ),
        "a product of everything": (
            one(helper.make_node("Einsum", list(letters), ["y"], equation="a,b,c,d->"), letters), "too_large",
        ),
        "an empty axis beside a huge one": (
            one(helper.make_node("Expand", ["x", "s"], ["y"]), {"x": [1]}, s=np.asarray([0, 1 << 40])),
            "too_large",
        ),
        "loops in loops": (_looped(4), "too_large"),
        "a function copied often": (_heavy_function(), "too_large"),
        "functions that nest": (_nesting_functions(), "too_large"),
        "a sequence without end": (
            model_of(
                [
                    helper.make_node("SplitToSequence", ["x"], ["s"]),
                    helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0),
                ],
                {"x": [2_000_000]}, ["y"],
            ),
            "operator_unsupported",
        ),
        "a trip count that is no number": (
            one(
                helper.make_node("Loop", ["n", "", "x"], ["y"], body=_looped(1).graph.node[0].attribute[0].g),
                {"x": [4]}, n=np.asarray(np.nan, np.float32),
            ),
            "operator_unsupported",
        ),
        "axes for more than is scanned": (_scanned(), "malformed"),
        "a text as a number": (
            one(helper.make_node("Constant", [], ["y"], value_int="many"), {}), "malformed",
        ),
        "a cast to half a type": (
            one(helper.make_node("Cast", ["k"], ["y"], to=1.5), {}, k=np.asarray([1])), "inputs_invalid",
        ),
        "a group of no heads": (one(grouped, {"x": [1, 4, 8]}), "inputs_invalid"),
        "no number of axes": (
            model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": None}, ["y"]), "inputs_invalid",
        ),
    }  # fmt: skip


@pytest.mark.parametrize(("model", "code"), _hostile().values(), ids=_hostile())
def test_files_made_to_hurt_are_refused(model: onnx.ModelProto, code: str) -> None:
    assert outcome(model.SerializeToString()) == code


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
