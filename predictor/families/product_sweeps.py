"""Sweeps of operators that multiply: convolutions, matrix products, recurrent layers."""

from __future__ import annotations

import math

from predictor.families.layers import Net
from predictor.families.sequences import unrolled
from predictor.families.sweeps import Design, Point, Sweep, label


def _conv(design: Design) -> Point:
    channels = 3 if design.unit() < 0.1 else design.channels(4, 512)
    filters, size = design.channels(4, 512), design.log(4, 224)
    kernel, stride = design.pick(1, 1, 1, 3, 3, 3, 3, 5, 7), design.pick(1, 1, 1, 2)
    groups = design.pick(1, 1, 1, 1, 1, 1, 1, 2, 4, 8)
    batch, act = (
        design.pick(1, 1, 1, 1, 1, 2, 4, 8),
        design.pick("", "Relu", "Relu", "relu6", "silu", "hardswish"),
    )
    if channels % groups or filters % groups:
        groups = 1

    def draw(net: Net) -> None:
        x = net.input("image", batch, channels, size, size)
        net.outputs.append(net.conv(x, filters, kernel, stride=stride, groups=groups, act=act))

    text = label(c=channels, f=filters, k=kernel, s=size, t=stride, g=groups, b=batch)
    work = batch * (size / stride) ** 2 * channels * filters * kernel**2 / groups
    return Point(f"{text}-{act or 'none'}", draw, work)


def _flat_conv(design: Design) -> Point:
    channels, filters, length = design.channels(4, 384), design.channels(4, 384), design.log(8, 8000)
    kernel, stride, dilation = design.pick(1, 3, 3, 5, 9), design.pick(1, 1, 2, 4), design.pick(1, 1, 2, 8)
    is_deep = design.unit() < 0.25
    groups = channels if is_deep else 1
    filters = channels if is_deep else filters

    def draw(net: Net) -> None:
        x = net.input("signal", 1, channels, length)
        y = net.conv(x, filters, kernel, stride=stride, dilation=dilation, groups=groups, act="Relu")
        net.outputs.append(y)

    text = label(c=channels, f=filters, k=kernel, s=length, t=stride, a=dilation, g=groups)
    return Point(text, draw, length / stride * channels * filters * kernel / groups)


def _depthwise(design: Design) -> Point:
    channels, size = design.channels(6, 960), design.log(4, 192)
    kernel, stride = design.pick(3, 3, 3, 5, 5, 7), design.pick(1, 1, 2)
    batch, act = design.pick(1, 1, 1, 4), design.pick("", "Relu", "relu6", "hardswish")

    def draw(net: Net) -> None:
        x = net.input("image", batch, channels, size, size)
        net.outputs.append(net.conv(x, channels, kernel, stride=stride, groups=channels, act=act))

    text = label(c=channels, k=kernel, s=size, t=stride, b=batch)
    return Point(f"{text}-{act or 'none'}", draw, 4.0 * batch * (size / stride) ** 2 * channels * kernel**2)


def _deconv(design: Design) -> Point:
    channels, filters, size = design.channels(4, 256), design.channels(3, 256), design.log(4, 128)
    kernel = design.pick(2, 4)

    def draw(net: Net) -> None:
        net.outputs.append(net.deconv(net.input("image", 1, channels, size, size), filters, kernel))

    return Point(
        label(c=channels, f=filters, k=kernel, s=size), draw, size**2 * channels * filters * kernel**2
    )


def _gemm(design: Design) -> Point:
    rows, inner, columns = design.log(1, 512), design.log(8, 2048), design.log(8, 2048)
    act = design.pick("", "Relu")

    def draw(net: Net) -> None:
        net.outputs.append(net.dense(net.input("rows", rows, inner), columns, act=act))

    text = label(m=rows, k=inner, n=columns)
    return Point(f"{text}-{act or 'none'}", draw, rows * inner * columns)


