"""The walk over an ONNX graph: every node once, in topological order, with the shape and the role of every
tensor.

Small values are followed along (`predictor.reading.values`), so sizes that a model computes are known at any
depth of nested graphs. What rests on constants alone is not emitted: a runtime computes it once, at load.
Two exceptions follow ONNX Runtime: DequantizeLinear is kept, because runtimes fuse it into the quantised
kernel behind it, and random generators are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx

from predictor.costs import traffic_of
from predictor.errors import GraphCode, GraphRejected
from predictor.graph import Role
from predictor.kinds import DEQUANTISES, KINDS
from predictor.reading.decoded import FileGraph, FileNode
from predictor.reading.nodes import (
    Attributes,
    Node,
    Outcome,
    malformed,
    plain_constant,
    rejected,
)
from predictor.reading.order import sorted_nodes
from predictor.reading.outcomes import outcome_of
from predictor.reading.sequences import SEQUENCE_KINDS, concatenated, followed, split_shapes
from predictor.reading.shapes import Typed
from predictor.reading.slots import (
    MAX_RANK,
    WITHIN_BOUNDS,
    Slot,
    checked_shape,
    dtype_of,
    refuse_external,
    stored_tensor,
)
from predictor.reading.values import Array

MAX_NOTES = 50
MAX_HELD_ITEMS = 1_000_000


class Scope(dict[str, Slot]):
    """The tensors of a graph by name; those of the graphs around it are found through it."""

    def __init__(self, outer: Scope | None = None) -> None:
        super().__init__()
        self._outer = outer

    def __missing__(self, name: str) -> Slot:
        if self._outer is None:
            raise KeyError(name)
        return self._outer[name]

    def knows(self, name: str) -> bool:
        """Whether the name is one of this graph or of those around it."""
        return name in self or (self._outer is not None and self._outer.knows(name))


ControlFlow = Callable[["Walk", FileNode, Scope, str], None]  # walk, node, scope, prefix for names inside

_NEVER_FOLDED = DEQUANTISES | {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


_PACKED = frozenset(("int8", "uint8", "int4", "uint4"))
_MOST_FOLDED_BYTES = 1 << 46  # in loops that a file may claim
_FEWEST_FOLDED = 4096  # elements of a constant that count: of fewer, it is a scale, a table or a shape


@dataclass(slots=True)
class Walk:
    """The state of one walk.

    `has_fixed_inputs`: the file itself fixes all sizes, so a runtime knows every Shape when it loads the
    model. `control`: what to do with the kinds that hold nested graphs.
    """

    opsets: Mapping[str, int]
    ir_version: int
    has_fixed_inputs: bool
    control: Mapping[str, ControlFlow]
    nodes: list[Node] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unpacked: set[str] = field(default_factory=set)  # as `predictor.graph.ModelGraph` says
    folded_bytes: int = 0  # likewise
    _names: dict[str, int] = field(default_factory=dict)  # and the last number added to each
    _repeats: int = 1  # of the graph being walked
    _held: int = 0  # tensors in sequences, at each step of one that grows
    _special: frozenset[str] = frozenset()  # kinds that are not just typed and emitted

    def __post_init__(self) -> None:
        self._special = SEQUENCE_KINDS | {"SplitToSequence", "Constant", *self.control}

    def graph(self, graph: FileGraph, scope: Scope, prefix: str = "") -> tuple[Slot, ...]:
        """Walk a graph whose inputs are in `scope`; its outputs, in their order. Raises `GraphRejected`."""
        # Before IR version 4 every initializer had to be listed as an input, which said nothing about
        # replacing it.
        listed = set(graph.inputs) if self.ir_version >= 4 else set[str]()
        for place, (name, tensor) in enumerate(graph.tensors):
            role: Role = "overridable" if name in listed else "constant"
            dtype, shape, value = stored_tensor(tensor, prefix + name, graph.cut_bytes.get(place, 0))
            scope[name] = self._checked(dtype, shape, prefix + name, role, value)
        for name, sparse in graph.sparse:
            scope[name] = self._sparse(sparse, prefix + name)
        for index, node in enumerate(sorted_nodes(graph, known=scope, is_known=scope.knows)):
            self._node(node, scope, prefix, index)
        for name in graph.outputs:
            if not scope.knows(name):
                raise GraphRejected(f"output {name!r} is made by nothing in the file", GraphCode.MALFORMED)
        return tuple(scope[name] for name in graph.outputs)

    def slot(self, typed: Typed, name: str, role: Role = "activation", value: Array | None = None) -> Slot:
        """A new tensor, under a name that nothing else in the model has. Raises `GraphRejected` if it is
        out of bounds.
        """
        dtype, shape = typed
        if typed not in WITHIN_BOUNDS:
            shape = checked_shape(shape, dtype, f"tensor {name!r}")
        return self._checked(dtype, shape, name, role, value)

    def _checked(
        self, dtype: str, shape: tuple[int, ...], name: str, role: Role, value: Array | None
    ) -> Slot:
        names = self._names
        if name not in names:
            names[name] = 1
            return Slot(name, dtype, shape, role, value)
        unique = name
        while unique in names:
            names[name] += 1  # goes on where the last search for this name ended
            unique = f"{name}#{names[name]}"
        names[unique] = 1
        return Slot(unique, dtype, shape, role, value)

    def emit(
        self,
        node: FileNode,
        attributes: Attributes,
        *,
        inputs: Sequence[Slot | None],
        outputs: Sequence[Slot | None],
        kind: str | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        """Append an operator that runs; `outcome`: what it was found to make of its inputs, if it is emitted
        as it stands in the file. Raises `GraphRejected` for a kind without a known cost.
        """
        full_kind = node.full_kind
        if kind is None or kind == node.op_type:
            kind = node.op_type
        else:
            full_kind = f"{node.domain}/{kind}" if node.domain else kind
        if full_kind not in KINDS:
            raise rejected(node, "has no known cost; replace or remove it")
        name = node.name or next((slot.name for slot in outputs if slot is not None), kind)
        self.nodes.append(
            Node(
                name,
                kind,
                node.domain,
                full_kind,
                attributes,
                outcome,
                tuple(inputs),
                tuple(outputs),
                self._repeats,
            )
        )

    def note(self, note: str) -> None:
        """Tell the user something, once."""
        if len(self.notes) < MAX_NOTES and note not in self.notes:
            self.notes.append(note)

    @contextmanager
    def repeated(self, trips: int) -> Iterator[None]:
        """What is emitted inside runs `trips` times."""
        outer = self._repeats
        self._repeats = outer * trips
        try:
            yield
        finally:
            self._repeats = outer

    def _node(self, node: FileNode, scope: Scope, prefix: str, index: int) -> None:
        kind = node.full_kind
        if kind not in self._special:
            self._plain(node, scope, prefix)
        elif kind == "Constant":
            self._constant(node, scope, prefix)
        elif kind in self.control:
            self.control[kind](self, node, scope, f"{prefix}{node.name or f'{kind}_{index}'}/")
        else:
            self._sequence(node, scope, prefix)

    def _sparse(self, sparse: onnx.SparseTensorProto, name: str) -> Slot:
        refuse_external(sparse.values, name)
        refuse_external(sparse.indices, name)
        dtype = dtype_of(sparse.values.data_type, f"tensor {name!r}")
        return self.slot((dtype, tuple(sparse.dims[: MAX_RANK + 1])), name, "constant")

    def _constant(self, node: FileNode, scope: Scope, prefix: str) -> None:
        """A Constant node is a stored tensor in another place."""
        if len(node.protos) != 1 or len(node.output) != 1:
            raise malformed(node, "must have one value and one output")
        attribute, name = node.protos[0], prefix + node.output[0]
        if attribute.type == onnx.AttributeProto.TENSOR:
            dtype, shape, value = stored_tensor(attribute.t, name)
            slot = self._checked(dtype, shape, name, "constant", value)
        elif attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            slot = self._sparse(attribute.sparse_tensor, name)
        else:
            typed, value = plain_constant(node, attribute)
            slot = self.slot(typed, name, "constant", value)
        scope[node.output[0]] = slot

    def _plain(self, node: FileNode, scope: Scope, prefix: str) -> None:
        """A node without nested graphs: type its outputs, follow their values, and emit it unless it can
        be folded.
        """
        inputs = inputs_of(node, scope)
        is_known, is_constant = bool(inputs), True
        for slot in inputs:
            if slot is not None:
                if slot.items is not None:
                    raise rejected(node, "takes a sequence of tensors, which is not followed here")
                if slot.value is None:
                    is_known = False
                if slot.role != "constant":
                    is_constant = False
        outcome = outcome_of(node, inputs, self.opsets, is_known=is_known)
        typed, values = outcome.typed, outcome.values
        if outcome.is_bound:
            largest = f"costed for the largest, {list(typed[0][1])}"
            self.note(f"{node.label}: the size of its output depends on the data; {largest}")
        role: Role = "constant" if self._is_folded(node.full_kind, is_constant) else "activation"
        outputs: list[Slot | None] = []
        for index, name in enumerate(node.output):
            # Inference leaves out some extra outputs: an error only if somebody reads them.
            if not name or index >= len(typed):
                outputs.append(None)
                continue
            value = values[index] if values is not None else None
            scope[name] = made = self.slot(typed[index], prefix + name, role, value)
            outputs.append(made)
        if role == "activation":
            self.emit(node, node.attributes, inputs=inputs, outputs=outputs, outcome=outcome)
        else:
            self._fold(node, inputs, outputs)

    def _fold(self, node: FileNode, inputs: Sequence[Slot | None], outputs: Sequence[Slot | None]) -> None:
        """What is remembered of a node that makes constants."""
        made = [slot for slot in outputs if slot is not None]
        if max([math.prod(slot.shape) for slot in made], default=0) < _FEWEST_FOLDED:
            return
        read = [slot for slot in inputs if slot is not None]
        if (kind := KINDS.get(node.full_kind)) is not None:
            moved = traffic_of(
                kind, inputs=[slot.info for slot in read], outputs=[slot.info for slot in made]
            )
            self.folded_bytes = min(self.folded_bytes + sum(moved) * self._repeats, _MOST_FOLDED_BYTES)
        if node.op_type == "Cast" and read[0].dtype in _PACKED:
            self.unpacked.add(made[0].name)
        elif not self.unpacked.isdisjoint([slot.name for slot in read]):
            self.unpacked.update([slot.name for slot in made])

    def _is_folded(self, kind: str, is_constant: bool) -> bool:
        """`is_constant`: whether all that the operator reads is."""
        if kind in _NEVER_FOLDED:
            return False
        return is_constant or (self.has_fixed_inputs and kind in ("Shape", "Size"))

    def _sequence(self, node: FileNode, scope: Scope, prefix: str) -> None:
        inputs = inputs_of(node, scope)
        attributes, name = node.attributes, next(iter(node.output), "")
        try:
            if node.op_type == "SplitToSequence":
                scope[name] = self._split(node, inputs, attributes, prefix + name)
            elif node.op_type == "ConcatFromSequence":
                items, shape = concatenated(_first(inputs), attributes)
                scope[name] = self.slot((items[0].dtype, shape), prefix + name)
                self.emit(node, attributes, inputs=items, outputs=[scope[name]], kind="Concat")
            else:
                scope[name] = sequence = followed(node.op_type, inputs, prefix + name)
                self._hold(node, len(sequence.items or ()))
        except (ValueError, IndexError, ArithmeticError) as error:
            raise rejected(node, str(error)) from error

    def _hold(self, node: FileNode, items: int) -> None:
        self._held += items
        if self._held > MAX_HELD_ITEMS:
            raise rejected(
                node, f"makes sequences hold over {MAX_HELD_ITEMS} tensors, which are not followed"
            )

    def _split(
        self, node: FileNode, inputs: Sequence[Slot | None], attributes: Attributes, name: str
    ) -> Slot:
        whole = _first(inputs)
        shapes = split_shapes(whole, inputs[1] if len(inputs) > 1 else None, attributes)
        items = tuple(self.slot((whole.dtype, shape), f"{name}/{i}") for i, shape in enumerate(shapes))
        self.emit(node, attributes, inputs=[whole], outputs=items, kind="Split")
        return Slot(name=name, dtype=whole.dtype, shape=(), items=items)


def inputs_of(node: FileNode, scope: Scope) -> list[Slot | None]:
    """The tensors that a node reads; None for an omitted one. Raises `GraphRejected` for one whose size
    is unknown.
    """
    try:
        return [scope[name] if name else None for name in node.input]
    except KeyError as missing:
        raise rejected(node, f"reads {missing.args[0]!r}, whose size is not known") from None


def _first(inputs: Sequence[Slot | None]) -> Slot:
    slot = inputs[0] if inputs else None
    if slot is None:
        raise ValueError("its first input is missing")
    return slot
