"""Output types of the kinds that most nodes are, in their ordinary use: what onnx's inference says,
without asking it, which takes ten times as long.

A rule answers only where the use is ordinary, that is, standard attributes of the right type, and shapes that
fit. Everything else, every error among it, is left to inference.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from onnx import TensorProto

from predictor.reading.axis_rules import (
    RECURRENT,
    dynamically_quantised,
    padded,
    recurrent,
    reduced,
    reduced_by_attribute,
    split,
    squeezed,
    squeezed_by_attribute,
    unsqueezed,
    unsqueezed_by_attribute,
)
from predictor.reading.decoded import FileNode
from predictor.reading.shapes import Attributes, Shape, Typed
from predictor.reading.slots import Slot
from predictor.reading.type_rules import (
    AVERAGE_POOL,
    CEILED,
    FLOATS,
    MAX_POOL,
    NUMBERS,
    TypeRule,
    conv,
    conv_of_integers,
    gathered,
    has_only,
    pool,
    pooled_whole,
    reshaped,
    sliced,
)

OPSETS = range(7, 24)  # those in which the rules below have been compared with inference
_CAST_TO: Mapping[int, str] = {
    TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64",
    TensorProto.INT64: "int64", TensorProto.INT32: "int32", TensorProto.INT8: "int8",
        TensorProto.UINT8: "uint8",
    TensorProto.BOOL: "bool",
}  # fmt: skip


class _SeveralRule(Protocol):
    """Types of `count` outputs; None where inference has to be asked."""

    def __call__(
        self, inputs: Sequence[Slot], attributes: Attributes, *, count: int, opset: int
    ) -> Sequence[Typed] | None: ...


def plain_outputs(node: FileNode, inputs: Sequence[Slot | None], opset: int) -> Sequence[Typed] | None:
    """Types of all outputs of a node; None where inference has to be asked."""
    count = len(node.output)
    if count == 1:
        one = plain_output(node, inputs, opset)
        return None if one is None else (one,)
    rule = _SEVERAL.get(node.full_kind)
    if rule is None or "" in node.output or node.key is None or opset not in OPSETS:
        return None
    given = [slot for slot in inputs if slot is not None]
    if not given or len(given) < len(inputs):
        return None
    return rule(given, node.attributes, count=count, opset=opset)


def plain_output(node: FileNode, inputs: Sequence[Slot | None], opset: int) -> Typed | None:
    """Type of a node's only output; None where inference has to be asked."""
    rule = _rules_of(opset).get(node.full_kind)
    if rule is None or len(node.output) != 1 or not node.output[0] or node.key is None:
        return None
    given = [slot for slot in inputs if slot is not None]
    if not given or len(given) < len(inputs):
        return None
    return rule(given, node.attributes)


@lru_cache(maxsize=64)
def _rules_of(opset: int) -> Mapping[str, TypeRule]:
    return {kind: rule for kind, several in _RULES.items() for opsets, rule in several if opset in opsets}


