"""Networks whose outputs are images or boxes: U-nets, super-resolution, detectors."""

from __future__ import annotations

from predictor.families.branching import shuffled
from predictor.families.convnets import gated
from predictor.families.family import Family, Plan
from predictor.families.layers import Net


def unet(net: Net, plan: Plan) -> None:
    """Down and up again with skips (arXiv 1505.04597); `kind`: how it enlarges ("deconv", "nearest",
    "linear").
    """
    x = net.input("image", plan.batch, 3 if plan.kind != "deconv" else 1, plan.size, plan.size)
    skips: list[str] = []
    for level in range(plan.depth):
        x = net.conv(net.conv(x, plan.width << level, 3, act="Relu"), plan.width << level, 3, act="Relu")
        skips.append(x)
        x = net.pool(x)
    x = net.conv(x, plan.width << plan.depth, 3, act="Relu")
    for level in reversed(range(plan.depth)):
        if plan.kind == "deconv":
            x = net.deconv(x, plan.width << level)
        else:
            x = net.conv(net.resized(x, 2, mode=plan.kind), plan.width << level, 3, act="Relu")
        x = net.conv(net.concat([skips[level], x]), plan.width << level, 3, act="Relu")
    net.outputs.append(net.act(net.conv(x, 1, 1, has_norm=False), "Sigmoid"))


def upscaler(net: Net, plan: Plan) -> None:
    """Super-resolution; `kind`: "shuffle2", "shuffle3" end in DepthToSpace (arXiv 1609.05158), "residual2"
    has blocks of two convolutions (arXiv 1707.02921), "light2" depthwise ones.
    """
    factor = int(plan.kind[-1])
    kind = plan.kind[:-1]
    x = net.input("image", plan.batch, 1 if kind == "shuffle" else 3, plan.size, plan.size)
    channels = net.shape(x)[1]
    first = y = net.conv(x, plan.width, 5 if kind == "shuffle" else 3, act="Relu", has_norm=False)
    for _ in range(plan.depth):
        if kind == "residual":
            z = net.conv(
                net.conv(y, plan.width, 3, act="Relu", has_norm=False), plan.width, 3, has_norm=False
            )
            y = net.add(net.scaled(z, 0.5), y)
        elif kind == "light":
            z = net.conv(y, plan.width, 3, groups=plan.width, has_norm=False)
            y = net.add(net.conv(z, plan.width, 1, act="PRelu", has_norm=False), y)
        else:
            y = net.conv(y, plan.width, 3, act="Tanh" if net.style.has_mean_pool else "Relu", has_norm=False)
    if kind != "shuffle":
        y = net.add(y, first)
    y = net.conv(y, channels * factor**2, 3, has_norm=False)
    size = plan.size * factor
    shape = (plan.batch, channels, size, size)
    mode = "CRD" if net.style.has_gemm else "DCR"
    y = net.op("DepthToSpace", y, shape=shape, blocksize=factor, mode=mode)
    if kind == "light":
        y = net.add(y, net.resized(x, factor, mode="linear"))
    net.outputs.append(net.clip(y, 0.0, 1.0) if net.style.has_batch_norm else y)


def detector(net: Net, plan: Plan) -> None:
    """A backbone, a pyramid that is joined from top to bottom, and heads on three scales; `kind`: "anchor"
    (one tensor of rows behind Sigmoid), "light" (depthwise heads, outputs apart), "ssd" (Softmax scores).
    """
    x = net.input("image", plan.batch, 3, plan.size, plan.size)
    act = {"anchor": "silu", "light": "LeakyRelu", "ssd": "relu6"}[plan.kind]
    x = net.conv(net.conv(x, plan.width, 3, stride=2, act=act), plan.width, 3, stride=2, act=act)
    scales: list[str] = []
    for level in range(3):
        x = _down(net, x, plan.width << (level + 1), act, is_light=plan.kind != "anchor")
        for _ in range(plan.depth):
            x = _stay(net, x, act, kind=plan.kind)
        scales.append(x)
    tops: list[str] = []
    y = ""
    for x in reversed(scales):
        x = net.conv(x, 2 * plan.width, 1, act=act)
        if y:
            up = net.resized(y, 2)
            x = (
                net.conv(net.concat([x, up]), 2 * plan.width, 1, act=act)
                if plan.kind == "anchor"
                else net.add(x, up)
            )
        y = net.conv(x, 2 * plan.width, 3, act=act, groups=1 if plan.kind == "anchor" else 2 * plan.width)
        tops.append(y)
    _heads(net, plan, tops, act)


