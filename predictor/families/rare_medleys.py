"""Medleys of what the others hardly have: operators that move, repeat, reduce and normalise in the many ways
that exporters write, between the products that most networks consist of, in all precisions.
"""

from __future__ import annotations

import math

import numpy as np

from predictor.families.layers import Net
from predictor.families.sweeps import Block, Choices, Design, Point, Sweep, composed, label

_CURVES = ("Relu", "Relu", "Sigmoid", "Tanh", "hardswish", "silu", "LeakyRelu", "gelu", "relu6")
_MOST_NUMBERS = 3e5  # of one activation


def _conv(net: Net, x: str, choices: Choices) -> str:
    filters = min(choices.channels(8, 128), max(int(_MOST_NUMBERS / math.prod(net.shape(x)[2:])), 4))
    return net.conv(x, filters, choices.pick(1, 1, 3), act=choices.pick(*_CURVES))


def _pooled(net: Net, x: str, choices: Choices) -> str:
    """Between convolutions, as images usually shrink; or keeping the size."""
    if min(net.shape(x)[2:]) < 6:
        return _conv(net, x, choices)
    kernel, stride = choices.pick(2, 3, 3, 5), choices.pick(1, 2, 2)
    y = net.pool(x, choices.pick("MaxPool", "MaxPool", "AveragePool"), kernel, stride=stride, pad=kernel // 2)
    return _conv(net, y, choices) if choices.unit() < 0.6 else y


def _wide_filters(net: Net, x: str, choices: Choices) -> str:
    channels = net.shape(x)[1]
    return net.conv(x, channels, choices.pick(5, 7, 7, 9), groups=channels, act=choices.pick("", "Relu"))


def _larger(net: Net, x: str, choices: Choices) -> str:
    if 4 * math.prod(net.shape(x)) > _MOST_NUMBERS:
        return net.pool(x, "AveragePool", 2, stride=2) if min(net.shape(x)[2:]) > 3 else x
    batch, channels, height, width = net.shape(x)
    form = choices.pick("deconv", "depth", "nearest", "linear")
    if form == "deconv":
        return net.deconv(x, max(channels // 2, 4), choices.pick(2, 4), act="Relu")
    if form == "depth":
        y = net.conv(x, max(channels // 4, 1) * 4, 3)
        shape = (batch, net.shape(y)[1] // 4, 2 * height, 2 * width)
        return net.op("DepthToSpace", y, shape=shape, blocksize=2, mode=choices.pick("CRD", "DCR"))
    return net.resized(x, choices.pick(2, 2, 3), mode=form)


def _around(net: Net, x: str, choices: Choices) -> str:
    """Padding apart from the convolution that needs it."""
    room = choices.pick(1, 1, 2)
    if min(net.shape(x)[2:]) <= room:
        return x
    y = net.pad(x, (0, 0, room, room), (0, 0, room, room), choices.pick("constant", "reflect", "edge"))
    return net.slice(y, 0, net.shape(x)[2], 2) if choices.unit() < 0.4 else y


def _divided(net: Net, x: str, choices: Choices) -> str:
    """Parts of unequal size that go separate ways, and are joined."""
    channels = net.shape(x)[1]
    if channels < 4:
        return _conv(net, x, choices)
    first = choices.pick(channels // 2, channels // 4, channels - channels // 4)
    if choices.unit() < 0.5:
        left, right = net.split(x, (first, channels - first))
    else:
        left, right = net.slice(x, 0, first, 1), net.slice(x, first, channels, 1)
    return net.concat([right, _conv(net, left, choices)])


def _weighed(net: Net, x: str, choices: Choices) -> str:
    """Something small that everything is multiplied by or added to."""
    batch, channels, height, width = net.shape(x)
    form = choices.pick("channel", "place", "row", "column", "most", "image")
    if form == "channel":
        return net.mul(x, net.act(net.pooled(x, is_flat=False), "Sigmoid"))
    if form == "place":
        mean = net.reduce_mean(x, [1], shape=(batch, 1, height, width), level=0.5)
        return net.mul(x, net.act(mean, "Sigmoid"))
    if form == "row":
        return net.add(x, net.reduce_mean(x, [3], shape=(batch, channels, height, 1), level=0.5))
    if form == "column":
        return net.add(x, net.reduce_mean(x, [2], shape=(batch, channels, 1, width), level=0.5))
    if form == "most":
        return net.mul(x, net.op("GlobalMaxPool", x, shape=(batch, channels, 1, 1)))
    return net.op("Add", x, net.noise(1, 1, height, width, scale=0.3), is_positive=False)


def _normal(net: Net, x: str, choices: Choices) -> str:
    channels = net.shape(x)[1]
    form = choices.pick("lrn", "instance", "batch", "last")
    if form == "lrn":
        return net.op("LRN", x, size=5, alpha=1e-4, beta=0.75, bias=1.0)
    if form == "instance":
        ends = net.noise(channels, centre=1.0, scale=0.1), net.noise(channels, scale=0.1)
        return net.op("InstanceNormalization", x, *ends, shape=net.shape(x), level=1.0, is_positive=False)
    if form == "batch":
        return net.act(net.batch_norm(x), choices.pick("", "Relu"))
    y = net.layer_norm(net.transpose(x, 0, 2, 3, 1))
    return net.transpose(y if choices.unit() < 0.5 else net.linear(y, channels), 0, 3, 1, 2)


_IMAGE_BLOCKS: tuple[Block, ...] = (
    _conv, _conv, _conv, _pooled, _pooled, _wide_filters, _larger, _around, _divided, _divided, _weighed,
    _weighed, _normal,
)  # fmt: skip


def image_rarities(design: Design) -> Point:
    """On images."""
    side, channels = design.log(10, 112), design.channels(3, 96)
    batch, count = design.pick(1, 1, 1, 2), design.log(6, 16)
    while batch * channels * side * side > _MOST_NUMBERS:
        side = max(side // 2, 4)
    text = label(c=channels, s=side, n=count, b=batch)

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = net.input("image", batch, channels, side, side)
        x = composed(net, x, count, _IMAGE_BLOCKS, dice)
        net.outputs.append(net.dense(net.pooled(x), dice.log(4, 200)))

    return Point(text, draw, 0.0)


def _linear(net: Net, x: str, choices: Choices) -> str:
    return net.linear(x, choices.log(2, 24) * 16, act=choices.pick("", "Relu", "Tanh"))


def _repeated(net: Net, x: str, choices: Choices) -> str:
    """Groups that several heads share."""
    batch, length, size = net.shape(x)
    heads, times = choices.pick(1, 2, 4), choices.pick(2, 4)
    while size % heads:
        heads //= 2
    if times * batch * length * size > _MOST_NUMBERS:
        return _linear(net, x, choices)
    parts = net.transpose(net.reshape(x, (batch, length, heads, size // heads)), 0, 2, 1, 3)
    lone = net.reshape(parts, (batch, heads, 1, length, size // heads))
    shape = (batch, heads, times, length, size // heads)
    if choices.unit() < 0.7:
        more = net.op("Expand", lone, net.ints(*shape), shape=shape)
    else:
        more = net.op("Tile", lone, net.ints(1, 1, times, 1, 1), shape=shape)
    more = net.reshape(more, (batch, heads * times, length, size // heads))
    joined = net.reshape(net.transpose(more, 0, 2, 1, 3), (batch, length, times * size))
    return net.matmul(joined, size)


def _rotated(net: Net, x: str, choices: Choices) -> str:
    """Halves that change places, with cosines and sines along the rows."""
    batch, length, size = net.shape(x)
    half = size // 2
    if half < 1 or size % 2:
        return x
    cosine, sine = (net.noise(1, length, size, scale=0.5) for _ in range(2))
    if choices.unit() < 0.5:
        left, right = net.split(x, (half, half), axis=2)
    else:
        left, right = net.slice(x, 0, half, 2), net.slice(x, half, size, 2)
    turned = net.concat([net.op("Neg", right, is_positive=False), left], axis=2)
    shape = (batch, length, size)
    straight = net.op("Mul", x, cosine, shape=shape, is_positive=False)
    return net.op("Add", straight, net.op("Mul", turned, sine, shape=shape, is_positive=False))


def _unit(net: Net, x: str, choices: Choices) -> str:
    """To length one, or to a sum of one."""
    shape = (*net.shape(x)[:2], 1)
    kind = choices.pick("ReduceL2", "ReduceSum", "ReduceMax")
    y = net.act(x, "Sigmoid") if kind == "ReduceSum" else x
    if kind == "ReduceSum" or (net.style.opset >= 18):
        size = net.op(kind, y, net.ints(-1), shape=shape, is_positive=True, level=4.0, keepdims=1)
    else:
        size = net.op(kind, y, shape=shape, is_positive=True, level=4.0, axes=[-1], keepdims=1)
    safe = net.op("Add", net.op("Abs", size, is_positive=True), net.const(0.5))
    return net.op("Div", y, safe, level=0.3, shape=net.shape(x))


def _decayed(net: Net, x: str, choices: Choices) -> str:
    """Sums along the rows, and exponentials of them."""
    axis = choices.pick(1, 1, 2)
    steps = net.op("Mul", net.act(x, "Sigmoid"), net.const(-0.02), is_positive=False, level=0.01)
    sums = net.op("CumSum", steps, net.const(axis, "int64"), shape=net.shape(x), level=0.5)
    return net.mul(x, net.op("Exp", sums, is_positive=True, level=0.6))


def _masked(net: Net, x: str, choices: Choices) -> str:
    """What lies ahead is not seen: by adding, or by choosing."""
    batch, length, size = net.shape(x)
    if batch * length * length > _MOST_NUMBERS:
        return _linear(net, x, choices)
    scores = net.scaled(net.product(x, net.transpose(x, 0, 2, 1), level=math.sqrt(size)), 1 / math.sqrt(size))
    ahead = np.triu(np.ones((1, length, length)), 1)
    if choices.unit() < 0.5:
        scores = net.op("Add", scores, net.const(ahead * -1e4), is_positive=False, level=1.0)
    else:
        low = net.const(-1e4)
        shape = (batch, length, length)
        mask = net.const(ahead > 0, "bool")
        scores = net.op("Where", mask, low, scores, shape=shape, is_positive=False, level=1.0)
    return net.product(net.softmax(scores), x, level=0.5)


def _picked(net: Net, x: str, choices: Choices) -> str:
    """Rows out of order, or every other one."""
    batch, length, size = net.shape(x)
    if length < 4:
        return _linear(net, x, choices)
    form = choices.pick("rows", "columns", "strided")
    if form == "strided":
        ends = net.ints(0), net.ints(length // 2 * 2), net.ints(1), net.ints(2)
        return net.op("Slice", x, *ends, shape=(batch, length // 2, size))
    axis = 1 if form == "rows" else 2
    count = net.shape(x)[axis]
    order = net.const(np.arange(count) * 5 % count, "int64")
    return net.op("Gather", x, order, shape=net.shape(x), axis=axis)


def _shifted(net: Net, x: str, choices: Choices) -> str:
    """The row before each row, beside it."""
    length, size = net.shape(x)[1:]
    before = net.slice(net.pad(x, (0, 1, 0), (0, 0, 0)), 0, length, 1)
    form = choices.pick("add", "mix", "join")
    if form == "add":
        return net.add(x, before)
    if form == "join" and 2 * math.prod(net.shape(x)) < _MOST_NUMBERS:
        return net.matmul(net.concat([before, x], axis=2), size)
    gate = net.noise(size, scale=0.1, centre=0.5)
    return net.add(x, net.op("Mul", net.op("Sub", before, x, is_positive=False), gate))


def _curved(net: Net, x: str, choices: Choices) -> str:
    form = choices.pick("softplus", "power", "root", "log", "clip", "triple", "erf")
    if form == "softplus":
        return net.op("Softplus", x, is_positive=True)
    if form == "power":
        return net.op("Pow", net.act(x, "Sigmoid"), net.const(3.0), is_positive=True, level=0.4)
    if form in ("root", "log"):
        safe = net.op("Add", net.act(x, "Sigmoid"), net.const(0.2), is_positive=True)
        return net.op("Sqrt" if form == "root" else "Log", safe, is_positive=form == "root", level=0.6)
    if form == "clip":
        return net.clip(x, -0.5, 0.5)
    if form == "erf":
        return net.op("Erf", x, is_positive=False, level=0.7)
    return net.op("Mul", net.op("Max", x, net.const(0.0), is_positive=True), net.const(1.5))


_ROW_BLOCKS: tuple[Block, ...] = (
    _linear, _linear, _repeated, _repeated, _rotated, _rotated, _unit, _decayed, _masked, _picked, _shifted,
    _curved, _curved, lambda net, x, choices: net.layer_norm(x) if choices.unit() < 0.5 else net.rms_norm(x),
)  # fmt: skip


def row_rarities(design: Design) -> Point:
    """On rows, many or one."""
    length, size = design.pick(1, 1, 8, 16, 32, 64, 128, 256), design.log(1, 32) * 16
    batch, count = design.pick(1, 1, 1, 4), design.log(6, 16)
    while batch * length * size > _MOST_NUMBERS / 2:
        size = max(size // 32 * 16, 16)
        batch = 1
    text = label(m=length, k=size, n=count, b=batch)

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = net.input("rows", batch, length, size)
        x = composed(net, x, count, _ROW_BLOCKS, dice)
        net.outputs.append(x)

    return Point(text, draw, 0.0)


SWEEPS = (
    Sweep("medley-image-rarities", 70, image_rarities, "fqfqfqh", least_opset=14),
    Sweep("medley-row-rarities", 70, row_rarities, "fdfqfwh", least_opset=14),
)
