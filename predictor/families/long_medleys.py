"""Medleys of long windows over few channels: banks of filters on a wave, spectrograms with windows that span
tens of bins, words as rows of an image, and the squares, roots and joins between them. Libraries that are
fast on 3x3 windows over many channels take other paths for these, or none of their own.
"""

from __future__ import annotations

import math

from predictor.families.layers import Net
from predictor.families.sweeps import Block, Bounds, Choices, Design, Point, Sweep, composed, label

_CURVES = ("Relu", "Relu", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "")
_MOST = Bounds(macs=1.5e8, numbers=6e5, channels=384)
_FEW = (1, 1, 1, 2, 3, 4, 8, 8, 16, 32)
_SPANS = (1, 3, 3, 5, 7, 9, 11, 15, 20, 25, 31, 39, 41)
_LARGEST = 450  # elements of a window on an image
_LENGTHS = (10, 16, 25, 32, 48, 64, 80, 128, 128, 200, 256, 256, 400, 512)


def _window(net: Net, x: str, choices: Choices) -> tuple[int, ...]:
    """No longer than the tensor along any axis."""
    sizes = net.shape(x)[2:]
    if min(sizes) == 1 or len(sizes) == 1:  # a wave, perhaps as an image of one row
        return tuple(min(choices.pick(*_LENGTHS), size) if size > 1 else 1 for size in sizes)
    first = min(choices.pick(*_SPANS), sizes[0])
    second = min(choices.pick(*_SPANS), sizes[1], max(_LARGEST // first, 1))
    return first, second


def _filters(net: Net, x: str, choices: Choices, window: tuple[int, ...], stride: int, most: int) -> int:
    """Channels of a result, at most as many as keep it within bounds."""
    within = _MOST.filters(net.shape(x), math.prod(window)) * stride
    return max(min(choices.log(1, most), int(within)), 1)


def _strided(window: tuple[int, ...], choices: Choices) -> tuple[int, ...]:
    """One step, or more along the longest side of the window."""
    longest = max(window)
    step = choices.pick(1, 1, 2, 2, max(longest // 4, 1), max(longest // 2, 1))
    return tuple(step if size == longest and size > 1 else 1 for size in window)


def _long(net: Net, x: str, choices: Choices) -> str:
    window = _window(net, x, choices)
    is_strided = min(net.shape(x)[2:]) == 1 or choices.unit() < 0.3
    stride = _strided(window, choices) if is_strided else (1,) * len(window)
    filters = _filters(net, x, choices, window, math.prod(stride), choices.pick(4, 40, 256))
    pads = None if choices.unit() < 0.5 else [0] * 2 * len(window)
    return net.conv(
        x, filters, window, stride=stride, pads=pads, act=choices.pick(*_CURVES),
        has_norm=choices.unit() < 0.3,
    )  # fmt: skip


def _plain(net: Net, x: str, choices: Choices) -> str:
    """A short window in between, to any number of channels."""
    window = tuple(min(choices.pick(1, 3, 3, 5), size) for size in net.shape(x)[2:])
    filters = _filters(net, x, choices, window, 1, 64)
    return net.conv(x, filters, window, act=choices.pick(*_CURVES))


def _last(net: Net, x: str, choices: Choices) -> str:
    """To one channel, or a few."""
    window = _window(net, x, choices)
    while math.prod(window) * math.prod(net.shape(x)) > _MOST.macs:
        window = tuple(max(size // 2, 1) for size in window)
    return net.conv(x, choices.pick(1, 1, 2, 3), window, act=choices.pick("Sigmoid", ""), has_norm=False)


def _joined(net: Net, x: str, choices: Choices) -> str:
    """With what is made of it."""
    window = tuple(size - 1 + size % 2 for size in _window(net, x, choices))  # odd, so that sizes stay
    filters = _filters(net, x, choices, window, 1, 32)
    return net.concat([x, net.conv(x, filters, window, act="Relu")])


def _power(net: Net, x: str, choices: Choices) -> str:
    """Of two halves as real and imaginary parts, as it is, as a root or in decibels."""
    channels = net.shape(x)[1]
    if channels < 2:
        return net.mul(x, x)
    half = channels // 2
    parts = [net.slice(x, start, start + half, 1) for start in (0, half)]
    total = net.add(*(net.mul(part, part) for part in parts))
    kind = choices.pick("", "Sqrt", "Log")
    if not kind:
        return net.scaled(total, 0.5)
    shifted = net.op("Add", total, net.const(1.0), is_positive=True, level=net.level(total) + 1.0)
    return net.op(kind, shifted, level=1.0, is_positive=True)


_BLOCKS: tuple[Block, ...] = (_long, _long, _long, _long, _plain, _plain, _joined, _power, _last)


def long_wave(design: Design) -> Point:
    """From a frame to a second of sound, with one axis or as an image of one row."""
    length, channels = design.log(256, 44100), design.pick(1, 1, 1, 1, 2, 4, 8)
    is_image, count = design.unit() < 0.4, design.log(1, 8)
    text = label(c=channels, s=length, n=count, i=int(is_image))

    def draw(net: Net) -> None:
        shape = (1, channels, 1, length) if is_image else (1, channels, length)
        net.outputs.append(composed(net, net.input("wave", *shape), count, _BLOCKS, design.dice(text)))

    return Point(text, draw, 0.0)


def long_picture(design: Design) -> Point:
    """A spectrogram, or words as rows."""
    height, width, channels = design.log(20, 300), design.log(20, 300), design.pick(*_FEW)
    count = design.log(1, 8)
    text = label(c=channels, s=(height, width), n=count)

    def draw(net: Net) -> None:
        x = net.input("image", 1, channels, height, width)
        net.outputs.append(composed(net, x, count, _BLOCKS, design.dice(text)))

    return Point(text, draw, 0.0)


SWEEPS = (
    Sweep("medley-long-waves", 40, long_wave, "ffqfffhfff", least_opset=13),
    Sweep("medley-long-pictures", 50, long_picture, "ffqfffhfff", least_opset=13),
)
