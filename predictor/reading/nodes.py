"""One ONNX node at a time: its attributes as data, the value of a constant, what is emitted for it, how
messages name it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from predictor.costs import Cost, cost_of
from predictor.errors import GraphCode, GraphRejected
from predictor.graph import AttributeValue, Likeness
from predictor.reading.decoded import FileNode, attribute_value
from predictor.reading.shapes import Typed
from predictor.reading.slots import Slot, dtype_of, stored_tensor
from predictor.reading.values import MAX_VALUE_ELEMENTS, MAX_VALUE_RANK, Array, can_evaluate, evaluate

Attributes = Mapping[str, AttributeValue]
_FOLLOWED = frozenset(("Shape", "Size", "ConstantOfShape"))
_DTYPE_OF_VALUE = {"value_int": "int64", "value_float": "float32", "value_string": "string"}


@dataclass(slots=True, eq=False)
class Outcome:
    """What nodes that are alike make of their inputs: types of the outputs, `values` where these are known,
    whether the types are bounds, as `predictor.reading.typing.output_types` says. `costs`: of such operators
    that run, as far as they have been asked for, by their repeats and precision.
    """

    typed: Sequence[Typed]
    values: Sequence[Array] | None = None
    is_bound: bool = False
    costs: dict[tuple[int, str | None], tuple[Likeness, Cost]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Node:
    """An operator that runs, before it is costed. `outcome`: what it shares with those that are alike; None
    where it is not the node of the file as it stands there.
    """

    name: str
    kind: str
    domain: str
    full_kind: str  # with its domain where that is not ONNX's own
    attributes: Attributes
    outcome: Outcome | None
    inputs: tuple[Slot | None, ...]
    outputs: tuple[Slot | None, ...]
    repeats: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        inputs = [None if slot is None else slot.info for slot in self.inputs]
        outputs = [None if slot is None else slot.info for slot in self.outputs]
        return self.repeats * cost_of(self.full_kind, self.attributes, inputs=inputs, outputs=outputs).macs


def rejected(node: FileNode, detail: str) -> GraphRejected:
    """The refusal of an operator that cannot be costed."""
    return GraphRejected(f"operator {node.label}: {detail}", GraphCode.OPERATOR_UNSUPPORTED)


def malformed(node: FileNode, detail: str) -> GraphRejected:
    """The refusal of a node that contradicts the ONNX standard."""
    return GraphRejected(f"operator {node.label} {detail}", GraphCode.MALFORMED)


def known_outputs(
    node: FileNode, inputs: Sequence[Slot | None], attributes: Attributes, *, is_known: bool
) -> Sequence[Array] | None:
    """Values of the outputs where all inputs have one (`is_known`) and the kind is followed; else None."""
    kind = node.full_kind
    if kind not in _FOLLOWED and not (is_known and can_evaluate(kind)):
        return None
    if kind == "Shape" and inputs and inputs[0] is not None:
        sizes = inputs[0].shape
        start, end = attributes.get("start", 0), attributes.get("end", len(sizes))
        if isinstance(start, int) and isinstance(end, int):
            return [np.asarray(sizes[start:end], dtype=np.int64)]
    if kind == "Size" and inputs and inputs[0] is not None:
        return [np.asarray(inputs[0].info.elements, dtype=np.int64)]
    if kind == "ConstantOfShape":
        return _filled(node, inputs)
    if not is_known or not can_evaluate(kind):
        return None
    if kind == "Split" and len(inputs) < 2 and "split" not in attributes:
        return None
    return evaluate(kind, [None if slot is None else slot.value for slot in inputs], attributes)


def plain_constant(node: FileNode, attribute: onnx.AttributeProto) -> tuple[Typed, Array | None]:
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


def filled_type(node: FileNode, inputs: Sequence[Slot | None]) -> Typed | None:
    """Type of the output of a ConstantOfShape whose shape is known; None where it is not or the node is
    odd.
    """
    shape = inputs[0].value if len(inputs) == 1 and inputs[0] is not None else None
    if shape is None or shape.ndim != 1 or shape.dtype != np.int64 or len(node.protos) > 1:
        return None
    sizes = tuple(shape.tolist())
    if min(sizes, default=0) < 0:
        return None
    if not node.protos:
        return "float32", sizes
    fill = node.protos[0]
    if fill.name != "value" or fill.type != onnx.AttributeProto.TENSOR or fill.t.dims[:] != [1]:
        return None
    return dtype_of(fill.t.data_type, node.label), sizes


def _filled(node: FileNode, inputs: Sequence[Slot | None]) -> Sequence[Array] | None:
    """ConstantOfShape: its fill value is a tensor attribute, a float zero where it is absent."""
    shape = inputs[0].value if inputs and inputs[0] is not None else None
    if shape is None or shape.ndim != 1 or shape.dtype.kind != "i" or shape.size > MAX_VALUE_RANK:
        return None
    sizes = tuple(shape.tolist())
    if min(sizes, default=0) < 0 or math.prod([max(size, 1) for size in sizes]) > MAX_VALUE_ELEMENTS:
        return None
    fill: Array | None = np.zeros(1, np.float32)
    for attribute in node.protos:
        if attribute.name == "value":
            _, _, fill = stored_tensor(attribute.t, node.label)
    if fill is None or fill.size != 1:
        return None
    return [np.full(sizes, fill.reshape(()))]
