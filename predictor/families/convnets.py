"""Image classifiers in one line: residual and inverted residual blocks, plain stacks, tiny nets."""

from __future__ import annotations

from predictor.families.family import Family, Plan
from predictor.families.layers import Net


def _image(net: Net, plan: Plan, channels: int = 3) -> str:
    return net.input("image", plan.batch, channels, plan.size, plan.size)


def _classified(net: Net, x: str, classes: int) -> None:
    net.outputs.append(net.dense(net.pooled(x), classes))


def _stem(net: Net, x: str, width: int, act: str) -> str:
    if net.shape(x)[2] <= 40:
        return net.conv(x, width, 3, act=act)
    if net.style.has_gemm:
        return net.pool(net.conv(x, width, 7, stride=2, act=act), kernel=3, stride=2, pad=1)
    return net.conv(net.conv(x, width // 2, 3, stride=2, act=act), width, 3, stride=2, act=act)


def residual(net: Net, plan: Plan) -> None:
    """Basic blocks of two 3x3 convolutions (arXiv 1512.03385); `kind`: how shortcuts and curves are made."""
    act = {"leaky": "LeakyRelu", "prelu": "PRelu", "silu": "silu"}.get(plan.kind, "Relu")
    x = _stem(net, _image(net, plan), plan.width, act)
    for stage in range(4 if plan.size >= 64 else 3):
        filters = plan.width << stage
        for block in range(plan.depth):
            stride = 2 if stage and not block else 1
            y = net.conv(net.conv(x, filters, 3, stride=stride, act=act), filters, 3)
            if stride > 1 or net.shape(x)[1] != filters:
                x = net.conv(x, filters, 1, stride=stride)
            x = net.act(net.add(y, x), act)
    _classified(net, x, 100)


def bottleneck(net: Net, plan: Plan) -> None:
    """1x1, 3x3, 1x1 blocks; `kind`: group convolutions ("g8") or squeeze-and-excite ("se")."""
    groups = int(plan.kind[1:]) if plan.kind.startswith("g") else 1
    x = _stem(net, _image(net, plan), plan.width, "Relu")
    for stage in range(4):
        inner = plan.width << stage
        for block in range(plan.depth):
            stride = 2 if stage and not block else 1
            y = net.conv(x, inner, 1, act="Relu")
            y = net.conv(y, inner, 3, stride=stride, groups=groups, act="Relu")
            y = net.conv(y, 4 * inner, 1)
            if plan.kind == "se":
                y = gated(net, y, inner // 4, act="Relu", gate="Sigmoid")
            x = net.act(net.add(y, net.conv(x, 4 * inner, 1, stride=stride) if not block else x), "Relu")
    _classified(net, x, 1000)


def gated(net: Net, x: str, inner: int, *, act: str, gate: str) -> str:
    """Squeeze and excite (arXiv 1709.01507) with 1x1 convolutions."""
    y = net.pooled(x, is_flat=False)
    y = net.conv(y, max(inner, 4), 1, act=act, has_norm=False)
    return net.mul(x, net.conv(y, net.shape(x)[1], 1, act=gate, has_norm=False))


def inverted(net: Net, plan: Plan) -> None:
    """Inverted residuals (arXiv 1801.04381, 1905.02244, 1905.11946); `kind`: curve, and "-se" for gates."""
    curve = plan.kind.removesuffix("-se")
    x = net.conv(_image(net, plan), plan.width, 3, stride=2, act=curve)
    for stage, factor in enumerate((1, 1.5, 2, 4, 6)):
        filters = int(plan.width * factor) // 8 * 8 or 8
        for block in range(plan.depth if stage else 1):
            channels = net.shape(x)[1]
            stride = 2 if stage in (1, 2, 3) and not block else 1
            wide = channels * (6 if stage else 1)
            kernel = 5 if plan.kind.endswith("-se") and stage in (2, 4) else 3
            y = net.conv(x, wide, 1, act=curve) if stage else x
            y = net.conv(y, wide, kernel, stride=stride, groups=wide, act=curve)
            if plan.kind.endswith("-se"):
                y = gated(
                    net, y, wide // 4, act="Relu", gate="HardSigmoid" if curve == "hardswish" else "Sigmoid"
                )
            y = net.conv(y, filters, 1)
            x = net.add(y, x) if stride == 1 and filters == channels else y
    _classified(net, net.conv(x, 20 * plan.width, 1, act=curve), 1000)


def plain(net: Net, plan: Plan) -> None:
    """Stacks of convolutions and pools before large dense layers; `kind`: "vgg", or "alex" with large
    kernels and LRN.
    """
    x = _image(net, plan)
    if plan.kind == "alex":
        x = net.conv(x, plan.width, 11, stride=4, pads=[2] * 4, act="Relu", has_norm=False)
        x = net.pool(net.op("LRN", x, size=5, alpha=1e-4, beta=0.75, bias=1.0), kernel=3)
        x = net.pool(net.conv(x, 3 * plan.width, 5, groups=2, act="Relu", has_norm=False), kernel=3)
        for _ in range(plan.depth):
            x = net.conv(x, 4 * plan.width, 3, act="Relu", has_norm=False)
    else:
        for stage in range(4):
            for _ in range(plan.depth):
                x = net.conv(x, plan.width << stage, 3, act="Relu")
            x = net.pool(x)
    x = net.flat(net.pool(x) if min(net.shape(x)[2:]) >= 4 else x)
    for columns in (16 * plan.width, 16 * plan.width):
        x = net.dense(x, columns, act="Relu")
    net.outputs.append(net.softmax(net.dense(x, 200)))


def tiny(net: Net, plan: Plan) -> None:
    """A few convolutions for digits, thumbnails or spectrograms; `kind`: "digits", "thumb", "sound"."""
    channels, kernel = {"digits": (1, 5), "thumb": (3, 3), "sound": (1, 3)}[plan.kind]
    if plan.kind == "sound":
        x = net.input("spectrogram", plan.batch, 1, plan.size, 40)
        x = net.conv(x, plan.width, (10, 4), stride=(2, 2), pads=[4, 1, 5, 2], act="Relu")
    else:
        x = _image(net, plan, channels)
    for index in range(plan.depth):
        if plan.kind == "sound":
            x = net.conv(x, plan.width, 3, groups=plan.width, act="Relu")
            x = net.conv(x, plan.width, 1, act="Relu")
            continue
        x = net.conv(x, plan.width << index, kernel, act="Tanh" if net.style.has_batch_norm else "Relu")
        x = net.pool(x, "AveragePool" if net.style.has_mean_pool else "MaxPool")
    if plan.kind == "sound":
        _classified(net, x, 12)
        return
    x = net.dense(net.flat(x), 8 * plan.width, act="Relu")
    net.outputs.append(net.dense(x, 10))


FAMILIES = (
    Family("residual", residual, """
        8 1 32 1 - f
        16 1 32 1 - fqh
        16 3 32 1 - f
        16 3 32 8 - fq
        32 2 32 4 leaky f
        24 1 64 1 prelu f
        32 1 96 1 - fqh
        32 2 128 1 - fq
        48 2 112 1 leaky fq
        64 1 112 1 - f
        64 2 112 1 - fqh
        64 2 160 1 silu f
        64 2 224 1 - q
        32 2 224 1 prelu f
        40 3 192 1 silu fq
        20 2 144 2 - fh
    """),
    Family("bottleneck", bottleneck, """
        16 1 64 1 - fq
        16 2 128 1 - fh
        32 1 64 1 se f
        32 2 96 1 g8 fq
        32 2 128 1 - fq
        48 2 128 1 se fq
        64 1 128 1 - fqh
        32 3 160 1 g8 f
        64 2 96 1 g8 fq
        24 3 192 1 - fq
        32 3 224 1 se f
        64 2 160 1 - q
        16 3 224 2 - f
    """),
    Family("inverted", inverted, """
        8 1 64 1 relu6 fq
        8 2 96 1 relu6 fq
        16 1 96 1 hardswish f
        16 2 96 1 relu6 fqh
        16 2 128 1 hardswish-se fq
        16 3 160 1 relu6 fq
        24 2 128 1 silu-se fq
        24 3 192 1 hardswish-se f
        32 3 224 1 relu6 fqh
        16 2 224 1 hardswish fq
        32 3 192 1 silu-se fh
        40 3 240 1 relu6 f
        16 2 64 4 relu6 fq
        24 2 112 2 hardswish-se f
        32 4 160 1 silu-se q
        12 2 160 1 Relu fq
    """),
    Family("plain", plain, """
        16 1 32 1 vgg fq
        32 1 32 1 vgg fh
        32 2 32 4 vgg fq
        32 2 64 1 vgg fq
        48 2 96 1 vgg fq
        64 1 64 1 vgg f
        64 2 64 1 vgg fq
        64 2 96 1 vgg fqh
        32 1 128 1 alex f
        48 2 160 1 alex fq
        64 2 192 1 alex fq
        96 2 224 1 alex fh
        32 2 128 2 vgg f
        24 3 160 1 vgg fq
    """),
    Family("tiny", tiny, """
        4 2 28 1 digits fq
        8 2 28 1 digits f
        16 2 28 8 digits fq
        8 3 32 1 thumb f
        16 3 32 1 thumb fq
        32 3 32 1 thumb fqh
        32 3 32 16 thumb f
        48 3 48 2 thumb f
        16 4 49 1 sound fq
        32 4 49 1 sound f
        64 4 49 1 sound fqh
        64 5 98 4 sound fq
        96 6 98 1 sound fq
        24 3 100 1 thumb f
    """),
)  # fmt: skip
