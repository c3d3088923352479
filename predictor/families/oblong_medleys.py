"""Medleys on images that are not square: lines of text, spectrograms, strips of a few rows, with windows,
strides and pools that differ along the axes, and in the company that such networks have: dilated branches,
normalisation apart from its convolution, channels shuffled as rows.
"""

from __future__ import annotations

import math

from predictor.families.convnets import gated
from predictor.families.layers import Net
from predictor.families.sequences import unrolled
from predictor.families.sweeps import Block, Bounds, Choices, Design, Point, Sweep, composed, label

_CURVES = (
    "Relu", "Relu", "Relu", "relu6", "hardswish", "hardswish", "silu", "LeakyRelu", "Sigmoid", "Tanh", "",
)  # fmt: skip
_MOST = Bounds(macs=2e8, numbers=4e5, channels=512)
_WINDOWS = ((1, 1), (1, 1), (3, 3), (3, 3), (5, 5), (7, 7), (3, 1), (1, 3), (1, 7), (5, 3), (3, 9), (5, 25))
_STRIDES = ((1, 1), (1, 1), (1, 1), (2, 1), (2, 1), (1, 2), (2, 2))
_LEAST = 4  # places along an axis that is halved


def _filters_for(net: Net, x: str, choices: Choices, window: int) -> int:
    """Channels of a result such that making it stays within bounds."""
    return choices.channels(6, max(int(_MOST.filters(net.shape(x), window)), 12))


def _stride(net: Net, x: str, choices: Choices) -> tuple[int, int]:
    height, width = net.shape(x)[2:]
    down, along = choices.pick(*_STRIDES)
    return down if height >= _LEAST else 1, along if width >= _LEAST else 1


def _conv(net: Net, x: str, choices: Choices) -> str:
    window, stride = choices.pick(*_WINDOWS), _stride(net, x, choices)
    filters = _filters_for(net, x, choices, math.prod(window))
    return net.conv(x, filters, window, stride=stride, act=choices.pick(*_CURVES))


def _depthwise(net: Net, x: str, choices: Choices) -> str:
    kernel, channels = choices.pick(3, 3, 5, 5, 7), net.shape(x)[1]
    return net.conv(
        x, channels, kernel, stride=_stride(net, x, choices), groups=channels, act=choices.pick(*_CURVES)
    )


def _inverted(net: Net, x: str, choices: Choices) -> str:
    channels, act, kernel = (
        net.shape(x)[1],
        choices.pick("Relu", "hardswish", "hardswish"),
        choices.pick(3, 5, 5),
    )
    stride = _stride(net, x, choices)
    most = int(_MOST.filters(net.shape(x)))
    wide = max(min(channels * choices.pick(2, 3, 4, 6), most, 2 * _MOST.channels), 8)
    y = net.conv(net.conv(x, wide, 1, act=act), wide, kernel, stride=stride, groups=wide, act=act)
    if choices.unit() < 0.5:
        y = gated(net, y, max(wide // 4, 4), act="Relu", gate="HardSigmoid")
    if stride == (1, 1) and choices.unit() < 0.7:
        return net.add(x, net.conv(y, channels, 1))
    return net.conv(y, _filters_for(net, y, choices, 1), 1)


def _dilated(net: Net, x: str, choices: Choices) -> str:
    """Branches that see ever more of the image, joined and added to it."""
    channels = net.shape(x)[1]
    narrow = max(min(channels // choices.pick(2, 4, 8), 64), 4)
    parts = []
    for dilation in (1, 2, 3, 5)[: choices.pick(2, 3, 4)]:
        y = net.conv(net.conv(x, narrow, 1), narrow, 3, act="Relu")
        parts.append(net.conv(y, narrow, 3, dilation=dilation))
    y = net.conv(net.concat(parts), channels, 1)
    return net.act(net.add(x, y), "Relu")


def _normal(net: Net, x: str, choices: Choices) -> str:
    """Normalised behind a join, where nothing can take it in."""
    filters = _filters_for(net, x, choices, 9) // 2
    both = net.concat([x, net.conv(x, max(filters, 4), choices.pick(1, 3), act="Relu")])
    return net.act(net.batch_norm(both), "Relu")


def _shuffled(net: Net, x: str, choices: Choices) -> str:
    """Every other channel, told apart by a transposition of rows and taken one by one."""
    batch, channels, height, width = net.shape(x)
    if channels % 2 or channels < 4:
        return net.conv(x, max(channels // 2, 2) * 2, 1, act="Relu")
    half = channels // 2
    rows = net.reshape(x, (batch * half, 2, height * width))
    apart = net.reshape(net.transpose(rows, 1, 0, 2), (2, batch, half, height, width))
    shape = (batch, half, height, width)
    left, right = (
        net.op("Gather", apart, net.const(place, "int64"), shape=shape, axis=0) for place in (0, 1)
    )
    right = net.conv(right, half, 1, act="Relu")
    right = net.conv(net.conv(right, half, choices.pick(3, 5), groups=half), half, 1, act="Relu")
    return net.concat([left, right])


def _pooled(net: Net, x: str, choices: Choices) -> str:
    """Half as high, or half as large."""
    batch, channels, height, width = net.shape(x)
    down, along = _stride(net, x, choices)
    if (down, along) == (1, 1):
        return _conv(net, x, choices)
    shape = (batch, channels, height // down, width // along)
    return net.op(
        choices.pick("MaxPool", "MaxPool", "AveragePool"), x, shape=shape,
        level=1.2 * net.level(x), kernel_shape=[down, along], strides=[down, along], pads=[0] * 4,
    )  # fmt: skip


def _sloped(net: Net, x: str, choices: Choices) -> str:
    return net.sloped(net.conv(x, _filters_for(net, x, choices, 9), 3))


def _read(net: Net, x: str, choices: Choices) -> str:
    """From column to column, as lines of text are."""
    batch, channels, height, width = net.shape(x)
    if channels * height > _MOST.channels or width > 200:
        return _pooled(net, x, choices)
    columns = net.transpose(net.reshape(x, (batch, channels * height, width)), 2, 0, 1)
    hidden = choices.pick(16, 32, 48, 64, 96)
    y = unrolled(net, columns, hidden, cell=choices.pick("LSTM", "GRU"), is_both_ways=choices.unit() < 0.5)
    rows = net.transpose(y, 1, 2, 0)
    return net.reshape(rows, (batch, net.shape(rows)[1], 1, width))


_BLOCKS: tuple[Block, ...] = (
    _conv, _conv, _conv, _conv, _depthwise, _depthwise, _inverted, _inverted, _inverted, _dilated, _normal,
    _shuffled, _pooled, _sloped, _read,
)  # fmt: skip


def oblong_medley(design: Design) -> Point:
    """From a strip of two rows to a page, standing or lying."""
    side, form = design.log(12, 224), design.log(2, 24)
    channels, count = design.channels(1, 256), design.log(3, 16)
    height, width = max(round(side / math.sqrt(form)), 2), round(side * math.sqrt(form))
    channels = _MOST.halved(channels, height * width)
    if design.unit() < 0.2:
        height, width = width, height
    text = label(c=channels, s=(height, width), n=count)

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = composed(net, net.input("image", 1, channels, height, width), count, _BLOCKS, dice)
        net.outputs.append(x if dice.unit() < 0.5 else net.dense(net.pooled(x), dice.log(2, 500)))

    return Point(text, draw, 0.0)


SWEEPS = (Sweep("medley-oblong-images", 120, oblong_medley, "ffqffhffqf", least_opset=13, is_round=True),)
