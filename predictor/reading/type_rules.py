"""The longer rules of `predictor.reading.plain_types`: windows that slide, and shapes that values decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from predictor.reading.shapes import Attributes, Shape, Typed
from predictor.reading.slots import Slot

TypeRule = Callable[[Sequence[Slot], Attributes], Typed | None]

FLOATS = frozenset(("float32", "float16"))
NUMBERS = frozenset(("float32", "float16", "int64", "int32"))
BYTES = frozenset(("int8", "uint8"))
_WINDOW = {"kernel_shape": tuple, "strides": tuple, "pads": tuple, "auto_pad": str}
_CONV = {**_WINDOW, "dilations": tuple, "group": int}
MAX_POOL = {**_WINDOW, "storage_order": int}
AVERAGE_POOL = {**_WINDOW, "count_include_pad": int}
CEILED = {"ceil_mode": int}  # since opset 10


def has_only(attributes: Attributes, names: Mapping[str, type]) -> bool:
    """Whether all attributes are among these, of these types."""
    for name, value in attributes.items():  # noqa: SIM110 - asked of every node, and twice as fast as all()
        if type(value) is not names.get(name):
            return False
    return True


def conv(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """A convolution of floats."""
    if not 2 <= len(inputs) <= 3:
        return None
    data, weight = inputs[0], inputs[1]
    if data.dtype not in FLOATS or inputs[-1].dtype != data.dtype or weight.dtype != data.dtype:
        return None
    shape = _convolved(data.shape, weight.shape, attributes)
    return None if shape is None else (data.dtype, shape)


def conv_of_integers(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """A convolution of bytes with their zero points."""
    if not 2 <= len(inputs) <= 4:
        return None
    data, weight = inputs[0], inputs[1]
    if data.dtype not in BYTES or weight.dtype not in BYTES:
        return None
    if any(
        zero.dtype != of.dtype or zero.shape for zero, of in zip(inputs[2:], (data, weight), strict=False)
    ):
        return None
    shape = _convolved(data.shape, weight.shape, attributes)
    return None if shape is None else ("int32", shape)


def _convolved(data: Shape, weight: Shape, attributes: Attributes) -> Shape | None:
    kernel = weight[2:]
    if len(data) < 3 or len(weight) != len(data) or not has_only(attributes, _CONV):
        return None
    if attributes.get("kernel_shape", kernel) != kernel:
        return None
    spatial = _slid(data[2:], kernel, attributes)
    return None if spatial is None else (data[0], weight[0], *spatial)


def pool(names: Mapping[str, type]) -> TypeRule:
    """A pool with these attributes at most, rounding down."""

    def rule(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
        data, kernel = inputs[0], attributes.get("kernel_shape")
        if len(inputs) > 1 or data.dtype not in FLOATS or not has_only(attributes, names):
            return None
        if attributes.get("ceil_mode") or not isinstance(kernel, tuple) or len(kernel) != len(data.shape) - 2:
            return None
        spatial = _slid(data.shape[2:], kernel, attributes)
        return None if spatial is None else (data.dtype, (*data.shape[:2], *spatial))

    return rule


def _slid(sizes: Shape, kernel: Sequence[object], attributes: Attributes) -> Shape | None:
    """How often a window fits along each axis, with explicit pads or none."""
    padding, count = attributes.get("auto_pad", "NOTSET"), len(sizes)
    if padding != "NOTSET" and (padding != "VALID" or "pads" in attributes):
        return None
    ones = (1,) * count
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    pads = attributes.get("pads", (0,) * (2 * count))
    if not (isinstance(strides, tuple) and isinstance(dilations, tuple) and isinstance(pads, tuple)):
        return None
    if len(strides) != count or len(dilations) != count or len(pads) != 2 * count:
        return None
    found: list[int] = []
    for axis, (size, width, step, gap) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        before, after = pads[axis], pads[axis + count]
        if not (isinstance(width, int) and isinstance(step, int) and isinstance(gap, int)):
            return None
        if not (isinstance(before, int) and isinstance(after, int)):
            return None
        spare = size + before + after - (width - 1) * gap - 1
        if size < 1 or width < 1 or step < 1 or gap < 1 or before < 0 or after < 0 or spare < 0:
            return None
        found.append(spare // step + 1)
    return tuple(found)


def pooled_whole(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """A pool over all of the image."""
    first = inputs[0]
    if len(inputs) > 1 or attributes or first.dtype not in FLOATS or len(first.shape) < 3:
        return None
    return first.dtype, (*first.shape[:2], *(1,) * (len(first.shape) - 2))


def reshaped(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """Reshape to a known shape."""
    if len(inputs) != 2 or attributes or inputs[0].dtype not in NUMBERS:
        return None
    first, target = inputs[0], few(inputs[1])
    if (
        target is None
        or 0 in first.shape
        or (len(target) > len(first.shape) and 0 in target[len(first.shape) :])
    ):
        return None
    sizes = [first.shape[at] if size == 0 else size for at, size in enumerate(target)]
    total, known = math.prod(first.shape), math.prod(size for size in sizes if size != -1)
    if min(sizes, default=0) < -1 or sizes.count(-1) > 1 or known < 1:
        return None
    if -1 in sizes and total % known == 0:
        sizes[sizes.index(-1)] = total // known
    return (first.dtype, tuple(sizes)) if math.prod(sizes) == total else None


def sliced(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """Slice forwards between known positions, along axes counted from the front."""
    first, given = inputs[0], [few(slot) for slot in inputs[1:]]
    if attributes or first.dtype not in NUMBERS or not 2 <= len(given) <= 4:
        return None
    starts, ends = given[0], given[1]
    if starts is None or ends is None:
        return None
    axes = given[2] if len(given) > 2 else tuple(range(len(starts)))
    steps = given[3] if len(given) > 3 else (1,) * len(starts)
    if axes is None or steps is None or not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    sizes = list(first.shape)
    if len(set(axes)) < len(axes) or min(axes, default=0) < 0 or max(axes, default=0) >= len(sizes):
        return None
    if min(steps, default=1) < 1:
        return None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        sizes[axis] = len(range(*slice(start, end, step).indices(sizes[axis])))
    return first.dtype, tuple(sizes)


def gathered(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """Gather along an axis counted from the front."""
    axis = attributes.get("axis", 0)
    if len(inputs) != 2 or not has_only(attributes, {"axis": int}) or not isinstance(axis, int):
        return None
    first, places = inputs
    if first.dtype not in NUMBERS or places.dtype != "int64" or not 0 <= axis < len(first.shape):
        return None
    return first.dtype, (*first.shape[:axis], *places.shape, *first.shape[axis + 1 :])


def few(slot: Slot) -> Shape | None:
    """The numbers in a vector whose values are known; None of another tensor."""
    value = slot.value
    if value is None or slot.dtype != "int64" or len(slot.shape) != 1:
        return None
    return tuple(value.tolist())
