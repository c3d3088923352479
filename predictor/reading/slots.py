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
from predictor.graph import Role, TensorInfo, bits_of, packed_bytes
from predictor.memory import Memory
from predictor.reading.values import CARRIED_DTYPES, MAX_VALUE_ELEMENTS, Array

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
_FIELDS = {"float32": "float_data", "int64": "int64_data", "int32": "int32_data", "float64": "double_data"}
_RAW_DTYPES = {dtype: np.dtype(dtype).newbyteorder("<") for dtype in CARRIED_DTYPES}
_LIMITS = {  # elements of values that are read
    dtype: _MAX_FLOAT_VALUES if dtype.startswith("float") else MAX_VALUE_ELEMENTS for dtype in CARRIED_DTYPES
}

_EXTERNAL = TensorProto.EXTERNAL  # protobuf takes long to look a name up
# Dtypes and shapes that have been checked, their elements and bytes.
WITHIN_BOUNDS = Memory[tuple[str, tuple[int, ...]], tuple[int, int]](8192)


@dataclass(slots=True, eq=False)
class Slot:
    """A tensor, or a sequence of tensors (`items`). `name` is unique in the whole model, nested graphs
    included. Not frozen, as nothing is that is made once per tensor: that takes three times as long.
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
    """The shape, if its sizes are not negative and the tensor is within bounds; `where` names it. Raises
    `GraphRejected`.
    """
    sizes = tuple(shape)
    if (dtype, sizes) not in WITHIN_BOUNDS:
        _checked(dtype, sizes, where)
    return sizes


def _checked(dtype: str, sizes: tuple[int, ...], where: str) -> tuple[int, int]:
    """Elements and bytes of a tensor that is within bounds."""
    if len(sizes) > MAX_RANK:
        raise _too_many_axes(sizes, where)
    if min(sizes, default=0) < 0:
        raise GraphRejected(f"{where} has a negative size: {list(sizes)}", GraphCode.MALFORMED)
    elements = math.prod(sizes)
    # An empty axis hides no huge one beside it: what is computed from the shape would have no bound.
    most_bytes = (elements or math.prod([size or 1 for size in sizes])) * bits_of(dtype) // 8
    if most_bytes > MAX_TENSOR_BYTES:
        raise GraphRejected(
            f"{where} has shape {list(sizes)} and takes {most_bytes} bytes, "
            f"at most {MAX_TENSOR_BYTES} are allowed; give smaller input sizes",
            GraphCode.TOO_LARGE,
        )
    return WITHIN_BOUNDS.keep((dtype, sizes), (elements, packed_bytes(elements, dtype)))


def _too_many_axes(shape: Sequence[int], where: str) -> GraphRejected:
    return GraphRejected(
        f"{where} has {len(shape)} axes, at most {MAX_RANK} are allowed", GraphCode.TOO_LARGE
    )


def refuse_external(tensor: onnx.TensorProto, name: str) -> None:
    """Raise `GraphRejected` for a tensor whose data are in another file: onnx would go and open it."""
    if tensor.data_location == _EXTERNAL or tensor.external_data:
        raise GraphRejected(
            f"tensor {name!r} keeps its data in another file; save the model with its weights inside",
            GraphCode.EXTERNAL_DATA,
        )


def stored_tensor(
    tensor: onnx.TensorProto, name: str, cut_bytes: int = 0
) -> tuple[str, tuple[int, ...], Array | None]:
    """Dtype, shape and value of a stored tensor; the value is read only where it may decide about a shape.
    `cut_bytes`: of its raw data, where they have been cut out. Raises `GraphRejected`, also where so many are
    not exactly what the shape needs.
    """
    refuse_external(tensor, name)
    shape = tuple(tensor.dims[:])
    if len(shape) > MAX_RANK:  # whatever else is wrong with it
        raise _too_many_axes(shape, f"tensor {name!r}")
    dtype = _DTYPE_BY_CODE.get(tensor.data_type) or dtype_of(tensor.data_type, f"tensor {name!r}")
    known = WITHIN_BOUNDS.get((dtype, shape))
    elements, size_bytes = _checked(dtype, shape, f"tensor {name!r}") if known is None else known
    raw = tensor.raw_data
    if not raw and not tensor.HasField("raw_data"):
        if not cut_bytes:
            return dtype, shape, _value_of(tensor, dtype, elements, name)
        if cut_bytes == size_bytes:
            return dtype, shape, None
    if len(raw) < size_bytes or cut_bytes:
        raise GraphRejected(
            f"tensor {name!r} of shape {list(shape)} needs {size_bytes} bytes and holds fewer: "
            "the file is cut off or damaged",
            GraphCode.MALFORMED,
        )
    if len(raw) == size_bytes and elements <= _LIMITS.get(dtype, -1):
        return dtype, shape, np.frombuffer(raw, _RAW_DTYPES[dtype]).reshape(shape)
    return dtype, shape, _value_of(tensor, dtype, elements, name)


def type_of(slot: Slot) -> onnx.TypeProto:
    """onnx's type for a tensor. The result is shared: read it only."""
    return _type_proto(_CODE_BY_DTYPE[slot.dtype], slot.shape)


def data_of(slot: Slot) -> onnx.TensorProto | None:
    """The value as onnx's inference takes it; None where there is none."""
    return None if slot.value is None else numpy_helper.from_array(np.ascontiguousarray(slot.value))


@lru_cache(maxsize=8192)
def _type_proto(code: int, shape: tuple[int, ...]) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(code, shape)


def _value_of(tensor: onnx.TensorProto, dtype: str, elements: int, where: str) -> Array | None:
    if elements > _LIMITS.get(dtype, -1):
        return None
    field = _FIELDS.get(dtype)
    if field is not None and not tensor.HasField("raw_data"):
        items = getattr(tensor, field)
        if len(items) == elements:
            return np.array(items[:], dtype).reshape(tensor.dims[:])
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise GraphRejected(
            f"{where} does not hold what its shape says: {error}", GraphCode.MALFORMED
        ) from error
