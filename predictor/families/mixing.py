"""Dense layers alone, mixers, ConvNeXt-like blocks, and blocks that carry a state by matrix products."""

from __future__ import annotations

import math

import numpy as np

from predictor.families.family import Family, Plan
from predictor.families.layers import Net


def rows(net: Net, plan: Plan) -> None:
    """Dense layers over rows; `kind`: the curve between them, "deep" sums blocks up."""
    x = net.input("rows", plan.batch, plan.size)
    act = {"relu": "Relu", "tanh": "Tanh", "silu": "silu", "gelu": "gelu", "deep": "Relu"}[plan.kind]
    for index in range(plan.depth):
        y = net.dense(x, plan.width, act=act)
        x = net.add(x, y) if plan.kind == "deep" and index else y
    net.outputs.append(net.softmax(net.dense(x, 32)))


def mixer(net: Net, plan: Plan) -> None:
    """Dense layers over patches and over channels in turn (arXiv 2105.01601); `kind`: the patch's side."""
    side = int(plan.kind)
    x = net.input("image", plan.batch, 3, plan.size, plan.size)
    x = net.conv(x, plan.width, side, stride=side, pads=[0] * 4, has_norm=False)
    count = (plan.size // side) ** 2
    x = net.transpose(net.reshape(x, (plan.batch, plan.width, count)), 0, 2, 1)
    for _ in range(plan.depth):
        y = net.transpose(net.layer_norm(x), 0, 2, 1)
        y = net.linear(net.linear(y, max(plan.width // 2, 32), act="gelu"), count)
        x = net.add(x, net.transpose(y, 0, 2, 1))
        y = net.linear(net.linear(net.layer_norm(x), 4 * plan.width, act="gelu"), plan.width)
        x = net.add(x, y)
    flat = net.reduce_mean(net.layer_norm(x), [1], shape=(plan.batch, plan.width), keepdims=0, level=0.3)
    net.outputs.append(net.dense(flat, 1000))


def nextlike(net: Net, plan: Plan) -> None:
    """7x7 depthwise convolutions, normalisation over channels and two dense layers (arXiv 2201.03545);
    `kind`: "last" keeps channels last inside a block, "first" uses 1x1 convolutions.
    """
    x = net.input("image", plan.batch, 3, plan.size, plan.size)
    x = channel_norm(net, net.conv(x, plan.width, 4, stride=4, pads=[0] * 4, has_norm=False))
    for stage in range(3):
        for _ in range(plan.depth):
            x = net.add(x, _next_block(net, x, plan.kind))
        if stage < 2:
            y = channel_norm(net, x)
            x = net.conv(y, plan.width << (stage + 1), 2, stride=2, pads=[0] * 4, has_norm=False)
    net.outputs.append(net.dense(net.pooled(x), 1000))


def channel_norm(net: Net, x: str) -> str:
    """Layer normalisation over the channels of an image."""
    return net.transpose(net.layer_norm(net.transpose(x, 0, 2, 3, 1)), 0, 3, 1, 2)


def _next_block(net: Net, x: str, kind: str) -> str:
    channels = net.shape(x)[1]
    y = net.conv(x, channels, 7, groups=channels, has_norm=False)
    if kind == "last":
        y = net.layer_norm(net.transpose(y, 0, 2, 3, 1))
        y = net.linear(net.linear(y, 4 * channels, act="gelu"), channels)
        return net.transpose(net.op("Mul", y, net.noise(channels, scale=0.1, centre=0.5)), 0, 3, 1, 2)
    y = net.conv(net.batch_norm(y), 4 * channels, 1, act="gelu", has_norm=False)
    return net.conv(y, channels, 1, has_norm=False)


def states(net: Net, plan: Plan) -> None:
    """Gated blocks with a decaying state over chunks of positions, in matrix products (arXiv 2405.21060);
    `size`: positions, `kind`: the chunk's length.
    """
    x = net.input("embedded", plan.batch, plan.size, plan.width)
    for _ in range(plan.depth):
        wide = net.matmul(net.rms_norm(x), 4 * plan.width)
        left, gate = net.split(wide, (2 * plan.width, 2 * plan.width), axis=2)
        y = _scanned(net, net.act(_short_conv(net, left), "silu"), chunk=int(plan.kind), size=16)
        x = net.add(x, net.matmul(net.mul(y, net.act(gate, "silu")), plan.width))
    net.outputs.append(net.rms_norm(x))


def _short_conv(net: Net, x: str) -> str:
    """A causal depthwise convolution over four positions of (B, N, D)."""
    size = net.shape(x)[2]
    y = net.conv(net.transpose(x, 0, 2, 1), size, 4, groups=size, pads=[3, 0], has_norm=False)
    return net.transpose(y, 0, 2, 1)


def _scanned(net: Net, x: str, *, chunk: int, size: int) -> str:
    """Within a chunk by a decay matrix, between chunks by a matrix over chunks. x: (B, N, D)."""
    batch, length, inner = net.shape(x)
    chunks, heads = length // chunk, max(inner // 64, 1)
    each = inner // heads
    shape = (batch, chunks, chunk, heads, each)
    values = net.transpose(net.reshape(x, shape), 0, 1, 3, 2, 4)  # (B, chunks, heads, chunk, each)
    keys, queries = (
        net.transpose(net.reshape(net.matmul(x, heads * size), (*shape[:4], size)), 0, 1, 3, 2, 4)
        for _ in range(2)
    )
    steps = net.act(net.linear(x, heads, level=0.3), "Softplus")
    steps = net.transpose(net.reshape(steps, shape[:4]), 0, 1, 3, 2)  # (B, chunks, heads, chunk)
    sums = net.op("CumSum", steps, net.const(-1, "int64"), shape=net.shape(steps), level=4.0)
    lower = np.tril(np.ones((chunk, chunk), np.float32))
    column = net.reshape(sums, (*net.shape(sums), 1))
    row = net.reshape(sums, (*net.shape(sums)[:3], 1, chunk))
    gaps = net.op("Mul", net.op("Sub", row, column, is_positive=False), net.const(lower))
    decay = net.op("Mul", net.op("Exp", gaps, is_positive=True, level=0.4), net.const(lower))
    scores = net.mul(net.product(queries, net.transpose(keys, 0, 1, 2, 4, 3), level=math.sqrt(size)), decay)
    inside = net.product(net.scaled(scores, 1.0 / size), values)
    state = net.product(net.transpose(keys, 0, 1, 2, 4, 3), net.scaled(values, 1.0 / chunk))
    flat = net.reshape(state, (batch, chunks, heads * size * each))
    before = np.tril(0.5 ** np.maximum(np.subtract.outer(np.arange(chunks), np.arange(chunks)), 0), -1)
    carried = net.op("MatMul", net.const(before), flat, shape=net.shape(flat))
    carried = net.reshape(carried, net.shape(state))
    across = net.product(queries, carried)
    both = net.transpose(net.add(inside, across), 0, 1, 3, 2, 4)
    return net.reshape(both, (batch, length, inner))


def deltas(net: Net, plan: Plan) -> None:
    """Linear attention by the delta rule over chunks (arXiv 2406.06484): keys are made orthogonal within a
    chunk by a truncated series; `kind`: the chunk's length.
    """
    chunk = int(plan.kind)
    x = net.input("embedded", plan.batch, plan.size, plan.width)
    for _ in range(plan.depth):
        x = net.add(x, _delta(net, net.layer_norm(x), chunk=chunk))
        wide = net.linear(net.layer_norm(x), 3 * plan.width, act="silu")
        x = net.add(x, net.linear(wide, plan.width))
    net.outputs.append(net.layer_norm(x))


def _delta(net: Net, x: str, *, chunk: int) -> str:
    batch, length, size = net.shape(x)
    heads, chunks = max(size // 64, 1), length // chunk
    shape = (batch, chunks, chunk, heads, size // heads)
    query, key, value = (
        net.transpose(
            net.reshape(net.act(_short_conv(net, net.matmul(x, size)), "silu"), shape), 0, 3, 1, 2, 4
        )
        for _ in range(3)
    )  # (B, heads, chunks, chunk, each)
    key = _unit(net, key)
    rate = net.act(net.linear(x, heads), "Sigmoid")
    rate = net.transpose(net.reshape(rate, (*shape[:4], 1)), 0, 3, 1, 2, 4)
    lower = net.const(np.tril(np.ones((chunk, chunk), np.float32), -1))
    alike = net.op(
        "Mul", net.product(net.mul(key, rate), net.transpose(key, 0, 1, 2, 4, 3), level=0.2), lower
    )
    value = net.mul(value, rate)
    series = value
    for _ in range(2):
        series = net.op("Sub", value, net.product(alike, series, level=0.4), is_positive=False)
    scores = net.op("Mul", net.product(query, net.transpose(key, 0, 1, 2, 4, 3), level=0.4), lower)
    inside = net.product(net.scaled(scores, 1.0 / math.sqrt(chunk)), series)
    states = net.product(net.transpose(key, 0, 1, 2, 4, 3), series)
    total = net.op("CumSum", states, net.const(2, "int64"), shape=net.shape(states), level=2.0)
    across = net.product(query, net.scaled(total, 1.0 / math.sqrt(length)))
    both = net.transpose(net.add(inside, across), 0, 2, 3, 1, 4)
    return net.linear(net.reshape(both, (batch, length, size)), size)


def _unit(net: Net, x: str) -> str:
    """Rows of length one."""
    shape = (*net.shape(x)[:-1], 1)
    if net.style.opset >= 18:
        length = net.op("ReduceL2", x, net.ints(-1), shape=shape)
    else:
        length = net.op("ReduceL2", x, shape=shape, axes=[-1])
    safe = net.op("Add", length, net.const(1e-3))
    return net.op("Div", x, safe, level=1.0 / math.sqrt(net.shape(x)[-1]))


FAMILIES = (
    Family("rows", rows, """
        32 2 16 1 relu f
        64 3 32 1 tanh fd
        128 3 64 4 relu fqh
        256 3 128 1 relu fqd
        256 4 100 16 silu fd
        512 3 256 1 gelu fqd
        512 6 64 8 deep fq
        1024 3 512 1 relu fqdh
        1024 4 256 32 relu fqd
        2048 2 784 1 tanh fd
        2048 3 512 4 silu fd
        128 8 40 128 deep f
        2048 3 1024 1 relu q
        768 4 300 64 relu fq
    """, has_convs=False),
    Family("mixer", mixer, """
        64 2 64 1 8 fd
        96 4 64 1 8 fq
        128 4 96 1 8 fd
        128 6 128 1 16 fd
        256 4 128 1 16 fq
        256 4 160 1 16 fd
        384 4 160 1 16 fd
        512 3 192 1 16 fq
        256 6 224 1 16 fh
        512 4 224 1 32 fd
        128 4 128 4 16 f
    """, has_convs=False),
    Family("nextlike", nextlike, """
        16 1 64 1 last f
        24 1 96 1 last fh
        32 2 96 1 first fq
        32 2 128 1 last fd
        48 2 128 1 last f
        64 2 128 1 first fq
        64 3 160 1 last fd
        96 1 128 1 last fh
        80 2 160 1 last fd
        48 3 192 1 first fq
        40 2 224 1 last f
        96 2 160 1 first q
        24 3 64 4 last fd
    """),
    Family("states", states, """
        32 1 32 1 16 f
        64 2 32 1 16 fd
        64 2 128 1 32 f
        128 2 64 1 16 fd
        128 4 64 1 32 fdw
        192 2 128 1 32 fd
        256 2 64 1 64 fdw
        256 2 256 1 64 fd
        384 2 128 1 64 fd
        256 6 64 1 32 fw
        512 2 64 1 32 dw
        128 2 256 1 64 f
        96 2 64 4 16 f
    """, least_opset=11, has_convs=False),
    Family("deltas", deltas, """
        64 1 32 1 16 f
        64 2 64 1 16 fd
        128 2 64 1 32 fd
        128 3 128 1 32 f
        192 2 64 1 16 fd
        256 2 128 1 32 fdw
        256 4 64 1 64 fd
        384 2 128 1 32 fw
        384 2 192 1 64 fd
        512 2 64 1 32 fdw
        128 2 512 1 64 f
        64 3 64 4 16 f
    """, least_opset=11, has_convs=False),
)  # fmt: skip
