"""Architecture and weights to ONNX: fp32, or executable int8 as QDQ.

QDQ (pairs of quantise and dequantise around float operators) is the one quantised form that ONNX Runtime,
OpenVINO and TensorRT all turn into integer kernels. Activations are U8 with a zero point, weights S8
symmetric, biases int32 at the product of both scales. A ReLU that is followed by a quantiser whose zero
point is level 0 is left out: clipping at level 0 is that ReLU, and runtimes remove it anyway. Each tensor
is quantised as the `QuantConfig` says; a layer without an entry stays in float.

The bytes depend on the arguments alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from search.architecture import (
    IMAGE,
    LOGITS,
    POOLED,
    Architecture,
    Convolution,
    LayerWeights,
    Ranges,
    Weights,
)
from search.errors import BuildFailed
from search.quant import Affine, TensorQuant, affine_of_range, quantise_layer

OPSET = 17  # DequantizeLinear takes an axis since 13; 17 is read by every runtime of the last four years
IR_VERSION = 8


@dataclass(slots=True)
class _Graph:
    """What the file will hold, in the order it was added. `quants`, `ranges`: by activation tensor."""

    quants: dict[str, TensorQuant | None]
    ranges: Ranges
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: int | list[int]) -> str:
        proto = helper.make_node(kind, inputs, [output], name=f"{output}/{kind}")
        proto.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.nodes.append(proto)
        return output

    def affine(self, tensor: str) -> Affine | None:
        """How a tensor is quantised, if it is."""
        quant = self.quants[tensor]
        if quant is None:
            return None
        if tensor not in self.ranges:
            raise BuildFailed(f"tensor {tensor!r} is to be quantised but was not calibrated")
        return affine_of_range(*self.ranges[tensor], quant)


def export(architecture: Architecture, weights: Weights, ranges: Ranges) -> bytes:
    """The ONNX file: input `image` `(B, C, R, R)`, output `logits` `(B, classes)`, both float32.

    `ranges` are needed of every tensor that is to be quantised. Raises `BuildFailed` for a missing one, and
    for a quantisation that does not execute.
    """
    graph = _Graph(architecture.activation_quants(), ranges)
    try:
        tensor, scale = _quantised(graph, IMAGE, IMAGE)
        for layer in architecture.convolutions:
            output = _convolution(graph, architecture, layer, weights[layer.name], tensor, scale)
            tensor, scale = _quantised(graph, output, layer.name)
        graph.node("GlobalAveragePool", [tensor], "averages")
        tensor, _ = _quantised(graph, "averages", POOLED)
        graph.node("Flatten", [tensor], "flat", axis=1)
        tensor, scale = _quantised(graph, "flat", POOLED)
        _head(graph, architecture, weights[architecture.head.name], tensor, scale)
    except ValueError as error:
        raise BuildFailed(f"this quantisation does not execute: {error}") from error
    return _serialised(graph, architecture)


def _quantised(graph: _Graph, tensor: str, name: str) -> tuple[str, float]:
    """The tensor to read on, behind a QDQ pair if `name` is quantised, and its scale (1 in float)."""
    affine = graph.affine(name)
    if affine is None:
        return tensor, 1.0
    scale = graph.constant(f"{tensor}.scale", np.array(affine.scale, dtype=np.float32))
    zero = graph.constant(f"{tensor}.zero", np.array(affine.zero_point, dtype=np.uint8))
    levels = graph.node("QuantizeLinear", [tensor, scale, zero], f"{tensor}.levels")
    return graph.node("DequantizeLinear", [levels, scale, zero], f"{tensor}.quantised"), affine.scale


def _convolution(
    graph: _Graph,
    architecture: Architecture,
    layer: Convolution,
    weights: LayerWeights,
    tensor: str,
    scale: float,
) -> str:
    quant = architecture.quant.of(layer.name).weights
    parameters = _parameters(graph, layer.name, weights, quant, scale, output_axis=0)
    output = graph.node(
        "Conv",
        [tensor, *parameters],
        f"{layer.name}.sum",
        kernel_shape=[layer.kernel] * 2,
        strides=[layer.stride] * 2,
        pads=[layer.kernel // 2] * 4,
        group=layer.groups,
    )
    affine = graph.affine(layer.name)
    is_clipped_at_zero = affine is not None and affine.zero_point == 0
    return output if is_clipped_at_zero else graph.node("Relu", [output], layer.name)


def _head(
    graph: _Graph, architecture: Architecture, weights: LayerWeights, tensor: str, scale: float
) -> None:
    name = architecture.head.name
    quant = architecture.quant.of(name).weights
    # kept as (I, O): integer Gemm kernels with a scale per channel want the output axis last
    parameters = _parameters(graph, name, weights, quant, scale, output_axis=1)
    graph.node("Gemm", [tensor, *parameters], LOGITS)


def _parameters(
    graph: _Graph,
    name: str,
    weights: LayerWeights,
    quant: TensorQuant | None,
    scale: float,
    *,
    output_axis: int,
) -> list[str]:
    """Weight (output channels on the given axis) and bias to read, behind dequantisers if quantised."""

    def turned(weight: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.moveaxis(weight, 0, output_axis)

    if quant is None:
        weight = graph.constant(f"{name}.weight", turned(weights.weight))
        return [weight, graph.constant(f"{name}.bias", weights.bias)]
    q = quantise_layer(weights.weight, weights.bias, quant, scale)
    weight = _dequantised(graph, f"{name}.weight", turned(q.weights), q.weight_scale, output_axis)
    return [weight, _dequantised(graph, f"{name}.bias", q.bias, q.bias_scale, 0)]


def _dequantised(
    graph: _Graph, name: str, levels: NDArray[np.generic], scale: NDArray[np.float32], axis: int
) -> str:
    inputs = [
        graph.constant(f"{name}.levels", levels),
        graph.constant(f"{name}.scale", scale),
        graph.constant(f"{name}.zero", np.zeros(scale.shape, dtype=levels.dtype)),
    ]
    attributes = {"axis": axis} if scale.ndim else {}
    return graph.node("DequantizeLinear", inputs, name, **attributes)


def _serialised(graph: _Graph, architecture: Architecture) -> bytes:
    image = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, architecture.input_shape)
    logits = helper.make_tensor_value_info(
        LOGITS, TensorProto.FLOAT, (architecture.batch, architecture.head.out_features)
    )
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "laptime", [image], [logits], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="laptime",
    )
    return bytes(proto.SerializeToString(deterministic=True))
