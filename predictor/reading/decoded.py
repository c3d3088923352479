"""An ONNX graph with each of its fields read once: protobuf makes them anew at every access.

Reading checks what everything behind it relies on: names are text, and there is a bounded number of
everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import AttributeProto

from predictor.errors import GraphCode, GraphRejected
from predictor.graph import AttributeValue

MAX_NODES = 50_000  # nested graphs and expanded functions included
MAX_NESTING = 16
MAX_FIELDS = 1_000_000  # names, attributes and their numbers, and tensors, of all nodes and graphs together
MAX_KIND_LENGTH = 256
MAX_DECLARED = 10_000  # inputs and outputs of one graph, and domains
_MAX_KEY_ITEMS = 64  # of one attribute of a node that is remembered; letters, of texts
_MAX_KEY_BYTES = 64  # of a tensor there


@dataclass(slots=True, eq=False)
class FileNode:
    """One node. Not frozen, as nothing is that is made once per node: that takes three times as long.

    `domain`: "" is ONNX's own, which files also write as ai.onnx. `attributes`: those that are numbers,
    texts, or tuples of them. `key`: kind and attributes, where there are no others and they are short, and
    the tensor that a ConstantOfShape fills with; None elsewhere.
    """

    proto: onnx.NodeProto
    op_type: str
    domain: str
    name: str
    input: Sequence[str]
    output: Sequence[str]
    full_kind: str  # the operator type with its domain where that is not ONNX's own
    attributes: Mapping[str, AttributeValue]
    protos: Sequence[AttributeProto]
    key: tuple[object, ...] | None
    graphs: Sequence[tuple[str, FileGraph]]  # in its attributes, with their names

    @property
    def label(self) -> str:
        """How messages name the node."""
        name = self.name or next((output for output in self.output if output), "")
        return f"{self.full_kind} ({name!r})"


@dataclass(slots=True, eq=False)
class FileGraph:
    """A graph, or one nested in a node: its nodes, its tensors, and the names of its inputs and outputs.
    `cut_bytes`: as `predictor.reading.weights.Weightless` says.
    """

    nodes: Sequence[FileNode]
    tensors: Sequence[tuple[str, onnx.TensorProto]]
    sparse: Sequence[tuple[str, onnx.SparseTensorProto]]
    inputs: Sequence[str]
    outputs: Sequence[str]
    cut_bytes: Mapping[int, int] = field(default_factory=dict)


def decoded(model: onnx.ModelProto, cut_bytes: Mapping[int, int] | None = None) -> FileGraph:
    """The graph of a model. Raises `GraphRejected` for too many nodes or fields, too deep nesting, and names
    that are not text; the model's functions are held to the same.
    """
    decoder = _Decoder()
    check_declared(len(model.opset_import) + len(model.functions))
    check_texts(entry.domain for entry in model.opset_import)
    graph = decoder.graph(model.graph, 0)
    for function in model.functions:
        check_texts((function.domain, function.name, *function.input, *function.output))
        check_texts(entry.domain for entry in function.opset_import)
        decoder.count_nodes(function.node)
        for node in function.node:
            decoder.node(node, 0, inside_function=True)
    graph.cut_bytes = cut_bytes or {}
    return graph


def decoded_node(node: onnx.NodeProto) -> FileNode:
    """A node that is not from the file."""
    return _Decoder().node(node, 0)


def check_declared(count: int) -> None:
    """Raise `GraphRejected` for more inputs, outputs, domains or functions than any model has."""
    if count > MAX_DECLARED:
        raise GraphRejected(
            f"a graph or the model declares {count} inputs, outputs, domains or functions, "
            f"at most {MAX_DECLARED} are allowed",
            GraphCode.TOO_LARGE,
        )


def check_texts(names: Iterable[object]) -> None:
    """protobuf hands out a string field that is no UTF-8 as bytes. Raises `GraphRejected`."""
    for name in names:
        if not isinstance(name, str):
            raise GraphRejected(f"a name in the file is not text: {name!r}", GraphCode.MALFORMED)


def attribute_value(attribute: AttributeProto) -> AttributeValue | None:
    """An attribute as plain data; None for tensors and graphs, which are not part of an operator's
    description.
    """
    code = attribute.type
    if code in _LISTS:
        return _read_items(code, getattr(attribute, _LISTS[code]))
    return _READ[code](attribute) if code in _READ else None


def subgraphs_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs nested in a node's attributes."""
    nested: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            nested.append(attribute.g)
        nested.extend(attribute.graphs)
    return nested


def too_many(count: int) -> GraphRejected:
    """The refusal of more nodes than are read."""
    return GraphRejected(
        f"the model has {count} nodes or more, at most {MAX_NODES} are allowed", GraphCode.TOO_LARGE
    )


