"""ModelGraph: a parsed ONNX model at given input sizes. Operators with their costs, tensors with their
shapes, no weights.

Operators are what runs for each inference, in one topological order. What a runtime computes once, at load
(constants, and all that depends on nothing but constants), is not among them: its results are tensors whose
`role` is `constant`. Nested graphs are inlined: the operators of a taken branch, or of a loop body with
their `repeats`.

All costs of an `Operator` are of one inference, that is, already multiplied by its `repeats`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

Role = Literal["input", "constant", "overridable", "activation"]
AttributeValue = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]

_BITS = {
    "bool": 8, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16,
    "int32": 32, "uint32": 32, "int64": 64, "uint64": 64,
    "float16": 16, "bfloat16": 16, "float32": 32, "float64": 64, "complex64": 64, "complex128": 128,
    "float8e4m3fn": 8, "float8e4m3fnuz": 8, "float8e5m2": 8, "float8e5m2fnuz": 8, "float8e8m0": 8,
    "float6e2m3": 6, "float6e3m2": 6,
    "int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2,
    "string": 128,  # a pointer and a length
}  # fmt: skip


class TensorInfo(NamedTuple):  # made once per tensor: a frozen dataclass would take twice as long
    """One tensor. `dtype` is numpy's name, or ONNX's in lower case where numpy has none (bfloat16, int4,
    ...).

    `role`: `constant` is known when the model is loaded; `overridable` is an initializer that the file also
    lists as an input, so that the caller may replace it and the runtime may not fold it; `input` and
    `activation` are new in every inference.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: Role = "activation"

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes when densely packed."""
        return packed_bytes(math.prod(self.shape), self.dtype)

    @property
    def is_weight(self) -> bool:
        """Whether the model file, and not the caller, fills this tensor."""
        return self.role in ("constant", "overridable")


class Likeness:
    """What things have in common that are alike; only its identity counts."""

    __slots__ = ()


@dataclass(slots=True)
class Operator:
    """One node that runs; nothing changes it once it is made. Not frozen, as nothing is that is made once per
    node: that takes four times as long.

    `inputs` and `outputs` name tensors of the graph; an omitted optional input is "". `kind` is the ONNX
    operator type and `domain` its domain ("" is ONNX itself). `macs`: multiply-accumulates. `parameters`:
    elements of the weights that it reads. `precision`: what the arithmetic is done in (float32, float16,
    int8, int4, ...). `repeats`: how often it runs in one inference, 1 outside of loops.

    `likeness`: operators of any graphs that have the same one differ in names alone, that is, they agree in
    kind, attributes and costs, in dtypes, shapes and roles of what they read and write, and in which inputs
    are one tensor. None where nothing is known of it; `dataclasses.replace` never takes it along.
    """

    name: str
    kind: str
    domain: str
    attributes: Mapping[str, AttributeValue]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int
    bytes_read: int
    bytes_written: int
    parameters: int
    precision: str
    repeats: int = 1
    likeness: Likeness | None = field(init=False, repr=False, compare=False, default=None)

    @property
    def full_kind(self) -> str:
        """The kind with its domain where that is not ONNX's own: `com.microsoft/MatMulNBits`."""
        return f"{self.domain}/{self.kind}" if self.domain else self.kind


@dataclass(frozen=True)
class ModelGraph:
    """Operators in topological order, tensors by name, and what is worth telling the user (`notes`).

    `identify` works out the digest; it takes a third of the time that reading takes, and most readers
    never ask. `unpacked`: weights that the file stores as integers of 8 bits or fewer and casts to floats
    itself. Some runtimes do so once, some in every run, and some compute with the integers. `folded_bytes`:
    what making large constants of others reads and writes: once, or in every run where nothing is folded.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: tuple[Operator, ...]
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    opset: int
    identify: Callable[[], str] = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()
    unpacked: frozenset[str] = frozenset()
    folded_bytes: int = 0

    @cached_property
    def digest(self) -> str:
        """A SHA-256 that depends on structure, shapes, dtypes and attributes, but on no weight, no name
        and no order of nodes: two models with one digest have one latency.
        """
        return self.identify()

    @cached_property
    def fixed(self) -> ModelGraph:
        """The same graph with weights that nobody replaces, as what converts files before running them takes
        it; this one where no weight may be replaced.
        """
        replaceable = {name: one for name, one in self.tensors.items() if one.role == "overridable"}
        if not replaceable:
            return self
        constant = {name: one._replace(role="constant") for name, one in replaceable.items()}
        # which are no longer like any whose weights may be replaced
        operators = tuple([replace(op) for op in self.operators])
        return replace(self, operators=operators, tensors={**self.tensors, **constant})

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(op.macs for op in self.operators)

    @cached_property
    def weights(self) -> tuple[TensorInfo, ...]:
        """The weights that running operators read, each once."""
        names = {name for op in self.operators for name in op.inputs if name and self.tensors[name].is_weight}
        return tuple(self.tensors[name] for name in sorted(names))

    @cached_property
    def parameters(self) -> int:
        """Elements of all weights; a weight that two operators share counts once."""
        return sum(tensor.elements for tensor in self.weights)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all weights, each once."""
        return sum(tensor.size_bytes for tensor in self.weights)

    @cached_property
    def activation_bytes(self) -> int:
        """Bytes that all operators write in one inference."""
        return sum(op.bytes_written for op in self.operators)

    @cached_property
    def bytes_moved(self) -> int:
        """Bytes that all operators read and write in one inference, as if nothing were fused."""
        return sum(op.bytes_read + op.bytes_written for op in self.operators)

    @cached_property
    def depth(self) -> int:
        """Operators on the longest path."""
        level: dict[str, int] = {}
        for op in self.operators:
            above = max((level.get(name, 0) for name in op.inputs), default=0)
            for name in filter(None, op.outputs):
                level[name] = above + op.repeats
        return max(level.values(), default=0)


def packed_bytes(elements: int, dtype: str) -> int:
    """Of so many elements beside each other: two of 4 bits share a byte. Raises KeyError for an unknown
    dtype.
    """
    return -(-elements * _BITS[dtype] // 8)


def bits_of(dtype: str) -> int:
    """Bits of one element of a dtype that `TensorInfo` may name."""
    return _BITS[dtype]
