"""Bounds on what is parsed, and the model's own functions expanded in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import inliner

from predictor.errors import GraphCode, GraphRejected
from predictor.onnx_order import subgraphs_of

MAX_NODES = 50_000  # nested graphs and expanded functions included
MAX_NESTING = 16
MAX_EXPANDED_BYTES = 1 << 28  # of the copies of function bodies, which may hold tensors

_Key = tuple[str, str]  # domain and name


@dataclass(frozen=True, slots=True)
class _Size:
    """What expansion makes of some nodes: how many, and the bytes of the function bodies copied for them."""

    nodes: int
    copied_bytes: int


def check_size(model: onnx.ModelProto) -> None:
    """Refuse too many nodes, too deep nesting and names that are not text, before anything else looks."""
    _check_texts(entry.domain for entry in model.opset_import)
    _check_names(model.graph)
    count = 0
    waiting: list[tuple[Iterable[onnx.NodeProto], int]] = [(model.graph.node, 0)]
    for function in model.functions:
        _check_texts((function.domain, function.name, *function.input, *function.output))
        waiting.append((function.node, 0))
    while waiting:
        nodes, depth = waiting.pop()
        if depth > MAX_NESTING:
            raise GraphRejected(
                f"graphs are nested {depth} deep, at most {MAX_NESTING} are allowed", GraphCode.TOO_LARGE
            )
        for node in nodes:
            count += 1
            _check_texts((node.op_type, node.domain, node.name, *node.input, *node.output))
            _check_texts(attribute.name for attribute in node.attribute)
            for graph in subgraphs_of(node):
                _check_names(graph)
                waiting.append((graph.node, depth + 1))
        if count > MAX_NODES:
            raise _too_many(count)


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions expanded. Raises `GraphRejected` where they call themselves or
    grow too large.
    """
    if not model.functions:
        return model
    bodies = {(function.domain, function.name): function for function in model.functions}
    size = _expanded(model.graph.node, bodies, {}, ())
    if size.nodes > MAX_NODES:
        raise _too_many(size.nodes)
    if size.copied_bytes > MAX_EXPANDED_BYTES:
        raise GraphRejected(
            f"the model's functions take {size.copied_bytes} bytes when they are expanded, at most "
            f"{MAX_EXPANDED_BYTES} are allowed; store their tensors as initializers",
            GraphCode.TOO_LARGE,
        )
    try:
        expanded = inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise GraphRejected(
            f"the model's functions cannot be expanded: {error}", GraphCode.MALFORMED
        ) from error
    check_size(expanded)  # a function in a branch of a function: nesting adds up
    return expanded


def _check_names(graph: onnx.GraphProto) -> None:
    _check_texts(tensor.name for tensor in graph.initializer)
    _check_texts(sparse.values.name for sparse in graph.sparse_initializer)
    for declared in (*graph.input, *graph.output):
        _check_texts((declared.name,))
        _check_texts(dim.dim_param for dim in declared.type.tensor_type.shape.dim)


def _check_texts(names: Iterable[object]) -> None:
    """protobuf hands out a string field that is no UTF-8 as bytes."""
    for name in names:
        if not isinstance(name, str):
            raise GraphRejected(f"a name in the file is not text: {name!r}", GraphCode.MALFORMED)


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


def _too_many(count: int) -> GraphRejected:
    return GraphRejected(
        f"the model has {count} nodes or more, at most {MAX_NODES} are allowed", GraphCode.TOO_LARGE
    )
