"""Sweeps of operators that do not multiply matrices: curves, sums, normalisation, pools, moves, and chains of
tiny operators.
"""

from __future__ import annotations

import math

import numpy as np

from predictor.families.layers import Net
from predictor.families.sweeps import Design, Point, Sweep, label

_CURVES = (
    "Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Sqrt", "HardSigmoid", "LeakyRelu", "Softplus", "Abs",
    "Neg", "Floor", "Elu",
)  # fmt: skip
_SPELT = ("gelu", "hardswish", "silu", "relu6", "PRelu")
_PAIRS = ("Add", "Mul", "Sub", "Div", "Pow", "Max", "Where", "Greater")


def _image_of(design: Design, most: float = 4e6) -> tuple[int, int, int, int]:
    """(B, C, H, W) with at most so many numbers."""
    channels, side = design.channels(3, 512), design.log(2, 224)
    batch = design.pick(1, 1, 1, 4)
    while batch * channels * side * side > most:
        side = max(side // 2, 1)
    return batch, channels, side, side


def _rows_of(design: Design) -> tuple[int, int, int]:
    """(B, N, D) as transformers have them."""
    return 1, design.log(1, 1024), design.log(16, 1536)


def _curve(design: Design) -> Point:
    kind = design.pick(*_CURVES, *_SPELT, *_SPELT)
    shape = _image_of(design)

    def draw(net: Net) -> None:
        x = net.input("x", *shape)
        net.outputs.append(net.act(x, kind) if kind in _SPELT else net.op(kind, x))

    return Point(f"{kind.lower()}-{label(s=shape)}", draw, math.prod(shape))


def _pair(design: Design) -> Point:
    kind, form = (
        design.pick(*_PAIRS),
        design.pick("same", "same", "same", "channel", "scalar", "row", "column"),
    )
    shape = _image_of(design, 2e6)
    other = {
        "same": shape, "channel": (1, shape[1], 1, 1), "scalar": (1,), "row": (shape[3],),
        "column": (shape[2], 1),
    }[form]  # fmt: skip

    def draw(net: Net) -> None:
        x = net.input("x", *shape)
        y = net.input("y", *shape) if form == "same" else net.noise(*other, scale=0.1, centre=1.0)
        if kind in ("Where", "Greater"):
            mark = net.op("Greater", x, y, shape=shape, dtype="bool")
            net.outputs.append(net.op("Where", mark, x, y, shape=shape, dtype="float32"))
        else:
            net.outputs.append(
                net.op(kind, x, net.op("Add", y, net.const(0.5)) if kind == "Div" and y == "y" else y)
            )

    return Point(f"{kind.lower()}-{form}-{label(s=shape)}", draw, math.prod(shape))


def _joined(design: Design) -> Point:
    """Of the operators on two tensors those that quantisers take."""
    kind, shape = design.pick("Add", "Mul", "Concat"), _image_of(design, 2e6)

    def draw(net: Net) -> None:
        x, y = net.input("x", *shape), net.input("y", *shape)
        net.outputs.append(net.concat([x, y]) if kind == "Concat" else net.op(kind, x, y))

    return Point(f"{kind.lower()}-{label(s=shape)}", draw, math.prod(shape))


def _softmax(design: Design) -> Point:
    heads, rows, columns = design.log(1, 16), design.log(1, 512), design.log(2, 2048)
    return Point(
        label(h=heads, m=rows, n=columns),
        lambda net: net.outputs.append(net.softmax(net.input("x", 1, heads, rows, columns))),
        heads * rows * columns,
    )


def _layer_norm(design: Design) -> Point:
    shape, kind = _rows_of(design), design.pick("layer", "layer", "rms")

    def draw(net: Net) -> None:
        x = net.input("x", *shape)
        net.outputs.append(net.layer_norm(x) if kind == "layer" else net.rms_norm(x))

    return Point(f"{kind}-{label(s=shape)}", draw, math.prod(shape))


def _channel_norm(design: Design) -> Point:
    shape, kind = _image_of(design), design.pick("batch", "batch", "instance", "lrn")

    def draw(net: Net) -> None:
        x = net.input("x", *shape)
        if kind == "batch":
            net.outputs.append(net.batch_norm(x))
        elif kind == "lrn":
            net.outputs.append(net.op("LRN", x, size=5, alpha=1e-4, beta=0.75, bias=1.0))
        else:
            ends = net.noise(shape[1], centre=1.0, scale=0.1), net.noise(shape[1], scale=0.1)
            net.outputs.append(net.op("InstanceNormalization", x, *ends, shape=shape))

    return Point(f"{kind}-{label(s=shape)}", draw, math.prod(shape))


def _reduce(design: Design) -> Point:
    kind, shape = design.pick("space", "channel", "last", "global", "arg", "max"), _image_of(design)

    def draw(net: Net) -> None:
        x = net.input("x", *shape)
        if kind == "global":
            net.outputs.append(net.op("GlobalAveragePool", x, shape=(*shape[:2], 1, 1)))
        elif kind == "arg":
            y = net.op("ArgMax", x, shape=(shape[0], 1, *shape[2:]), dtype="int64", axis=1, keepdims=1)
            net.outputs.append(y)
        elif kind == "max":
            y = net.op("GlobalMaxPool", x, shape=(*shape[:2], 1, 1))
            net.outputs.append(y)
        else:
            axes = {"space": [2, 3], "channel": [1], "last": [3]}[kind]
            kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
            net.outputs.append(net.reduce_mean(x, axes, shape=kept))

    return Point(f"{kind}-{label(s=shape)}", draw, math.prod(shape))


def _pool(design: Design) -> Point:
    kind, shape = design.pick("MaxPool", "MaxPool", "AveragePool"), _image_of(design)
    kernel, stride = design.pick(2, 3, 3, 5), design.pick(1, 2, 2)

    def draw(net: Net) -> None:
        x = net.input("x", *shape)
        net.outputs.append(net.pool(x, kind, kernel, stride=stride, pad=kernel // 2))

    return Point(f"{kind.lower()}-{label(k=kernel, t=stride, s=shape)}", draw, math.prod(shape))


def _transpose(design: Design) -> Point:
    perm, shape = (
        design.pick((0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2), (1, 0, 2, 3)),
        _image_of(design),
    )
    return Point(
        label(p=perm, s=shape),
        lambda net: net.outputs.append(net.transpose(net.input("x", *shape), *perm)),
        math.prod(shape),
    )


def _move(design: Design) -> Point:
    kinds = ("concat", "deepconcat", "split", "slice", "strided", "gather", "pad", "reflect", "tile",
             "expand", "depth", "space", "cast", "shuffle")  # fmt: skip
    kind, (batch, channels, side, _) = design.pick(*kinds), _image_of(design, 2e6)
    channels, side = max(channels // 8 * 8, 8), max(side // 2 * 2, 4)
    shape = (batch, channels, side, side)
    return Point(f"{kind}-{label(s=shape)}", lambda net: _drawn_move(net, kind, shape), math.prod(shape))


def _drawn_move(net: Net, kind: str, shape: tuple[int, int, int, int]) -> None:
    batch, channels, side, _ = shape
    x = net.input("x", *shape)
    half = channels // 2
    if kind.endswith("concat"):
        net.outputs.append(net.concat([x, net.input("y", *shape)], axis=3 if kind == "deepconcat" else 1))
    elif kind == "split":
        net.outputs += net.split(x, (half, half))
    elif kind == "slice":
        net.outputs.append(net.slice(x, 1, side - 1, 2))
    elif kind == "strided":
        ends = (net.ints(0, 0), net.ints(side, side), net.ints(2, 3), net.ints(2, 2))
        net.outputs.append(net.op("Slice", x, *ends, shape=(batch, channels, side // 2, side // 2)))
    elif kind == "gather":
        rows = net.const(np.arange(half) * 2, "int64")
        net.outputs.append(net.op("Gather", x, rows, shape=(batch, half, side, side), axis=1))
    elif kind in ("pad", "reflect"):
        net.outputs.append(
            net.pad(x, (0, 0, 1, 1), (0, 0, 1, 1), "reflect" if kind == "reflect" else "constant")
        )
    elif kind == "tile":
        net.outputs.append(net.op("Tile", x, net.ints(1, 2, 1, 1), shape=(batch, 2 * channels, side, side)))
    elif kind == "expand":
        thin = net.slice(x, 0, 1, 3)
        net.outputs.append(net.op("Expand", thin, net.ints(*shape), shape=shape))
    elif kind == "depth":
        small = (batch, channels // 4, 2 * side, 2 * side)
        net.outputs.append(net.op("DepthToSpace", x, shape=small, blocksize=2))
    elif kind == "space":
        deep = (batch, 4 * channels, side // 2, side // 2)
        net.outputs.append(net.op("SpaceToDepth", x, shape=deep, blocksize=2))
    elif kind == "cast":
        net.outputs.append(net.op("Cast", net.op("Cast", x, dtype="float16", to=10), dtype="float32", to=1))
    else:
        parts = net.reshape(x, (batch, 2, half, side, side))
        net.outputs.append(net.reshape(net.transpose(parts, 0, 2, 1, 3, 4), shape))


def _resize(design: Design) -> Point:
    mode, factor, shape = (
        design.pick("nearest", "linear", "linear"),
        design.pick(2, 2, 4),
        _image_of(design, 3e5),
    )
    return Point(
        f"{mode}-{label(x=factor, s=shape)}",
        lambda net: net.outputs.append(net.resized(net.input("x", *shape), factor, mode=mode)),
        math.prod(shape),
    )


def _chain(design: Design) -> Point:
    kind, length, size = (
        design.pick("curves", "products", "views", "convs"),
        design.log(4, 300),
        design.log(4, 512),
    )

    def draw(net: Net) -> None:
        x = net.input("x", 1, 8, 4, size // 4 * 4 or 4)
        for index in range(length):
            x = _link(net, x, kind, index)
        net.outputs.append(x)

    return Point(f"{kind}-{label(n=length, s=size)}", draw, 0.0)


def _link(net: Net, x: str, kind: str, index: int) -> str:
    if kind == "curves":
        return net.op(("Tanh", "Sigmoid", "Relu", "Neg")[index % 4], x)
    if kind == "products":
        return net.op("Mul" if index % 2 else "Add", x, net.const(0.9 + 0.01 * (index % 9)))
    if kind == "convs":
        return net.conv(x, 8, 1, act="Relu")
    batch, channels, height, width = net.shape(x)
    if index % 2:
        return net.op("Relu", net.reshape(x, (batch, height, channels, width)))
    return net.transpose(x, 0, 2, 1, 3)


def _pick(design: Design) -> Point:
    kind, columns, rows = (
        design.pick("topk", "cumsum", "rows", "onehot"),
        design.log(16, 20000),
        design.log(1, 64),
    )
    rows = max(min(rows, 500_000 // columns), 1)

    def draw(net: Net) -> None:
        if kind == "rows":
            ids = net.input("ids", rows, dtype="int64")
            table = net.noise(1000, min(columns, 2048))
            shape = (rows, min(columns, 2048))
            net.outputs.append(net.op("Gather", table, ids, shape=shape, dtype="float32", axis=0))
            return
        x = net.input("x", rows, columns)
        if kind == "topk":
            values, places = net.ops("TopK", (x, net.ints(10)), 2, axis=1)
            net.outputs += [net.learn(values, (rows, 10)), net.learn(places, (rows, 10), dtype="int64")]
        elif kind == "cumsum":
            net.outputs.append(net.op("CumSum", x, net.const(1, "int64")))
        else:
            best = net.op("ArgMax", x, shape=(rows,), dtype="int64", axis=1, keepdims=0)
            depth, ends = net.const(columns, "int64"), net.const([0.0, 1.0])
            net.outputs.append(net.op("OneHot", best, depth, ends, shape=(rows, columns), dtype="float32"))

    return Point(f"{kind}-{label(m=rows, n=columns)}", draw, rows * columns)


_SIZES = (1e4, 4e6)  # numbers of a tensor: below, only launching counts

SWEEPS = (
    Sweep("sweep-curve", 40, _curve, "fffffh", _SIZES, least_opset=14),
    Sweep("sweep-pair", 30, _pair, "f", _SIZES, least_opset=13),
    Sweep("sweep-joined", 10, _joined, "q", _SIZES),
    Sweep("sweep-softmax", 14, _softmax, "f", _SIZES, least_opset=13),
    Sweep("sweep-norm", 18, _layer_norm, "f", _SIZES),
    Sweep("sweep-channelnorm", 14, _channel_norm, "f", _SIZES),
    Sweep("sweep-reduce", 18, _reduce, "f", _SIZES),
    Sweep("sweep-pool", 18, _pool, "fffq", _SIZES),
    Sweep("sweep-transpose", 18, _transpose, "f", _SIZES),
    Sweep("sweep-move", 36, _move, "f", _SIZES),
    Sweep("sweep-resize", 12, _resize, "f", _SIZES),
    Sweep("sweep-chain", 18, _chain, "f"),
    Sweep("sweep-pick", 14, _pick, "f", _SIZES),
)