def _down(net: Net, x: str, filters: int, act: str, *, is_light: bool) -> str:
    channels = net.shape(x)[1]
    if not is_light:
        return net.conv(x, filters, 3, stride=2, act=act)
    return net.conv(net.conv(x, channels, 3, stride=2, groups=channels, act=act), filters, 1, act=act)


def _stay(net: Net, x: str, act: str, *, kind: str) -> str:
    channels = net.shape(x)[1]
    if kind == "anchor":
        left, right = net.split(net.conv(x, channels, 1, act=act), (channels // 2, channels // 2))
        y = net.conv(net.conv(right, channels // 2, 1, act=act), channels // 2, 3, act=act)
        return net.conv(net.concat([left, net.add(y, right)]), channels, 1, act=act)
    y = net.conv(net.conv(x, channels, 5, groups=channels, act=act), channels, 1, act=act)
    if kind == "ssd":
        return net.add(gated(net, y, channels // 4, act="Relu", gate="Sigmoid"), x)
    return shuffled(net, net.add(y, x), 2)


def _heads(net: Net, plan: Plan, tops: list[str], act: str) -> None:
    rows: list[str] = []
    for y in tops:
        batch, channels, height, width = net.shape(y)
        boxes = net.conv(net.conv(y, channels, 3, groups=channels, act=act), 16, 1, has_norm=False)
        scores = net.conv(net.conv(y, channels, 3, groups=channels, act=act), 24, 1, has_norm=False)
        if plan.kind == "light":
            net.outputs += [net.act(scores, "Sigmoid"), boxes]
            continue
        both = net.concat([boxes, scores])
        flat = net.reshape(both, (batch, 40, height * width), written=(batch, 40, -1))
        rows.append(net.transpose(flat, 0, 2, 1))
    if not rows:
        return
    joined = net.concat(rows, axis=1)
    if plan.kind == "anchor":
        net.outputs.append(net.act(joined, "Sigmoid"))
    else:
        net.outputs += [net.slice(joined, 0, 16, 2), net.softmax(net.slice(joined, 16, 40, 2))]


FAMILIES = (
    Family("unet", unet, """
        4 2 64 1 deconv f
        8 2 64 1 nearest fq
        8 3 96 1 deconv fq
        8 3 128 1 linear f
        16 3 96 1 deconv fq
        16 3 128 1 nearest fqh
        16 4 128 1 linear fq
        16 4 192 1 deconv q
        24 3 160 1 nearest fq
        32 3 96 1 deconv f
        32 4 128 1 nearest fq
        8 4 256 1 linear fh
        12 3 64 4 deconv f
    """, least_opset=11),
    Family("upscaler", upscaler, """
        16 1 64 1 shuffle2 fq
        16 2 128 1 shuffle3 f
        32 2 96 1 shuffle2 fq
        32 2 160 1 shuffle2 fh
        48 1 128 1 shuffle3 f
        16 4 96 1 residual2 fq
        32 4 96 1 residual2 f
        32 8 80 1 residual2 fq
        48 4 112 1 residual2 fq
        24 6 160 1 residual2 f
        16 2 320 1 residual2 fq
        16 4 128 1 light2 f
        32 6 160 1 light2 fq
        32 4 256 1 light2 f
        48 6 192 1 light2 fh
        12 3 360 1 light2 f
    """, least_opset=11),
    Family("detector", detector, """
        8 1 128 1 light fq
        16 1 160 1 light f
        16 2 224 1 light fq
        32 2 256 1 light fqh
        32 3 352 1 light fq
        48 2 320 1 light f
        8 1 160 1 anchor fq
        16 1 192 1 anchor fq
        16 2 256 1 anchor fqh
        24 1 320 1 anchor fq
        32 2 224 1 anchor f
        16 1 192 1 ssd f
        24 2 224 1 ssd fq
        32 2 320 1 ssd fq
        48 3 256 1 ssd fh
        40 2 384 1 ssd f
    """, least_opset=11),
)  # fmt: skip
