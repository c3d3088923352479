"""Medleys of dense layers on some rows, of recurrent ones whose state is given, of tables that are looked up.
Short ones take microseconds, so what a call and a launch cost shows; long ones do nothing but read weights.
"""

from __future__ import annotations

from collections.abc import Callable

from predictor.families.layers import Net
from predictor.families.sequences import carried
from predictor.families.sweeps import Choices, Design, Point, Sweep, label

_CURVES = ("Relu", "Relu", "Tanh", "Sigmoid", "gelu", "silu", "")
_MOST_WEIGHTS = 2.5e7  # of a model
_MOST_MACS = 1.5e8
_MOST_MATRICES = 120  # of a long stack

_Layer = Callable[[Net, str, int, Choices], str]


def _plain(net: Net, x: str, columns: int, choices: Choices) -> str:
    return net.dense(x, columns, act=choices.pick(*_CURVES))


def _summed(net: Net, x: str, columns: int, choices: Choices) -> str:
    """To as many columns as came in, and added to them."""
    act, inner = choices.pick(*_CURVES), net.shape(x)[1]
    wide = net.dense(x, min(columns, 4 * inner), act=act)
    return net.add(x, net.dense(wide, inner))


def _normed(net: Net, x: str, columns: int, choices: Choices) -> str:
    return net.act(net.layer_norm(net.dense(x, columns)), choices.pick(*_CURVES))


def _biasless(net: Net, x: str, columns: int, choices: Choices) -> str:
    gate = net.act(net.matmul(x, columns), "Sigmoid")
    return gate if choices.unit() < 0.5 else net.mul(gate, net.matmul(x, columns))


_LAYERS: tuple[_Layer, ...] = (_plain, _plain, _plain, _summed, _normed, _biasless)


def dense_stack(design: Design) -> Point:
    """Dense layers on a row or on some hundred; some begin with tables that are looked up."""
    rows, count = design.pick(1, 1, 1, 1, 2, 4, 8, 16, 32, 64, 128, 256), design.log(1, 9)
    size, has_tables = design.log(1, 256) * 8, design.unit() < 0.2
    most = min(_MOST_WEIGHTS, _MOST_MACS / rows) / count
    size = max(design.rounded(min(size, int(most**0.5))) // 8 * 8, 8)
    text = label(m=rows, k=size, n=count, t=int(has_tables))

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = _looked_up(net, rows, size, dice) if has_tables else net.input("rows", rows, size)
        for _ in range(count):
            inner = net.shape(x)[1]
            columns = dice.rounded(int(size * 2.0 ** (4.0 * dice.unit() - 2.0)))
            columns = max(min(columns, int(most / inner)) // 8 * 8, 8)
            x = dice.pick(*_LAYERS)(net, x, columns, dice)
        net.outputs.append(net.dense(x, dice.log(1, 200)) if dice.unit() < 0.7 else x)

    return Point(text, draw, 0.0)


def _looked_up(net: Net, rows: int, size: int, choices: Choices) -> str:
    parts = []
    for index in range(choices.pick(2, 3, 5)):
        ids = net.input(f"ids_{index}", rows, dtype="int64")
        table, width = net.noise(choices.log(10, 1000), size), size
        parts.append(net.op("Gather", table, ids, shape=(rows, width), level=1.0, dtype="float32", axis=0))
    return net.concat(parts)


def carried_stack(design: Design) -> Point:
    """Recurrent layers on a frame or some, with their states given and returned."""
    frames, batch = design.pick(1, 1, 1, 1, 2, 4, 8, 16), design.pick(1, 1, 1, 1, 4, 8)
    size, count = design.log(2, 128) * 8, design.log(1, 4)
    cell = design.pick("LSTM", "GRU")
    most = min(_MOST_WEIGHTS, _MOST_MACS / frames / batch) / count / 8
    size = max(design.rounded(min(size, int(most**0.5))) // 8 * 8, 16)
    text = label(t=frames, k=size, n=count, b=batch) + f"-{cell.lower()}"

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x = net.input("frames", frames, batch, dice.log(1, 32) * 8)
        if dice.unit() < 0.6:
            x = net.linear(x, size, act=dice.pick("Relu", "Tanh", ""))
        for layer in range(count):
            x = carried(net, x, size, cell=cell, layer=layer)
        net.outputs.insert(0, net.linear(x, dice.log(1, 100), act=dice.pick("", "Sigmoid")))

    return Point(text, draw, 0.0)


def long_stack(design: Design) -> Point:
    """A row or a few through many layers, as text is written word by word: together they have more weights
    than a shared cache holds, each as few as may lie in a near one.
    """
    rows = design.pick(1, 1, 1, 1, 2, 4)
    weights = design.log(4_000_000, 32_000_000)
    size = design.rounded(int(max(design.log(60_000, 2_500_000), weights / _MOST_MATRICES) ** 0.5)) // 16 * 16
    text = label(m=rows, k=size, w=weights // 1000)

    def draw(net: Net) -> None:
        dice = design.dice(text)
        x, left = net.input("rows", rows, size), weights
        while left > 0:
            wide = max(int(size * 2.0 ** (2.0 * dice.unit() - 0.5)) // 16 * 16, 16)
            is_gated = dice.unit() < 0.4
            left -= (3 if is_gated else 2) * size * wide
            y = net.layer_norm(x) if dice.unit() < 0.5 else x
            if is_gated:
                y = net.mul(net.act(net.matmul(y, wide), dice.pick("silu", "Sigmoid")), net.matmul(y, wide))
            else:
                y = net.dense(y, wide, act=dice.pick("Relu", "gelu", "silu"))
            x = net.add(x, net.matmul(y, size))
        net.outputs.append(x)

    return Point(text, draw, 0.0)


SWEEPS = (
    Sweep("medley-dense-stacks", 100, dense_stack, "fdfqfdfwfh", least_opset=13),
    Sweep("medley-carried-stacks", 50, carried_stack, "fdf", least_opset=14),
    Sweep("medley-long-stacks", 60, long_stack, "fdfwfdwfqw", least_opset=13),
)
