"""Topological order of an ONNX graph's nodes, whatever order the file has them in."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Sequence

import onnx

from predictor.errors import GraphCode, GraphRejected


def full_kind_of(node: onnx.NodeProto) -> str:
    """The operator type with its domain where that is not ONNX's own: `Conv`, `com.microsoft/FusedConv`."""
    domain = domain_of(node)
    return f"{domain}/{node.op_type}" if domain else node.op_type


def domain_of(node: onnx.NodeProto) -> str:
    """The domain; "" is ONNX's own, which files also write as ai.onnx."""
    return "" if node.domain == "ai.onnx" else node.domain


def label_of(node: onnx.NodeProto) -> str:
    """How messages name a node."""
    name = node.name or next((output for output in node.output if output), "")
    return f"{full_kind_of(node)} ({name!r})"


def subgraphs_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs nested in a node's attributes."""
    nested = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    for attribute in node.attribute:
        nested.extend(attribute.graphs)
    return nested


def sorted_nodes(
    graph: onnx.GraphProto, *, known: Container[str], outer: Container[str]
) -> Sequence[onnx.NodeProto]:
    """Nodes so that each comes after what it reads; the file's own order where that already holds.

    `known`: names that this graph itself defines before its first node, `outer`: those and all of the graphs
    around it. Raises `GraphRejected` (malformed) naming a tensor that two nodes write or that nothing
    writes, or a node on a cycle.
    """
    nodes = list(graph.node)
    producers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name and (name in producers or name in known):
                raise GraphRejected(
                    f"tensor {name!r} is written twice, again by {label_of(node)}", GraphCode.MALFORMED
                )
            if name:
                producers[name] = index
    needs = [[producers[name] for name in _reads(node) if name in producers] for node in nodes]
    for node in nodes:
        for name in _reads(node):
            if name not in producers and name not in outer:
                raise GraphRejected(
                    f"operator {label_of(node)} reads {name!r}, which nothing in the file makes",
                    GraphCode.MALFORMED,
                )
    if all(before < index for index, befores in enumerate(needs) for before in befores):
        return nodes
    return [nodes[index] for index in _order(needs, nodes)]


def _order(needs: Sequence[Sequence[int]], nodes: Sequence[onnx.NodeProto]) -> list[int]:
    """Kahn's algorithm, first come first served."""
    waiting = [len(set(befores)) for befores in needs]
    followers: list[list[int]] = [[] for _ in needs]
    for index, befores in enumerate(needs):
        for before in set(befores):
            followers[before].append(index)
    ready = deque(index for index, count in enumerate(waiting) if count == 0)
    order: list[int] = []
    while ready:
        index = ready.popleft()
        order.append(index)
        for follower in followers[index]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                ready.append(follower)
    if len(order) < len(nodes):
        stuck = _on_cycle({index for index, count in enumerate(waiting) if count > 0}, needs)
        raise GraphRejected(
            f"the graph has a cycle through operator {label_of(nodes[stuck])}", GraphCode.MALFORMED
        )
    return order


def _on_cycle(stuck: set[int], needs: Sequence[Sequence[int]]) -> int:
    """Walk backwards inside the stuck nodes until one comes again: that one lies on a cycle."""
    index, seen = min(stuck), set[int]()
    while index not in seen:
        seen.add(index)
        index = next(before for before in needs[index] if before in stuck)
    return index


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node needs: its inputs, and what its nested graphs take from around them."""
    yield from (name for name in node.input if name)
    for graph in subgraphs_of(node):
        yield from captured_names(graph)


def captured_names(graph: onnx.GraphProto) -> set[str]:
    """Names that a nested graph reads and does not define."""
    defined = {tensor.name for tensor in graph.initializer} | {declared.name for declared in graph.input}
    defined |= {sparse.values.name for sparse in graph.sparse_initializer}
    defined |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in _reads(node)} | {output.name for output in graph.output}
    return read - defined
