"""The walk over an ONNX graph: every node once, in topological order, with the shape and the role of every
tensor.

Small values are followed along (`predictor.onnx_values`), so sizes that a model computes are known at any
depth of nested graphs. What rests on constants alone is not emitted: a runtime computes it once, at load.
Two exceptions follow ONNX Runtime: DequantizeLinear is kept, because runtimes fuse it into the quantised
kernel behind it, and random generators are kept.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx

from predictor.errors import GraphCode, GraphRejected
from predictor.graph import Role
from predictor.kinds import DEQUANTISES, KINDS
from predictor.onnx_nodes import (
    Attributes,
    Node,
    attributes_of,
    known_outputs,
    made,
    malformed,
    plain_constant,
    rejected,
)
from predictor.onnx_order import full_kind_of, label_of, sorted_nodes
from predictor.onnx_sequences import SEQUENCE_KINDS, concatenated, followed, split_shapes
from predictor.onnx_shapes import Typed
from predictor.onnx_slots import Slot, checked_shape, dtype_of, slot_of_tensor
from predictor.onnx_typing import output_types
from predictor.onnx_values import Array

MAX_NOTES = 50

Scope = ChainMap[str, Slot]
ControlFlow = Callable[
    ["Walk", onnx.NodeProto, Scope, str], None
]  # walk, node, scope, prefix for names inside

_NEVER_FOLDED = DEQUANTISES | {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


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
    _names: dict[str, int] = field(default_factory=dict)  # and the last number added to each
    _repeats: int = 1  # of the graph being walked

    def graph(self, graph: onnx.GraphProto, scope: Scope, prefix: str = "") -> tuple[Slot, ...]:
        """Walk a graph whose inputs are in `scope`; its outputs, in their order. Raises `GraphRejected`."""
        # Before IR version 4 every initializer had to be listed as an input, which said nothing about
        # replacing it.
        listed = {declared.name for declared in graph.input} if self.ir_version >= 4 else set[str]()
        for tensor in graph.initializer:
            role: Role = "overridable" if tensor.name in listed else "constant"
            stored = slot_of_tensor(tensor, prefix + tensor.name, role)
            scope[tensor.name] = self.slot((stored.dtype, stored.shape), stored.name, role, stored.value)
        for sparse in graph.sparse_initializer:
            scope[sparse.values.name] = self._sparse(sparse, prefix + sparse.values.name)
        for index, node in enumerate(sorted_nodes(graph, known=scope.maps[0], outer=scope)):
            self._node(node, scope, prefix, index)
        for declared in graph.output:
            if declared.name not in scope:
                raise GraphRejected(
                    f"output {declared.name!r} is made by nothing in the file", GraphCode.MALFORMED
                )
        return tuple(scope[declared.name] for declared in graph.output)

    def slot(self, typed: Typed, name: str, role: Role = "activation", value: Array | None = None) -> Slot:
        """A new tensor, under a name that nothing else in the model has. Raises `GraphRejected` if it is
        out of bounds.
        """
        dtype, shape = typed
        unique = name
        while unique in self._names:
            self._names[name] += 1  # goes on where the last search for this name ended
            unique = f"{name}#{self._names[name]}"
        self._names[unique] = 1
        checked = checked_shape(shape, dtype, f"tensor {name!r}")
        return Slot(name=unique, dtype=dtype, shape=checked, role=role, value=value)

    def emit(
        self,
        node: onnx.NodeProto,
        attributes: Attributes,
        *,
        inputs: Sequence[Slot | None],
        outputs: Sequence[Slot | None],
        kind: str | None = None,
    ) -> None:
        """Append an operator that runs. Raises `GraphRejected` for a kind without a known cost."""
        if kind is None and full_kind_of(node) not in KINDS:
            raise rejected(node, "has no known cost; replace or remove it")
        self.nodes.append(
            made(
                node, kind or node.op_type, attributes, inputs=inputs, outputs=outputs, repeats=self._repeats
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

    def _node(self, node: onnx.NodeProto, scope: Scope, prefix: str, index: int) -> None:
        kind = full_kind_of(node)
        if kind == "Constant":
            self._constant(node, scope, prefix)
        elif kind in self.control:
            self.control[kind](self, node, scope, f"{prefix}{node.name or f'{kind}_{index}'}/")
        elif kind in SEQUENCE_KINDS or kind == "SplitToSequence":
            self._sequence(node, scope, prefix)
        else:
            self._plain(node, scope, prefix)

    def _sparse(self, sparse: onnx.SparseTensorProto, name: str) -> Slot:
        dtype = dtype_of(sparse.values.data_type, f"tensor {name!r}")
        return self.slot((dtype, tuple(sparse.dims)), name, "constant")

    def _constant(self, node: onnx.NodeProto, scope: Scope, prefix: str) -> None:
        """A Constant node is a stored tensor in another place."""
        if len(node.attribute) != 1 or len(node.output) != 1:
            raise malformed(node, "must have one value and one output")
        attribute, name = node.attribute[0], prefix + node.output[0]
        if attribute.type == onnx.AttributeProto.TENSOR:
            stored = slot_of_tensor(attribute.t, name, "constant")
            slot = self.slot((stored.dtype, stored.shape), name, "constant", stored.value)
        elif attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            slot = self._sparse(attribute.sparse_tensor, name)
        else:
            typed, value = plain_constant(node, attribute)
            slot = self.slot(typed, name, "constant", value)
        scope[node.output[0]] = slot

    def _plain(self, node: onnx.NodeProto, scope: Scope, prefix: str) -> None:
        """A node without nested graphs: type its outputs, follow their values, and emit it unless it can
        be folded.
        """
        inputs = inputs_of(node, scope)
        if any(slot is not None and slot.items is not None for slot in inputs):
            raise rejected(node, "takes a sequence of tensors, which is not followed here")
        attributes = attributes_of(node)
        values = known_outputs(node, inputs, attributes)
        if values is not None:
            typed: Sequence[Typed] = [(str(value.dtype), value.shape) for value in values]
        else:
            types = output_types(node, inputs, attributes, self.opsets)
            typed = types.typed
            if types.is_bound:
                largest = f"costed for the largest, {list(typed[0][1])}"
                self.note(f"{label_of(node)}: the size of its output depends on the data; {largest}")
        role: Role = "constant" if self._is_folded(node, inputs) else "activation"
        outputs: list[Slot | None] = []
        for index, name in enumerate(node.output):
            # Inference leaves out some extra outputs: an error only if somebody reads them.
            if not name or index >= len(typed):
                outputs.append(None)
                continue
            value = values[index] if values is not None else None
            scope[name] = self.slot(typed[index], prefix + name, role, value)
            outputs.append(scope[name])
        if role == "activation":
            self.emit(node, attributes, inputs=inputs, outputs=outputs)

    def _is_folded(self, node: onnx.NodeProto, inputs: Sequence[Slot | None]) -> bool:
        kind = full_kind_of(node)
        if kind in _NEVER_FOLDED:
            return False
        if kind in ("Shape", "Size") and self.has_fixed_inputs:
            return True
        return all(slot is None or slot.role == "constant" for slot in inputs)

    def _sequence(self, node: onnx.NodeProto, scope: Scope, prefix: str) -> None:
        inputs = inputs_of(node, scope)
        attributes, name = attributes_of(node), next(iter(node.output), "")
        try:
            if node.op_type == "SplitToSequence":
                scope[name] = self._split(node, inputs, attributes, prefix + name)
            elif node.op_type == "ConcatFromSequence":
                items, shape = concatenated(_first(inputs), attributes)
                scope[name] = self.slot((items[0].dtype, shape), prefix + name)
                self.emit(node, attributes, inputs=items, outputs=[scope[name]], kind="Concat")
            else:
                scope[name] = followed(node.op_type, inputs, prefix + name)
        except (ValueError, IndexError, ArithmeticError) as error:
            raise rejected(node, str(error)) from error

    def _split(
        self, node: onnx.NodeProto, inputs: Sequence[Slot | None], attributes: Attributes, name: str
    ) -> Slot:
        whole = _first(inputs)
        shapes = split_shapes(whole, inputs[1] if len(inputs) > 1 else None, attributes)
        items = tuple(self.slot((whole.dtype, shape), f"{name}/{i}") for i, shape in enumerate(shapes))
        self.emit(node, attributes, inputs=[whole], outputs=items, kind="Split")
        return Slot(name=name, dtype=whole.dtype, shape=(), items=items)


def inputs_of(node: onnx.NodeProto, scope: Scope) -> list[Slot | None]:
    """The tensors that a node reads; None for an omitted one. Raises `GraphRejected` for one whose size
    is unknown.
    """
    for name in node.input:
        if name and name not in scope:
            raise rejected(node, f"reads {name!r}, whose size is not known")
    return [scope[name] if name else None for name in node.input]


def _first(inputs: Sequence[Slot | None]) -> Slot:
    slot = inputs[0] if inputs else None
    if slot is None:
        raise ValueError("its first input is missing")
    return slot
