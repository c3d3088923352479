"""Types of one node's outputs: from onnx's own inference, from a contrib rule, or from an upper bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import onnx
from onnx import checker, defs, helper, shape_inference

from predictor.errors import GraphCode, GraphRejected
from predictor.graph import AttributeValue
from predictor.reading.decoded import FileNode, decoded_node
from predictor.reading.nodes import filled_type
from predictor.reading.plain_types import plain_outputs
from predictor.reading.shapes import STANDINS, Standin, Typed, bounded_outputs, contrib_outputs, has_rule
from predictor.reading.slots import Slot, data_of, dtype_of, type_of

_INFERENCE_ERRORS = (
    shape_inference.InferenceError,
    checker.ValidationError,
    defs.SchemaError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
)  # fmt: skip - what onnx's C++ inference raises on contradictory nodes; nothing of ours runs inside that try


_FIRST_CONSTANT_OF_SHAPE = 9  # the opset that brought it
# Kinds whose output shapes depend on no value: inference is not told any.
BLIND_TO_VALUES = frozenset(
    (
        "Add", "And", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose",
        "DequantizeLinear", "Div", "Equal", "Erf", "Exp", "Flatten", "Gather", "Gemm", "GlobalAveragePool",
        "HardSigmoid",
        "HardSwish", "LayerNormalization", "LeakyRelu", "MatMul", "Max", "MaxPool", "Min", "Mul", "PRelu",
        "Pow",
        "QuantizeLinear", "Relu", "Sigmoid", "Softmax", "Sqrt", "Sub", "Sum", "Tanh", "Transpose", "Where",
    )
)  # fmt: skip


def output_types(
    node: FileNode, inputs: Sequence[Slot | None], opsets: Mapping[str, int]
) -> tuple[Sequence[Typed], bool]:
    """Types of the outputs, and whether they are bounds: the largest possible sizes, where the true ones
    depend
    on the data. Raises `GraphRejected` naming the operator if it is unknown or does not fit its inputs.

    Outputs that have no name are typed too, as far as inference goes: the list may be longer or shorter
    than the node's.
    """
    plain = plain_outputs(node, inputs, opsets.get("", 0))
    if plain is not None:
        return plain, False
    full_kind = node.full_kind
    ruled = _by_rule(node, contrib_outputs, inputs) if has_rule(full_kind) else None
    if ruled is not None:
        return ruled, False
    standin = STANDINS.get(full_kind)
    if standin is not None:
        return _by_standin(node, standin, inputs, opsets), False
    typed = _inferred(node, inputs, opsets)
    if typed is not None:
        return typed, False
    bound = _by_rule(node, bounded_outputs, inputs)
    if bound is None:
        raise GraphRejected(
            f"operator {node.label}: the size of its output depends on values that only a run can tell; "
            "make it constant, or cut the model before it",
            GraphCode.OPERATOR_UNSUPPORTED,
        )
    return bound, True


@lru_cache(maxsize=4096)
def _schema(kind: str, version: int, domain: str) -> defs.OpSchema | None:
    try:
        return defs.get_schema(kind, version, domain)
    except defs.SchemaError:
        return None


def _inferred(
    node: FileNode, inputs: Sequence[Slot | None], opsets: Mapping[str, int]
) -> Sequence[Typed] | None:
    """onnx's inference of one node; None where it leaves a size open."""
    if node.full_kind == "ConstantOfShape" and opsets.get("", 0) >= _FIRST_CONSTANT_OF_SHAPE:
        filled = filled_type(node, inputs)
        if filled is not None:
            return [filled]
    return inferred_types(node, inputs, opsets)


