"""Image classifiers whose blocks branch and join: dense, inception, squeeze and shuffle blocks."""

from __future__ import annotations

from predictor.families.family import Family, Plan
from predictor.families.layers import Net


def dense(net: Net, plan: Plan) -> None:
    """Each layer reads all before it (arXiv 1608.06993); normalisation and curve before convolutions."""
    x = net.input("image", plan.batch, 3, plan.size, plan.size)
    x = net.conv(x, 2 * plan.width, 3 if plan.size < 64 else 7, stride=1 if plan.size < 64 else 2, act="Relu")
    if plan.size >= 96:
        x = net.pool(x, kernel=3, pad=1)
    for stage in range(3):
        for _ in range(plan.depth):
            y = net.act(net.batch_norm(x), "Relu")
            if plan.kind == "wide":
                y = net.conv(y, 4 * plan.width, 1, act="Relu")
            x = net.concat([x, net.conv(y, plan.width, 3)])
        if stage < 2:
            y = net.act(net.batch_norm(x), "Relu")
            x = net.pool(net.conv(y, net.shape(x)[1] // 2, 1), "AveragePool")
    net.outputs.append(net.dense(net.pooled(net.act(net.batch_norm(x), "Relu")), 100))


def inception(net: Net, plan: Plan) -> None:
    """Four branches side by side (arXiv 1409.4842), "split" with 1x7 and 7x1 kernels (arXiv 1512.00567)."""
    x = net.input("image", plan.batch, 3, plan.size, plan.size)
    x = net.conv(x, plan.width, 7 if plan.size > 64 else 3, stride=2, act="Relu")
    x = net.pool(x, kernel=3, pad=1)
    unit = plan.width // 2
    for block in range(plan.depth):
        if block % 3 == 2:
            x = net.pool(x, kernel=3, pad=1)
            unit = unit * 3 // 2
        branches = [net.conv(x, 2 * unit, 1, act="Relu")]
        y = net.conv(x, unit, 1, act="Relu")
        if plan.kind == "split":
            branches.append(net.conv(net.conv(y, unit, (1, 7), act="Relu"), 2 * unit, (7, 1), act="Relu"))
        else:
            branches.append(net.conv(y, 3 * unit, 3, act="Relu"))
        z = net.conv(x, unit // 2, 1, act="Relu")
        branches.append(net.conv(z, unit, 5 if plan.kind != "split" else 3, act="Relu"))
        pooled = net.pool(x, "MaxPool" if block % 2 else "AveragePool", 3, stride=1, pad=1)
        branches.append(net.conv(pooled, unit, 1, act="Relu"))
        x = net.concat(branches)
    net.outputs.append(net.softmax(net.dense(net.pooled(x), 1000)))


def fire(net: Net, plan: Plan) -> None:
    """Squeeze to few channels, expand by 1x1 and 3x3 (arXiv 1602.07360); a convolution classifies."""
    x = net.input("image", plan.batch, 3, plan.size, plan.size)
    x = net.pool(net.conv(x, 4 * plan.width, 3, stride=2, act="Relu", has_norm=False), kernel=3)
    for block in range(plan.depth):
        squeezed = plan.width * (1 + block // 2)
        y = net.conv(x, squeezed, 1, act="Relu", has_norm=False)
        y = net.concat([net.conv(y, 4 * squeezed, k, act="Relu", has_norm=False) for k in (1, 3)])
        is_kept = plan.kind == "bypass" and net.shape(x) == net.shape(y)
        x = net.add(x, y) if is_kept else y
        if block % 3 == 1 and min(net.shape(x)[2:]) > 6:
            x = net.pool(x, kernel=3)
    x = net.conv(x, 200, 1, act="Relu", has_norm=False)
    net.outputs.append(net.softmax(net.pooled(x)))


def shuffled(net: Net, x: str, groups: int) -> str:
    """Channels of all groups in turn (arXiv 1707.01083)."""
    batch, channels, height, width = net.shape(x)
    y = net.reshape(x, (batch, groups, channels // groups, height, width))
    y = net.transpose(y, 0, 2, 1, 3, 4)
    return net.reshape(y, (batch, channels, height, width), written=(batch, -1, height, width))


def shuffle(net: Net, plan: Plan) -> None:
    """Shuffle units: `kind` "split" halves the channels (arXiv 1807.11164), "group" has 1x1 group
    convolutions.
    """
    x = net.input("image", plan.batch, 3, plan.size, plan.size)
    x = net.pool(net.conv(x, 24, 3, stride=2, act="Relu"), kernel=3, pad=1)
    for stage in range(3):
        filters = plan.width << stage
        for block in range(plan.depth):
            if plan.kind == "split":
                x = _split_unit(net, x, filters, is_first=not block)
            else:
                x = _group_unit(net, x, filters, is_first=not block)
    net.outputs.append(net.dense(net.pooled(net.conv(x, 8 * plan.width, 1, act="Relu")), 1000))


def _split_unit(net: Net, x: str, filters: int, *, is_first: bool) -> str:
    half = filters // 2
    if is_first:
        channels = net.shape(x)[1]
        left = net.conv(net.conv(x, channels, 3, stride=2, groups=channels), half, 1, act="Relu")
        right = x
    elif net.style.has_gemm:
        left, right = net.split(x, (half, half))
    else:
        left, right = net.slice(x, 0, half, 1), net.slice(x, half, filters, 1)
    right = net.conv(right, half, 1, act="Relu")
    right = net.conv(right, half, 3, stride=2 if is_first else 1, groups=half)
    return shuffled(net, net.concat([left, net.conv(right, half, 1, act="Relu")]), 2)


def _group_unit(net: Net, x: str, filters: int, *, is_first: bool) -> str:
    channels = net.shape(x)[1]
    columns = filters - channels if is_first else filters
    inner = max(filters // 4 // 4 * 4, 4)
    y = net.conv(x, inner, 1, groups=4 if channels % 4 == 0 and not is_first else 1, act="Relu")
    y = net.conv(shuffled(net, y, 4), inner, 3, stride=2 if is_first else 1, groups=inner)
    y = net.conv(y, columns, 1, groups=4 if columns % 4 == 0 else 1)
    if is_first:
        return net.act(net.concat([net.pool(x, "AveragePool", 3, stride=2, pad=1), y]), "Relu")
    return net.act(net.add(x, y), "Relu")


FAMILIES = (
    Family("dense", dense, """
        8 3 32 1 - fq
        12 4 32 1 wide f
        16 6 32 1 wide fq
        12 6 64 1 wide fq
        16 4 96 1 - fh
        24 4 96 1 wide fq
        16 8 128 1 wide f
        32 4 128 1 wide fq
        24 6 160 1 wide fq
        32 6 192 1 wide fh
        12 5 48 4 - f
        32 8 128 1 wide q
    """),
    Family("inception", inception, """
        16 2 64 1 - f
        24 3 64 1 - fq
        32 3 96 1 split fq
        32 5 128 1 - fq
        48 4 128 1 split fh
        48 6 160 1 - fq
        64 6 160 1 split fq
        64 7 192 1 - f
        64 5 224 1 - qh
        32 6 224 1 split f
        40 4 96 4 - fq
        24 8 128 1 split fq
    """),
    Family("fire", fire, """
        8 4 64 1 - fq
        12 5 96 1 bypass f
        16 6 96 1 - fqh
        16 6 128 1 - fq
        16 7 160 1 bypass fq
        24 6 160 1 - f
        24 8 192 1 - fq
        32 7 224 1 bypass fh
        32 6 128 2 - fq
        16 4 240 1 - f
        12 8 64 4 bypass f
    """),
    Family("shuffle", shuffle, """
        24 2 64 1 split fq
        32 3 96 1 split fq
        48 3 128 1 split fq
        64 4 160 1 split fh
        96 4 192 1 split fq
        128 4 224 1 split fqh
        48 2 96 1 group f
        96 3 128 1 group fq
        144 4 160 1 group f
        240 4 224 1 group fq
        64 3 128 4 split f
        176 3 160 1 split fq
        32 8 320 1 split fq
    """),
)  # fmt: skip
