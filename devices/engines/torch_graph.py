"""An ONNX graph as a list of PyTorch calls.

The graph is walked once with example inputs, in which everything that does not depend on the model's inputs,
or on their sizes alone, is computed for good: weights that are made or turned, arithmetic on shapes, branches
whose condition is known. What is left is what the author of the model would have written in PyTorch.

In half precision float32 weights and inputs are converted, as `model.half()` does, and what the graph casts
to float32 becomes half too. What a model is given and gives stays float32: the conversions at both ends are
steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from devices.engines import torch_elementwise, torch_layers, torch_recurrent, torch_shapes
from devices.engines.torch_node import Builder, Function, Node
from devices.errors import FailureCode, ModelRejected

OPERATORS: Mapping[str, Builder] = {
    **torch_elementwise.OPERATORS,
    **torch_layers.OPERATORS,
    **torch_recurrent.OPERATORS,
    **torch_shapes.OPERATORS,
}
STANDARD_DOMAINS = ("", "ai.onnx")
_FLOAT = onnx.TensorProto.FLOAT
_NUMBERS = {
    torch.float32: _FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.bfloat16: onnx.TensorProto.BFLOAT16,
}
_SIZING = frozenset(
    ("Resize", "Upsample")
)  # their constants are scales of sizes, not numbers to compute with


@dataclass(frozen=True, slots=True)
class Step:
    """One call. Numbers are places in the list of values; `released`: those that no later step reads."""

    name: str
    kind: str
    function: Function
    arguments: tuple[int | None, ...]
    results: tuple[int, ...]
    released: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """`constants` holds a value for each place that is known before the first run."""

    steps: Sequence[Step]
    constants: Sequence[Tensor | None]
    inputs: Sequence[int]
    outputs: Sequence[int]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run: the outputs in the model's order."""
        values = list(self.constants)
        for place, value in zip(self.inputs, inputs, strict=True):
            values[place] = value
        for step in self.steps:
            perform(step, values)
        return [_known(values[place]) for place in self.outputs]


def perform(step: Step, values: list[Tensor | None]) -> None:
    """One step on the list of values."""
    found = step.function(*[None if place is None else values[place] for place in step.arguments])
    if isinstance(found, tuple):
        for place, value in zip(step.results, found, strict=False):
            values[place] = value
    else:
        values[step.results[0]] = found
    for place in step.released:
        values[place] = None


def read_program(
    model: bytes, inputs: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype = torch.float32
) -> Program:
    """The program of a model for inputs of these sizes and types. `dtype`: what it computes in that is
    float32 in the file; also float16 and bfloat16.

    Raises `ModelRejected`: model_invalid, or operator_unsupported naming the operator.
    """
    try:
        graph = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's errors share no base class but Exception
        raise ModelRejected(f"the file is no ONNX model: {error}", FailureCode.MODEL_INVALID) from error
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    walk = _Walk(
        opset=opsets.get("", opsets.get("ai.onnx", 1)),
        device=device,
        dtype=dtype,
        unread=_readers(graph.graph),
    )
    given = [walk.take(name, value) for name, value in inputs.items()]
    walk.read(graph.graph)
    outputs = [walk.give(output) for output in graph.graph.output]
    used = _needed(walk.steps, outputs)
    constants = [value if walk.is_constant[place] else None for place, value in enumerate(walk.values)]
    return Program(_with_releases(used, outputs, walk.is_constant), constants, given, outputs)


