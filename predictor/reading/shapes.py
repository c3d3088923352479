"""Output shapes where onnx's own inference has none: contrib operators, operators that ONNX dropped, and
upper bounds.

Contrib rules follow ONNX Runtime's operator documentation (ContribOperators.md). Upper bounds are for
operators whose output size depends on the data: they are costed for the largest output, and the reader says
so in the graph's notes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from predictor.graph import AttributeValue
from predictor.reading.slots import Slot
from predictor.reading.values import integers

Attributes = Mapping[str, AttributeValue]
Shape = tuple[int, ...]
Typed = tuple[str, Shape]  # dtype and shape of one output
Rule = Callable[[Sequence[Slot | None], Attributes], Sequence[Typed]]
MS = "com.microsoft/"


@dataclass(frozen=True, slots=True)
class Standin:
    """A standard operator with the same output shape: its kind, and which inputs it takes. `dtype_from`:
    -1 is float32.
    """

    kind: str
    inputs: tuple[int, ...]
    dtype_from: int = 0


STANDINS: Mapping[str, Standin] = {
    MS + "FusedConv": Standin("Conv", (0, 1)),
    MS + "FusedGemm": Standin("Gemm", (0, 1)),
    MS + "QGemm": Standin("Gemm", (0, 3), dtype_from=-1),
    MS + "DynamicQuantizeMatMul": Standin("MatMul", (0, 1), dtype_from=-1),
    MS + "MatMulIntegerToFloat": Standin("MatMul", (0, 1), dtype_from=2),
    MS + "QLinearAdd": Standin("Add", (0, 3)),
    MS + "QLinearMul": Standin("Mul", (0, 3)),
    MS + "QLinearAveragePool": Standin("AveragePool", (0,)),
}


def has_rule(full_kind: str) -> bool:
    """Whether `contrib_outputs` knows the kind."""
    return full_kind in _RULES


def contrib_outputs(
    full_kind: str, inputs: Sequence[Slot | None], attributes: Attributes
) -> Sequence[Typed] | None:
    """Types of the outputs, or None where there is no rule for the kind. Raises ValueError where inputs
    do not fit.
    """
    return _applied(_RULES.get(full_kind), inputs, attributes)


def bounded_outputs(
    kind: str, inputs: Sequence[Slot | None], attributes: Attributes
) -> Sequence[Typed] | None:
    """Types of the largest outputs that an operator with data-dependent sizes can have, or None where
    nothing bounds it. Raises ValueError where inputs do not fit.
    """
    return _applied(_BOUNDS.get(kind), inputs, attributes)


def _applied(
    rule: Rule | None, inputs: Sequence[Slot | None], attributes: Attributes
) -> Sequence[Typed] | None:
    """What a rule says. Rules expect shapes and attributes that fit; those of a file may be anything."""
    if rule is None:
        return None
    try:
        return rule(inputs, attributes)
    except (IndexError, TypeError, ArithmeticError) as error:
        raise ValueError(str(error)) from error


def _at(inputs: Sequence[Slot | None], index: int) -> Slot:
    slot = inputs[index]
    if slot is None:
        raise ValueError(f"input {index} is missing")
    return slot


def _int(attributes: Attributes, name: str, default: int) -> int:
    return integers(attributes.get(name), (default,))[0]


def _same(inputs: Sequence[Slot | None], _: Attributes) -> Sequence[Typed]:
    first = _at(inputs, 0)
    return [(first.dtype, first.shape)]


def _crop(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    first = _at(inputs, 0)
    batch, channels, height, width = first.shape
    left, top, right, bottom = integers(attributes.get("border"), (0, 0, 0, 0))
    size = integers(attributes.get("scale"), (height - top - bottom, width - left - right))
    return [(first.dtype, (batch, channels, *size))]


def _half_last(inputs: Sequence[Slot | None], _: Attributes) -> Sequence[Typed]:
    first = _at(inputs, 0)
    return [(first.dtype, (*first.shape[:-1], first.shape[-1] // 2))]


def _fused_matmul(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    left, right = _at(inputs, 0), _at(inputs, 1)
    rows = left.shape[-1 if attributes.get("transA") else -2]
    columns = right.shape[-2 if attributes.get("transB") else -1]
    return [(left.dtype, (*np.broadcast_shapes(left.shape[:-2], right.shape[:-2]), rows, columns))]


def _matmul_n_bits(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    left = _at(inputs, 0)
    if _int(attributes, "K", 0) != left.shape[-1]:
        raise ValueError(f"K is {attributes.get('K')}, the rows have {left.shape[-1]} elements")
    return [(left.dtype, (*left.shape[:-1], _int(attributes, "N", 0)))]


def _dynamic_lstm(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    steps, weight = _at(inputs, 0), _at(inputs, 1)
    directions, hidden = weight.shape[0], _int(attributes, "hidden_size", weight.shape[-1] // 4)
    length, batch, _size = steps.shape
    state = (directions, batch, hidden)
    return [(steps.dtype, (length, directions, batch, hidden)), (steps.dtype, state), (steps.dtype, state)]


def _global_pool(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    first = _at(inputs, 0)
    ones = (1,) * (len(first.shape) - 2)
    if attributes.get("channels_last"):
        return [(first.dtype, (first.shape[0], *ones, first.shape[-1]))]
    return [(first.dtype, (*first.shape[:2], *ones))]


def _q_concat(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    parts = [_at(inputs, i) for i in range(2, len(inputs), 3)]
    axis = _int(attributes, "axis", 0) % len(parts[0].shape)
    size = sum(part.shape[axis] for part in parts)
    return [(parts[0].dtype, (*parts[0].shape[:axis], size, *parts[0].shape[axis + 1 :]))]


def _skip_normalised(inputs: Sequence[Slot | None], _: Attributes) -> Sequence[Typed]:
    first = _at(inputs, 0)
    statistic = (*first.shape[:-1], 1)
    same = (first.dtype, first.shape)
    return [same, ("float32", statistic), ("float32", statistic), same]


def _embedding(inputs: Sequence[Slot | None], _: Attributes) -> Sequence[Typed]:
    ids, words = _at(inputs, 0), _at(inputs, 2)
    shape = (*ids.shape, words.shape[-1])
    return [(words.dtype, shape), ("int32", (ids.shape[0],)), (words.dtype, shape)]


def _attention(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    data, weight = _at(inputs, 0), _at(inputs, 1)
    sizes = integers(attributes.get("qkv_hidden_sizes"))
    hidden = sizes[2] if len(sizes) == 3 else weight.shape[-1] // 3
    batch, length, _inner = data.shape
    heads = max(_int(attributes, "num_heads", 1), 1)
    return [(data.dtype, (batch, length, hidden)), (data.dtype, (2, batch, heads, length, hidden // heads))]


def _q_attention(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    return [("float32", shape) for _, shape in _attention(inputs, attributes)]


def _multi_head_attention(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    query = _at(inputs, 0)
    value = inputs[2] if len(inputs) > 2 else None
    if len(query.shape) == 5:  # packed query, key and value: (B, S, heads, 3, size)
        batch, length, heads, _three, size = query.shape
        return [(query.dtype, (batch, length, heads * size))]
    hidden = query.shape[-1]
    if value is not None:
        hidden = value.shape[-1] if len(value.shape) == 3 else value.shape[1] * value.shape[3]
    return [(query.dtype, (*query.shape[:2], hidden)), *_present(inputs, attributes, key=1, past=6)]


def _grouped_attention(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    query, key = _at(inputs, 0), inputs[1]
    heads, groups = _int(attributes, "num_heads", 1), _int(attributes, "kv_num_heads", 1)
    hidden = query.shape[-1] if key is not None else query.shape[-1] * heads // (heads + 2 * groups)
    return [(query.dtype, (*query.shape[:2], hidden)), *_present(inputs, attributes, key=1, past=3)]


def _present(
    inputs: Sequence[Slot | None], attributes: Attributes, *, key: int, past: int
) -> Sequence[Typed]:
    """Key and value states after this step: those before it, lengthened by the new positions."""
    before = inputs[past] if len(inputs) > past else None
    new = inputs[key] if len(inputs) > key else None
    if before is not None and len(before.shape) == 4:
        batch, heads, length, size = before.shape
        added = _at(inputs, 0).shape[1]
        return [(before.dtype, (batch, heads, length + added, size))] * 2
    if new is None or len(new.shape) != 3:
        return []
    heads = max(_int(attributes, "kv_num_heads", _int(attributes, "num_heads", 1)), 1)
    batch, length, hidden = new.shape
    return [(new.dtype, (batch, heads, length, hidden // heads))] * 2


def _gather_quantised(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    data, indices, scales = (_at(inputs, i) for i in range(3))
    axis = _int(attributes, "gather_axis", 0) % len(data.shape)
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    packed = 8 // _int(attributes, "bits", 4) if data.dtype == "uint8" else 1  # several elements in one byte
    return [(scales.dtype, (*shape[:-1], shape[-1] * packed))]


def _quantise(inputs: Sequence[Slot | None], _: Attributes) -> Sequence[Typed]:
    zero = inputs[2] if len(inputs) > 2 else None
    return [("uint8" if zero is None else zero.dtype, _at(inputs, 0).shape)]


def _dequantise(inputs: Sequence[Slot | None], _: Attributes) -> Sequence[Typed]:
    return [(_at(inputs, 1).dtype, _at(inputs, 0).shape)]


def _stft(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    """onnx's own inference forgets `onesided` where there is a window."""
    signal, step = _at(inputs, 0), _at(inputs, 1)
    window = inputs[2] if len(inputs) > 2 else None
    length = inputs[3] if len(inputs) > 3 else None
    points = window.shape[0] if window is not None else 0
    if length is not None and length.value is not None:
        points = int(length.value.item())
    if step.value is None or points < 1 or int(step.value.item()) < 1:
        raise ValueError("its frames are not known before it runs")
    frames = 1 + (signal.shape[1] - points) // int(step.value.item())
    bins = points // 2 + 1 if _int(attributes, "onesided", 1) else points
    return [(signal.dtype, (signal.shape[0], max(frames, 0), bins, 2))]


