"""Medleys on signals: convolutions over one axis, strided, dilated and transposed, as sound and sensors have
them. Runtimes that are fast on images may have no such kernels for signals.
"""

from __future__ import annotations

import math

from predictor.families.attention import attended
from predictor.families.layers import Net
from predictor.families.sweeps import Block, Bounds, Choices, Design, Point, Sweep, composed, label

_CURVES = ("Relu", "Relu", "LeakyRelu", "LeakyRelu", "silu", "gelu", "Tanh", "Elu", "PRelu", "Sigmoid")
_MOST = Bounds(macs=1.2e8, numbers=3e5, channels=512)
_MOST_FRAMES = 400  # of attention


def _maybe_curve(choices: Choices) -> str:
    return choices.pick(*_CURVES) if choices.unit() < 0.6 else ""


def _filters_for(net: Net, x: str, choices: Choices, kernel: int) -> int:
    """Channels of a result such that making it stays within bounds."""
    most = _MOST.filters(net.shape(x), kernel)
    return choices.channels(6, max(int(most), 12)) if most > 6 else 4


def _conv(net: Net, x: str, choices: Choices) -> str:
    kernel = choices.pick(1, 1, 3, 3, 3, 5, 7, 8, 9, 15)
    is_long = net.shape(x)[2] >= 4 * kernel
    stride = choices.pick(1, 1, 1, 2, 4) if is_long else 1
    dilation = choices.pick(1, 1, 1, 2, 4, 8) if stride == 1 and kernel % 2 and is_long else 1
    filters = _filters_for(net, x, choices, kernel)
    groups = choices.pick(1, 1, 1, 1, 2, 4)
    if net.shape(x)[1] % groups or filters % groups:
        groups = 1
    act, has_norm = _maybe_curve(choices), choices.unit() < 0.5
    return net.conv(
        x, filters, kernel, stride=stride, dilation=dilation, groups=groups, act=act, has_norm=has_norm
    )


def _depthwise(net: Net, x: str, choices: Choices) -> str:
    channels, kernel = net.shape(x)[1], choices.pick(3, 5, 7, 11, 15, 31)
    y = net.conv(x, channels, kernel, groups=channels, act=_maybe_curve(choices), has_norm=False)
    return net.conv(y, channels, 1) if choices.unit() < 0.5 and channels <= _MOST.channels / 2 else y


def _shorter(net: Net, x: str, choices: Choices) -> str:
    """By a convolution twice as wide as its stride, or by a pooling."""
    stride = choices.pick(2, 2, 4, 5)
    if net.shape(x)[2] < 4 * stride:
        return _conv(net, x, choices)
    if choices.unit() < 0.3:
        return net.pool(x, choices.pick("MaxPool", "AveragePool"), stride, stride=stride)
    filters = _filters_for(net, x, choices, 2 * stride)
    return net.conv(
        x,
        filters,
        2 * stride,
        stride=stride,
        pads=[stride // 2] * 2,
        act=_maybe_curve(choices),
        has_norm=False,
    )


def _longer(net: Net, x: str, choices: Choices) -> str:
    """By a transposed convolution."""
    stride = choices.pick(2, 2, 4, 8)
    batch, channels, length = net.shape(x)
    most = min(
        _MOST.numbers / (batch * length * stride), _MOST.macs / (batch * length * channels * 2 * stride)
    )
    if most < 4:
        return _shorter(net, x, choices)
    filters = choices.channels(3, max(min(most, _MOST.channels), 6))
    kernel = choices.pick(2, 2, 1) * stride
    return net.deconv(x, filters, kernel, stride=stride, act=_maybe_curve(choices))


def _causal(net: Net, x: str, choices: Choices) -> str:
    channels, dilation = net.shape(x)[1], choices.pick(1, 2, 4, 8, 16)
    if channels > _MOST.channels / 2:
        return net.conv(x, 64, 1)
    padded = net.pad(x, (0, 0, 2 * dilation), (0, 0, 0))
    y = net.conv(padded, channels, 3, dilation=dilation, pads=[0, 0], act=_maybe_curve(choices))
    return net.add(x, y)


def _gated(net: Net, x: str, choices: Choices) -> str:
    """Tanh times Sigmoid, or a half times the other's Sigmoid."""
    channels = net.shape(x)[1]
    if channels > _MOST.channels / 4:
        return net.conv(x, 64, 1)
    wide = net.conv(x, 2 * channels, choices.pick(1, 3, 3, 5), has_norm=False)
    left, right = net.split(wide, (channels, channels))
    y = net.mul(net.act(left, choices.pick("Tanh", "")), net.act(right, "Sigmoid"))
    return net.add(x, net.conv(y, channels, 1, has_norm=False)) if choices.unit() < 0.6 else y


def _residual(net: Net, x: str, choices: Choices) -> str:
    channels, act = net.shape(x)[1], choices.pick(*_CURVES)
    if channels > _MOST.channels / 2:
        return net.conv(x, 64, 1)
    y = net.conv(net.act(x, act), channels, choices.pick(3, 3, 5, 7), act=act, has_norm=False)
    return net.add(x, net.conv(y, channels, choices.pick(1, 3), has_norm=False))


def _weighed(net: Net, x: str, choices: Choices) -> str:
    batch, channels, _ = net.shape(x)
    mean = net.reduce_mean(x, [2], shape=(batch, channels, 1), level=0.5)
    narrow = net.conv(mean, max(channels // choices.pick(4, 8), 4), 1, act="Relu", has_norm=False)
    return net.mul(x, net.act(net.conv(narrow, channels, 1, has_norm=False), "Sigmoid"))


def _normal(net: Net, x: str, choices: Choices) -> str:
    if choices.unit() < 0.5:
        return net.act(net.batch_norm(x), _maybe_curve(choices))
    return net.transpose(net.layer_norm(net.transpose(x, 0, 2, 1)), 0, 2, 1)


def _attended(net: Net, x: str, choices: Choices) -> str:
    _, channels, length = net.shape(x)
    if length > _MOST_FRAMES or channels % 32:
        return net.conv(x, 64, 4, stride=2, act="gelu") if length > 8 else net.conv(x, 64, 1)
    frames = net.transpose(x, 0, 2, 1)
    frames = net.add(frames, attended(net, net.layer_norm(frames), is_packed=choices.unit() < 0.5))
    return net.transpose(frames, 0, 2, 1)


_BLOCKS: tuple[Block, ...] = (
    _conv, _conv, _conv, _conv, _depthwise, _depthwise, _shorter, _longer, _longer, _causal, _gated,
    _residual, _weighed, _normal, lambda net, x, choices: net.act(x, choices.pick(*_CURVES)), _attended,
)  # fmt: skip


def signal_medley(design: Design) -> Point:
    """Any length, from a few frames to a second of sound."""
    length, channels = design.log(24, 65536), design.channels(1, 256)
    batch, count = design.pick(1, 1, 1, 1, 2, 4), design.log(2, 14)
    channels = max(min(channels, int(_MOST.numbers / (batch * length))), 1)
    text = label(c=channels, s=length, n=count, b=batch)

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = net.input("signal", batch, channels, length)
        x = composed(net, x, count, _BLOCKS, dice)
        is_whole = dice.unit() < 0.5 or math.prod(net.shape(x)) > _MOST.numbers
        net.outputs.append(x if is_whole else net.dense(net.pooled(x), dice.log(4, 500)))

    return Point(text, draw, 0.0)


SWEEPS = (Sweep("medley-signals", 120, signal_medley, "ffqffqfh", least_opset=13),)