@dataclass(slots=True)
class _Walk:
    """The state of one walk through a graph and the branches that it takes."""

    opset: int
    device: torch.device
    dtype: torch.dtype
    values: list[Tensor | None] = field(default_factory=list)
    is_constant: list[bool] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)  # how often each name is still to be read
    converted: dict[int, int] = field(
        default_factory=dict
    )  # from constants to what they are in half precision

    def take(self, name: str, value: Tensor) -> int:
        """The place of an input; what reads it may find it converted elsewhere."""
        place = self.place(value.to(self.device), is_constant=False)
        self.places[name] = self._cast(name, place, self.dtype) if value.dtype is torch.float32 else place
        return place

    def give(self, output: onnx.ValueInfoProto) -> int:
        """The place of an output, in the type that the model declares."""
        place, value = self.places[output.name], self.values[self.places[output.name]]
        is_float32 = output.type.tensor_type.elem_type == _FLOAT
        is_half = value is not None and value.dtype in (torch.float16, torch.bfloat16)
        return self._cast(output.name, place, torch.float32) if is_float32 and is_half else place

    def _cast(self, name: str, place: int, dtype: torch.dtype) -> int:
        """The place of a value in another type, a step of every run."""
        value = _known(self.values[place])
        if value.dtype is dtype:
            return place
        cast = self.place(value.to(dtype), is_constant=False)
        self.steps.append(Step(name, "Cast", partial(_to, dtype=dtype), (place,), (cast,)))
        return cast

    def place(self, value: Tensor, *, is_constant: bool) -> int:
        self.values.append(value)
        self.is_constant.append(is_constant)
        return len(self.values) - 1

    def read(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            self.places[tensor.name] = self.place(_tensor(tensor, self.device), is_constant=True)
        if graph.sparse_initializer:
            raise ModelRejected(
                "PyTorch does not run sparse weights; export the model with dense ones",
                FailureCode.OPERATOR_UNSUPPORTED,
            )
        for node in graph.node:
            self._visit(node)

    def _visit(self, node: onnx.NodeProto) -> None:
        kind = node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}:{node.op_type}"
        keeps = kind in _SIZING
        places = [self._read(self.places[name], keeps=keeps) if name else None for name in node.input]
        known = [place is None or self.is_constant[place] for place in places]
        seen = Node(
            kind=kind,
            name=node.name,
            opset=self.opset,
            attributes=self._attributes(node, is_constant=all(known)),
            examples=[None if place is None else self.values[place] for place in places],
            is_constant=known,
            output_count=sum(1 for name in node.output if name),
        )
        if kind == "If":
            self._take_branch(node, seen)
        elif (fixed := _fixed_by_sizes(seen)) is not None:
            self.places[node.output[0]] = self.place(fixed.to(self.device), is_constant=True)
        else:
            self._call(node, seen, places)
        self._release(node)

    def _read(self, place: int, *, keeps: bool) -> int:
        """Where a node reads a value: a float32 constant is converted, once, unless it `keeps`."""
        value = self.values[place]
        if keeps or self.dtype is torch.float32 or not self.is_constant[place]:
            return place
        if value is None or value.dtype is not torch.float32:
            return place
        if place not in self.converted:
            self.converted[place] = self.place(value.to(self.dtype), is_constant=True)
        return self.converted[place]

    def _attributes(self, node: onnx.NodeProto, *, is_constant: bool) -> dict[str, object]:
        found = {entry.name: _attribute(entry, self.device) for entry in node.attribute}
        if not is_constant and node.op_type == "Cast" and found.get("to") == _FLOAT:
            found["to"] = _NUMBERS[self.dtype]
        return found

    def _release(self, node: onnx.NodeProto) -> None:
        """Examples that nobody will look at any more; outputs count as read for ever."""
        self.unread.subtract(node.input)
        for name in (*node.input, *node.output):
            place = self.places.get(name)
            if place is not None and not self.is_constant[place] and self.unread[name] < 1:
                self.values[place] = None

    def _take_branch(self, node: onnx.NodeProto, seen: Node) -> None:
        condition = seen.constant(0)
        name = "then_branch" if condition is not None and bool(condition.reshape(-1)[0]) else "else_branch"
        branch = next(entry.g for entry in node.attribute if entry.name == name)
        self.read(branch)
        for outer, inner in zip(node.output, branch.output, strict=True):
            self.places[outer] = self.places[inner.name]

    def _call(self, node: onnx.NodeProto, seen: Node, places: Sequence[int | None]) -> None:
        builder = OPERATORS.get(seen.kind)
        if builder is None:
            raise seen.refusal("there is no such operator here")
        try:
            function = builder(seen)
            found = function(*seen.examples)
        except ModelRejected:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            raise seen.refusal(" ".join(str(error).split())) from error
        is_constant = all(seen.is_constant)
        results = tuple(
            self.place(value, is_constant=is_constant)
            for value in (found if isinstance(found, tuple) else (found,))
        )
        for name, place in zip(node.output, results, strict=False):
            self.places[name] = place
        if not is_constant:
            self.steps.append(Step(node.name or node.output[0], seen.kind, function, tuple(places), results))


