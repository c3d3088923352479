"""Encoders made of attention: texts, image patches, images that mix convolutions with attention."""

from __future__ import annotations

import math

from predictor.families.family import Family, Plan
from predictor.families.layers import Net


def heads_of(size: int) -> int:
    """How many heads a model of this size has: 32 or 64 numbers each."""
    return max(size // (64 if size >= 256 else 32), 1)


def attended(net: Net, x: str, *, mask: str = "", is_packed: bool = False) -> str:
    """Self-attention over (B, N, D), as exporters spell it; the result before its last product is
    (B, N, D).
    """
    batch, length, size = net.shape(x)
    heads = heads_of(size)
    each = size // heads
    if is_packed:
        packed = net.reshape(net.linear(x, 3 * size), (batch, length, 3, heads, each))
        parts = net.split(net.transpose(packed, 2, 0, 3, 1, 4), (1, 1, 1), axis=0)
        query, key, value = (net.reshape(part, (batch, heads, length, each)) for part in parts)
        turned = net.transpose(key, 0, 1, 3, 2)
    else:
        split = [net.reshape(net.linear(x, size), (batch, length, heads, each)) for _ in range(3)]
        query, value = (net.transpose(split[i], 0, 2, 1, 3) for i in (0, 2))
        turned = net.transpose(split[1], 0, 2, 3, 1)
    scores = net.scaled(net.product(query, turned, level=math.sqrt(each)), 1.0 / math.sqrt(each))
    if mask:
        scores = net.op("Add", scores, mask)
    mixed = net.product(net.softmax(scores), value, level=0.6)
    joined = net.reshape(net.transpose(mixed, 0, 2, 1, 3), (batch, length, size))
    return net.linear(joined, size)


def encoder(net: Net, plan: Plan) -> None:
    """A text encoder from ids to rows (arXiv 1810.04805): normalisation behind each block, or before
    ("pre").
    """
    ids = net.input("input_ids", plan.batch, plan.size, dtype="int64")
    given = net.input("attention_mask", plan.batch, plan.size, dtype="int64")
    shape = (plan.batch, plan.size, plan.width)
    table = net.noise(1000, plan.width)
    x = net.op("Gather", table, ids, shape=shape, level=1.0, is_positive=False, dtype="float32", axis=0)
    x = net.op("Add", x, net.noise(1, plan.size, plan.width, scale=0.3))
    x = net.layer_norm(x)
    row = net.op("Cast", given, shape=(plan.batch, plan.size), dtype="float32", level=1.0, to=1)
    row = net.reshape(row, (plan.batch, 1, 1, plan.size))
    mask = net.scaled(net.op("Sub", net.const(1.0), row, shape=net.shape(row), level=0.0), -10000.0)
    is_before = plan.kind.startswith("pre")
    for _ in range(plan.depth):
        y = net.layer_norm(x) if is_before else x
        x = net.add(attended(net, y, mask=mask), x)
        x = x if is_before else net.layer_norm(x)
        y = net.layer_norm(x) if is_before else x
        wide = net.linear(y, 4 * plan.width, act="Relu" if plan.kind.endswith("relu") else "gelu")
        x = net.add(net.linear(wide, plan.width), x)
        x = x if is_before else net.layer_norm(x)
    net.outputs.append(x)


def patches(net: Net, plan: Plan) -> None:
    """Attention over image patches (arXiv 2010.11929); `kind`: the patch's side, "mean" has no class row."""
    side = int(plan.kind.removeprefix("mean"))
    x = net.input("image", plan.batch, 3, plan.size, plan.size)
    x = net.conv(x, plan.width, side, stride=side, pads=[0] * 4, has_norm=False)
    count = (plan.size // side) ** 2
    rows = net.transpose(net.reshape(x, (plan.batch, plan.width, count)), 0, 2, 1)
    has_class = not plan.kind.startswith("mean")
    if has_class:
        first = net.noise(plan.batch, 1, plan.width)
        rows = net.op("Concat", first, rows, shape=(plan.batch, count + 1, plan.width), level=1.0, axis=1)
    x = net.op("Add", rows, net.noise(1, net.shape(rows)[1], plan.width, scale=0.3))
    for _ in range(plan.depth):
        x = net.add(x, attended(net, net.layer_norm(x), is_packed=True))
        wide = net.linear(net.layer_norm(x), 4 * plan.width, act="gelu")
        x = net.add(x, net.linear(wide, plan.width))
    x = net.layer_norm(x)
    if has_class:
        flat = net.reshape(net.slice(x, 0, 1, 1), (plan.batch, plan.width))
    else:
        flat = net.reduce_mean(x, [1], shape=(plan.batch, plan.width), keepdims=0, level=0.3)
    net.outputs.append(net.dense(flat, 1000))


def hybrid(net: Net, plan: Plan) -> None:
    """Inverted residuals, and attention over unfolded maps between them (arXiv 2110.02178)."""
    x = net.input("image", plan.batch, 3, plan.size, plan.size)
    x = net.conv(x, plan.width, 3, stride=2, act="silu")
    for stage in range(3):
        channels, filters = net.shape(x)[1], plan.width * (stage + 2)
        y = net.conv(x, 4 * channels, 1, act="silu")
        y = net.conv(y, 4 * channels, 3, stride=2, groups=4 * channels, act="silu")
        x = net.conv(y, filters, 1)
        if stage:
            x = _unfolded(net, x, plan.depth, size=3 * filters // 64 * 32 or 32)
    net.outputs.append(net.dense(net.pooled(net.conv(x, 4 * net.shape(x)[1], 1, act="silu")), 1000))


def _unfolded(net: Net, x: str, depth: int, *, size: int) -> str:
    batch, channels, height, width = net.shape(x)
    y = net.conv(net.conv(x, channels, 3, act="silu"), size, 1, has_norm=False)
    y = net.reshape(y, (batch * size * height // 2, 2, width // 2, 2))
    y = net.reshape(net.transpose(y, 0, 2, 1, 3), (batch, size, height * width // 4, 4))
    rows = net.reshape(net.transpose(y, 0, 3, 2, 1), (batch * 4, height * width // 4, size))
    for _ in range(depth):
        rows = net.add(rows, attended(net, net.layer_norm(rows), is_packed=True))
        wide = net.linear(net.layer_norm(rows), 2 * size, act="silu")
        rows = net.add(rows, net.linear(wide, size))
    y = net.transpose(net.reshape(rows, (batch, 4, height * width // 4, size)), 0, 3, 2, 1)
    y = net.reshape(y, (batch * size * height // 2, width // 2, 2, 2))
    y = net.reshape(net.transpose(y, 0, 2, 1, 3), (batch, size, height, width))
    y = net.conv(y, channels, 1, act="silu")
    return net.conv(net.concat([x, y]), channels, 3, act="silu")


FAMILIES = (
    Family("encoder", encoder, """
        64 2 16 1 - fd
        128 2 16 1 - fd
        128 2 64 1 pre fd
        128 4 128 1 - fqd
        192 3 32 1 prerelu fd
        256 2 32 1 - fqd
        256 4 64 1 - fd
        256 4 256 1 relu f
        384 3 16 1 - fdh
        384 3 96 1 pre fqd
        512 2 64 1 - fd
        512 4 48 1 - qd
        768 2 32 1 - fd
        768 1 128 1 prerelu fd
        128 2 512 1 - fd
        256 2 32 4 - fd
    """, has_convs=False),
    Family("patches", patches, """
        64 3 64 1 8 f
        128 4 64 1 8 fq
        128 4 96 1 mean8 fd
        192 4 112 1 16 fq
        192 6 160 1 16 fd
        192 4 224 1 16 fqh
        256 4 128 1 mean16 fd
        384 3 96 1 16 fd
        384 4 160 1 16 fd
        384 3 224 1 mean16 fq
        512 3 160 1 32 fd
        96 6 128 1 mean16 f
        64 8 160 1 mean16 fh
        192 4 64 4 mean16 fd
    """, has_convs=False),
    Family("hybrid", hybrid, """
        8 1 64 1 - f
        16 1 96 1 - fq
        16 2 128 1 - fq
        24 2 128 1 - fh
        32 2 160 1 - fq
        32 3 160 1 - f
        40 2 160 1 - fq
        32 2 224 1 - fq
        24 2 256 1 - f
        16 2 256 1 - fq
        24 2 96 4 - f
    """),
)  # fmt: skip
