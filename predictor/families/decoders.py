"""Decoders of texts: a whole prompt at once, and one token against a cache of keys and values."""

from __future__ import annotations

import math

import numpy as np

from predictor.families.family import Family, Plan
from predictor.families.layers import Net


def prefill(net: Net, plan: Plan) -> None:
    """All positions of a prompt under a causal mask, the cache as outputs."""
    _decoder(net, plan, rows=plan.size, past=0)


def decode(net: Net, plan: Plan) -> None:
    """One token; keys and values of `size` earlier ones come as inputs and leave as outputs, one longer."""
    _decoder(net, plan, rows=1, past=plan.size)


def _decoder(net: Net, plan: Plan, *, rows: int, past: int) -> None:
    ids = net.input("input_ids", plan.batch, rows, dtype="int64")
    shape = (plan.batch, rows, plan.width)
    table = net.noise(1000, plan.width)
    x = net.op("Gather", table, ids, shape=shape, level=1.0, is_positive=False, dtype="float32", axis=0)
    caches: list[str] = []
    for layer in range(plan.depth):
        y, kept = _attended(net, net.rms_norm(x), plan, past=past, layer=layer)
        caches += kept
        x = net.add(x, y)
        normal = net.rms_norm(x)
        inner = plan.width * 8 // 3 // 64 * 64 or 64
        if plan.kind.startswith("gelu"):
            y = net.matmul(net.act(net.matmul(normal, 4 * plan.width), "gelu"), plan.width)
        else:
            y = net.mul(net.act(net.matmul(normal, inner), "silu"), net.matmul(normal, inner))
            y = net.matmul(y, plan.width)
        x = net.add(x, y)
    x = net.rms_norm(x)
    if rows > 1:
        x = net.slice(x, rows - 1, rows, 1)
    net.outputs += [net.matmul(x, 1000), *caches]


def _attended(net: Net, x: str, plan: Plan, *, past: int, layer: int) -> tuple[str, list[str]]:
    """Grouped-query attention with rotary positions; `kind` ends with how many query heads share a key."""
    batch, rows, size = net.shape(x)
    heads, each = max(size // 64, 2), 64 if size >= 128 else 32
    share = int(plan.kind[-1])
    keys = max(heads // share, 1)
    split = [
        net.transpose(net.reshape(net.matmul(x, count * each), (batch, rows, count, each)), 0, 2, 1, 3)
        for count in (heads, keys, keys)
    ]
    query, key = (_rotated(net, part, past) for part in split[:2])
    value = split[2]
    if past:
        old = [net.input(f"past_{name}_{layer}", batch, keys, past, each) for name in ("key", "value")]
        key, value = net.concat([old[0], key], axis=2), net.concat([old[1], value], axis=2)
    kept = [key, value]
    if keys < heads:
        key, value = (_repeated(net, part, heads // keys) for part in kept)
    scores = net.product(query, net.transpose(key, 0, 1, 3, 2), level=math.sqrt(each))
    scores = net.op("Div", scores, net.const(math.sqrt(each)), level=1.0)
    if rows > 1:
        mask = np.triu(np.full((1, 1, rows, rows), -1e4, np.float32), 1)
        scores = net.op("Add", scores, net.const(mask))
    mixed = net.product(net.softmax(scores), value, level=0.3)
    joined = net.reshape(net.transpose(mixed, 0, 2, 1, 3), (batch, rows, heads * each))
    return net.matmul(joined, size), kept


def _rotated(net: Net, x: str, past: int) -> str:
    """Rotary positions (arXiv 2104.09864): halves swapped, one negated."""
    rows, each = net.shape(x)[2:]
    places = np.arange(past, past + rows)[:, None] / 10000 ** (np.arange(0, each, 2) / each)
    angles = np.concatenate([places, places], axis=1)[None, None]
    left, right = net.slice(x, 0, each // 2, 3), net.slice(x, each // 2, each, 3)
    swapped = net.concat([net.op("Neg", right), left], axis=3)
    cosines = net.op("Mul", x, net.const(np.cos(angles)), shape=net.shape(x))
    return net.op("Add", cosines, net.op("Mul", swapped, net.const(np.sin(angles)), shape=net.shape(x)))


def _repeated(net: Net, x: str, times: int) -> str:
    """Each key head as often as query heads share it."""
    batch, keys, length, each = net.shape(x)
    lone = net.reshape(x, (batch, keys, 1, length, each))
    shape = (batch, keys, times, length, each)
    return net.reshape(
        net.op("Expand", lone, net.ints(*shape), shape=shape), (batch, keys * times, length, each)
    )


FAMILIES = (
    Family("prefill", prefill, """
        64 2 16 1 silu1 fd
        128 2 32 1 silu1 fdw
        128 4 64 1 gelu1 fw
        256 2 16 1 silu2 fdw
        256 4 64 1 silu2 fdw
        256 2 128 1 gelu1 fd
        384 3 32 1 silu1 fw
        512 2 32 1 silu4 fdw
        512 2 96 1 silu2 fdw
        512 4 24 1 gelu1 dw
        768 2 48 1 silu4 fd
        768 1 128 1 silu1 dw
        128 2 256 1 silu2 f
        256 2 8 4 silu2 fw
    """, has_convs=False),
    Family("decode", decode, """
        64 2 16 1 silu1 fd
        128 4 64 1 silu1 fw
        256 2 128 1 silu2 fdw
        256 6 64 1 gelu1 fdw
        384 4 256 1 silu1 fw
        512 2 64 1 silu2 fdw
        512 4 512 1 silu4 fdw
        512 8 32 1 gelu1 fw
        768 3 128 1 silu4 fdw
        768 6 256 1 silu1 dw
        1024 2 64 1 silu4 fdw
        1024 4 128 1 silu4 dw
        1536 1 256 1 silu4 fdw
        2048 2 64 1 silu4 dw
        256 4 64 4 silu2 fd
        512 2 1024 1 silu2 fw
    """, has_convs=False),
)  # fmt: skip