def inferred_types(
    node: FileNode, inputs: Sequence[Slot | None], opsets: Mapping[str, int]
) -> list[Typed] | None:
    domain = node.domain
    version = opsets.get(domain)
    if version is None:
        raise GraphRejected(
            f"operator {node.label} belongs to domain {domain or 'ai.onnx'!r}, "
            "which the file does not import",
            GraphCode.MALFORMED,
        )
    schema = _schema(node.op_type, version, domain)
    if schema is None:
        raise GraphRejected(
            f"operator {node.label} is unknown in opset {version}; replace it by standard operators",
            GraphCode.OPERATOR_UNSUPPORTED,
        )
    slots = {name: slot for name, slot in zip(node.input, inputs, strict=True) if slot is not None}
    types = {name: type_of(slot) for name, slot in slots.items()}
    data: dict[str, onnx.TensorProto] = {}
    if node.full_kind not in BLIND_TO_VALUES:
        data = {name: known for name, slot in slots.items() if (known := data_of(slot)) is not None}
    imports = [helper.make_opsetid(name, number) for name, number in opsets.items()]
    try:
        found = shape_inference.infer_node_outputs(schema, node.proto, types, data, {}, imports)
    except _INFERENCE_ERRORS as error:
        raise _does_not_fit(node, inputs, str(error)) from error
    typed: list[Typed] = []
    for index, name in enumerate(node.output):
        entry = _typed(found[name], node.label) if name in found else None
        if name and entry is None:
            # The mask of an old Dropout and the like: inference knows the first output and leaves the
            # others out.
            return typed if index > 0 else None
        typed.append(entry if entry is not None else ("float32", ()))
    return typed


def _typed(found: onnx.TypeProto, where: str) -> Typed | None:
    if not found.HasField("tensor_type") or not found.tensor_type.HasField("shape"):
        return None
    sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in found.tensor_type.shape.dim]
    if any(size < 0 for size in sizes):
        return None
    return dtype_of(found.tensor_type.elem_type, f"the output of {where}"), tuple(sizes)


def _by_rule(
    node: FileNode,
    rules: Callable[[str, Sequence[Slot | None], Mapping[str, AttributeValue]], Sequence[Typed] | None],
    inputs: Sequence[Slot | None],
) -> Sequence[Typed] | None:
    """What our own rules say of a node; None where they say nothing."""
    try:
        return rules(node.full_kind, inputs, node.attributes)
    except ValueError as error:
        raise _does_not_fit(node, inputs, str(error)) from error


def _by_standin(
    node: FileNode,
    standin: Standin,
    inputs: Sequence[Slot | None],
    opsets: Mapping[str, int],
) -> Sequence[Typed]:
    """The shape that the standard operator would have; attributes that it does not know are left out."""
    version = opsets.get("", 17)
    schema = _schema(standin.kind, version, "")
    picked = [inputs[index] if index < len(inputs) else None for index in standin.inputs]
    if schema is None or any(slot is None for slot in picked):
        raise _does_not_fit(node, inputs, "an input is missing")
    slots = [
        Slot(name=f"input{i}", dtype="float32", shape=slot.shape) for i, slot in enumerate(picked) if slot
    ]
    known = {
        name: value for name, value in node.attributes.items() if name in schema.attributes and value != ()
    }
    plain = helper.make_node(standin.kind, [slot.name for slot in slots], ["output"])
    plain.attribute.extend(helper.make_attribute(name, value) for name, value in known.items())
    typed = inferred_types(decoded_node(plain), slots, {"": version})
    if typed is None:
        raise _does_not_fit(node, inputs, "its output has no size")
    source = inputs[standin.dtype_from] if 0 <= standin.dtype_from < len(inputs) else None
    return [("float32" if source is None else source.dtype, typed[0][1])]


def _does_not_fit(node: FileNode, inputs: Sequence[Slot | None], detail: str) -> GraphRejected:
    shapes = ", ".join("-" if slot is None else f"{slot.dtype}{list(slot.shape)}" for slot in inputs)
    first_line = detail.strip().splitlines()[0] if detail.strip() else "no detail"
    return GraphRejected(
        f"operator {node.label} does not fit its inputs ({shapes}): {first_line}",
        GraphCode.INPUTS_INVALID,
    )
