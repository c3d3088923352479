"""What is known of a tensor while an ONNX graph is walked, and the way to and from onnx's own types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from predictor.errors import GraphCode, GraphRejected
from predictor.graph import AttributeValue, Role, TensorInfo, bits_of
from predictor.onnx_values import CARRIED_DTYPES, MAX_VALUE_ELEMENTS, Array

MAX_TENSOR_BYTES = 8 << 30
MAX_RANK = 32
_MAX_FLOAT_VALUES = (
    64  # scales and limits are short; longer float tensors are weights, which decide about no shape
)

_RENAMED = {"FLOAT": "float32", "DOUBLE": "float64"}
_DTYPE_BY_CODE = {
    code: _RENAMED.get(name, name.lower())
    for name, code in TensorProto.DataType.items()
    if name != "UNDEFINED"
}
_CODE_BY_DTYPE = {dtype: code for code, dtype in _DTYPE_BY_CODE.items()}


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor, or a sequence of tensors (`items`). `name` is unique in the whole model, nested graphs
    included.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: Role = "activation"
    value: Array | None = None
    items: tuple[Slot, ...] | None = None

    @property
    def info(self) -> TensorInfo:
        """What the finished graph keeps of it."""
        return TensorInfo(name=self.name, dtype=self.dtype, shape=self.shape, role=self.role)


def dtype_of(code: int, where: str) -> str:
    """The dtype for onnx's number. Raises `GraphRejected` (malformed) for a number that onnx does not
    define.
    """
    dtype: str | None = _DTYPE_BY_CODE.get(code)
    if dtype is None:
        raise GraphRejected(
            f"{where} has element type {code}, which ONNX does not define", GraphCode.MALFORMED
        )
    return dtype


def checked_shape(shape: Sequence[int], dtype: str, where: str) -> tuple[int, ...]:
    """The shape, if its sizes are not negative and the tensor is within bounds. Raises `GraphRejected`."""
    if any(size < 0 for size in shape):
        raise GraphRejected(f"{where} has a negative size: {list(shape)}", GraphCode.MALFORMED)
    if len(shape) > MAX_RANK:
        raise GraphRejected(
            f"{where} has {len(shape)} axes, at most {MAX_RANK} are allowed", GraphCode.TOO_LARGE
        )
    # An empty axis hides no huge one beside it: what is computed from the shape would have no bound.
    size_bytes = math.prod(max(size, 1) for size in shape) * bits_of(dtype) // 8
    if size_bytes > MAX_TENSOR_BYTES:
        raise GraphRejected(
            f"{where} has shape {list(shape)} and takes {size_bytes} bytes, "
            f"at most {MAX_TENSOR_BYTES} are allowed; give smaller input sizes",
            GraphCode.TOO_LARGE,
        )
    return tuple(shape)


def slot_of_tensor(tensor: onnx.TensorProto, name: str, role: Role) -> Slot:
    """A stored tensor; its value is read only where it may decide about a shape. Raises `GraphRejected`."""
    where = f"tensor {name!r}"
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise GraphRejected(
            f"{where} keeps its data in another file; save the model with its weights inside",
            GraphCode.EXTERNAL_DATA,
        )
    dtype = dtype_of(tensor.data_type, where)
    shape = checked_shape(tensor.dims, dtype, where)
    size_bytes = -(-math.prod(shape) * bits_of(dtype) // 8)
    if tensor.HasField("raw_data") and tensor.ByteSize() < size_bytes:
        raise GraphRejected(
            f"{where} of shape {list(shape)} needs {size_bytes} bytes and holds fewer: "
            "the file is cut off or damaged",
            GraphCode.MALFORMED,
        )
    return Slot(name=name, dtype=dtype, shape=shape, role=role, value=_value_of(tensor, dtype, shape, where))


def type_of(slot: Slot) -> onnx.TypeProto:
    """onnx's type for a tensor. The result is shared: read it only."""
    return _type_proto(_CODE_BY_DTYPE[slot.dtype], slot.shape)


def data_of(slot: Slot) -> onnx.TensorProto | None:
    """The value as onnx's inference takes it; None where there is none."""
    return None if slot.value is None else numpy_helper.from_array(np.ascontiguousarray(slot.value))


def attribute_value(attribute: onnx.AttributeProto) -> AttributeValue | None:
    """An attribute as plain data; None for tensors and graphs, which are not part of an operator's
    description.
    """
    kinds = onnx.AttributeProto
    if attribute.type == kinds.INT:
        return attribute.i
    if attribute.type == kinds.FLOAT:
        return attribute.f
    if attribute.type == kinds.STRING:
        return attribute.s.decode("utf-8", "replace")
    if attribute.type == kinds.INTS:
        return tuple(attribute.ints)
    if attribute.type == kinds.FLOATS:
        return tuple(attribute.floats)
    if attribute.type == kinds.STRINGS:
        return tuple(item.decode("utf-8", "replace") for item in attribute.strings)
    return None


@lru_cache(maxsize=8192)
def _type_proto(code: int, shape: tuple[int, ...]) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(code, shape)


def tensor_value(tensor: onnx.TensorProto, where: str) -> Array | None:
    """The value of a small tensor; None for one too large to decide about a shape. Raises
    `GraphRejected` (malformed).
    """
    dtype = dtype_of(tensor.data_type, where)
    return _value_of(tensor, dtype, checked_shape(tensor.dims, dtype, where), where)


def _value_of(tensor: onnx.TensorProto, dtype: str, shape: tuple[int, ...], where: str) -> Array | None:
    limit = _MAX_FLOAT_VALUES if dtype.startswith("float") else MAX_VALUE_ELEMENTS
    if dtype not in CARRIED_DTYPES or math.prod(shape) > limit:
        return None
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise GraphRejected(
            f"{where} does not hold what its shape says: {error}", GraphCode.MALFORMED
        ) from error
