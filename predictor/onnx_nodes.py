"""One ONNX node at a time: its attributes as data, the value of a constant, what is emitted for it, how
messages name it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from predictor.costs import cost_of
from predictor.errors import GraphCode, GraphRejected
from predictor.graph import AttributeValue
from predictor.onnx_order import domain_of, full_kind_of, label_of
from predictor.onnx_shapes import Typed
from predictor.onnx_slots import Slot, attribute_value, tensor_value
from predictor.onnx_values import MAX_VALUE_ELEMENTS, Array, can_evaluate, evaluate

Attributes = Mapping[str, AttributeValue]
_DTYPE_OF_VALUE = {"value_int": "int64", "value_float": "float32", "value_string": "string"}


@dataclass(frozen=True, slots=True)
class Node:
    """An operator that runs, before it is costed."""

    name: str
    kind: str
    domain: str
    attributes: Attributes
    inputs: tuple[Slot | None, ...]
    outputs: tuple[Slot | None, ...]
    repeats: int

    @property
    def full_kind(self) -> str:
        """The kind with its domain where that is not ONNX's own."""
        return f"{self.domain}/{self.kind}" if self.domain else self.kind

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        inputs = [None if slot is None else slot.info for slot in self.inputs]
        outputs = [None if slot is None else slot.info for slot in self.outputs]
        return self.repeats * cost_of(self.full_kind, self.attributes, inputs=inputs, outputs=outputs).macs


def attributes_of(node: onnx.NodeProto) -> dict[str, AttributeValue]:
    """The attributes that are numbers, texts, or tuples of them."""
    found = ((attribute.name, attribute_value(attribute)) for attribute in node.attribute)
    return {name: value for name, value in found if value is not None}


def rejected(node: onnx.NodeProto, detail: str) -> GraphRejected:
    """The refusal of an operator that cannot be costed."""
    return GraphRejected(f"operator {label_of(node)}: {detail}", GraphCode.OPERATOR_UNSUPPORTED)


def malformed(node: onnx.NodeProto, detail: str) -> GraphRejected:
    """The refusal of a node that contradicts the ONNX standard."""
    return GraphRejected(f"operator {label_of(node)} {detail}", GraphCode.MALFORMED)


def made(
    node: onnx.NodeProto,
    kind: str,
    attributes: Attributes,
    *,
    inputs: Sequence[Slot | None],
    outputs: Sequence[Slot | None],
    repeats: int,
) -> Node:
    """The operator to emit for an ONNX node, possibly under another kind."""
    name = node.name or next((slot.name for slot in outputs if slot is not None), kind)
    return Node(name, kind, domain_of(node), attributes, tuple(inputs), tuple(outputs), repeats)


def known_outputs(
    node: onnx.NodeProto, inputs: Sequence[Slot | None], attributes: Attributes
) -> Sequence[Array] | None:
    """Values of the outputs where all inputs have one and the kind is followed; None otherwise."""
    kind = full_kind_of(node)
    if kind == "Shape" and inputs and inputs[0] is not None:
        sizes = inputs[0].shape
        start, end = attributes.get("start", 0), attributes.get("end", len(sizes))
        if isinstance(start, int) and isinstance(end, int):
            return [np.asarray(sizes[start:end], dtype=np.int64)]
    if kind == "Size" and inputs and inputs[0] is not None:
        return [np.asarray(inputs[0].info.elements, dtype=np.int64)]
    if kind == "ConstantOfShape":
        return _filled(node, inputs)
    if (
        not can_evaluate(kind)
        or not inputs
        or any(slot is not None and slot.value is None for slot in inputs)
    ):
        return None
    if kind == "Split" and len(inputs) < 2 and "split" not in attributes:
        return None
    return evaluate(kind, [None if slot is None else slot.value for slot in inputs], attributes)


def plain_constant(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> tuple[Typed, Array | None]:
    """Type and value of a Constant written as numbers or texts (`value_int`, `value_floats`, ...)."""
    value = attribute_value(attribute)
    dtype = _DTYPE_OF_VALUE.get(attribute.name.removesuffix("s"))
    if dtype is None or value is None:
        raise malformed(node, "has no value")
    shape = (len(value),) if isinstance(value, tuple) else ()
    if dtype == "string" or math.prod(shape) > MAX_VALUE_ELEMENTS:
        return (dtype, shape), None
    try:
        return (dtype, shape), np.asarray(value, dtype=dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise malformed(node, f"has a value that is no {dtype}: {error}") from error


def _filled(node: onnx.NodeProto, inputs: Sequence[Slot | None]) -> Sequence[Array] | None:
    """ConstantOfShape: its fill value is a tensor attribute, a float zero where it is absent."""
    fill: Array | None = np.zeros(1, np.float32)
    for attribute in node.attribute:
        if attribute.name == "value":
            fill = tensor_value(attribute.t, label_of(node))
    shape = inputs[0].value if inputs and inputs[0] is not None else None
    if fill is None or fill.size != 1 or shape is None or shape.ndim != 1:
        return None
    return evaluate("Expand", [fill.reshape(()), shape], {})
