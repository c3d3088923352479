"""Medleys of a few large layers, as servers and workstations run them: images of hundreds of channels, rows
of a thousand numbers, products with a vocabulary. Each takes as long as a whole small network.
"""

from __future__ import annotations

import math

from predictor.families.attention import attended
from predictor.families.layers import Net
from predictor.families.sweeps import Block, Bounds, Choices, Design, Point, Sweep, composed, label

_CURVES = ("Relu", "Relu", "Relu", "relu6", "LeakyRelu", "silu", "hardswish", "PRelu", "")
_MOST = Bounds(macs=1e9, numbers=5e6, channels=1024)


def _filters_for(net: Net, x: str, choices: Choices, window: int) -> int:
    """Channels of a result such that making it stays within bounds."""
    return choices.channels(16, max(int(_MOST.filters(net.shape(x), window)), 24))


def _conv(net: Net, x: str, choices: Choices) -> str:
    kernel = choices.pick(1, 1, 3, 3, 3, 3, 5)
    stride = choices.pick(1, 1, 1, 2) if min(net.shape(x)[2:]) > 4 else 1
    filters = _filters_for(net, x, choices, kernel * kernel)
    return net.conv(x, filters, kernel, stride=stride, act=choices.pick(*_CURVES))


def _same(net: Net, x: str, choices: Choices) -> str:
    """As many channels as came in, where that is within bounds."""
    _, channels, height, width = net.shape(x)
    if 9 * height * width * channels**2 > _MOST.macs:
        return net.conv(x, min(channels, 128), 1, act="Relu")
    y = net.conv(x, channels, 3, act=choices.pick("Relu", "LeakyRelu", "silu"))
    return net.act(net.add(x, y), "Relu") if choices.unit() < 0.5 else y


def _bottleneck(net: Net, x: str, choices: Choices) -> str:
    channels = net.shape(x)[1]
    narrow = max(channels // choices.pick(2, 4), 16)
    y = net.conv(net.conv(x, narrow, 1, act="Relu"), narrow, 3, act="Relu")
    return net.act(net.add(x, net.conv(y, channels, 1)), "Relu")


def _inverted(net: Net, x: str, choices: Choices) -> str:
    batch, channels, height, width = net.shape(x)
    wide = channels * choices.pick(2, 4, 6)
    if batch * wide * height * width > _MOST.numbers:
        return _pooled(net, x, choices)
    act = choices.pick("relu6", "hardswish", "silu")
    y = net.conv(net.conv(x, wide, 1, act=act), wide, choices.pick(3, 3, 5), groups=wide, act=act)
    return net.add(x, net.conv(y, channels, 1))


def _pooled(net: Net, x: str, choices: Choices) -> str:
    if min(net.shape(x)[2:]) < 4:
        return _conv(net, x, choices)
    return net.pool(x, choices.pick("MaxPool", "MaxPool", "AveragePool"), choices.pick(2, 3), stride=2)


def _larger(net: Net, x: str, choices: Choices) -> str:
    if 4 * math.prod(net.shape(x)) > _MOST.numbers:
        return _pooled(net, x, choices)
    y = net.resized(x, 2, mode=choices.pick("nearest", "linear"))
    return net.conv(y, _filters_for(net, y, choices, 9), 3, act="Relu")


_IMAGE_BLOCKS: tuple[Block, ...] = (
    _conv, _conv, _conv, _same, _same, _same, _bottleneck, _bottleneck, _inverted, _pooled, _larger,
)  # fmt: skip


def heavy_images(design: Design) -> Point:
    """Photographs, or the maps of a network's inner layers."""
    side, count = design.log(14, 448), design.log(2, 8)
    is_photograph = side > 100
    channels = 3 if is_photograph else design.log(32, 512)
    text = label(c=channels, s=side, n=count)

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = net.input("image", 1, channels, side, side)
        if is_photograph:
            kernel = dice.pick(3, 3, 5, 7)
            filters = dice.pick(16, 24, 32, 64, 64)
            x = net.conv(x, filters, kernel, stride=dice.pick(1, 2, 2), act=dice.pick(*_CURVES))
        net.outputs.append(composed(net, x, count, _IMAGE_BLOCKS, dice))

    return Point(text, draw, 0.0)


def _perceptron(net: Net, x: str, choices: Choices) -> str:
    size = net.shape(x)[-1]
    y = net.layer_norm(x) if choices.unit() < 0.5 else net.rms_norm(x)
    if choices.unit() < 0.6:
        y = net.linear(net.linear(y, 4 * size, act=choices.pick("gelu", "gelu", "Relu")), size)
    else:
        wide = choices.pick(2, 3) * size
        y = net.matmul(net.mul(net.act(net.matmul(y, wide), "silu"), net.matmul(y, wide)), size)
    return net.add(x, y)


def _attention(net: Net, x: str, choices: Choices) -> str:
    return net.add(x, attended(net, net.layer_norm(x), is_packed=choices.unit() < 0.4))


def _projected(net: Net, x: str, choices: Choices) -> str:
    size = choices.log(4, 16) * 64
    return net.linear(x, size, act=choices.pick("Relu", "gelu", "Tanh"))


_ROW_BLOCKS: tuple[Block, ...] = (_perceptron, _perceptron, _perceptron, _attention, _attention, _projected)


def heavy_rows(design: Design) -> Point:
    """Texts, patches of images, or a few rows; some end at a vocabulary."""
    size, count = design.log(4, 16) * 64, design.log(1, 5)
    length = design.pick(1, 4, 16, 64, 128, 197, 256, 384, 512)
    length = min(length, int(_MOST.macs / (8 * size * size)) + 1)
    has_vocabulary = design.unit() < 0.25
    text = label(m=length, k=size, n=count, v=int(has_vocabulary))

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = composed(net, net.input("rows", 1, length, size), count, _ROW_BLOCKS, dice)
        if has_vocabulary:
            most = min(_MOST.macs / (length * net.shape(x)[-1]), 2.5e7 / net.shape(x)[-1])
            x = net.matmul(x, dice.log(1000, max(most, 2000)) // 8 * 8)
        net.outputs.append(x)

    return Point(text, draw, 0.0)


SWEEPS = (
    Sweep("medley-heavy-images", 50, heavy_images, "fqffhfqf", least_opset=13, is_round=True),
    Sweep("medley-heavy-rows", 40, heavy_rows, "fdfwhqfd", least_opset=14, is_round=True),
)
