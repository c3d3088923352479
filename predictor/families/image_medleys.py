"""Medleys on images: networks of blocks in random order and sizes, as no family has them.

A sweep times an operator alone; a medley times it in company, with its inputs in whatever layout the kernel
before it left them, and tens of kernels in one measurement.
"""

from __future__ import annotations

import math

from predictor.families.attention import attended
from predictor.families.convnets import gated
from predictor.families.layers import Net
from predictor.families.mixing import channel_norm
from predictor.families.sweeps import Block, Bounds, Choices, Design, Point, Sweep, composed, label

_CURVES = (
    "Relu", "Relu", "Relu", "relu6", "silu", "hardswish", "LeakyRelu", "Sigmoid", "Tanh", "gelu", "PRelu",
    "Elu", "HardSigmoid",
)  # fmt: skip
_MOST = Bounds(macs=2.5e8, numbers=4e5, channels=640)
_MOST_ROWS = 400  # of attention over the places of an image


def _maybe_curve(choices: Choices) -> str:
    return choices.pick(*_CURVES) if choices.unit() < 0.65 else ""


def _filters_for(net: Net, x: str, choices: Choices, window: int) -> int:
    """Channels of a result such that making it stays within bounds."""
    most = _MOST.filters(net.shape(x), window)
    return choices.channels(6, max(int(most), 12)) if most > 6 else 8


def _conv(net: Net, x: str, choices: Choices) -> str:
    kernel, stride = choices.pick(1, 1, 1, 3, 3, 3, 3, 5, 7), _stride(net, x, choices)
    dilation = choices.pick(1, 1, 1, 1, 1, 2) if kernel == 3 and stride == 1 else 1
    filters = _filters_for(net, x, choices, kernel * kernel)
    groups = choices.pick(1, 1, 1, 1, 1, 2, 4, 8)
    if net.shape(x)[1] % groups or filters % groups:
        groups = 1
    return net.conv(
        x, filters, kernel, stride=stride, groups=groups, dilation=dilation, act=_maybe_curve(choices)
    )


def _stride(net: Net, x: str, choices: Choices) -> int:
    return choices.pick(1, 1, 1, 2) if min(net.shape(x)[2:]) >= 4 else 1


def _long_and_thin(net: Net, x: str, choices: Choices) -> str:
    kernel = choices.pick(3, 5, 7)
    filters = _filters_for(net, x, choices, kernel)
    x = net.conv(x, filters, (1, kernel), act=_maybe_curve(choices))
    return net.conv(x, net.shape(x)[1], (kernel, 1), act=_maybe_curve(choices))


def _depthwise(net: Net, x: str, choices: Choices) -> str:
    kernel, stride = choices.pick(3, 3, 3, 5, 5, 7), _stride(net, x, choices)
    return net.conv(
        x, net.shape(x)[1], kernel, stride=stride, groups=net.shape(x)[1], act=_maybe_curve(choices)
    )


def _inverted(net: Net, x: str, choices: Choices) -> str:
    act, stride = choices.pick(*_CURVES), _stride(net, x, choices)
    filters = _filters_for(net, x, choices, 4)
    wide = min(net.shape(x)[1] * choices.pick(2, 3, 4, 6), 2 * _MOST.channels)
    y = net.conv(x, wide, 1, act=act)
    y = net.conv(y, wide, choices.pick(3, 3, 5), stride=stride, groups=wide, act=act)
    if choices.unit() < 0.4:
        y = _gate(net, y, choices)
    if stride == 1 and choices.unit() < 0.6:
        return net.add(x, net.conv(y, net.shape(x)[1], 1))
    return net.conv(y, filters, 1)