def _readers(graph: onnx.GraphProto) -> Counter[str]:
    """How often each name is read, in branches too; a name that two branches use is kept too long at most."""
    found = Counter(name for node in graph.node for name in node.input)
    found.update(output.name for output in graph.output)
    for node in graph.node:
        for entry in node.attribute:
            if entry.type == onnx.AttributeProto.GRAPH:
                found.update(_readers(entry.g))
    return found


def _fixed_by_sizes(node: Node) -> Tensor | None:
    """The value of a node that depends on nothing, or on the sizes of its input alone."""
    if node.kind == "Constant":
        return _constant(node)
    if node.kind == "Shape":
        start, end = node.integer("start", 0), node.attributes.get("end")
        return torch.tensor(node.shape(0)[start : end if isinstance(end, int) else None], dtype=torch.int64)
    if node.kind == "Size":
        return torch.tensor(node.example(0).numel())
    return None


def _constant(node: Node) -> Tensor:
    (value,) = node.attributes.values()
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "if":
        return torch.from_numpy(array.astype(np.int64 if array.dtype.kind == "i" else np.float32))
    raise node.refusal("it is neither tensor nor number")


def _needed(steps: Sequence[Step], outputs: Iterable[int]) -> list[Step]:
    """The steps that the outputs depend on, in their order."""
    wanted = set(outputs)
    kept: list[Step] = []
    for step in reversed(steps):
        if wanted.intersection(step.results):
            kept.append(step)
            wanted.update(place for place in step.arguments if place is not None)
    return kept[::-1]


def _with_releases(steps: Sequence[Step], outputs: Iterable[int], is_constant: Sequence[bool]) -> list[Step]:
    """The same steps, each letting go of what it is the last to read."""
    readers = Counter(place for step in steps for place in set(step.arguments) if place is not None)
    readers.update(outputs)
    found: list[Step] = []
    for step in steps:
        read = {place for place in step.arguments if place is not None}
        readers.subtract(read)
        unread = {place for place in step.results if not readers[place]}
        done = sorted(place for place in read | unread if not readers[place] and not is_constant[place])
        found.append(Step(step.name, step.kind, step.function, step.arguments, step.results, tuple(done)))
    return found


def _to(value: Tensor, *, dtype: torch.dtype) -> Tensor:
    return value.to(dtype)


def _attribute(entry: onnx.AttributeProto, device: torch.device) -> object:
    if entry.type == onnx.AttributeProto.TENSOR:
        return _tensor(entry.t, device)
    if entry.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        return None
    value = onnx.helper.get_attribute_value(entry)
    return list(value) if entry.type in _LISTS else value


_LISTS = (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS, onnx.AttributeProto.STRINGS)


def _tensor(tensor: onnx.TensorProto, device: torch.device) -> Tensor:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelRejected(
            f"weight {tensor.name!r} lies in another file; export the model with its weights inside"
        )
    try:
        return torch.from_numpy(np.array(numpy_helper.to_array(tensor))).to(device)
    except TypeError as error:
        raise ModelRejected(
            f"PyTorch does not run weight {tensor.name!r}: {error}", FailureCode.OPERATOR_UNSUPPORTED
        ) from error


def _known(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
