"""Small ONNX models for the tests of floor 0, hostile ones among them. Each returns the file's bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8


def value(
    name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT
) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def file(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    *,
    weights: Sequence[TensorProto] = (),
    output: ValueInfoProto | None = None,
    opset: int = OPSET,
    domains: Sequence[str] = (),
    ir_version: int = IR_VERSION,
) -> bytes:
    graph = helper.make_graph(nodes, "test", inputs, [output or value("y", None)], list(weights))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=ir_version).SerializeToString())


def weight(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(array, name)


def two_layers(*, low: float = -1.0) -> bytes:
    """x (n, 8) -> MatMul 8x4 of weights from `low` to 1 -> Relu."""
    return file(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        [value("x", ["n", 8])],
        weights=[weight("w", np.linspace(low, 1, 32, dtype=np.float32).reshape(8, 4))],
    )


def convolutions(*, are_weights_inputs: bool = False) -> bytes:
    """x (1, 3, 32, 32) -> Conv 16 -> BatchNormalization -> Relu; as old exporters wrote it, weights are
    inputs too.
    """
    generator = np.random.default_rng(0)
    weights = [weight("w", generator.standard_normal((16, 3, 3, 3)).astype(np.float32))]
    weights += [weight(name, np.ones(16, np.float32)) for name in ("scale", "bias", "mean", "variance")]
    listed = [value(tensor.name, list(tensor.dims)) for tensor in weights] if are_weights_inputs else []
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "scale", "bias", "mean", "variance"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    return file(nodes, [value("x", [1, 3, 32, 32]), *listed], weights=weights)


def quantised_to_16_bits() -> bytes:
    """x (1, 8, 16, 16) -> three times a convolution of int8 weights on int16 activations, in QDQ form."""
    generator = np.random.default_rng(0)
    weights = [weight("w8", generator.integers(-127, 127, (8, 8, 3, 3)).astype(np.int8))]
    weights += [weight("ws", np.array(0.01, np.float32)), weight("wz", np.array(0, np.int8))]
    nodes = [helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"])]
    tensor = "x"
    for step in range(3):
        scale, zero = f"s{step}", f"z{step}"
        weights += [weight(scale, np.array(4**step / 65535, np.float32)), weight(zero, np.array(0, np.int16))]
        nodes += [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"q{step}"]),
            helper.make_node("DequantizeLinear", [f"q{step}", scale, zero], [f"d{step}"]),
            helper.make_node("Conv", [f"d{step}", "w"], [f"c{step}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{step}"], [f"r{step}"]),
        ]
        tensor = f"r{step}"
    nodes.append(helper.make_node("Identity", [tensor], ["y"]))
    return file(nodes, [value("x", [1, 8, 16, 16])], weights=weights, opset=21, ir_version=10)


def with_input(kind: int, shape: Sequence[int | str | None] = (1, 4)) -> bytes:
    """x of any type -> Identity."""
    return file(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", shape, kind)], output=value("y", None, kind)
    )


def unknown_operator(domain: str = "") -> bytes:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain=domain)
    return file([node], [value("x", [1, 4])], domains=[domain] if domain else [])


def is_nan() -> bytes:
    """x (1, 4) -> 1 where it is not a number: an operator that few converters know."""
    nodes = [
        helper.make_node("IsNaN", ["x"], ["b"]),
        helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
    ]
    return file(nodes, [value("x", [1, 4])])


def mismatched_sizes() -> bytes:
    """x (1, n) -> MatMul 4x2: only n = 4 fits, and the file does not say so."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return file([node], [value("x", [1, "n"])], weights=[weight("w", np.ones((4, 2), np.float32))])


def infinite_loop() -> bytes:
    """A Loop of 2^62 trips: some 200 bytes that run for ever."""
    carried, condition = value("c", [1, 4]), value("b", [], TensorProto.BOOL)
    body = helper.make_graph(
        [helper.make_node("Add", ["c", "c"], ["d"]), helper.make_node("Identity", ["b"], ["e"])],
        "body",
        [value("i", [], TensorProto.INT64), condition, carried],
        [value("e", [], TensorProto.BOOL), value("d", [1, 4])],
    )
    trips, go_on = weight("t", np.array(2**62, np.int64)), weight("g", np.array(True))
    loop = helper.make_node("Loop", ["t", "g", "x"], ["y"], body=body)
    return file([loop], [value("x", [1, 4])], weights=[trips, go_on])


def tensor_bomb() -> bytes:
    """x (1, 1) -> Tile to 160 GB."""
    tile = helper.make_node("Tile", ["x", "r"], ["t"])
    total = helper.make_node("ReduceSum", ["t"], ["y"])
    return file(
        [tile, total], [value("x", [1, "n"])], weights=[weight("r", np.array([200_000, 200_000], np.int64))]
    )


def growing_bomb(doublings: int = 14) -> bytes:
    """x (1, 1000000) doubled again and again by Concat: 64 GB at the end."""
    nodes = []
    tensor = "x"
    for step in range(doublings):
        nodes.append(helper.make_node("Concat", [tensor, tensor], [f"t{step}"], axis=0))
        tensor = f"t{step}"
    return file([*nodes, helper.make_node("ReduceSum", [tensor], ["y"])], [value("x", [1, 1_000_000])])


def external_data(location: str) -> bytes:
    """A weight that lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return file([helper.make_node("Add", ["x", "w"], ["y"])], [value("x", [1, 4])], weights=[tensor])