def _same(most_inputs: int, names: Mapping[str, type], dtypes: Collection[str] = FLOATS) -> TypeRule:
    def rule(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
        first = inputs[0]
        if len(inputs) > most_inputs or first.dtype not in dtypes or not has_only(attributes, names):
            return None
        for slot in inputs[1:]:
            if slot.shape or slot.dtype != first.dtype:  # limits, which are scalars
                return None
        return first.dtype, first.shape

    return rule


def _same_along_axis(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    first = inputs[0]
    axis = attributes.get("axis", -1)
    if len(inputs) > 1 or first.dtype not in FLOATS or not has_only(attributes, {"axis": int}):
        return None
    rank = len(first.shape)
    return (first.dtype, first.shape) if isinstance(axis, int) and -rank <= axis < rank else None


def broadcast(left: Shape, right: Shape) -> Shape | None:
    """The common shape; None where there is none, or an axis is empty."""
    if left == right and 0 not in left:
        return left
    if len(left) < len(right):
        left, right = right, left
    spare = len(left) - len(right)
    sizes = list(left[:spare])
    for one, other in zip(left[spare:], right, strict=True):
        if one != other and one != 1 and other != 1:
            return None
        sizes.append(one if other == 1 else other)
    return None if 0 in sizes else tuple(sizes)


def _binary(dtypes: Collection[str], result: str = "") -> TypeRule:
    def rule(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
        if len(inputs) != 2 or attributes:
            return None
        left, right = inputs
        if left.dtype != right.dtype or left.dtype not in dtypes:
            return None
        shape = broadcast(left.shape, right.shape)
        return None if shape is None else (result or left.dtype, shape)

    return rule


def _locally_normalised(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    return _NORMAL(inputs, attributes) if "size" in attributes else None


def _summed(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    first = inputs[0]
    shape: Shape | None = first.shape
    if attributes or first.dtype not in FLOATS or any(slot.dtype != first.dtype for slot in inputs):
        return None
    for slot in inputs:
        shape = None if shape is None else broadcast(shape, slot.shape)
    return None if shape is None else (first.dtype, shape)


def _batch_normalised(names: Mapping[str, type]) -> TypeRule:
    def rule(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
        first = inputs[0]
        if len(inputs) != 5 or len(first.shape) < 2 or first.dtype != "float32":
            return None
        if not has_only(attributes, names) or attributes.get("training_mode"):
            return None
        channels = (first.shape[1],)
        for slot in inputs[1:]:
            if slot.shape != channels or slot.dtype != "float32":
                return None
        return first.dtype, first.shape

    return rule


def _matmul(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    if len(inputs) != 2 or attributes:
        return None
    left, right = inputs
    if left.dtype not in FLOATS or right.dtype != left.dtype:
        return None
    shape = _product_shape(left.shape, right.shape)
    return None if shape is None else (left.dtype, shape)


def _product_shape(left: Shape, right: Shape) -> Shape | None:
    if len(left) < 2 or len(right) < 2:
        return None
    rows, inner, columns = left[-2], left[-1], right[-1]
    before = broadcast(left[:-2], right[:-2])
    if before is None or inner != right[-2] or 0 in (rows, inner, columns):
        return None
    return (*before, rows, columns)


def _matmul_of_integers(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    if not 2 <= len(inputs) <= 4 or attributes:
        return None
    left, right = inputs[0], inputs[1]
    for data, zeros in ((left, inputs[2:3]), (right, inputs[3:4])):
        if data.dtype not in ("int8", "uint8") or any(zero.dtype != data.dtype for zero in zeros):
            return None
    shape = _product_shape(left.shape, right.shape)
    return None if shape is None else ("int32", shape)


def _gemm(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    if not 2 <= len(inputs) <= 3 or not has_only(
        attributes, {"alpha": float, "beta": float, "transA": int, "transB": int}
    ):
        return None
    left, right = inputs[0], inputs[1]
    if left.dtype not in FLOATS or right.dtype != left.dtype or inputs[-1].dtype != left.dtype:
        return None
    if len(left.shape) != 2 or len(right.shape) != 2:
        return None
    rows, inner = reversed(left.shape) if attributes.get("transA") else left.shape
    depth, columns = reversed(right.shape) if attributes.get("transB") else right.shape
    return (left.dtype, (rows, columns)) if inner == depth else None


def _biased_gemm(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    return _gemm(inputs, attributes) if len(inputs) == 3 else None


def _concat_forwards(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    axis = attributes.get("axis")
    return _concat(inputs, attributes) if isinstance(axis, int) and axis >= 0 else None


def _concat(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    axis, first = attributes.get("axis"), inputs[0]
    rank = len(first.shape)
    if not isinstance(axis, int) or len(attributes) != 1 or first.dtype not in NUMBERS:
        return None
    if not -rank <= axis < rank:
        return None
    at, total = axis % rank, 0
    for slot in inputs:
        shape = slot.shape
        if slot.dtype != first.dtype or len(shape) != rank:
            return None
        if shape[:at] != first.shape[:at] or shape[at + 1 :] != first.shape[at + 1 :]:
            return None
        total += shape[at]
    return first.dtype, (*first.shape[:at], total, *first.shape[at + 1 :])


def _transposed(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    first, order = inputs[0], attributes.get("perm")
    if len(inputs) > 1 or not isinstance(order, tuple) or len(attributes) != 1 or first.dtype not in NUMBERS:
        return None
    if sorted(order) != list(range(len(first.shape))):
        return None
    return first.dtype, tuple([first.shape[axis] for axis in order if isinstance(axis, int)])


def _flattened(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    first, axis = inputs[0], attributes.get("axis", 1)
    if len(inputs) > 1 or not has_only(attributes, {"axis": int}) or first.dtype not in NUMBERS:
        return None
    if not isinstance(axis, int) or not 0 <= axis <= len(first.shape) or 0 in first.shape:
        return None
    return first.dtype, (math.prod(first.shape[:axis]), math.prod(first.shape[axis:]))


def _cast(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    to = attributes.get("to")
    dtype = _CAST_TO.get(to) if isinstance(to, int) else None
    if dtype is None or len(attributes) != 1 or len(inputs) > 1 or inputs[0].dtype not in _CAST_TO.values():
        return None
    return dtype, inputs[0].shape


def _dequantised(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    if len(inputs) != 3 or not has_only(attributes, {"axis": int}):
        return None
    data, scale, zero = inputs
    if scale.dtype != "float32" or data.dtype not in _DEQUANTISED or zero.dtype != data.dtype:
        return None
    return "float32", data.shape


def _quantised(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    if len(inputs) != 3 or not has_only(attributes, {"axis": int}):
        return None
    data, scale, zero = inputs
    if data.dtype != "float32" or scale.dtype != "float32" or zero.dtype not in ("int8", "uint8"):
        return None
    return zero.dtype, data.shape


def _same_along_first_axes(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    axis = attributes.get("axis", 1)
    is_usual = isinstance(axis, int) and axis >= 0 and has_only(attributes, {"axis": int})
    return _same_along_axis(inputs, {"axis": axis}) if is_usual else None


def _without_attributes(rule: TypeRule) -> TypeRule:
    return lambda inputs, attributes: None if attributes else rule(inputs, attributes)


def _since(first: int, rule: TypeRule) -> tuple[tuple[range, TypeRule], ...]:
    return ((range(first, OPSETS.stop), rule),)


def _sloped(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    if len(inputs) != 2 or attributes:
        return None
    first, slope = inputs
    if first.dtype not in FLOATS or slope.dtype != first.dtype:
        return None
    return (first.dtype, first.shape) if broadcast(first.shape, slope.shape) == first.shape else None


_NORMAL = _same(1, {"size": int, "alpha": float, "beta": float, "bias": float})
_DEQUANTISED = ("int8", "uint8", "int32")
_ALPHA, _CURVE = {"alpha": float}, {"alpha": float, "beta": float}
_LIMITS, _STATISTICS = {"min": float, "max": float}, {"epsilon": float, "momentum": float}
_RULES: Mapping[str, Sequence[tuple[range, TypeRule]]] = {
    **dict.fromkeys(
        ("Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Abs", "Neg", "Floor"), _since(7, _same(1, {}))
    ),
    "LRN": _since(7, _locally_normalised),
    "Sum": _since(8, _summed), "Gather": _since(7, gathered),
    "Softplus": _since(7, _same(1, {})), "Erf": _since(9, _same(1, {})), "Identity": _since(7, _same(1, {},
        NUMBERS)),
    "LeakyRelu": _since(7, _same(1, _ALPHA)), "Elu": _since(7, _same(1, _ALPHA)),
    "HardSigmoid": _since(7, _same(1, _CURVE)),
    "Clip": ((range(7, 11), _same(1, _LIMITS)), *_since(11, _same(3, {}))),
    **dict.fromkeys(
        ("Softmax", "LogSoftmax"), ((range(7, 13), _same_along_first_axes), *_since(13, _same_along_axis))
    ),
    "Reshape": _since(7, reshaped), "Slice": _since(10, sliced),
    "Unsqueeze": ((range(7, 13), unsqueezed_by_attribute), *_since(13, unsqueezed)),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _since(7, _binary(NUMBERS))),
    "Pow": _since(7, _binary(FLOATS)), "PRelu": _since(7, _sloped),
    "Equal": _since(11, _binary(NUMBERS, "bool")),
    **dict.fromkeys(("Less", "Greater"), _since(9, _binary(NUMBERS, "bool"))),
    "Conv": _since(7, conv), "ConvInteger": _since(10, conv_of_integers),
    "MaxPool": ((range(8, 10), pool(MAX_POOL)), *_since(10, pool({**MAX_POOL,
        **CEILED}))),
    "AveragePool": ((range(7, 10), pool(AVERAGE_POOL)), *_since(10, pool({**AVERAGE_POOL, **CEILED}))),
    "GlobalAveragePool": _since(7, pooled_whole),
    "BatchNormalization": (
        (range(7, 14), _batch_normalised(_STATISTICS)),
        *_since(14, _batch_normalised({**_STATISTICS, "training_mode": int})),
    ),
    **dict.fromkeys(
        ("ReduceMean", "ReduceMax", "ReduceMin"), ((range(7, 18), reduced_by_attribute), *_since(18, reduced))
    ),
    "ReduceSum": ((range(7, 13), reduced_by_attribute), *_since(13, reduced)),
    "Squeeze": ((range(7, 13), squeezed_by_attribute), *_since(13, squeezed)),
    "Pad": _since(11, padded), **dict.fromkeys(("LSTM", "RNN"), _since(7, recurrent(RECURRENT))),
    "GRU": _since(7, recurrent({**RECURRENT, "linear_before_reset": int})),
    "MatMulInteger": _since(10, _matmul_of_integers),
    "MatMul": _since(7, _matmul), "Gemm": ((range(7, 11), _biased_gemm), *_since(11, _gemm)),
    "Concat": ((range(7, 11), _concat_forwards), *_since(11, _concat)),
    "Transpose": _since(7, _transposed), "Flatten": _since(9, _flattened), "Cast": _since(9, _cast),
    "DequantizeLinear": ((range(10, 13), _without_attributes(_dequantised)), *_since(13, _dequantised)),
    "QuantizeLinear": ((range(10, 13), _without_attributes(_quantised)), *_since(13, _quantised)),
}  # fmt: skip
_SEVERAL: Mapping[str, _SeveralRule] = {"Split": split, "DynamicQuantizeLinear": dynamically_quantised}
