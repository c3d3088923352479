"""How a kernel lies in memory: widths, runs of neighbouring elements, what is summed over.

Two kernels that compute and move the same may differ by an order of magnitude: a transposition that keeps the
last axis copies rows, one that does not copies element by element; a convolution of 7 columns cannot fill the
vectors that one of 56 fills; channels that are no multiple of a block are padded. Libraries decide on such
sizes, so the network is shown them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache

from predictor.graph import AttributeValue, Operator, TensorInfo
from predictor.kernel_making import Kernel
from predictor.kinds import Family

Shape = tuple[int, ...]
Attributes = Mapping[str, AttributeValue]

_MOST_TAPS = 256  # that are counted: a hostile file may claim a window of any size


class Extent(IntEnum):
    """Places of the numbers that `geometry_of` gives."""

    WIDTH = 0  # last axis of the result
    HEIGHT = 1  # the one before it, of images
    BATCH = 2
    CHANNELS_READ = 3
    CHANNELS_WRITTEN = 4
    RUN = 5  # elements that lie beside each other before and after
    REDUCED = 6  # elements that one result is made from
    LAST_WINDOW = 7  # of a filter's or pooling window's axes the last
    DILATION = 8
    PRODUCTS = 9  # of one launch
    INPUTS = 10
    RANK = 11
    IS_PADDED = 12
    IS_SMOOTH = 13  # interpolates between neighbours
    IS_CUBIC = 14
    IS_TRANSPOSED = 15  # reads its second operand along the other axis; a transposition: moves several axes
    ON_IMAGE = 16  # share of the window's elements that fall on the image and not beside it


COUNT = len(Extent)
NOTHING = (0.0,) * COUNT


def geometry_of(
    kernel: Kernel, tensors: Mapping[str, TensorInfo], elements: Mapping[str, int]
) -> tuple[float, ...]:
    """`COUNT` numbers of a kernel, in the order of `Extent`; `elements` of each tensor."""
    op, family = kernel.anchor, kernel.family
    names, result = op.inputs, op.outputs[0] if op.outputs else ""
    if family in _MOVING_NOTHING or not result:
        return NOTHING
    written = tensors[result].shape
    read = tensors[names[0]].shape if names and names[0] else ()
    if op.kind == "Transpose":
        return _of_transposed(read, _order(op, len(read)))
    rank = len(written)
    width = written[-1] if rank else 1
    rule = _RULES.get(family) if len(names) > 1 else _RULES_OF_ONE.get(family)
    run, reduced = rule(op, read, written, tensors) if rule is not None else (elements[result], 1.0)
    products = 0.0
    if kernel.rows:
        one = kernel.launches * kernel.rows * kernel.inner * kernel.columns
        products = kernel.macs / one if one else 0.0
    last_window, dilation, is_padded, is_smooth, is_cubic, is_transposed = 1.0, 1.0, 0.0, 0.0, 0.0, 0.0
    on_image = 1.0
    attributes = op.attributes
    if attributes:
        if "kernel_shape" in attributes:
            last_window, dilation, is_padded = _window(attributes)
            if op.kind != "ConvTranspose" and len(read) > 2:
                on_image = _on_image(attributes, read[2:], written[2:])
        mode = attributes.get("mode")
        if mode is not None:
            is_smooth, is_cubic = float(mode in _SMOOTH), float(mode == "cubic")
        is_transposed = float(attributes.get("transB", 0) == 1)
    return (
        width,
        written[-2] if rank > 3 else 1.0,
        written[0] if rank > 2 else 1.0,
        (read[1] if len(read) > 2 else read[-1]) if read else 1.0,
        written[1] if rank > 2 else width,
        run,
        reduced,
        last_window,
        dilation,
        products,
        len(names) - names.count(""),
        rank,
        is_padded,
        is_smooth,
        is_cubic,
        is_transposed,
        on_image,
    )


_SMOOTH = frozenset(("linear", "bilinear"))


def _window(attributes: Attributes) -> tuple[float, float, float]:
    shape, dilations, pads = attributes["kernel_shape"], attributes.get("dilations"), attributes.get("pads")
    last = float(shape[-1]) if isinstance(shape, tuple) and shape else 1.0
    dilation = float(math.prod(map(int, dilations))) if isinstance(dilations, tuple) else 1.0
    return last, dilation, float(isinstance(pads, tuple) and any(pads))


def _on_image(attributes: Attributes, read: Shape, written: Shape) -> float:
    """Over all places of a window. Libraries that compute directly leave out what lies beside the image: at
    images of 7x7 a third of 5x5 filters, at 2x2 more than half of 3x3.
    """
    window, pads = attributes["kernel_shape"], attributes.get("pads")
    rank = len(read)
    if not isinstance(window, tuple) or len(window) != rank or len(written) != rank:
        return 1.0
    if not isinstance(pads, tuple) or len(pads) != 2 * rank:
        pads = (0,) * rank if attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") else ()
    elif not any(pads):
        return 1.0
    strides, dilations = _each_axis(attributes, "strides", rank), _each_axis(attributes, "dilations", rank)
    share = 1.0
    for axis in range(rank):
        size, count, taps, stride, dilation = (
            read[axis], written[axis], int(window[axis]), strides[axis], dilations[axis],
        )  # fmt: skip
        before = int(pads[axis]) if pads else _same_before(size, count, taps, stride, dilation)
        share *= _share_within(size, count, taps, stride, dilation, before)
    return share


def _each_axis(attributes: Attributes, name: str, rank: int) -> tuple[int, ...]:
    given = attributes.get(name)
    return tuple(map(int, given)) if isinstance(given, tuple) and len(given) == rank else (1,) * rank


def _same_before(size: int, count: int, taps: int, stride: int, dilation: int) -> int:
    """Padding before an axis where the file says "same"."""
    return max((count - 1) * stride + (taps - 1) * dilation + 1 - size, 0) // 2


@lru_cache(maxsize=4096)
def _share_within(size: int, count: int, taps: int, stride: int, dilation: int, before: int) -> float:
    """Of `count` windows of so many taps along an axis of `size` elements."""
    within = 0
    for tap in range(min(taps, _MOST_TAPS)):
        first = -((dilation * tap - before) // stride)  # the first window whose tap is not before the axis
        last = (size - 1 + before - dilation * tap) // stride
        within += max(min(last, count - 1) - max(first, 0) + 1, 0)
    return within / max(count * min(taps, _MOST_TAPS), 1)


Rule = Callable[[Operator, Shape, Shape, Mapping[str, TensorInfo]], tuple[float, float]]


def _elementwise(
    op: Operator, read: Shape, written: Shape, tensors: Mapping[str, TensorInfo]
) -> tuple[float, float]:
    """The run ends where an operand begins, or ceases, to be repeated. (run, reduced), as all rules."""
    shapes = [tensors[name].shape for name in op.inputs if name]
    if shapes.count(written) == len(shapes):
        return math.prod(written), 1.0
    del read
    return _run_of_broadcast([shape for shape in shapes if math.prod(shape) > 1], written), 1.0


def _run_of_broadcast(shapes: Sequence[Shape], written: Shape) -> float:
    run = 1.0
    repeats: list[bool | None] = [None] * len(shapes)
    for place in range(1, len(written) + 1):
        size = written[-place]
        if size == 1:
            continue
        for index, shape in enumerate(shapes):
            is_repeated = place > len(shape) or shape[-place] != size
            if repeats[index] is None:
                repeats[index] = is_repeated
            elif repeats[index] is not is_repeated:
                return run
        run *= size
    return run


def _normalised(
    op: Operator, read: Shape, written: Shape, tensors: Mapping[str, TensorInfo]
) -> tuple[float, float]:
    if op.kind in ("BatchNormalization", "LRN"):
        return math.prod(written), 1.0
    if op.kind in ("InstanceNormalization", "GroupNormalization"):
        return 1.0, math.prod(read[2:])
    axis = _axis(op, len(read), default=-1)
    if op.kind in ("Softmax", "LogSoftmax"):
        return math.prod(read[axis + 1 :]), read[axis] if read else 1.0
    del tensors
    return 1.0, math.prod(read[axis:])


def _reduced(
    op: Operator, read: Shape, written: Shape, tensors: Mapping[str, TensorInfo]
) -> tuple[float, float]:
    del tensors
    if op.kind in ("CumSum", "CumProd") or read == written:
        axis = _axis(op, len(read), default=-1)
        return math.prod(read[axis + 1 :]), read[axis] if read else 1.0
    return _run_of_equal(read, written)[0], math.prod(read) / max(math.prod(written), 1)


def _pooled(
    op: Operator, read: Shape, written: Shape, tensors: Mapping[str, TensorInfo]
) -> tuple[float, float]:
    del tensors
    window = op.attributes.get("kernel_shape")
    if isinstance(window, tuple):
        return math.prod(written), math.prod(map(int, window))
    return 1.0, math.prod(read[2:]) / max(math.prod(written[2:]), 1)


def _moved(
    op: Operator, read: Shape, written: Shape, tensors: Mapping[str, TensorInfo]
) -> tuple[float, float]:
    kind = op.kind
    if kind == "Concat" or kind == "QLinearConcat":
        axis = _axis(op, len(written), default=0)
        return math.prod(written[axis:]) / max(len(op.inputs), 1), 1.0
    if kind == "Split":
        return math.prod(written[_axis(op, len(written), default=0) :]), 1.0
    if kind == "Gather":
        return math.prod(read[_axis(op, len(read), default=0) + 1 :]), 1.0
    if kind == "Expand" or kind == "Tile":
        return _run_of_broadcast([read], written), 1.0
    del tensors
    run, depth = _run_of_equal(read, written)
    if depth < min(len(read), len(written)):
        run *= min(read[-1 - depth], written[-1 - depth])
    return run, 1.0


def _converted(
    op: Operator, read: Shape, written: Shape, tensors: Mapping[str, TensorInfo]
) -> tuple[float, float]:
    """Where each channel has a scale of its own, the run ends with the channel."""
    scale = op.inputs[1] if len(op.inputs) > 1 else ""
    if not scale or math.prod(tensors[scale].shape) == 1:
        return math.prod(written), 1.0
    return math.prod(read[_axis(op, len(read), default=1) + 1 :]), 1.0


def _run_of_equal(read: Shape, written: Shape) -> tuple[float, int]:
    """Elements of the last axes that stay as they are, and how many axes these are."""
    run, depth = 1.0, 0
    for before, after in zip(reversed(read), reversed(written), strict=False):
        if before != after:
            break
        run *= before
        depth += 1
    return run, depth


def _order(op: Operator, rank: int) -> tuple[int, ...]:
    """Of the axes of a transposition; as they are where the file gives another number of axes."""
    order = op.attributes.get("perm")
    if not isinstance(order, tuple):
        return tuple(reversed(range(rank)))
    order = tuple(map(int, order))
    return order if sorted(order) == list(range(rank)) else tuple(range(rank))


@lru_cache(maxsize=4096)
def _of_transposed(read: Shape, order: tuple[int, ...]) -> tuple[float, ...]:
    """As libraries see it: axes that stay beside each other are one, and axes of one element none."""
    parts = _beside([axis for axis in order if read[axis] != 1])
    after = [float(math.prod([read[axis] for axis in part])) for part in parts]
    before = [size for _, size in sorted(zip(parts, after, strict=True))]
    is_last_kept = bool(parts) and max(parts) == parts[-1]
    numbers = list(NOTHING)
    numbers[Extent.WIDTH] = after[-1] if after else 1.0
    numbers[Extent.HEIGHT] = after[-2] if len(after) > 1 else 1.0
    numbers[Extent.BATCH] = after[0] if len(after) > 2 else 1.0
    numbers[Extent.CHANNELS_READ] = before[-2] if len(before) > 1 else 1.0
    numbers[Extent.CHANNELS_WRITTEN] = before[0] if before else 1.0
    numbers[Extent.RUN] = after[-1] if is_last_kept else 1.0
    numbers[Extent.REDUCED] = before[-1] if before else 1.0
    numbers[Extent.INPUTS] = 1.0
    numbers[Extent.RANK] = float(len(parts))
    numbers[Extent.IS_TRANSPOSED] = float(len(parts) > 1 and not _moves_one(_beside(order)))
    return tuple(numbers)


def _beside(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Axes that follow each other before and after, put together."""
    parts: list[tuple[int, ...]] = []
    kept = {axis: place for place, axis in enumerate(sorted(axes))}
    for axis in axes:
        if parts and kept[axis] == kept[parts[-1][-1]] + 1:
            parts[-1] += (axis,)
        else:
            parts.append((axis,))
    return parts


def _moves_one(parts: Sequence[tuple[int, ...]]) -> bool:
    """Whether a single one has changed its place among the others. ONNX Runtime copies in rows or squares
    then, and element by element otherwise; axes of one element are as good as others to it.
    """
    ordered = sorted(parts)
    return any(
        [part for part in parts if part != moved] == [part for part in ordered if part != moved]
        for moved in parts
    )


def _axis(op: Operator, rank: int, *, default: int) -> int:
    axis = op.attributes.get("axis", default)
    axis = axis if isinstance(axis, int) else default
    axis += rank if axis < 0 else 0
    return min(max(axis, 0), max(rank - 1, 0))


_MOVING_NOTHING = frozenset((Family.VIEW, Family.CONTROL))
_RULES_OF_ONE: Mapping[Family, Rule] = {  # of operators with one input at most
    Family.NORMALISE: _normalised,
    Family.REDUCE: _reduced,
    Family.POOL: _pooled,
    Family.MOVE: _moved,
    Family.CONVERT: _converted,
}
_RULES: Mapping[Family, Rule] = {**_RULES_OF_ONE, Family.ELEMENTWISE: _elementwise}
