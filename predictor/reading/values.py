"""Values of small tensors, as far as they decide about shapes: Shape -> Gather -> Concat -> Reshape and the
like.

onnx's own data propagation leaves out what real models use (Div, Floor, Equal, Where, Range, ...) and does
not enter nested graphs, so the few dozen kinds that occur in shape computations are evaluated here with
numpy. Only tensors of up to `MAX_VALUE_ELEMENTS` elements carry a value: weights and activations never do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from predictor.graph import AttributeValue

MAX_VALUE_ELEMENTS = 1024
MAX_VALUE_RANK = 32  # axes
CARRIED_DTYPES = frozenset(
    (
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
        "float16", "float32", "float64",
    )
)  # fmt: skip

_NAMES = {np.dtype(name): name for name in CARRIED_DTYPES}

Array = NDArray[Any]
Inputs = Sequence[Array | None]
Attributes = Mapping[str, AttributeValue]
Evaluator = Callable[[Inputs, Attributes], Sequence[Array]]


def can_evaluate(kind: str) -> bool:
    """Whether `evaluate` knows this ONNX operator."""
    return kind in _EVALUATORS


def evaluate(kind: str, inputs: Inputs, attributes: Attributes) -> tuple[Array, ...] | None:
    """The outputs of an operator whose inputs are all known; None where they would be large or do not fit
    together.

    `inputs` holds None for an omitted optional input. The kind must satisfy `can_evaluate`.
    """
    try:
        with np.errstate(all="ignore"):
            outputs = tuple(np.asarray(out) for out in _EVALUATORS[kind](inputs, attributes))
    except (ValueError, IndexError, TypeError, ArithmeticError, KeyError, AttributeError, RuntimeError):
        return None  # the operands contradict each other: shape inference says so with the operator's name
    return outputs if all(out.size <= MAX_VALUE_ELEMENTS for out in outputs) else None


def dtype_name(value: Array) -> str:
    """The dtype's name, which numpy puts together at each call."""
    return _NAMES.get(value.dtype) or str(value.dtype)


def integers(value: AttributeValue | Array | None, default: Sequence[int] = ()) -> tuple[int, ...]:
    """An attribute or a small tensor as a tuple of ints; `default` where it is missing."""
    if value is None:
        return tuple(default)
    if isinstance(value, np.ndarray):
        return tuple([int(item) for item in value.ravel().tolist()])
    return tuple([int(item) for item in value]) if isinstance(value, tuple) else (int(value),)


def _present(inputs: Inputs) -> list[Array]:
    return [value for value in inputs if value is not None]


