"""Small ONNX files that several tests of the predictor build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    *,
    stored: Mapping[str, NDArray[np.generic]] | None = None,
    dtypes: Mapping[str, int] | None = None,
    opsets: Mapping[str, int] | None = None,
    ir_version: int = 8,
    lists_weights: bool = False,
) -> onnx.ModelProto:
    """A model of the given nodes; inputs are float32 unless `dtypes` says otherwise."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (stored or {}).items()]
    declared = [
        helper.make_tensor_value_info(name, (dtypes or {}).get(name, TensorProto.FLOAT), shape)
        for name, shape in inputs.items()
    ]
    if lists_weights:
        declared += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "test", declared, results, tensors)
    imports = [helper.make_opsetid(name, number) for name, number in (opsets or {"": 17}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Weights."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def five_nodes(seed: int = 0) -> onnx.ModelProto:
    """Convolution, activation, pooling, flattening, matrix product."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "m", "n"], ["y"]),
    ]
    stored = {
        "w": noise(4, 2, 3, 3, seed=seed),
        "b": noise(4, seed=seed + 1),
        "m": noise(64, 10, seed=seed + 2),
        "n": noise(10, seed=seed + 3),
    }
    return model_of(nodes, {"x": [1, 2, 8, 8]}, ["y"], stored=stored)


def branching(
    order: Sequence[int] = (0, 1, 2, 3, 4, 5, 6), rename: str = "", seed: int = 0
) -> onnx.ModelProto:
    """Seven nodes with branches, in the given order, with other names and other weights."""
    name = (lambda text: f"{rename}_{text}" if text else "") if rename else (lambda text: text)
    written = [
        ("Conv", ["x", "w"], ["a"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Relu", ["a"], ["b"], {}),
        ("Sigmoid", ["a"], ["c"], {}),
        ("Mul", ["b", "c"], ["d"], {}),
        ("AveragePool", ["d"], ["e"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("MaxPool", ["a"], ["f"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Concat", ["e", "f"], ["y"], {"axis": 1}),
    ]
    nodes = [
        helper.make_node(kind, [name(i) for i in ins], [name(o) for o in outs], name=name(kind), **attributes)
        for kind, ins, outs, attributes in (written[index] for index in order)
    ]
    return model_of(
        nodes, {name("x"): [1, 4, 8, 8]}, [name("y")], stored={name("w"): noise(4, 4, 3, 3, seed=seed)}
    )
