"""Types of one node's outputs: from onnx's own inference, from a contrib rule, or from an upper bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx
from onnx import checker, defs, helper, shape_inference

from predictor.errors import GraphCode, GraphRejected
from predictor.graph import AttributeValue
from predictor.onnx_order import domain_of, full_kind_of, label_of
from predictor.onnx_shapes import STANDINS, Standin, Typed, bounded_outputs, contrib_outputs
from predictor.onnx_slots import Slot, data_of, dtype_of, type_of

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


_MAX_REMEMBERED = 4096
_MAX_REMEMBERED_ELEMENTS = 64  # of a value that decides about a shape
_remembered: dict[tuple[object, ...], tuple[Typed, ...]] = {}  # what inference said, by its question


@dataclass(frozen=True, slots=True)
class OutputTypes:
    """Dtype and shape of each output; `is_bound`: the sizes are the largest possible, the true ones
    depend on the data.
    """

    typed: Sequence[Typed]
    is_bound: bool = False


def output_types(
    node: onnx.NodeProto,
    inputs: Sequence[Slot | None],
    attributes: Mapping[str, AttributeValue],
    opsets: Mapping[str, int],
) -> OutputTypes:
    """Types of the outputs. Raises `GraphRejected` naming the operator if it is unknown or does not fit its
    inputs.

    Outputs that have no name are typed too, as far as inference goes: the list may be longer or shorter
    than the node's.
    """
    full_kind = full_kind_of(node)
    ruled = _by_rule(node, contrib_outputs, inputs, attributes)
    if ruled is not None:
        return OutputTypes(ruled)
    standin = STANDINS.get(full_kind)
    if standin is not None:
        return OutputTypes(_by_standin(node, standin, inputs, attributes, opsets))
    typed = _inferred(node, inputs, attributes, opsets)
    if typed is not None:
        return OutputTypes(typed)
    bound = _by_rule(node, bounded_outputs, inputs, attributes)
    if bound is None:
        raise GraphRejected(
            f"operator {label_of(node)}: the size of its output depends on values that only a run can tell; "
            "make it constant, or cut the model before it",
            GraphCode.OPERATOR_UNSUPPORTED,
        )
    return OutputTypes(bound, is_bound=True)


@lru_cache(maxsize=4096)
def _schema(kind: str, version: int, domain: str) -> defs.OpSchema | None:
    try:
        return defs.get_schema(kind, version, domain)
    except defs.SchemaError:
        return None


def _inferred(
    node: onnx.NodeProto,
    inputs: Sequence[Slot | None],
    attributes: Mapping[str, AttributeValue],
    opsets: Mapping[str, int],
) -> Sequence[Typed] | None:
    """onnx's inference of one node; None where it leaves a size open. Asked once for nodes that are alike:
    networks repeat their blocks, and searches their networks.
    """
    question = _question(node, inputs, attributes, opsets)
    if question is None:
        return _asked(node, inputs, opsets)
    known = _remembered.get(question)
    if known is not None:
        return known
    typed = _asked(node, inputs, opsets)
    if typed is not None:
        if len(_remembered) >= _MAX_REMEMBERED:
            _remembered.clear()
        _remembered[question] = tuple(typed)
    return typed


def _question(
    node: onnx.NodeProto,
    inputs: Sequence[Slot | None],
    attributes: Mapping[str, AttributeValue],
    opsets: Mapping[str, int],
) -> tuple[object, ...] | None:
    """All that inference looks at; None where that is not small and plain."""
    if len(attributes) != len(node.attribute):
        return None  # a tensor or a graph is among them
    asked: list[object] = [node.op_type, node.domain, *opsets.items(), len(node.attribute)]
    asked += [(attribute.name, attribute.type, attributes[attribute.name]) for attribute in node.attribute]
    asked.append(tuple(bool(name) for name in node.output))
    for slot in inputs:
        value = None if slot is None else slot.value
        if value is not None and value.size > _MAX_REMEMBERED_ELEMENTS:
            return None
        known = None if value is None else value.tobytes()
        asked.append(None if slot is None else (slot.dtype, slot.shape, known))
    return tuple(asked)


def _asked(
    node: onnx.NodeProto, inputs: Sequence[Slot | None], opsets: Mapping[str, int]
) -> list[Typed] | None:
    domain = domain_of(node)
    version = opsets.get(domain)
    if version is None:
        raise GraphRejected(
            f"operator {label_of(node)} belongs to domain {domain or 'ai.onnx'!r}, "
            "which the file does not import",
            GraphCode.MALFORMED,
        )
    schema = _schema(node.op_type, version, domain)
    if schema is None:
        raise GraphRejected(
            f"operator {label_of(node)} is unknown in opset {version}; replace it by standard operators",
            GraphCode.OPERATOR_UNSUPPORTED,
        )
    slots = {name: slot for name, slot in zip(node.input, inputs, strict=True) if slot is not None}
    types = {name: type_of(slot) for name, slot in slots.items()}
    data = {name: known for name, slot in slots.items() if (known := data_of(slot)) is not None}
    imports = [helper.make_opsetid(name, number) for name, number in opsets.items()]
    try:
        found = shape_inference.infer_node_outputs(schema, node, types, data, {}, imports)
    except _INFERENCE_ERRORS as error:
        raise _does_not_fit(node, inputs, str(error)) from error
    typed: list[Typed] = []
    for index, name in enumerate(node.output):
        entry = _typed(found[name], label_of(node)) if name in found else None
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
    node: onnx.NodeProto,
    rules: Callable[[str, Sequence[Slot | None], Mapping[str, AttributeValue]], Sequence[Typed] | None],
    inputs: Sequence[Slot | None],
    attributes: Mapping[str, AttributeValue],
) -> Sequence[Typed] | None:
    """What our own rules say of a node; None where they say nothing."""
    try:
        return rules(full_kind_of(node), inputs, attributes)
    except ValueError as error:
        raise _does_not_fit(node, inputs, str(error)) from error


def _by_standin(
    node: onnx.NodeProto,
    standin: Standin,
    inputs: Sequence[Slot | None],
    attributes: Mapping[str, AttributeValue],
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
    known = {name: value for name, value in attributes.items() if name in schema.attributes and value != ()}
    plain = helper.make_node(standin.kind, [slot.name for slot in slots], ["output"])
    plain.attribute.extend(helper.make_attribute(name, value) for name, value in known.items())
    typed = _asked(plain, slots, {"": version})
    if typed is None:
        raise _does_not_fit(node, inputs, "its output has no size")
    source = inputs[standin.dtype_from] if 0 <= standin.dtype_from < len(inputs) else None
    return [("float32" if source is None else source.dtype, typed[0][1])]


def _does_not_fit(node: onnx.NodeProto, inputs: Sequence[Slot | None], detail: str) -> GraphRejected:
    shapes = ", ".join("-" if slot is None else f"{slot.dtype}{list(slot.shape)}" for slot in inputs)
    first_line = detail.strip().splitlines()[0] if detail.strip() else "no detail"
    return GraphRejected(
        f"operator {label_of(node)} does not fit its inputs ({shapes}): {first_line}",
        GraphCode.INPUTS_INVALID,
    )
