"""Medleys on grids of rows: images with their channels last, as transformers for images keep them. Products
and normalisations have four axes there, windows and quarters are cut out by moving axes of six.
"""

from __future__ import annotations

import math

from predictor.families.attention import attended
from predictor.families.layers import Net
from predictor.families.sweeps import Block, Bounds, Choices, Design, Point, Sweep, composed, label

_CURVES = ("Relu", "gelu", "gelu", "silu", "Tanh", "Sigmoid")
_MOST = Bounds(macs=1.2e8, numbers=3e5, channels=768)


def _columns_for(net: Net, x: str, choices: Choices) -> int:
    """Columns of a product such that it stays within bounds."""
    batch, height, width, channels = net.shape(x)
    return choices.channels(8, max(int(_MOST.filters((batch, channels, height, width))), 16))


def _linear(net: Net, x: str, choices: Choices) -> str:
    columns = _columns_for(net, x, choices)
    y = net.linear(x, columns) if choices.unit() < 0.7 else net.matmul(x, columns)
    return net.act(y, choices.pick(*_CURVES)) if choices.unit() < 0.4 else y


def _perceptron(net: Net, x: str, choices: Choices) -> str:
    channels = net.shape(x)[-1]
    y = net.layer_norm(x) if choices.unit() < 0.6 else x
    y = net.linear(net.linear(y, _columns_for(net, y, choices), act=choices.pick(*_CURVES)), channels)
    if choices.unit() < 0.4:
        y = net.op("Mul", y, net.noise(channels, scale=0.1, centre=0.5))
    return net.add(x, y)


def _filtered(net: Net, x: str, choices: Choices) -> str:
    """A convolution wants channels first."""
    channels = net.shape(x)[-1]
    y = net.transpose(x, 0, 3, 1, 2)
    if choices.unit() < 0.7:
        y = net.conv(y, channels, choices.pick(3, 5, 7), groups=channels, has_norm=False)
    else:
        y = net.conv(y, min(channels, 96), choices.pick(1, 3), act=choices.pick("", "Relu", "gelu"))
    return net.transpose(y, 0, 2, 3, 1)


def _windowed(net: Net, x: str, choices: Choices) -> str:
    """Attention within windows."""
    batch, height, width, channels = net.shape(x)
    sides = [side for side in (2, 4, 5, 6, 7, 8) if height % side == width % side == 0]
    if not sides or channels % 32 or channels > 384:
        return _linear(net, x, choices)
    side = choices.pick(*sides)
    tall, wide = height // side, width // side
    cut = net.reshape(net.layer_norm(x), (batch, tall, side, wide, side, channels))
    cut = net.reshape(net.transpose(cut, 0, 1, 3, 2, 4, 5), (batch * tall * wide, side * side, channels))
    y = net.reshape(
        attended(net, cut, is_packed=choices.unit() < 0.7), (batch, tall, wide, side, side, channels)
    )
    y = net.reshape(net.transpose(y, 0, 1, 3, 2, 4, 5), (batch, height, width, channels))
    return net.add(x, y)


def _quartered(net: Net, x: str, choices: Choices) -> str:
    """Four neighbours become one place."""
    batch, height, width, channels = net.shape(x)
    if height % 2 or width % 2 or channels > _MOST.channels / 4:
        return _linear(net, x, choices)
    y = net.reshape(x, (batch, height // 2, 2, width // 2, 2, channels))
    y = net.reshape(net.transpose(y, 0, 1, 3, 2, 4, 5), (batch, height // 2, width // 2, 4 * channels))
    return net.matmul(net.layer_norm(y), 2 * channels)


def _enlarged(net: Net, x: str, choices: Choices) -> str:
    """One place becomes four."""
    batch, height, width, channels = net.shape(x)
    each = max(channels // 4, 8)
    if 4 * math.prod((batch, height, width, each)) > _MOST.numbers:
        return _quartered(net, x, choices)
    y = net.reshape(net.linear(x, 4 * each), (batch, height, width, 2, 2, each))
    return net.reshape(net.transpose(y, 0, 1, 3, 2, 4, 5), (batch, 2 * height, 2 * width, each))


def _along(net: Net, x: str, choices: Choices) -> str:
    """Products over the columns or the lines of the grid."""
    perm = choices.pick((0, 3, 1, 2), (0, 3, 2, 1), (0, 1, 3, 2))
    back = [perm.index(axis) for axis in range(4)]
    y = net.transpose(x, *perm)
    return net.add(x, net.transpose(net.linear(y, net.shape(y)[-1]), *back))


def _gated(net: Net, x: str, choices: Choices) -> str:
    batch, *_, channels = net.shape(x)
    if channels % 2 == 0 and choices.unit() < 0.5:
        left, right = net.split(x, (channels // 2, channels // 2), axis=3)
        return net.mul(left, net.act(right, choices.pick("Sigmoid", "gelu")))
    mean = net.reduce_mean(x, [1, 2], shape=(batch, 1, 1, channels), level=0.5)
    return net.mul(x, net.act(net.linear(mean, channels), "Sigmoid"))


_BLOCKS: tuple[Block, ...] = (
    _linear, _linear, _perceptron, _perceptron, _perceptron, _filtered, _filtered, _windowed, _windowed,
    _quartered, _enlarged, _along, _gated, lambda net, x, _: net.layer_norm(x),
    lambda net, x, choices: net.act(x, choices.pick(*_CURVES)),
)  # fmt: skip


def grid_medley(design: Design) -> Point:
    """Grids of a few places and of thousands."""
    side, channels = design.pick(4, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 56), design.log(1, 24) * 16
    batch, count = design.pick(1, 1, 1, 1, 4), design.log(2, 14)
    while batch * channels * side * side > _MOST.numbers:
        channels = max(channels // 32 * 16, 16)
        batch = 1
    text = label(c=channels, s=side, n=count, b=batch)

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = net.input("grid", batch, side, side, channels)
        x = composed(net, x, count, _BLOCKS, dice)
        net.outputs.append(x)

    return Point(text, draw, 0.0)


SWEEPS = (Sweep("medley-grids", 110, grid_medley, "fdffqfdh", least_opset=13),)
