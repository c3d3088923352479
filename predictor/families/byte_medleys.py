"""Medleys that stay in eight bits once they are quantised: convolutions with plain curves, pools, sums and
joins, as classifiers and detectors have them, with a float operator between them now and then. Runtimes that
keep images of bytes in a layout of their own leave it only there.
"""

from __future__ import annotations

import math

from predictor.families.layers import Net
from predictor.families.sweeps import Block, Bounds, Choices, Design, Dice, Point, Sweep, composed, label

_CURVES = ("Relu", "Relu", "Relu", "relu6", "LeakyRelu", "")
_FLOAT_CURVES = ("Tanh", "hardswish", "silu", "Sigmoid", "Elu", "gelu")
_MOST = Bounds(macs=2e8, numbers=6e5, channels=640)


def _filters_for(net: Net, x: str, choices: Choices, window: int) -> int:
    """Channels of a result such that making it stays within bounds."""
    return choices.channels(8, max(_MOST.filters(net.shape(x), window), 16))


def _is_small(net: Net, x: str) -> bool:
    return min(net.shape(x)[2:]) < 4


def _conv(net: Net, x: str, choices: Choices) -> str:
    kernel = choices.pick(1, 1, 3, 3, 3, 5)
    stride = 1 if _is_small(net, x) else choices.pick(1, 1, 1, 2)
    filters = _filters_for(net, x, choices, kernel * kernel)
    return net.conv(x, filters, kernel, stride=stride, act=choices.pick(*_CURVES))


def _squeezed(net: Net, x: str, choices: Choices) -> str:
    """Few channels, then many by two filters side by side."""
    act = choices.pick("Relu", "Relu", "LeakyRelu")
    few = net.conv(x, max(net.shape(x)[1] // choices.pick(2, 4, 8), 4), 1, act=act)
    wide = _filters_for(net, few, choices, 9) // 2
    return net.concat([net.conv(few, wide, 1, act=act), net.conv(few, wide, 3, act=act)])


def _side_by_side(net: Net, x: str, choices: Choices) -> str:
    """Two to four ways, one of which may be a pooling."""
    parts = []
    for kernel in (1, 3, 5, 3)[: choices.pick(2, 3, 4)]:
        narrow = net.conv(x, max(net.shape(x)[1] // 4, 4), 1, act="Relu") if kernel > 1 else x
        filters = max(_filters_for(net, narrow, choices, kernel * kernel) // 4, 4)
        parts.append(net.conv(narrow, filters, kernel, act="Relu"))
    if choices.unit() < 0.5:
        kind = choices.pick("MaxPool", "AveragePool")
        parts.append(net.conv(net.pool(x, kind, 3, stride=1, pad=1), 16, 1, act="Relu"))
    return net.concat(parts)


def _residual(net: Net, x: str, choices: Choices) -> str:
    channels = net.shape(x)[1]
    if channels > 256 or choices.unit() < 0.4:  # a bottleneck
        narrow = max(channels // 4, 8)
        y = net.conv(net.conv(x, narrow, 1, act="Relu"), narrow, 3, act="Relu")
        return net.act(net.add(x, net.conv(y, channels, 1)), "Relu")
    return net.act(net.add(x, net.conv(net.conv(x, channels, 3, act="Relu"), channels, 3)), "Relu")


def _separable(net: Net, x: str, choices: Choices) -> str:
    channels, act = net.shape(x)[1], choices.pick("Relu", "relu6")
    stride = 1 if _is_small(net, x) else choices.pick(1, 1, 2)
    y = net.conv(x, channels, choices.pick(3, 3, 5), stride=stride, groups=channels, act=act)
    return net.conv(y, _filters_for(net, y, choices, 1), 1, act=choices.pick(act, ""))


def _pooled(net: Net, x: str, choices: Choices) -> str:
    if _is_small(net, x):
        return _conv(net, x, choices)
    kind, kernel = choices.pick("MaxPool", "MaxPool", "AveragePool"), choices.pick(2, 3, 3)
    return net.pool(x, kind, kernel, stride=choices.pick(2, 2, 2, 1), pad=choices.pick(0, kernel // 2))


def _in_floats(net: Net, x: str, choices: Choices) -> str:
    form = choices.pick("curve", "curve", "lrn", "pad", "mean")
    if form == "lrn":
        return net.op("LRN", x, size=5, alpha=1e-4, beta=0.75, bias=1.0)
    if form == "pad":
        return net.conv(net.pad(x, (0, 0, 1, 1), (0, 0, 1, 1)), 16, 3, pads=[0] * 4, act="Relu")
    if form == "mean":
        return net.mul(x, net.act(net.pooled(x, is_flat=False), "Sigmoid"))
    return net.act(x, choices.pick(*_FLOAT_CURVES))


def _larger(net: Net, x: str, choices: Choices) -> str:
    if 4 * math.prod(net.shape(x)) > _MOST.numbers:
        return _pooled(net, x, choices)
    y = net.resized(x, 2, mode="nearest")
    return net.conv(y, _filters_for(net, y, choices, 9), 3, act="Relu") if choices.unit() < 0.5 else y


_BLOCKS: tuple[Block, ...] = (
    _conv, _conv, _conv, _squeezed, _squeezed, _side_by_side, _residual, _residual, _separable, _separable,
    _pooled, _pooled, _in_floats, _larger,
)  # fmt: skip


def byte_medley(design: Design) -> Point:
    """A classifier or a map over an image of any size."""
    side, batch, count = design.log(10, 224), design.pick(1, 1, 1, 1, 2, 4), design.log(3, 16)
    text = label(s=side, n=count, b=batch)

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = net.input("image", batch, dice.pick(1, 3, 3, 3), side, side)
        kernel, stride = dice.pick((3, 1), (3, 2), (7, 2), (11, 4)) if side > 40 else (3, 1)
        x = net.conv(x, dice.channels(8, 64), kernel, stride=stride, act="Relu")
        while math.prod(net.shape(x)) > _MOST.numbers:
            x = net.pool(x, kernel=2)
        x = composed(net, x, count, _BLOCKS, dice)
        net.outputs.append(_ended(net, x, dice))

    return Point(text, draw, 0.0)


def _ended(net: Net, x: str, dice: Dice) -> str:
    form = dice.pick("image", "pooled", "flat")
    if form == "image":
        return x
    _, channels, height, width = net.shape(x)
    if form == "pooled" or channels * height * width > 8000:
        return net.dense(net.pooled(x), dice.log(4, 1000))
    hidden = dice.log(32, min(1e7 / (channels * height * width), 1024))
    return net.softmax(net.dense(net.dense(net.flat(x), hidden, act="Relu"), dice.log(4, 500)))


SWEEPS = (Sweep("medley-bytes", 160, byte_medley, "qqfqqhqqqh", least_opset=11),)