def _residual(net: Net, x: str, choices: Choices) -> str:
    act, channels = choices.pick(*_CURVES), net.shape(x)[1]
    if channels > 160 or choices.unit() < 0.4:  # a bottleneck
        narrow = max(channels // choices.pick(2, 4, 4), 8)
        y = net.conv(net.conv(x, narrow, 1, act=act), narrow, 3, act=act)
        return net.act(net.add(x, net.conv(y, channels, 1)), act)
    y = net.conv(net.conv(x, channels, 3, act=act), channels, 3)
    return net.act(net.add(x, y), act if choices.unit() < 0.7 else "")


def _dense(net: Net, x: str, choices: Choices) -> str:
    growth = choices.pick(8, 12, 16, 32)
    parts = [x]
    for _ in range(choices.pick(1, 2, 3)):
        whole = net.concat(parts) if len(parts) > 1 else x
        y = net.act(net.batch_norm(whole), "Relu") if choices.unit() < 0.5 else whole
        parts.append(net.conv(y, growth, choices.pick(1, 3, 3), act=_maybe_curve(choices)))
    return net.concat(parts)


def _branches(net: Net, x: str, choices: Choices) -> str:
    parts = []
    for kernel in (1, 3, 5)[: choices.pick(2, 2, 3)]:
        filters = max(_filters_for(net, x, choices, kernel * kernel) // 2, 4)
        parts.append(net.conv(x, filters, kernel, act=_maybe_curve(choices)))
    if choices.unit() < 0.4:
        parts.append(net.pool(x, choices.pick("MaxPool", "AveragePool"), 3, stride=1, pad=1))
    return net.concat(parts)


def _shuffled(net: Net, x: str, choices: Choices) -> str:
    batch, channels, height, width = net.shape(x)
    if channels % 4:
        return net.conv(x, channels // 4 * 4 + 4, 1, act=_maybe_curve(choices))
    half = channels // 2
    left, right = net.split(x, (half, half))
    right = net.conv(right, half, 1, act="Relu")
    right = net.conv(net.conv(right, half, 3, groups=half), half, 1, act="Relu")
    mixed = net.reshape(net.concat([left, right]), (batch, 2, half, height, width))
    return net.reshape(net.transpose(mixed, 0, 2, 1, 3, 4), (batch, channels, height, width))


def _gate(net: Net, x: str, choices: Choices) -> str:
    channels = net.shape(x)[1]
    narrow = channels // choices.pick(4, 4, 8, 16)
    return gated(net, x, narrow, act="Relu", gate=choices.pick("Sigmoid", "HardSigmoid"))


def _pooled(net: Net, x: str, choices: Choices) -> str:
    kernel, stride = choices.pick(2, 3, 3, 5), _stride(net, x, choices)
    if min(net.shape(x)[2:]) < 4:
        return x
    return net.pool(x, choices.pick("MaxPool", "AveragePool"), kernel, stride=stride, pad=kernel // 2)


def _larger(net: Net, x: str, choices: Choices) -> str:
    if 4 * math.prod(net.shape(x)) > _MOST.numbers:
        return net.conv(x, 16, 1, stride=2 if min(net.shape(x)[2:]) >= 4 else 1)
    form, channels = choices.pick("nearest", "linear", "deconv", "depth"), net.shape(x)[1]
    if form == "deconv" and channels <= 256:
        return net.deconv(x, max(channels // 2, 4), choices.pick(2, 4), act=_maybe_curve(choices))
    if form == "depth" and channels % 4 == 0:
        batch, _, height, width = net.shape(x)
        return net.op("DepthToSpace", x, shape=(batch, channels // 4, 2 * height, 2 * width), blocksize=2)
    return net.resized(x, 2, mode="linear" if form == "linear" else "nearest")


def _curve(net: Net, x: str, choices: Choices) -> str:
    return net.act(x, choices.pick(*_CURVES))


def _normal(net: Net, x: str, choices: Choices) -> str:
    if choices.unit() < 0.5:
        return net.act(net.batch_norm(x), _maybe_curve(choices))
    return channel_norm(net, x)


def _moved(net: Net, x: str, choices: Choices) -> str:
    batch, channels, height, width = net.shape(x)
    form = choices.pick("halves", "pad", "space", "scale", "self")
    if form == "halves" and channels % 2 == 0:
        left, right = net.split(x, (channels // 2, channels // 2))
        return net.mul(left, net.act(right, "Sigmoid"))
    if form == "pad" and width > 3:
        return net.slice(net.pad(x, (0, 0, 1, 1), (0, 0, 1, 1)), 2, width, 3)
    if form == "space" and height % 2 == width % 2 == 0 and channels <= 160:
        shape = (batch, 4 * channels, height // 2, width // 2)
        return net.op("SpaceToDepth", x, shape=shape, blocksize=2)
    if form == "self":
        return net.mul(x, net.act(x, "Tanh"))
    return net.op("Mul", x, net.noise(1, channels, 1, 1, scale=0.1, centre=1.0))


def _attended(net: Net, x: str, choices: Choices) -> str:
    batch, channels, height, width = net.shape(x)
    if height * width > _MOST_ROWS or channels % 32:
        return net.conv(x, 64, 1, stride=2 if min(height, width) >= 4 else 1)
    rows = net.transpose(net.reshape(x, (batch, channels, height * width)), 0, 2, 1)
    rows = net.add(rows, attended(net, net.layer_norm(rows), is_packed=choices.unit() < 0.5))
    return net.reshape(net.transpose(rows, 0, 2, 1), (batch, channels, height, width))


_BLOCKS: tuple[Block, ...] = (
    _conv, _conv, _conv, _conv, _depthwise, _depthwise, _inverted, _inverted, _residual, _residual, _dense,
    _branches, _shuffled, _gate, _pooled, _larger, _curve, _normal, _moved, _long_and_thin, _attended,
)  # fmt: skip


def image_medley(design: Design) -> Point:
    """Blocks of convolutional networks on images of any size."""
    side, channels = design.log(7, 160), design.channels(3, 256)
    batch, count = design.pick(1, 1, 1, 1, 1, 2, 4), design.log(3, 14)
    channels = _MOST.halved(channels, batch * side * side)
    return _composed_at(design, (batch, channels, side), count)


def image_batch(design: Design) -> Point:
    """The same blocks on a batch of small images, as training and servers have them."""
    batch, side = design.log(6, 128), design.log(4, 56)
    channels, count = design.channels(3, 256), design.log(3, 12)
    channels = _MOST.halved(channels, batch * side * side)
    while batch * channels * side * side > _MOST.numbers:
        batch //= 2
    return _composed_at(design, (batch, channels, side), count)


def many_images(design: Design) -> Point:
    """As many of the blocks as whole networks have."""
    side, channels, count = design.log(7, 96), design.channels(3, 96), design.log(15, 56)
    return _composed_at(design, (1, channels, side), count)


def _composed_at(design: Design, sizes: tuple[int, int, int], count: int) -> Point:
    """`sizes`: of the batch, of its channels, and of the sides of its images."""
    batch, channels, side = sizes
    text = label(c=channels, s=side, n=count, b=batch)

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = net.input("image", batch, channels, side, side)
        x = composed(net, x, count, _BLOCKS, dice)
        net.outputs.append(x if dice.unit() < 0.5 else net.dense(net.pooled(x), dice.log(4, 1000)))

    return Point(text, draw, 0.0)


SWEEPS = (
    Sweep("medley-images", 400, image_medley, "ffqfffqffh", least_opset=11),
    # ONNX Runtime leaves weights as they are that the caller may replace; what converts files does not.
    Sweep("medley-replaceable-images", 50, image_medley, "f", least_opset=11, lists_weights=True),
    Sweep("medley-image-batches", 120, image_batch, "ffqfffqffh", least_opset=11),
    Sweep("medley-many-images", 90, many_images, "ffqfffqffh", least_opset=11),
)
