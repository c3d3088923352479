"""Multiply-accumulates of one execution, by operator: what published tables of network costs count.

Each rule takes the attributes, the inputs and the outputs of an operator; None stands for an omitted tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from predictor.graph import AttributeValue, TensorInfo

Attributes = Mapping[str, AttributeValue]
Tensors = Sequence[TensorInfo | None]
MacRule = Callable[[Attributes, Tensors, Tensors], int]


def int_attribute(attributes: Attributes, name: str, default: int) -> int:
    """A whole number among the attributes; `default` where it is missing or something else."""
    value = attributes.get(name, default)
    return value if isinstance(value, int) else default


def _tensor(tensors: Tensors, index: int) -> TensorInfo | None:
    return tensors[index] if index < len(tensors) else None


def _elements(tensors: Tensors, index: int) -> int:
    tensor = _tensor(tensors, index)
    return 0 if tensor is None else tensor.elements


def conv(weight: int) -> MacRule:
    """Each output element sums over one filter: (C / groups) x kernel products. Weight (M, C/groups,
    k...).
    """

    def macs(_: Attributes, inputs: Tensors, outputs: Tensors) -> int:
        filters = _tensor(inputs, weight)
        return 0 if filters is None else _elements(outputs, 0) * math.prod(filters.shape[1:])

    return macs


def conv_transpose(_: Attributes, inputs: Tensors, __: Tensors) -> int:
    """Each input element is spread over (M / groups) x kernel outputs. Weight (C, M/groups, k...)."""
    filters = _tensor(inputs, 1)
    return 0 if filters is None else _elements(inputs, 0) * math.prod(filters.shape[1:])


def matmul(attributes: Attributes, inputs: Tensors, outputs: Tensors) -> int:
    """Each output element sums over K, the last axis of the left operand (the one before it if
    transposed).
    """
    left = _tensor(inputs, 0)
    if left is None or not left.shape:
        return 0
    transposed = int_attribute(attributes, "transA", 0) and len(left.shape) > 1
    return _elements(outputs, 0) * left.shape[-2 if transposed else -1]


def einsum(attributes: Attributes, inputs: Tensors, _: Tensors) -> int:
    """One product per combination of all indices; a single operand is only summed or transposed."""
    if len(inputs) < 2:
        return 0
    left_side = str(attributes.get("equation", "")).replace(" ", "").split("->")[0]
    sizes: dict[str, int] = {}
    for term, tensor in zip(left_side.split(","), inputs, strict=False):
        shape = () if tensor is None else tensor.shape
        before, ellipsis, after = term.partition("...")
        named = [*zip(before, shape, strict=False)]
        named += [*zip(reversed(after), reversed(shape), strict=False)]
        if ellipsis:
            spare = shape[len(before) : len(shape) - len(after)]
            named += [(f"...{len(spare) - i}", size) for i, size in enumerate(spare)]
        for letter, size in named:
            sizes[letter] = max(sizes.get(letter, 1), size)
    return math.prod(sizes.values())


def recurrent(_: Attributes, inputs: Tensors, __: Tensors) -> int:
    """Every step of every sequence multiplies by all of W and R, whatever the number of gates and
    directions.
    """
    steps = _tensor(inputs, 0)
    if steps is None:
        return 0
    return math.prod(steps.shape[:2]) * (_elements(inputs, 1) + _elements(inputs, 2))


def attention(past: int) -> MacRule:
    """Scores cost queries x keys x head size, values queries x keys x value head size. Inputs query, key,
    value.

    Summed over heads that is (elements of the query + elements of the output) x keys, in 3-D and in 4-D
    layouts.
    """

    def macs(_: Attributes, inputs: Tensors, outputs: Tensors) -> int:
        query, key, before = _tensor(inputs, 0), _tensor(inputs, 1), _tensor(inputs, past)
        if query is None or len(query.shape) < 2:
            return 0
        keys = (
            query.shape[1]
            if key is None or len(key.shape) < 3
            else key.shape[1 if len(key.shape) == 3 else -2]
        )
        if before is not None and len(before.shape) == 4:
            keys += before.shape[2]
        output = _elements(outputs, 0)
        return (output + (query.elements if key is not None else output)) * keys

    return macs


def packed_attention(_: Attributes, inputs: Tensors, outputs: Tensors) -> int:
    """The contrib Attention projects its input (B, S, I) by one weight (I, 3H), then attends over its
    own S positions.
    """
    data, weight = _tensor(inputs, 0), _tensor(inputs, 1)
    if data is None or weight is None or len(data.shape) != 3:
        return 0
    batch, length, _inner = data.shape
    return batch * length * weight.elements + 2 * length * _elements(outputs, 0)


def linear_attention(_: Attributes, inputs: Tensors, outputs: Tensors) -> int:
    """Each position writes a key x value state and reads it once, per head."""
    past = _tensor(inputs, 3)
    key_size = past.shape[-2] if past is not None and len(past.shape) == 4 else 1
    return 2 * _elements(outputs, 0) * key_size


def transform(axis_input: int) -> MacRule:
    """A fast Fourier transform of n points: n log2 n."""

    def macs(_: Attributes, inputs: Tensors, outputs: Tensors) -> int:
        data, window = _tensor(inputs, 0), _tensor(inputs, axis_input)
        points = window.elements if window is not None and window.elements > 1 else 0
        if not points and data is not None:
            points = max(data.shape, default=1)
        return round(_elements(outputs, 0) * math.log2(max(points, 2)))

    return macs


def determinant(_: Attributes, inputs: Tensors, __: Tensors) -> int:
    """n^3 / 3 per n x n matrix, as elimination takes."""
    data = _tensor(inputs, 0)
    return 0 if data is None or not data.shape else data.elements * data.shape[-1] // 3
