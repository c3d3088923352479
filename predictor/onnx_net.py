"""A few lines to write a network as an ONNX graph, whose bytes are the same on every machine and with every
version.

Weights come from an integer hash, not from a library's generator. A weight larger than `_STORED_ELEMENTS`
is stored as one random block, which the graph tiles to its full size: runtimes do that once, when they load
the model, so the file is small and every inference still reads the whole weight. Scales keep activations
near one, far from infinity and from denormals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_IR_VERSION = 8
_OPSET = 17
_STORED_ELEMENTS = 1 << 14
_BLOCK = 32


class Net:
    """A graph under construction. Methods add operators and return the name of their result."""

    def __init__(self, name: str, inputs: dict[str, tuple[int, ...]]) -> None:
        self._name = name
        self._inputs = inputs
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[onnx.TensorProto] = []
        self._count = 0

    def op(
        self, kind: str, *inputs: str, **attributes: int | float | str | Sequence[int] | Sequence[float]
    ) -> str:
        """Any operator with one output."""
        self._count += 1
        output = f"{kind.lower()}_{self._count}"
        node = onnx.NodeProto(op_type=kind, input=inputs, output=(output,), name=output)
        for name, value in sorted(attributes.items()):
            node.attribute.append(_attribute(name, value))
        self._nodes.append(node)
        return output

    def store(self, array: NDArray[np.generic]) -> str:
        """A constant."""
        self._count += 1
        name = f"stored_{self._count}"
        self._stored.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        """A constant vector of integers: axes, shapes."""
        return self.store(np.asarray(values, dtype=np.int64))

    def weight(self, *shape: int, fan_in: int | None = None) -> str:
        """A float weight with variance 1 / fan_in (by default the product of all axes but the first)."""
        fan = fan_in if fan_in is not None else max(math.prod(shape[1:]), 1)
        scale = math.sqrt(3.0 / fan)
        if math.prod(shape) <= _STORED_ELEMENTS:
            return self.store(scale * self._uniform(shape))
        block = tuple(_BLOCK if size % _BLOCK == 0 else size for size in shape)
        if math.prod(block) > _STORED_ELEMENTS:
            raise ValueError(f"a block of {block} is too large to store; use sizes that {_BLOCK} divides")
        repeats = [size // part for size, part in zip(shape, block, strict=True)]
        return self.op("Tile", self.store(scale * self._uniform(block)), self.ints(*repeats))

    def conv(
        self,
        x: str,
        shape: tuple[int, int, int],
        *,
        stride: int = 1,
        groups: int = 1,
        activation: str = "Relu",
    ) -> str:
        """A square convolution with bias, "same" padding and an activation ("" for none). `shape`: in,
        out, kernel.
        """
        channels, filters, kernel = shape
        weight = self.weight(filters, channels // groups, kernel, kernel)
        bias = self.store(0.1 * self._uniform((filters,)))
        y = self.op(
            "Conv", x, weight, bias, group=groups, kernel_shape=[kernel, kernel], pads=[kernel // 2] * 4,
            strides=[stride, stride],
        )  # fmt: skip
        return self.op(activation, y) if activation else y

    def linear(self, x: str, inner: int, columns: int) -> str:
        """x (..., inner) times a weight, plus a bias."""
        product = self.op("MatMul", x, self.weight(inner, columns, fan_in=inner))
        return self.op("Add", product, self.store(0.1 * self._uniform((columns,))))

    def normalised(self, x: str, size: int) -> str:
        """Layer normalisation over the last axis."""
        return self.op(
            "LayerNormalization",
            x,
            self.store(np.ones(size, np.float32)),
            self.store(np.zeros(size, np.float32)),
        )

    def integers8(self, *shape: int) -> NDArray[np.int8]:
        """Random int8 weights, short of the extremes."""
        rounded: NDArray[np.int8] = np.rint(self._uniform(shape) * 100.0).astype(np.int8)
        return rounded

    def finish(self, output: str, *shape: int) -> bytes:
        """The model's bytes; `shape` is that of its one output."""
        declared = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in self._inputs.items()]
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, self._name, declared, [result], self._stored)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
        )
        model.producer_name, model.producer_version = "laptime", "1"
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def _uniform(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Numbers in [-1, 1) that no earlier call has given."""
        self._count += 1
        return uniform(math.prod(shape), self._count).reshape(shape)


def _attribute(name: str, value: int | float | str | Sequence[int] | Sequence[float]) -> onnx.AttributeProto:
    """What `onnx.helper.make_attribute` gives, for the types that occur here, in a tenth of its time."""
    kinds = onnx.AttributeProto
    if isinstance(value, int):
        return kinds(name=name, type=kinds.INT, i=value)
    if isinstance(value, float):
        return kinds(name=name, type=kinds.FLOAT, f=value)
    if isinstance(value, str):
        return kinds(name=name, type=kinds.STRING, s=value.encode())
    integers = [item for item in value if isinstance(item, int)]
    if len(integers) == len(value):
        return kinds(name=name, type=kinds.INTS, ints=integers)
    return kinds(name=name, type=kinds.FLOATS, floats=value)


def uniform(count: int, key: int) -> NDArray[np.float32]:
    """(count,) numbers in [-1, 1), the same everywhere: a multiplicative hash of position and key, in exact
    arithmetic.
    """
    bits = np.arange(count, dtype=np.uint64) + np.uint64(key << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    numbers: NDArray[np.float32] = (bits >> np.uint64(40)).astype(np.float32) - np.float32(1 << 23)
    return numbers / np.float32(1 << 23)
