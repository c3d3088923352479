"""Operators that hold nested graphs: If, Loop and Scan, inlined.

Of an If whose condition is not known, the branch with more multiply-accumulates is taken: an upper bound,
which the graph's notes say. A Loop needs a known trip count, a Scan has one by its shapes; a body is walked
once, and its operators carry `repeats`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from predictor.errors import GraphCode, GraphRejected
from predictor.reading.decoded import FileGraph, FileNode
from predictor.reading.nodes import Attributes, Node, malformed, rejected
from predictor.reading.shapes import Typed
from predictor.reading.slots import Slot
from predictor.reading.values import integers
from predictor.reading.walk import ControlFlow, Scope, Walk, inputs_of

MAX_TRIPS = 1_000_000  # of a Loop: exporters write "until the condition ends it" as a huge count


@dataclass(frozen=True, slots=True)
class _Branch:
    """One walked branch of an If."""

    label: str
    nodes: tuple[Node, ...]
    results: tuple[Slot, ...]
    macs: int
    folded_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Repeated:
    """A walked body: the state that it was given, what it makes, and how often it runs."""

    given: Sequence[Slot]
    results: tuple[Slot, ...]
    trips: int


def walk_if(walk: Walk, node: FileNode, scope: Scope, prefix: str) -> None:
    """Inline the branch that runs. Where either may, take the costlier, with a note."""
    condition = next(iter(inputs_of(node, scope)), None)
    graphs = dict(node.graphs)
    if condition is None or set(graphs) != {"then_branch", "else_branch"}:
        raise malformed(node, "needs a condition and two branches")
    if condition.value is not None and condition.value.size == 1:
        label = "then_branch" if condition.value.item() else "else_branch"
        taken = _branch(walk, node, graphs[label], label=label, scope=scope, prefix=prefix)
    else:
        taken = _costlier(walk, node, graphs, scope=scope, prefix=prefix)
    if condition.role != "constant":
        walk.emit(node, {"taken": taken.label}, inputs=[condition], outputs=[])
    walk.nodes.extend(taken.nodes)
    walk.folded_bytes += taken.folded_bytes
    for note in taken.notes:
        walk.note(note)
    for name, slot in zip(node.output, taken.results, strict=False):
        scope[name] = slot


def walk_loop(walk: Walk, node: FileNode, scope: Scope, prefix: str) -> None:
    """Inputs: trip count, condition, carried values. Outputs: the carried values, then one stacked
    tensor per further result.
    """
    body = _body(node)
    inputs = inputs_of(node, scope)
    carried = [slot for slot in inputs[2:] if slot is not None]
    trips = _trips(walk, node, inputs[:2])
    inner = Scope(scope)
    if len(body.inputs) != len(carried) + 2 or len(body.outputs) < len(carried) + 1:
        raise malformed(node, "has a body that does not take what it is given")
    inner[body.inputs[0]] = walk.slot(("int64", ()), prefix + "iteration")
    inner[body.inputs[1]] = walk.slot(("bool", ()), prefix + "condition")
    for name, slot in zip(body.inputs[2:], carried, strict=True):
        inner[name] = _variable(walk, node, slot, prefix + name)
    with walk.repeated(trips):
        results = walk.graph(body, inner, prefix)
    stacked = [(slot.dtype, (trips, *slot.shape)) for slot in results[len(carried) + 1 :]]
    _bind(walk, node, _Repeated(carried, results[1:], trips), stacked=stacked, scope=scope, prefix=prefix)


def walk_scan(walk: Walk, node: FileNode, scope: Scope, prefix: str) -> None:
    """Inputs: states, then tensors of which each trip takes one slice. Outputs: states, then stacked
    slices.
    """
    body, attributes = _body(node), node.attributes
    if walk.opsets.get("", 0) < 9:
        raise rejected(
            node, "has the form of opset 8, which is not followed; convert the model to opset 9 or later"
        )
    inputs = [slot for slot in inputs_of(node, scope) if slot is not None]
    count = next(iter(_integers(node, attributes, "num_scan_inputs", (0,))), 0)
    states = inputs[: len(inputs) - count]
    scanned = inputs[len(states) :]
    axes = _integers(node, attributes, "scan_input_axes", [0] * len(scanned))
    fits = len(body.inputs) == len(inputs) and len(axes) == len(scanned)
    if not fits or not scanned or any(not slot.shape for slot in scanned):
        raise malformed(node, "has a body that does not take what it is given")
    inner = Scope(scope)
    for name, slot in zip(body.inputs, states, strict=False):
        inner[name] = _variable(walk, node, slot, prefix + name)
    for name, slot, axis in zip(body.inputs[len(states) :], scanned, axes, strict=True):
        at = axis % len(slot.shape)
        shape = (*slot.shape[:at], *slot.shape[at + 1 :])
        inner[name] = walk.slot((slot.dtype, shape), prefix + name)
    trips = scanned[0].shape[axes[0] % len(scanned[0].shape)]
    with walk.repeated(trips):
        results = walk.graph(body, inner, prefix)
    stacked = _stacked(node, results[len(states) :], attributes, trips)
    _bind(walk, node, _Repeated(states, results, trips), stacked=stacked, scope=scope, prefix=prefix)


CONTROL: Mapping[str, ControlFlow] = {"If": walk_if, "Loop": walk_loop, "Scan": walk_scan}


def _costlier(
    walk: Walk, node: FileNode, graphs: Mapping[str, FileGraph], *, scope: Scope, prefix: str
) -> _Branch:
    branches: list[_Branch] = []
    refusals: list[GraphRejected] = []
    for label in ("then_branch", "else_branch"):
        try:
            branches.append(_branch(walk, node, graphs[label], label=label, scope=scope, prefix=prefix))
        except GraphRejected as refusal:
            if (
                refusal.code is not GraphCode.INPUTS_INVALID
            ):  # else: a branch made for other sizes than the ones given
                raise
            refusals.append(refusal)
    if not branches:
        raise refusals[0]
    taken = max(branches, key=lambda branch: (branch.macs, len(branch.nodes)))
    why = "the other does not fit these input sizes" if refusals else "the costlier of the two"
    walk.note(f"{node.label}: which branch runs depends on the data; costed with {taken.label}, {why}")
    return taken


def _branch(
    walk: Walk, node: FileNode, graph: FileGraph, *, label: str, scope: Scope, prefix: str
) -> _Branch:
    """Walk a branch and take what it emitted and noted back out of the walk: the caller picks one."""
    nodes_before, notes_before, folded_before = len(walk.nodes), len(walk.notes), walk.folded_bytes
    try:
        results = walk.graph(graph, Scope(scope), f"{prefix}{label}/")
        nodes = tuple(walk.nodes[nodes_before:])
        notes = tuple(walk.notes[notes_before:])
        folded_bytes = walk.folded_bytes - folded_before
    finally:
        walk.folded_bytes = folded_before
        del walk.nodes[nodes_before:]
        del walk.notes[notes_before:]
    if len(results) < len(node.output):
        raise malformed(node, f"has a {label} with too few outputs")
    return _Branch(label, nodes, results, sum(inner.macs for inner in nodes), folded_bytes, notes)


def _body(node: FileNode) -> FileGraph:
    for name, graph in node.graphs:
        if name == "body":
            return graph
    raise malformed(node, "has no body")


def _trips(walk: Walk, node: FileNode, given: Sequence[Slot | None]) -> int:
    count = given[0] if given else None
    known = None if count is None else count.value
    value = int(known.item()) if known is not None and known.size == 1 and known.dtype.kind in "iu" else None
    if value is None or value > MAX_TRIPS:
        raise rejected(node, "runs until the data says stop; give it a constant trip count")
    if len(given) > 1 and given[1] is not None:
        walk.note(f"{node.label}: may stop early; costed for all of its {value} trips")
    return max(value, 0)


def _integers(node: FileNode, attributes: Attributes, name: str, default: Sequence[int]) -> tuple[int, ...]:
    try:
        return integers(attributes.get(name), default)
    except (ValueError, OverflowError) as error:
        raise malformed(node, f"has no whole numbers as its {name!r}: {error}") from error


def _variable(walk: Walk, node: FileNode, slot: Slot, name: str) -> Slot:
    """A carried value inside the body: it has the shape of what comes in, and another value each trip."""
    if slot.items is not None:
        raise rejected(node, "carries a sequence of tensors, which is not followed")
    return walk.slot((slot.dtype, slot.shape), name)


def _stacked(node: FileNode, results: Sequence[Slot], attributes: Attributes, trips: int) -> list[Typed]:
    axes = _integers(node, attributes, "scan_output_axes", [0] * len(results))
    typed: list[Typed] = []
    for slot, axis in zip(results, axes, strict=False):
        at = axis % (len(slot.shape) + 1)
        typed.append((slot.dtype, (*slot.shape[:at], trips, *slot.shape[at:])))
    return typed


def _bind(
    walk: Walk, node: FileNode, body: _Repeated, *, stacked: Sequence[Typed], scope: Scope, prefix: str
) -> None:
    """Name the outputs, and emit the loop itself, which ties what comes out to what the body made."""
    if any(slot.items is not None for slot in body.results):
        raise rejected(node, "carries a sequence of tensors, which is not followed")
    for before, after in zip(body.given, body.results, strict=False):
        if before.shape != after.shape:
            raise rejected(
                node,
                f"carries a value whose shape changes in one trip, from {list(before.shape)} "
                f"to {list(after.shape)}",
            )
    typed = [*((slot.dtype, slot.shape) for slot in body.given), *stacked]
    if len(typed) < len(node.output):
        raise malformed(node, "has a body with too few outputs")
    outputs: list[Slot] = []
    for name, entry in zip(node.output, typed, strict=False):
        if name:
            scope[name] = walk.slot(entry, prefix + name)
            outputs.append(scope[name])
    walk.emit(node, {"trips": body.trips}, inputs=[*body.given, *body.results], outputs=outputs)