def _sliced(inputs: Sequence[Slot | None], _: Attributes) -> Sequence[Typed]:
    return [(_at(inputs, 0).dtype, _at(inputs, 0).shape)]


def _compressed(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    data = _at(inputs, 0)
    return [(data.dtype, data.shape if "axis" in attributes else (math.prod(data.shape),))]


def _top_k(inputs: Sequence[Slot | None], _: Attributes) -> Sequence[Typed]:
    data = _at(inputs, 0)
    return [(data.dtype, data.shape), ("int64", data.shape)]


def _suppressed(inputs: Sequence[Slot | None], _: Attributes) -> Sequence[Typed]:
    boxes, scores = _at(inputs, 0), _at(inputs, 1)
    limit = inputs[2] if len(inputs) > 2 else None
    count = boxes.shape[1]
    if limit is not None and limit.value is not None and limit.value.size == 1:
        count = min(count, max(int(limit.value.item()), 0))
    return [("int64", (scores.shape[0] * scores.shape[1] * count, 3))]


def _unique(inputs: Sequence[Slot | None], attributes: Attributes) -> Sequence[Typed]:
    data = _at(inputs, 0)
    axis = attributes.get("axis")
    count = math.prod(data.shape) if axis is None else data.shape[integers(axis)[0]]
    values = data.shape if axis is not None else (count,)
    return [(data.dtype, values), *[("int64", (count,))] * 3]


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Affine", "ImageScaler", "ParametricSoftplus", "ScaledTanh", "Scale"), _same),
    **dict.fromkeys(("GroupNormalization", "MeanVarianceNormalization"), _same),
    "SimplifiedLayerNormalization": _same,
    **{
        MS + name: _same
        for name in (
            "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "BiasAdd", "RotaryEmbedding", "QLinearLeakyRelu",
            "QLinearSigmoid", "QLinearSoftmax",
        )
    },
    "Crop": _crop,
    "STFT": _stft,
    MS + "BiasSplitGelu": _half_last,
    MS + "FusedMatMul": _fused_matmul,
    MS + "TransposeMatMul": _fused_matmul,
    MS + "MatMulNBits": _matmul_n_bits,
    MS + "DynamicQuantizeLSTM": _dynamic_lstm,
    MS + "QLinearGlobalAveragePool": _global_pool,
    MS + "QLinearConcat": _q_concat,
    MS + "SkipLayerNormalization": _skip_normalised,
    MS + "SkipSimplifiedLayerNormalization": _skip_normalised,
    MS + "EmbedLayerNormalization": _embedding,
    MS + "Attention": _attention,
    MS + "QAttention": _q_attention,
    MS + "MultiHeadAttention": _multi_head_attention,
    MS + "GroupQueryAttention": _grouped_attention,
    MS + "GatherBlockQuantized": _gather_quantised,
    MS + "QuantizeLinear": _quantise,
    MS + "DequantizeLinear": _dequantise,
}  # fmt: skip

_BOUNDS: Mapping[str, Rule] = {
    "Slice": _sliced,
    "Compress": _compressed,
    "TopK": _top_k,
    "NonMaxSuppression": _suppressed,
    "Unique": _unique,
    "NonZero": lambda inputs, _: [("int64", (len(_at(inputs, 0).shape), math.prod(_at(inputs, 0).shape)))],
}
