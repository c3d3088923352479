"""Medleys on rows: blocks of transformers, state-space and recurrent networks in random order and sizes, over
many rows or a few.
"""

from __future__ import annotations

import math

from predictor.families.layers import Net
from predictor.families.sequences import unrolled
from predictor.families.sweeps import Block, Choices, Design, Point, Sweep, composed, label

_CURVES = ("Relu", "gelu", "gelu", "silu", "silu", "Tanh", "Sigmoid", "Softplus", "Erf")
_MOST_MACS = 1.5e8  # of one block
_MOST_WEIGHTS = 2.5e6  # of one product
_MOST_NUMBERS = 3e5  # of one activation
_MOST_SCORES = 5e5  # of attention


def _curved(net: Net, x: str, kind: str) -> str:
    return net.op("Erf", x, level=0.6) if kind == "Erf" else net.act(x, kind)


def _columns_for(net: Net, x: str, choices: Choices) -> int:
    """Columns of a product such that it stays within bounds: three in four fill vectors."""
    *outer, inner = net.shape(x)
    rows = math.prod(outer)
    most = min(_MOST_MACS / (rows * inner), _MOST_WEIGHTS / inner, _MOST_NUMBERS / rows, 4096)
    columns = choices.log(16, max(int(most), 24))
    return max(columns // 16 * 16, 16) if choices.unit() < 0.75 else columns


def _linear(net: Net, x: str, choices: Choices) -> str:
    columns = _columns_for(net, x, choices)
    y = net.linear(x, columns) if choices.unit() < 0.6 else net.matmul(x, columns)
    return _curved(net, y, choices.pick(*_CURVES)) if choices.unit() < 0.4 else y


def _perceptron(net: Net, x: str, choices: Choices) -> str:
    size = net.shape(x)[-1]
    wide = _columns_for(net, x, choices)
    if choices.unit() < 0.5:
        y = net.linear(_curved(net, net.linear(x, wide), choices.pick(*_CURVES)), size)
    else:
        gate = _curved(net, net.matmul(x, wide), choices.pick("silu", "gelu", "Sigmoid"))
        y = net.matmul(net.mul(gate, net.matmul(x, wide)), size)
    return net.add(x, y)


def _attention(net: Net, x: str, choices: Choices) -> str:
    """Heads of any size, keys shared by some of them, or keys from a cache of earlier positions."""
    batch, length, size = net.shape(x)
    each, share = choices.pick(16, 32, 64, 64, 128), choices.pick(1, 1, 2, 4)
    heads = share * choices.log(1, max(min(size // each, 12) // share, 2))
    past = choices.log(8, 1024) if choices.unit() < 0.5 else 0
    if batch * heads * length * (past + length) > _MOST_SCORES:
        past, heads = 0, share
    split = [
        net.transpose(net.reshape(net.matmul(x, n * each), (batch, length, n, each)), 0, 2, 1, 3)
        for n in (heads, heads // share, heads // share)
    ]
    query, key, value = split
    if past:
        shape = (batch, heads // share, past, each)
        number = len(net.inputs)
        key = net.concat([net.input(f"keys_{number}", *shape), key], axis=2)
        value = net.concat([net.input(f"values_{number}", *shape), value], axis=2)
    if share > 1:  # queries that share a key become its rows
        query = net.reshape(query, (batch, heads // share, share * length, each))
    scores = net.product(query, net.transpose(key, 0, 1, 3, 2), level=math.sqrt(each))
    mixed = net.product(net.softmax(net.scaled(scores, 1.0 / math.sqrt(each))), value, level=0.5)
    mixed = net.reshape(mixed, (batch, heads, length, each))
    joined = net.reshape(net.transpose(mixed, 0, 2, 1, 3), (batch, length, heads * each))
    return net.matmul(joined, size)


def _state(net: Net, x: str, choices: Choices) -> str:
    """Linear attention: keys and values to a state, the state to queries; or one step of it on a given
    state.
    """
    x = _normal(net, x, choices)  # three factors grow with the cube of what comes in
    batch, length, size = net.shape(x)
    heads, each, deep = choices.log(1, 12), choices.pick(16, 32, 64), choices.pick(16, 32, 64, 128)
    query, key, value = (
        net.transpose(net.reshape(net.matmul(x, heads * n), (batch, length, heads, n)), 0, 2, 1, 3)
        for n in (deep, deep, each)
    )
    new = net.product(net.transpose(key, 0, 1, 3, 2), value, level=math.sqrt(length))
    if choices.unit() < 0.5:
        old = net.input(f"state_{len(net.inputs)}", batch, heads, deep, each)
        decay = net.noise(heads, 1, 1, scale=0.1, centre=0.5)
        new = net.op("Add", net.op("Mul", old, decay, shape=net.shape(old)), new)
    scaled = net.scaled(new, 1.0 / math.sqrt(length * deep))
    mixed = net.product(query, scaled, level=net.level(scaled) * math.sqrt(deep))
    joined = net.reshape(net.transpose(mixed, 0, 2, 1, 3), (batch, length, heads * each))
    return net.matmul(joined, size)


def _normal(net: Net, x: str, choices: Choices) -> str:
    return net.layer_norm(x) if choices.unit() < 0.6 else net.rms_norm(x)


def _across(net: Net, x: str, choices: Choices) -> str:
    """Products or filters along the rows."""
    batch, length, size = net.shape(x)
    y = net.transpose(x, 0, 2, 1)
    if choices.unit() < 0.5:
        y = net.linear(_curved(net, net.linear(y, choices.log(8, 256)), choices.pick(*_CURVES)), length)
    elif choices.unit() < 0.5 or size * size > _MOST_WEIGHTS / 3 or 3 * batch * length * size**2 > _MOST_MACS:
        y = net.conv(y, size, choices.pick(3, 5, 9), groups=size, has_norm=False)
    else:
        y = net.conv(y, size, 3, act=choices.pick("Relu", "gelu"), has_norm=False)
    return net.transpose(y, 0, 2, 1)


def _small(net: Net, x: str, choices: Choices) -> str:
    """Operators that only pass over the numbers."""
    batch, _, size = net.shape(x)
    form = choices.pick("curve", "scale", "halves", "swap", "mean", "softmax", "sums", "square")
    if form == "curve":
        return _curved(net, x, choices.pick(*_CURVES))
    if form == "scale":
        return net.op("Mul", x, net.noise(size, scale=0.1, centre=1.0))
    if form in ("halves", "swap") and size % 2 == 0:
        left, right = net.slice(x, 0, size // 2, 2), net.slice(x, size // 2, size, 2)
        if form == "halves":
            return net.mul(left, net.act(right, choices.pick("Sigmoid", "silu")))
        return net.add(x, net.concat([net.op("Neg", right, is_positive=False), left], axis=2))
    if form == "mean":
        mean = net.reduce_mean(x, [1], shape=(batch, 1, size), level=0.4)
        return net.mul(x, net.act(mean, "Sigmoid"))
    if form == "softmax":
        return net.mul(x, net.softmax(x))
    if form == "sums":
        return net.op("CumSum", x, net.const(1, "int64"), level=2.0 * net.level(x))
    return net.op("Div", x, net.op("Add", net.act(x, "Sigmoid"), net.const(0.5)), level=net.level(x))


def _recurrent(net: Net, x: str, choices: Choices) -> str:
    batch, length, size = net.shape(x)
    hidden, is_both_ways = choices.log(16, 512), choices.unit() < 0.3
    cell = choices.pick("LSTM", "LSTM", "GRU", "GRU", "RNN")
    while 4 * length * batch * hidden * (size + hidden) > _MOST_MACS / 3 and hidden > 16:
        hidden //= 2
    frames = net.transpose(x, 1, 0, 2)
    y = net.transpose(unrolled(net, frames, hidden, cell=cell, is_both_ways=is_both_ways), 1, 0, 2)
    return net.linear(y, _columns_for(net, y, choices)) if choices.unit() < 0.5 else y


_BLOCKS: tuple[Block, ...] = (
    _linear, _linear, _linear, _perceptron, _perceptron, _attention, _attention, _state, _normal, _normal,
    _normal, _across, _small, _small, _small, _recurrent,
)  # fmt: skip
_LEAN_BLOCKS: tuple[Block, ...] = (  # of models that run one position at a time
    _linear, _linear, _perceptron, _perceptron, _attention, _state, _normal, _normal, _small, _small,
    _recurrent,
)  # fmt: skip


def _composed_at(
    design: Design, text: str, shape: tuple[int, int, int], count: int, blocks: tuple[Block, ...]
) -> Point:
    def draw(net: Net) -> None:
        x = net.input("rows", *shape)
        net.outputs.append(composed(net, x, count, blocks, design.dice(text)))

    return Point(text, draw, 0.0)


def _many_rows(design: Design, *, narrowest: int, fewest: int) -> tuple[str, tuple[int, int, int], int]:
    """Label, shape and number of blocks: rows of at least 16 times `narrowest` numbers, if as many are within
    bounds, and `fewest` blocks or up to 11 more.
    """
    length, size = design.log(4, 400), design.log(narrowest, 48) * 16
    batch, count = design.pick(1, 1, 1, 1, 1, 4), design.log(fewest, fewest + 11)
    size = max(min(size, int(_MOST_NUMBERS / (batch * length)) // 16 * 16), 16)
    return label(m=length, k=size, n=count, b=batch), (batch, length, size), count


def row_medley(design: Design) -> Point:
    """Many rows: texts, image patches, frames of sound."""
    return _composed_at(design, *_many_rows(design, narrowest=1, fewest=3), _BLOCKS)


def many_rows(design: Design) -> Point:
    """The same with as many blocks as whole networks have."""
    return _composed_at(design, *_many_rows(design, narrowest=1, fewest=15), _BLOCKS)


def many_steps(design: Design) -> Point:
    """A row or a few through as many."""
    length, size, count = design.pick(1, 1, 1, 2, 4, 8), design.log(2, 64) * 16, design.log(20, 60)
    text = label(m=length, k=size, n=count)
    return _composed_at(design, text, (1, length, size), count, _LEAN_BLOCKS)


def packed_medley(design: Design) -> Point:
    """The same with a product first, so that there are weights to pack."""
    text, shape, count = _many_rows(design, narrowest=2, fewest=2)

    def draw(net: Net) -> None:
        x = net.linear(net.input("rows", *shape), max(shape[-1], 128))
        net.outputs.append(composed(net, x, count, _BLOCKS, design.dice(text)))

    return Point(text, draw, 0.0)


def step_medley(design: Design) -> Point:
    """A row or a few: models that run one position at a time."""
    length, size = design.pick(1, 1, 1, 1, 2, 4, 8), design.log(2, 96) * 16
    batch, count = design.pick(1, 1, 1, 1, 1, 2, 8), design.log(3, 20)
    text = label(m=length, k=size, n=count, b=batch)
    return _composed_at(design, text, (batch, length, size), count, _LEAN_BLOCKS)


def stream_medley(design: Design) -> Point:
    """Few rows through weights that no cache near the core holds."""
    kind = design.pick("dense", "dense", "gated", "recurrent", "recurrent")
    rows, count = design.pick(1, 1, 1, 2, 4, 16), design.log(1, 8)
    weights, shape = design.log(1_000_000, 25_000_000), 2.0 ** (2.0 * design.unit() - 1.0)
    if kind == "recurrent":
        rows = max(min(rows * design.pick(1, 1, 2, 8), int(_MOST_MACS / weights)), 1)
    each = weights / count / {"dense": 2, "gated": 3, "recurrent": 8}[kind]
    size = max(design.rounded(int(math.sqrt(each / shape))) // 16 * 16, 16)
    wide = max(design.rounded(int(size * shape)) // 16 * 16, 16)
    text = f"{kind}-{label(m=rows, n=count, w=weights // 1000)}"
    return Point(text, lambda net: _drawn_stream(net, kind, rows, count, size, wide), 0.0)


def _drawn_stream(net: Net, kind: str, rows: int, count: int, size: int, wide: int) -> None:
    """`wide`: columns of a block's first product."""
    x = net.input("rows", rows, 1, size) if kind == "recurrent" else net.input("rows", 1, rows, size)
    for index in range(count):
        if kind == "recurrent":
            x = unrolled(net, x, size, cell="LSTM" if index % 2 else "GRU")
        elif kind == "dense":
            x = net.linear(net.linear(x, wide, act="Relu"), size)
        else:
            y = net.mul(net.act(net.matmul(x, wide), "silu"), net.matmul(x, wide))
            x = net.add(x, net.matmul(net.rms_norm(y), size))
    net.outputs.append(x)


SWEEPS = (
    Sweep("medley-rows", 280, row_medley, "fdfqfdwfqh", least_opset=14),
    Sweep("medley-steps", 200, step_medley, "fdfwfdwfqf", least_opset=14),
    Sweep("medley-streams", 100, stream_medley, "ffdfwf", least_opset=14),
    Sweep("medley-packed-rows", 40, packed_medley, "p", least_opset=14, is_round=True),
    Sweep("medley-many-rows", 60, many_rows, "fdfqfdwfqh", least_opset=14),
    Sweep("medley-many-steps", 50, many_steps, "fdfwfdwfqf", least_opset=14),
)
