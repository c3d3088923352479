"""The model's own functions, expanded in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # onnx brings it, without stubs
from onnx import checker, inliner

from predictor.errors import GraphCode, GraphRejected
from predictor.reading.decoded import MAX_NESTING, MAX_NODES, subgraphs_of, too_many

MAX_EXPANDED_BYTES = 1 << 26  # of the copies of function bodies, which may hold tensors

_Key = tuple[str, str]  # domain and name


@dataclass(frozen=True, slots=True)
class _Size:
    """What expansion makes of some nodes: how many, and the bytes of the function bodies copied for them."""

    nodes: int
    copied_bytes: int


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions expanded. Raises `GraphRejected` where they call themselves or
    grow too large.
    """
    bodies = {(function.domain, function.name): function for function in model.functions}
    if len(bodies) < len(model.functions):
        raise GraphRejected("two of the model's functions have one name", GraphCode.MALFORMED)
    size = _expanded(model.graph.node, bodies, {}, ())
    if size.nodes > MAX_NODES:
        raise too_many(size.nodes)
    if size.copied_bytes > MAX_EXPANDED_BYTES:
        raise GraphRejected(
            f"the model's functions take {size.copied_bytes} bytes when they are expanded, at most "
            f"{MAX_EXPANDED_BYTES} are allowed; store their tensors as initializers",
            GraphCode.TOO_LARGE,
        )
    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, TypeError, KeyError, checker.ValidationError, DecodeError) as error:
        raise GraphRejected(
            f"the model's functions cannot be expanded: {error}", GraphCode.MALFORMED
        ) from error


def _expanded(
    nodes: Iterable[onnx.NodeProto],
    bodies: Mapping[_Key, onnx.FunctionProto],
    sizes: dict[_Key, _Size],
    callers: tuple[_Key, ...],
) -> _Size:
    """The size of nodes after expansion. Each function is sized once: functions that call functions multiply
    without end.
    """
    total, copied = 0, 0
    for node in nodes:
        key = (node.domain, node.op_type)
        total += 1
        for graph in subgraphs_of(node):
            inner = _expanded(graph.node, bodies, sizes, callers)
            total, copied = total + inner.nodes, copied + inner.copied_bytes
        if key not in bodies:
            continue
        if key in callers:
            raise GraphRejected(f"function {node.op_type!r} calls itself", GraphCode.MALFORMED)
        if len(callers) > MAX_NESTING:
            raise GraphRejected(
                f"functions call each other more than {MAX_NESTING} deep, down to {node.op_type!r}",
                GraphCode.TOO_LARGE,
            )
        if key not in sizes:
            inside = _expanded(bodies[key].node, bodies, sizes, (*callers, key))
            own_bytes = bodies[key].ByteSize()
            sizes[key] = _Size(inside.nodes, own_bytes + inside.copied_bytes)
        total, copied = total + sizes[key].nodes, copied + sizes[key].copied_bytes
    return _Size(total, copied)
