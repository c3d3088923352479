"""A few lines to write a network as an ONNX graph, whose bytes are the same on every machine and with every
version.

Numbers come from an integer hash, not from a library's generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_IR_VERSION = 8
_OPSET = 17


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
