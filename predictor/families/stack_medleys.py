"""Medleys of few layers: dense ones on some rows, recurrent ones whose state is given, tables that are looked
up. Such models take microseconds, so what a call and a launch cost shows, or do nothing but read weights.
"""

from __future__ import annotations

from collections.abc import Callable

from predictor.families.layers import Net
from predictor.families.sequences import carried
from predictor.families.sweeps import Choices, Design, Point, Sweep, label

_CURVES = ("Relu", "Relu", "Tanh", "Sigmoid", "gelu", "silu", "")
_MOST_WEIGHTS = 2.5e7  # of a model
_MOST_MACS = 1.5e8

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


SWEEPS = (
    Sweep("medley-dense-stacks", 100, dense_stack, "fdfqfdfwfh", least_opset=13),
    Sweep("medley-carried-stacks", 50, carried_stack, "fdf", least_opset=14),
)
