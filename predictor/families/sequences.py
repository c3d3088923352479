"""Networks over time: recurrent ones, text lines in images, convolutions over one axis."""

from __future__ import annotations

import math

from predictor.families.family import Family, Plan
from predictor.families.layers import Net

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def unrolled(net: Net, x: str, hidden: int, *, cell: str = "LSTM", is_both_ways: bool = False) -> str:
    """A recurrent layer over (T, B, N): (T, B, hidden), or (T, B, 2 hidden) both ways."""
    length, batch, _ = net.shape(x)
    ways = 2 if is_both_ways else 1
    (y,) = _layer(net, x, hidden, cell, ways=ways)
    net.steps[-1].attributes["direction"] = "bidirectional" if is_both_ways else "forward"
    net.learn(y, (length, ways, batch, hidden), 0.4)
    if is_both_ways:
        return net.reshape(net.transpose(y, 0, 2, 1, 3), (length, batch, 2 * hidden), written=(0, 0, -1))
    if net.style.opset >= 13:
        return net.op("Squeeze", y, net.ints(1), shape=(length, batch, hidden))
    return net.op("Squeeze", y, shape=(length, batch, hidden), axes=[1])


def carried(net: Net, x: str, hidden: int, *, cell: str, layer: int) -> str:
    """A recurrent layer over (T, B, N) whose state (`layer` names it) is given and returned: (T, B,
    hidden).
    """
    length, batch, _ = net.shape(x)
    state = [
        net.input(f"{name}_{layer}", 1, batch, hidden) for name in (("h", "c") if cell == "LSTM" else ("h",))
    ]
    y, *after = _layer(net, x, hidden, cell, given=("", *state), outputs=1 + len(state))
    net.learn(y, (length, 1, batch, hidden), 0.4)
    net.outputs += [net.learn(name, (1, batch, hidden), 0.4) for name in after]
    return net.reshape(y, (length, batch, hidden), written=(length, batch, -1))


def _layer(
    net: Net,
    x: str,
    hidden: int,
    cell: str,
    *,
    ways: int = 1,
    given: tuple[str, ...] = (),
    outputs: int = 1,
) -> list[str]:
    """The operator with weights of its own; `given`: its inputs behind the biases."""
    size, rows = net.shape(x)[2], _GATES[cell] * hidden
    weight = net.weight(x, ways, rows, size, fan_in=size)
    again = net.noise(ways, rows, hidden, scale=1.0 / math.sqrt(hidden))
    inputs = [x, weight, again, net.noise(ways, 2 * rows, scale=0.1), *given]
    found = net.ops(cell, inputs, outputs, hidden_size=hidden)
    if cell == "GRU":
        net.steps[-1].attributes["linear_before_reset"] = 1
    return found