class _Decoder:
    """Reads nodes and graphs, and counts what it reads."""

    def __init__(self) -> None:
        self._nodes = 0
        self._fields = 0

    def count_nodes(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Refuse before looking at them."""
        self._nodes += len(nodes)
        if self._nodes > MAX_NODES:
            raise too_many(self._nodes)

    def graph(self, graph: onnx.GraphProto, depth: int, *, inside_function: bool = False) -> FileGraph:
        if depth > MAX_NESTING:
            raise GraphRejected(
                f"graphs are nested {depth} deep, at most {MAX_NESTING} are allowed", GraphCode.TOO_LARGE
            )
        self.count_nodes(graph.node)
        self._count(len(graph.initializer) + len(graph.sparse_initializer))
        check_declared(len(graph.input) + len(graph.output))
        tensors = [(tensor.name, tensor) for tensor in graph.initializer]
        sparse = [(entry.values.name, entry) for entry in graph.sparse_initializer]
        inputs = [declared.name for declared in graph.input]
        outputs = [declared.name for declared in graph.output]
        check_texts(name for name, _ in tensors)
        check_texts(name for name, _ in sparse)
        check_texts((*inputs, *outputs))
        nodes = [self.node(node, depth, inside_function=inside_function) for node in graph.node]
        return FileGraph(nodes, tensors, sparse, inputs, outputs)

    def node(self, node: onnx.NodeProto, depth: int, *, inside_function: bool = False) -> FileNode:
        op_type, domain, name = node.op_type, node.domain, node.name
        inputs, outputs, protos = node.input[:], node.output[:], node.attribute[:]
        try:
            "".join((op_type, domain, name, *inputs, *outputs))  # the fastest way to see that all are texts
        except TypeError:
            check_texts((op_type, domain, name, *inputs, *outputs))
        self._count(len(inputs) + len(outputs) + len(protos))
        if domain == "ai.onnx":
            domain = ""
        if "/" in op_type or len(op_type) + len(domain) > MAX_KIND_LENGTH:
            # With a stroke it could pass for one of another domain; long ones would fill the memories.
            raise GraphRejected(
                f"{op_type[:MAX_KIND_LENGTH]!r} of domain {domain[:MAX_KIND_LENGTH]!r} cannot be an "
                f"operator: a name has no strokes, and with its domain at most {MAX_KIND_LENGTH} letters",
                GraphCode.MALFORMED,
            )
        full_kind = f"{domain}/{op_type}" if domain else op_type
        file_node = FileNode(
            node, op_type, domain, name, inputs, outputs, full_kind, _NONE, protos, (op_type, domain), ()
        )
        if protos:
            self._read_attributes(file_node, depth, inside_function)
        return file_node

    def _read_attributes(self, node: FileNode, depth: int, inside_function: bool) -> None:
        attributes: dict[str, AttributeValue] = {}
        key: list[object] = [node.op_type, node.domain]
        graphs: list[tuple[str, FileGraph]] = []
        for attribute in node.protos:
            called, code = attribute.name, attribute.type
            if type(called) is not str:
                check_texts((called,))
            if attribute.ref_attr_name and not inside_function:
                raise GraphRejected(
                    f"attribute {called!r} of operator {node.label} takes its value from a function, "
                    "and stands in none",
                    GraphCode.MALFORMED,
                )
            value: AttributeValue | None = None
            if (list_name := _LISTS.get(code)) is not None:
                items = getattr(attribute, list_name)
                self._count(len(items))
                value = _read_items(code, items)
            elif (reader := _READ.get(code)) is not None:
                value = reader(attribute)
            if value is not None:
                attributes[called] = value
                key += (called, code, value)
                continue  # graphs beside a number are nobody's
            if code == _TENSOR and node.full_kind == _FILLS and attribute.t.ByteSize() <= _MAX_KEY_BYTES:
                key += (called, code, attribute.t.SerializeToString())
            nested = [attribute.g] if code == _GRAPH else []
            if attribute.graphs:
                self._count(len(attribute.graphs))
                nested += attribute.graphs
            for graph in nested:
                read_graph = self.graph(graph, depth + 1, inside_function=inside_function)
                graphs.append((called, read_graph))
        count = len(node.protos)
        is_plain = 3 * count + 2 == len(key) and (count == 1 or len(attributes) == count)
        node.attributes, node.graphs = attributes, graphs
        node.key = tuple(key) if is_plain and _is_short(attributes) else None

    def _count(self, fields: int) -> None:
        self._fields += fields
        if self._fields > MAX_FIELDS:
            raise GraphRejected(
                f"the model names {self._fields} tensors and attributes or more, "
                f"at most {MAX_FIELDS} are allowed",
                GraphCode.TOO_LARGE,
            )


def _read_items(code: int, items: Sequence[Any]) -> AttributeValue:
    if code == _STRINGS:
        return tuple([item.decode("utf-8", "replace") for item in items])
    return tuple(items[:])


def _is_short(attributes: Mapping[str, AttributeValue]) -> bool:
    for name, value in attributes.items():
        if len(name) > _MAX_KEY_ITEMS:
            return False
        if isinstance(value, (str, tuple)):
            if len(value) > _MAX_KEY_ITEMS:
                return False
            if value and type(value[0]) is str and len("".join(map(str, value))) > _MAX_KEY_ITEMS:
                return False
    return True


# protobuf takes long to look a name up
_GRAPH, _TENSOR, _STRINGS = AttributeProto.GRAPH, AttributeProto.TENSOR, AttributeProto.STRINGS
_FILLS = "ConstantOfShape"  # with the only number of a tensor
_NONE: Mapping[str, AttributeValue] = {}
_LISTS: Mapping[int, str] = {
    AttributeProto.INTS: "ints",
    AttributeProto.FLOATS: "floats",
    AttributeProto.STRINGS: "strings",
}
_READ: Mapping[int, Callable[[AttributeProto], AttributeValue]] = {
    AttributeProto.INT: lambda attribute: attribute.i,
    AttributeProto.FLOAT: lambda attribute: attribute.f,
    AttributeProto.STRING: lambda attribute: attribute.s.decode("utf-8", "replace"),
}