def _input(inputs: Inputs, index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None


def _required(inputs: Inputs, index: int) -> Array:
    value = inputs[index]
    if value is None:
        raise ValueError(f"input {index} is missing")
    return value


def _small(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape, unless a tensor of it would be too large to carry."""
    if math.prod(shape) > MAX_VALUE_ELEMENTS:
        raise ValueError("too large to carry a value")
    return tuple(shape)


def _unary(function: Callable[[Array], Array]) -> Evaluator:
    return lambda inputs, _: [np.asarray(function(_required(inputs, 0)), dtype=_required(inputs, 0).dtype)]


def _folded(function: Callable[[Array, Array], Array]) -> Evaluator:
    """A function of two operands, folded over any number of them; the result's dtype is numpy's choice.

    Bounded at each step: three vectors along three axes would fill the memory.
    """

    def apply(left: Array, right: Array) -> Array:
        _small(np.broadcast_shapes(left.shape, right.shape))
        return function(left, right)

    return lambda inputs, _: [reduce(apply, _present(inputs))]


def _divide(left: Array, right: Array) -> Array:
    if not np.issubdtype(left.dtype, np.integer):
        return np.asarray(left / right)
    if not np.all(right):
        raise ZeroDivisionError("integer division by zero")
    quotient = np.abs(left) // np.abs(right)  # ONNX rounds towards zero, numpy's // downwards
    return np.asarray(np.sign(left) * np.sign(right) * quotient, dtype=left.dtype)


def _modulo(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    left, right = _required(inputs, 0), _required(inputs, 1)
    return [np.fmod(left, right) if attributes.get("fmod") else np.mod(left, right)]


def _power(left: Array, right: Array) -> Array:
    return np.asarray(np.power(left.astype(np.float64), right), dtype=left.dtype)


def _cast(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    to = attributes["to"]
    dtype = helper.tensor_dtype_to_np_dtype(to) if isinstance(to, int) else None
    if dtype is None or dtype.name not in CARRIED_DTYPES:
        raise TypeError(f"values of type {to!r} are not followed")
    return [_required(inputs, 0).astype(dtype)]


def _reshape(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    data = _required(inputs, 0)
    target = integers(_input(inputs, 1) if len(inputs) > 1 else attributes.get("shape"))
    if not attributes.get("allowzero"):
        target = tuple(data.shape[i] if size == 0 else size for i, size in enumerate(target))
    return [data.reshape(target)]


def _axes(inputs: Inputs, attributes: Attributes) -> tuple[int, ...] | None:
    """Axes from the second input (opset 13 and later) or the attribute; None where neither is there."""
    given = _input(inputs, 1) if _input(inputs, 1) is not None else attributes.get("axes")
    return None if given is None else integers(given)


def _squeeze(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    return [np.squeeze(_required(inputs, 0), axis=_axes(inputs, attributes))]


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    axes = _axes(inputs, attributes)
    return [np.expand_dims(_required(inputs, 0), axes if axes is not None else ())]


def _concat(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    parts = _present(inputs)
    _small((sum(part.size for part in parts),))
    return [np.concatenate(parts, axis=integers(attributes.get("axis"), (1,))[0])]


def _slice(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    data = _required(inputs, 0)
    starts = integers(_input(inputs, 1) if len(inputs) > 1 else attributes.get("starts"))
    ends = integers(_input(inputs, 2) if len(inputs) > 1 else attributes.get("ends"))
    axes = integers(_input(inputs, 3) if len(inputs) > 1 else attributes.get("axes"), range(len(starts)))
    steps = integers(_input(inputs, 4), [1] * len(starts))
    picked = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        stop = (
            None if step < 0 and end < -data.shape[axis] else end
        )  # "to before the first", which numpy writes as None
        picked[axis] = slice(start, stop, step)
    return [data[tuple(picked)]]


def _gather(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    data, indices = _required(inputs, 0), _required(inputs, 1)
    axis = integers(attributes.get("axis"), (0,))[0]
    _small((data.size, indices.size))
    return [np.take(data, indices.astype(np.int64), axis=axis)]


def _expand(inputs: Inputs, _: Attributes) -> Sequence[Array]:
    data = _required(inputs, 0)
    return [np.broadcast_to(data, _small(np.broadcast_shapes(data.shape, integers(_required(inputs, 1)))))]


def _tile(inputs: Inputs, _: Attributes) -> Sequence[Array]:
    data, repeats = _required(inputs, 0), integers(_required(inputs, 1))
    _small([size * count for size, count in zip(data.shape, repeats, strict=True)])
    return [np.tile(data, repeats)]


def _range(inputs: Inputs, _: Attributes) -> Sequence[Array]:
    start, limit, delta = (_required(inputs, i) for i in range(3))
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return [(start.item() + np.arange(*_small((count,))) * delta.item()).astype(start.dtype)]


def _split(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    data = _required(inputs, 0)
    axis = integers(attributes.get("axis"), (0,))[0]
    sizes = integers(_input(inputs, 1) if len(inputs) > 1 else attributes.get("split"))
    if not sizes:
        raise ValueError("equal parts need the number of outputs")
    return np.split(data, np.cumsum(sizes)[:-1], axis=axis)


def _flatten(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    data = _required(inputs, 0)
    axis = integers(attributes.get("axis"), (1,))[0] % max(data.ndim, 1)
    return [data.reshape(math.prod(data.shape[:axis]), -1)]


def _reduction(function: Callable[..., Array]) -> Evaluator:
    def apply(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
        data, axes = _required(inputs, 0), _axes(inputs, attributes)
        if not axes:
            axes = () if attributes.get("noop_with_empty_axes") else tuple(range(data.ndim))
        keep = bool(attributes.get("keepdims", 1))
        return [np.asarray(function(data, axis=axes, keepdims=keep), dtype=data.dtype)]

    return apply


def _clip(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    data = _required(inputs, 0)
    low = _input(inputs, 1) if len(inputs) > 1 else attributes.get("min")
    high = _input(inputs, 2) if len(inputs) > 2 else attributes.get("max")
    low_bound = np.asarray(-np.inf if low is None else low)
    high_bound = np.asarray(np.inf if high is None else high)
    _small(np.broadcast_shapes(data.shape, low_bound.shape, high_bound.shape))
    return [np.minimum(np.maximum(data, low_bound), high_bound).astype(data.dtype)]


def _scatter_nd(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    if attributes.get("reduction", "none") != "none":
        raise ValueError("reductions are not followed")
    data, indices = _required(inputs, 0).copy(), _required(inputs, 1)
    data[tuple(np.moveaxis(indices, -1, 0))] = _required(inputs, 2)
    return [data]


def _where(inputs: Inputs, _: Attributes) -> Sequence[Array]:
    condition, yes, no = (_required(inputs, i) for i in range(3))
    _small(np.broadcast_shapes(condition.shape, yes.shape, no.shape))
    return [np.where(condition, yes, no)]


def _transpose(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    permutation = attributes.get("perm")
    return [np.transpose(_required(inputs, 0), None if permutation is None else integers(permutation))]


_EVALUATORS: Mapping[str, Evaluator] = {
    "Identity": _unary(lambda x: x),
    "Neg": _unary(lambda x: -x),
    "Abs": _unary(np.abs),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Round": _unary(np.rint),
    "Sqrt": _unary(np.sqrt),
    "Exp": _unary(np.exp),
    "Log": _unary(np.log),
    "Sign": _unary(np.sign),
    "Not": _unary(np.logical_not),
    "Add": _folded(lambda a, b: a + b),
    "Sub": _folded(lambda a, b: a - b),
    "Mul": _folded(lambda a, b: a * b),
    "Div": _folded(_divide),
    "Pow": _folded(_power),
    "Sum": _folded(lambda a, b: a + b),
    "Min": _folded(np.minimum),
    "Max": _folded(np.maximum),
    "And": _folded(np.logical_and),
    "Or": _folded(np.logical_or),
    "Xor": _folded(np.logical_xor),
    "Equal": _folded(lambda a, b: np.asarray(a == b)),
    "Less": _folded(lambda a, b: np.asarray(a < b)),
    "LessOrEqual": _folded(lambda a, b: np.asarray(a <= b)),
    "Greater": _folded(lambda a, b: np.asarray(a > b)),
    "GreaterOrEqual": _folded(lambda a, b: np.asarray(a >= b)),
    "Mod": _modulo,
    "Where": _where,
    "Cast": _cast,
    "Clip": _clip,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "Range": _range,
    "ScatterND": _scatter_nd,
    "NonZero": lambda inputs, _: [np.asarray(np.nonzero(_required(inputs, 0)), dtype=np.int64)],
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "ReduceMin": _reduction(np.min),
    "ReduceMax": _reduction(np.max),
    "ReduceMean": _reduction(np.mean),
    "CumSum": lambda inputs, attributes: _cumulative_sum(inputs, attributes),
}


def _cumulative_sum(inputs: Inputs, attributes: Attributes) -> Sequence[Array]:
    if attributes.get("reverse") or attributes.get("exclusive"):
        raise ValueError("not followed")
    data = _required(inputs, 0)
    return [np.cumsum(data, axis=integers(_required(inputs, 1))[0], dtype=data.dtype)]
