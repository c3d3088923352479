"""What one operator costs: multiply-accumulates, bytes read and written, parameters, arithmetic precision.

A kind that is not in `KINDS` has no known cost, and the reader refuses it by name. Multiply-accumulates are
those of convolutions, matrix products, recurrent cells, attention and transforms, as published tables count
them; what an element-wise operator does per element is its `work`. Bytes are those of the tensors as
stored, as if nothing stayed in a cache: what a runtime fuses is decided later (`predictor.kernels`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from predictor.graph import TensorInfo
from predictor.kinds import KINDS, Family, Kind, Traffic
from predictor.mac_rules import Attributes, Tensors, int_attribute

_COMPUTES_IN_INT8 = frozenset(
    (
        "MatMulInteger",
        "ConvInteger",
        "QLinearConv",
        "QLinearMatMul",
        "com.microsoft/DynamicQuantizeMatMul",
        "com.microsoft/DynamicQuantizeLSTM",
        "com.microsoft/MatMulIntegerToFloat",
        "com.microsoft/QAttention",
        "com.microsoft/QGemm",
    )
)
_PRODUCTS = (Family.CONV, Family.MATMUL)
# Asked of every operator: an enumeration's own names take several times as long to look up.
_NO_TRAFFIC, _PICKED, _LOOKUP = Traffic.NONE, Traffic.PICKED, Traffic.LOOKUP
_TOUCHES_INPUTS = (Family.REDUCE, Family.POOL, Family.NORMALISE, Family.SEARCH)
_LOOKED_UP_TABLES = 3  # words, positions and segments of an embedding: one row of each per token

# Cycles per element of what CPU libraries do one element at a time, and of a softmax per row. Rounded from
# single-operator models of our own on ONNX Runtime 1.32 at about 3 GHz. Pow counts as the square that it
# nearly always is.
_SOFTMAX_ROW = 40.0
_STRIDED = 20.0
_RESIZE = {"nearest": 2.0, "linear": 8.0, "cubic": 180.0}
_SCALAR_CYCLES: Mapping[str, float] = {
    "ArgMax": 3.0,
    "ArgMin": 3.0,
    "AveragePool": 2.0,
    "Celu": 5.0,
    "CumSum": 4.0,
    "CumProd": 4.0,
    "DepthToSpace": 3.5,
    "Elu": 5.0,
    "GlobalAveragePool": 1.0,
    "GlobalMaxPool": 1.0,
    "GridSample": 20.0,
    "LRN": 70.0,
    "Log": 4.5,
    "LpNormalization": 3.0,
    "MaxPool": 0.75,
    "Mish": 20.0,
    "NonMaxSuppression": 20.0,
    "OneHot": 5.0,
    "PRelu": 12.0,
    "Selu": 5.0,
    "Sign": 4.0,
    "Sin": 4.5,
    "Cos": 4.5,
    "Softplus": 28.0,
    "SpaceToDepth": 1.0,
    "TopK": 10.0,
    "Unique": 30.0,
    "Where": 20.0,
    **dict.fromkeys(("Acos", "Acosh", "Asin", "Asinh", "Atanh", "Cosh", "Sinh", "Tan"), 30.0),
}
_HAS_SCALAR_CYCLES = {*_SCALAR_CYCLES, "Softmax", "LogSoftmax", "Resize", "Upsample"}


@dataclass(slots=True)
class Cost:
    """Of one execution; nothing changes it once it is made. Not frozen: that takes four times as long."""

    macs: int
    bytes_read: int
    bytes_written: int
    parameters: int
    precision: str


def cost_of(
    full_kind: str,
    attributes: Attributes,
    *,
    inputs: Tensors,
    outputs: Tensors,
) -> Cost:
    """Cost of one execution; None stands for an omitted optional tensor. Raises KeyError for a kind not
    in `KINDS`.
    """
    kind = KINDS[full_kind]
    read = {tensor.name: tensor for tensor in inputs if tensor is not None}.values()
    parameters = 0
    for tensor in read:
        if tensor.is_weight:
            parameters += tensor.elements
    precision = _precision(kind, full_kind, attributes, inputs=inputs, outputs=outputs)
    bytes_read, bytes_written = _moved(kind, read, inputs, outputs)
    macs = kind.macs(attributes, inputs, outputs) if kind.macs is not None else 0
    return Cost(macs, bytes_read, bytes_written, parameters, precision)


def traffic_of(kind: Kind, *, inputs: Tensors, outputs: Tensors) -> tuple[int, int]:
    """Bytes that one execution reads, a tensor that it reads twice once, and that it writes."""
    read = {tensor.name: tensor for tensor in inputs if tensor is not None}.values()
    return _moved(kind, read, inputs, outputs)


def _moved(kind: Kind, read: Iterable[TensorInfo], inputs: Tensors, outputs: Tensors) -> tuple[int, int]:
    """As `traffic_of`; `read`: the inputs, each once."""
    if kind.traffic is _NO_TRAFFIC:
        return 0, 0
    bytes_read = bytes_written = 0
    for tensor in read:
        bytes_read += tensor.size_bytes
    for made in outputs:
        if made is not None:
            bytes_written += made.size_bytes
    first = inputs[0] if inputs else None
    if kind.traffic is _PICKED and first is not None:
        bytes_read -= max(first.size_bytes - bytes_written, 0)
    elif kind.traffic is _LOOKUP:
        bytes_read = min(bytes_read, _LOOKED_UP_TABLES * bytes_written)
    return bytes_read, bytes_written


def touches_inputs(kind: Kind) -> bool:
    """Whether an operator's work depends on what it reads, and not only on what it writes: reductions and
    pools touch each input element once. A pool's overlapping windows are left to its family's factor.
    """
    return kind.family in _TOUCHES_INPUTS


def has_scalar_cycles(full_kind: str) -> bool:
    """Whether `scalar_cycles_of` may give anything but zero."""
    return full_kind in _HAS_SCALAR_CYCLES


def scalar_cycles_of(
    full_kind: str,
    attributes: Attributes,
    *,
    inputs: Tensors,
    outputs: Tensors,
) -> float:
    """Processor cycles of one execution that no vector unit shortens: element by element, or once per
    row of a softmax.
    """
    if full_kind not in _HAS_SCALAR_CYCLES:
        return 0.0
    written = max((tensor.elements for tensor in outputs if tensor is not None), default=0)
    if full_kind in ("Softmax", "LogSoftmax"):
        first = inputs[0] if inputs else None
        rank = len(first.shape) if first is not None else 0
        if first is None or not rank:
            return 0.0
        axis = int_attribute(attributes, "axis", -1) % rank
        is_strided = axis != rank - 1  # the rows are gathered first
        return written / max(first.shape[axis], 1) * _SOFTMAX_ROW + (
            written * _STRIDED if is_strided else 0.0
        )
    if full_kind in ("Resize", "Upsample"):
        return written * _RESIZE.get(str(attributes.get("mode", "nearest")), _RESIZE["cubic"])
    read = max((tensor.elements for tensor in inputs if tensor is not None), default=0)
    return max(written, read) * _SCALAR_CYCLES.get(full_kind, 0.0)


def _precision(
    kind: Kind,
    full_kind: str,
    attributes: Attributes,
    *,
    inputs: Tensors,
    outputs: Tensors,
) -> str:
    if full_kind == "com.microsoft/MatMulNBits":
        return f"int{int_attribute(attributes, 'bits', 4)}"
    if full_kind in _COMPUTES_IN_INT8:
        return "int8"
    first = next((tensor.dtype for tensor in (*inputs, *outputs) if tensor is not None), "float32")
    return "int8" if first == "uint8" and kind.family in _PRODUCTS else first