def recurrent(net: Net, plan: Plan) -> None:
    """Layers over frames (batch first outside); `kind`: "lstm", "gru", "bilstm", "bigru"."""
    x = net.input("frames", plan.batch, plan.size, max(plan.width // 2 // 8 * 8, 8))
    x = net.transpose(x, 1, 0, 2)
    for _ in range(plan.depth):
        x = unrolled(
            net,
            x,
            plan.width,
            cell=plan.kind.removeprefix("bi").upper(),
            is_both_ways=plan.kind.startswith("bi"),
        )
    x = net.transpose(x, 1, 0, 2)
    net.outputs.append(net.softmax(net.linear(x, 64)))


def step(net: Net, plan: Plan) -> None:
    """One or a few frames with the state as input and output, as streaming speech models run; `kind`:
    "lstm", "gru".
    """
    x = net.input("frame", plan.batch, plan.size, 64)
    x = net.transpose(net.linear(x, plan.width, act="Relu"), 1, 0, 2)
    for layer in range(plan.depth):
        x = carried(net, x, plan.width, cell=plan.kind.upper(), layer=layer)
    net.outputs.insert(0, net.act(net.linear(x, 1), "Sigmoid"))


def lines(net: Net, plan: Plan) -> None:
    """A line of text in an image: convolutions that lower the height to one, then recurrent layers over the
    width (arXiv 1507.05717); `kind`: "plain", or "light" with depthwise convolutions.
    """
    x = net.input("image", plan.batch, 1 if plan.kind == "plain" else 3, 32, plan.size)
    for index in range(4):
        filters = plan.width << min(index, 2)
        channels = net.shape(x)[1]
        if plan.kind == "light" and index:
            x = net.conv(x, channels, 3, groups=channels, act="hardswish")
            x = net.conv(x, filters, 1, act="hardswish")
        else:
            x = net.conv(x, filters, 3, act="Relu")
        shape = net.shape(x)
        stride = 2 if index < 2 else 1
        x = net.op(
            "MaxPool", x, shape=(shape[0], filters, shape[2] // 2, shape[3] // stride),
            level=1.2 * net.level(x), kernel_shape=[2, stride], strides=[2, stride],
        )  # fmt: skip
    x = net.conv(x, 4 * plan.width, (2, 1), pads=[0] * 4, act="Relu")
    batch, channels, _, width = net.shape(x)
    x = net.transpose(net.reshape(x, (batch, channels, width), written=(batch, channels, -1)), 2, 0, 1)
    for _ in range(plan.depth):
        x = unrolled(net, x, 2 * plan.width, is_both_ways=True)
    net.outputs.append(net.softmax(net.linear(x, 500)))


def temporal(net: Net, plan: Plan) -> None:
    """Dilated convolutions over time with residual sums (arXiv 1803.01271); `kind`: "causal" pads on the
    left, "gated" has Tanh times Sigmoid, "separable" depthwise ones (arXiv 1910.10261).
    """
    x = net.input("features", plan.batch, 40, plan.size)
    x = net.conv(x, plan.width, 1, act="Relu")
    for block in range(plan.depth):
        dilation = 1 << block % 5
        if plan.kind == "causal":
            padded = net.pad(x, (0, 0, 2 * dilation), (0, 0, 0))
            y = net.conv(padded, plan.width, 3, dilation=dilation, pads=[0, 0], act="Relu")
            y = net.conv(y, plan.width, 1)
        elif plan.kind == "gated":
            wide = net.conv(x, 2 * plan.width, 3, dilation=dilation)
            left, right = net.split(wide, (plan.width, plan.width))
            y = net.conv(net.mul(net.act(left, "Tanh"), net.act(right, "Sigmoid")), plan.width, 1)
        else:
            y = net.conv(x, plan.width, 11, groups=plan.width)
            y = net.act(net.conv(y, plan.width, 1), "Relu")
        x = net.act(net.add(x, y), "Relu")
    net.outputs.append(net.dense(net.pooled(x), 35))


def waves(net: Net, plan: Plan) -> None:
    """Sound samples through strided convolutions, and back by transposed ones if `kind` is "codec"."""
    x = net.input("samples", plan.batch, 1, plan.size)
    skips: list[str] = []
    for index in range(plan.depth):
        x = net.conv(
            x, plan.width << min(index, 3), 8, stride=4, pads=[2, 2], act="LeakyRelu", has_norm=False
        )
        x = net.conv(x, net.shape(x)[1], 3, act="LeakyRelu", has_norm=False)
        skips.append(x)
    if plan.kind != "codec":
        net.outputs.append(net.dense(net.pooled(x), 100))
        return
    for index in reversed(range(plan.depth)):
        x = net.deconv(x, net.shape(skips[index - 1])[1] if index else 1, 8, stride=4)
        if index:
            x = net.act(net.add(x, skips[index - 1]), "LeakyRelu")
    net.outputs.append(net.act(x, "Tanh"))


FAMILIES = (
    Family("recurrent", recurrent, """
        32 1 20 1 lstm f
        64 1 50 1 gru f
        64 2 100 1 bilstm fd
        128 1 32 1 lstm fd
        128 2 64 1 bigru f
        128 3 100 1 lstm fh
        192 2 50 1 bilstm f
        256 1 64 1 gru f
        256 2 100 1 lstm fd
        256 2 48 1 bilstm fd
        384 1 128 1 lstm f
        512 2 32 1 gru f
        512 1 50 1 bilstm fd
        640 1 20 1 lstm fd
        128 2 40 8 lstm fd
        96 1 300 1 bigru f
        384 2 24 4 gru f
    """, has_convs=False),
    Family("step", step, """
        32 1 1 1 gru f
        64 1 1 1 lstm fd
        128 2 1 1 lstm fd
        128 1 4 1 gru f
        256 2 1 1 gru f
        256 1 8 1 lstm fd
        384 3 1 1 lstm f
        512 2 1 1 gru f
        512 2 4 1 lstm f
        768 2 1 1 lstm fd
        1024 1 1 1 gru f
        1024 2 1 1 lstm fd
        256 4 2 8 lstm f
        192 2 16 1 gru f
    """, has_convs=False),
    Family("lines", lines, """
        16 1 64 1 plain f
        16 1 100 1 light f
        24 2 128 1 light fq
        32 1 100 1 plain fq
        32 2 160 1 light f
        48 2 128 1 plain fq
        48 1 256 1 light fq
        64 2 100 1 plain fq
        64 1 320 1 light f
        64 2 200 1 plain q
        32 2 320 1 plain f
        24 1 96 6 light fh
    """),
    Family("temporal", temporal, """
        16 4 50 1 causal fq
        32 6 100 1 causal f
        64 5 200 1 causal fq
        64 10 100 1 gated f
        96 8 250 1 gated fq
        128 5 128 1 separable fq
        128 10 400 1 causal fq
        192 8 300 1 separable f
        256 5 200 1 gated fh
        256 8 400 1 separable fqh
        48 12 800 1 causal f
        64 6 1000 1 gated f
        24 8 64 8 causal fh
    """),
    Family("waves", waves, """
        8 3 4096 1 class fq
        16 3 8000 1 codec f
        16 4 16384 1 class f
        24 4 16384 1 codec fq
        32 4 16000 1 class fh
        32 5 16384 1 codec f
        48 5 32768 1 class fq
        48 4 8192 1 codec f
        64 5 16384 1 class fq
        64 4 32768 1 codec f
        12 5 65536 1 codec fh
    """),
)  # fmt: skip
