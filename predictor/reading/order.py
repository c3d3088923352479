"""Topological order of an ONNX graph's nodes, whatever order the file has them in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from predictor.errors import GraphCode, GraphRejected
from predictor.reading.decoded import FileGraph, FileNode


def sorted_nodes(
    graph: FileGraph, *, known: Collection[str], is_known: Callable[[str], bool]
) -> Sequence[FileNode]:
    """Nodes so that each comes after what it reads; the file's own order where that already holds.

    `known`: names that this graph itself defines before its first node; `is_known` of a name: whether it
    or one
    of the graphs around it does. Raises `GraphRejected` (malformed) naming a tensor that two nodes write
    or that nothing writes, or a node on a cycle.
    """
    made = set(known)
    for node in graph.nodes:
        for name in node.input if not node.graphs else _reads(node):
            if name and name not in made and not is_known(name):
                return _reordered(graph.nodes, known, is_known)
        for name in node.output:
            if name:
                if name in made:
                    raise _written_twice(name, node)
                made.add(name)
    return graph.nodes


def _reordered(
    nodes: Sequence[FileNode], known: Collection[str], is_known: Callable[[str], bool]
) -> Sequence[FileNode]:
    producers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name and (name in producers or name in known):
                raise _written_twice(name, node)
            if name:
                producers[name] = index
    needs: list[list[int]] = []
    for node in nodes:
        names = list(_reads(node))
        needs.append([producers[name] for name in names if name in producers])
        for name in names:
            if name not in producers and not is_known(name):
                raise GraphRejected(
                    f"operator {node.label} reads {name!r}, which nothing in the file makes",
                    GraphCode.MALFORMED,
                )
    return [nodes[index] for index in _order(needs, nodes)]


def _written_twice(name: str, node: FileNode) -> GraphRejected:
    return GraphRejected(f"tensor {name!r} is written twice, again by {node.label}", GraphCode.MALFORMED)


def _order(needs: Sequence[Sequence[int]], nodes: Sequence[FileNode]) -> list[int]:
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
            f"the graph has a cycle through operator {nodes[stuck].label}", GraphCode.MALFORMED
        )
    return order


def _on_cycle(stuck: set[int], needs: Sequence[Sequence[int]]) -> int:
    """Walk backwards inside the stuck nodes until one comes again: that one lies on a cycle."""
    index, seen = min(stuck), set[int]()
    while index not in seen:
        seen.add(index)
        index = next(before for before in needs[index] if before in stuck)
    return index


def _reads(node: FileNode) -> Iterator[str]:
    """Names that a node needs: its inputs, and what its nested graphs take from around them."""
    yield from (name for name in node.input if name)
    for _, graph in node.graphs:
        yield from captured_names(graph)


def captured_names(graph: FileGraph) -> set[str]:
    """Names that a nested graph reads and does not define."""
    defined = {name for name, _ in graph.tensors} | set(graph.inputs)
    defined |= {name for name, _ in graph.sparse}
    defined |= {name for node in graph.nodes for name in node.output}
    read = {name for node in graph.nodes for name in _reads(node)} | set(graph.outputs)
    return read - defined