def _gemv(design: Design) -> Point:
    inner, columns = design.log(32, 4096), design.log(32, 6000)

    def draw(net: Net) -> None:
        net.outputs.append(net.linear(net.input("row", 1, inner), columns))

    return Point(label(k=inner, n=columns), draw, inner * columns)


def _matmul(design: Design) -> Point:
    rows = design.log(1, 384)
    inner, columns = design.log(2, 64) * 32, design.log(2, 64) * 32

    def draw(net: Net) -> None:
        net.outputs.append(net.matmul(net.input("rows", 1, rows, inner), columns))

    return Point(label(m=rows, k=inner, n=columns), draw, rows * inner * columns)


def _batched(design: Design) -> Point:
    heads, rows, inner, columns = (
        design.log(1, 32),
        design.log(1, 256),
        design.log(8, 256),
        design.log(8, 256),
    )
    is_turned = design.unit() < 0.4

    def draw(net: Net) -> None:
        x = net.input("left", 1, heads, rows, inner)
        if is_turned:
            y = net.transpose(net.input("right", 1, heads, columns, inner), 0, 1, 3, 2)
        else:
            y = net.input("right", 1, heads, inner, columns)
        net.outputs.append(net.product(x, y))

    text = label(h=heads, m=rows, k=inner, n=columns)
    return Point(f"{text}-{'turned' if is_turned else 'straight'}", draw, heads * rows * inner * columns)


def _attention(design: Design) -> Point:
    heads, length, each = design.log(1, 16), design.log(4, 512), design.pick(16, 32, 64, 64, 128)
    rows = design.pick(1, length, length)

    def draw(net: Net) -> None:
        query = net.input("query", 1, heads, rows, each)
        key, value = net.input("key", 1, heads, each, length), net.input("value", 1, heads, length, each)
        scores = net.scaled(net.product(query, key), 1.0 / math.sqrt(each))
        net.outputs.append(net.product(net.softmax(scores), value))

    return Point(label(h=heads, m=rows, n=length, k=each), draw, 2.0 * heads * rows * length * each)


def _recurrent(design: Design) -> Point:
    cell, is_both_ways = design.pick("LSTM", "LSTM", "GRU", "RNN"), design.unit() < 0.3
    length, batch = design.log(1, 128), design.pick(1, 1, 1, 1, 4, 16)
    size, hidden = design.log(8, 512), design.log(8, 512)

    def draw(net: Net) -> None:
        x = net.input("frames", length, batch, size)
        net.outputs.append(unrolled(net, x, hidden, cell=cell, is_both_ways=is_both_ways))

    text = f"{cell.lower()}-{label(t=length, b=batch, n=size, h=hidden, w=int(is_both_ways) + 1)}"
    work = length * math.sqrt(batch) * hidden * (size + hidden) * 4 * (2 if is_both_ways else 1) * 2
    return Point(text, draw, work)


SWEEPS = (
    Sweep("sweep-conv", 96, _conv, "fffqffqh", (2e4, 5e8), 11),
    Sweep("sweep-conv1d", 16, _flat_conv, "ffq", (2e5, 4e8), 11),
    Sweep("sweep-depthwise", 40, _depthwise, "fffq", (1e4, 2e8), 11),
    Sweep("sweep-deconv", 12, _deconv, "f", (2e5, 5e8), 11),
    Sweep("sweep-gemm", 36, _gemm, "ffffqfffh", (1e6, 1.2e9), 11),
    Sweep("sweep-gemv", 14, _gemv, "f", (3e5, 2.5e7), 11),
    Sweep("sweep-matmul", 60, _matmul, "dwqdwf", (3e5, 8e8), 11),
    Sweep("sweep-batched", 20, _batched, "f", (1e6, 6e8), 11),
    Sweep("sweep-attention", 12, _attention, "f", (3e5, 4e8), 11),
    Sweep("sweep-recurrent", 24, _recurrent, "f", (1e4, 2e8), 11),
)
