"""Medleys of small layers, of which starting them is half the time: digits, faces and thumbnails by
convolutions without padding, and single frames of sound with parts picked out of their last axis.
"""

from __future__ import annotations

import math

from predictor.families.layers import Net
from predictor.families.sequences import carried, unrolled
from predictor.families.sweeps import Block, Choices, Design, Point, Sweep, composed, label

_CURVES = ("Relu", "Relu", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "")
_MOST_MACS = 2e7  # of one block
_MOST_COLUMNS = 512


def _filters(choices: Choices) -> int:
    """As hand-made networks have them: any number."""
    return choices.log(4, 72)


def _conv(net: Net, x: str, choices: Choices) -> str:
    """Without padding, so that the image shrinks."""
    _, channels, height, width = net.shape(x)
    kernel, filters = choices.pick(2, 3, 3, 3, 5, 5), _filters(choices)
    if min(height, width) <= kernel or channels * filters * height * width * kernel**2 > _MOST_MACS:
        return net.conv(x, min(filters, 24), 1, act="Relu")
    y = net.conv(x, filters, kernel, pads=[0] * 4, act=choices.pick(*_CURVES), has_norm=choices.unit() < 0.3)
    return net.sloped(y) if choices.unit() < 0.3 else y


def _biased(net: Net, x: str, choices: Choices) -> str:
    """A bias apart from its convolution, then a curve."""
    channels = net.shape(x)[1]
    weight = net.weight(x, channels, channels, 3, 3, fan_in=9 * channels)
    if 9 * math.prod(net.shape(x)) * channels > _MOST_MACS:
        return _pooled(net, x, choices)
    y = net.op(
        "Conv", x, weight, shape=net.shape(x), level=1.0, is_positive=False, auto_pad="SAME_UPPER",
        kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1], group=1,
    )  # fmt: skip
    return net.act(net.op("Add", y, net.noise(channels, 1, 1, scale=0.1)), "Relu")


def _pooled(net: Net, x: str, choices: Choices) -> str:
    kernel, stride = choices.pick((2, 2), (2, 2), (3, 2), (3, 3))
    if min(net.shape(x)[2:]) <= kernel:
        return net.conv(x, _filters(choices), 1)
    return net.pool(x, choices.pick("MaxPool", "MaxPool", "AveragePool"), kernel, stride=stride)


_IMAGE_BLOCKS: tuple[Block, ...] = (_conv, _conv, _conv, _conv, _biased, _pooled, _pooled)


def _scored(net: Net, x: str, choices: Choices) -> str:
    """For each place how likely it is, and where."""
    likely = net.conv(x, 2, 1, has_norm=False)
    net.outputs.append(net.conv(x, 4, 1, has_norm=False))
    if choices.unit() < 0.5:
        return net.softmax(net.transpose(likely, 0, 2, 3, 1))
    return net.softmax(likely, axis=1) if net.style.opset >= 13 else likely


def _told(net: Net, x: str, choices: Choices) -> str:
    """By dense layers behind the image."""
    y = net.flat(x)
    for _ in range(choices.pick(1, 2, 2, 3)):
        y = net.dense(y, choices.log(8, 256), act=choices.pick("Relu", "Tanh", "Sigmoid"))
    y = net.dense(y, choices.log(2, 100))
    return net.softmax(y) if choices.unit() < 0.5 else y


def small_images(design: Design) -> Point:
    """From digits to thumbnails; some come with their channels last, and in numbers up to 255."""
    side, channels, count = design.log(10, 80), design.pick(1, 1, 3, 3, 3, 16), design.log(1, 7)
    is_last, is_scored = design.unit() < 0.3, design.unit() < 0.4
    text = label(c=channels, s=side, n=count, last=int(is_last), p=int(is_scored))

    def draw(net: Net) -> None:
        dice = design.dice(text)
        if is_last:
            x = net.transpose(net.input("image", 1, side, side, channels), 0, 3, 1, 2)
            x = net.scaled(net.op("Sub", x, net.const(0.5), is_positive=False), 2.0)
        else:
            x = net.input("image", 1, channels, side, side)
        x = composed(net, x, count, _IMAGE_BLOCKS, dice)
        net.outputs.append((_scored if is_scored else _told)(net, x, dice))

    return Point(text, draw, 0.0)


def _linear(net: Net, x: str, choices: Choices) -> str:
    return net.linear(x, choices.log(8, _MOST_COLUMNS), act=choices.pick(*_CURVES))


def _part(net: Net, x: str, choices: Choices) -> str:
    """Every other number of a row, or one of some: real parts, gates, a state."""
    batch, length, size = net.shape(x)
    parts = choices.pick(2, 2, 3, 4)
    if size < 2 * parts:
        return _linear(net, x, choices)
    each = size // parts
    apart = net.reshape(net.slice(x, 0, each * parts, 2), (batch, length, each, parts))
    one, other = (net.slice(apart, place, place + 1, 3) for place in (0, parts - 1))
    mixed = net.mul(one, other) if choices.unit() < 0.5 else net.add(one, other)
    return net.reshape(mixed, (batch, length, each))


def _stepped(net: Net, x: str, choices: Choices) -> str:
    """A recurrent layer, with a state that is carried or not."""
    hidden, cell = choices.log(16, 160), choices.pick("LSTM", "LSTM", "GRU")
    frames = net.transpose(x, 1, 0, 2)
    if choices.unit() < 0.5:
        y = carried(net, frames, hidden, cell=cell, layer=len(net.inputs))
    else:
        y = unrolled(net, frames, hidden, cell=cell)
    return net.transpose(y, 1, 0, 2)


def _masked(net: Net, x: str, choices: Choices) -> str:
    """Weighed by what is made of it."""
    return net.mul(x, net.linear(x, net.shape(x)[2], act=choices.pick("Sigmoid", "Tanh")))


def _normal(net: Net, x: str, choices: Choices) -> str:
    return net.layer_norm(x) if choices.unit() < 0.5 else net.softmax(x)


_ROW_BLOCKS: tuple[Block, ...] = (_linear, _linear, _part, _part, _stepped, _masked, _normal)


def small_rows(design: Design) -> Point:
    """A frame or a few."""
    length, size, count = design.pick(1, 1, 1, 2, 4), design.log(16, 512), design.log(2, 10)
    text = label(m=length, k=size, n=count)

    def draw(net: Net) -> None:
        x = net.input("rows", 1, length, size)
        net.outputs.append(composed(net, x, count, _ROW_BLOCKS, design.dice(text)))

    return Point(text, draw, 0.0)


SWEEPS = (
    Sweep("medley-small-images", 80, small_images, "ffqffhf", least_opset=12),
    Sweep("medley-small-rows", 60, small_rows, "fffdf", least_opset=13),
)
