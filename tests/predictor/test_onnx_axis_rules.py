"""Quick rules for operators that drop, widen or cut axes, recurrent and integer ones: what they say is what
onnx's inference says, in every opset that they answer for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import helper

from predictor.reading.decoded import decoded_node
from predictor.reading.plain_types import OPSETS, plain_outputs
from predictor.reading.slots import Slot
from predictor.reading.typing import inferred_types

Shape = tuple[int, ...]
Drawn = tuple[list[Slot], dict[str, Any], int]  # inputs, attributes, how many outputs
_SHAPES: Sequence[Shape] = (
    (2, 3, 8, 9), (1, 4, 5, 5), (4,), (1,), (), (2, 3), (4, 3, 1, 1), (2, 1, 9), (2, 0, 4), (1, 1, 5, 1),
)  # fmt: skip
_DTYPES = (*("float32",) * 6, "float16", "int64", "int32", "int8", "uint8", "bool", "float64")


def _slot(shape: Shape, dtype: str, name: str = "x") -> Slot:
    return Slot(name=name, dtype=dtype, shape=shape)


def _known(items: Sequence[int]) -> Slot:
    value = np.asarray(items, np.int64)
    return Slot(name="v", dtype="int64", shape=value.shape, role="constant", value=value)


def _axes(rng: random.Random) -> list[int]:
    some = [rng.randint(-5, 5) for _ in range(rng.randint(1, 3))]
    return rng.choice(([0], [1], [-1], [0, 2], [2, 3], some))


def _along_axes(rng: random.Random) -> Drawn:
    inputs, attributes = [_slot(rng.choice(_SHAPES), rng.choice(_DTYPES))], dict[str, Any]()
    if rng.random() < 0.5:
        attributes["axes"] = _axes(rng)
    else:
        inputs.append(_known(_axes(rng)))
    return inputs, attributes, 1


def _reduced(rng: random.Random) -> Drawn:
    inputs, attributes, count = _along_axes(rng)
    if rng.random() < 0.5:
        attributes["keepdims"] = rng.randint(0, 1)
    return inputs, attributes, count


def _padded(rng: random.Random) -> Drawn:
    shape, dtype = rng.choice(_SHAPES), rng.choice(_DTYPES)
    pads = [rng.choice((1, 1, 1, 0, 2, -1)) for _ in range(2 * len(shape) + (rng.random() < 0.05))]
    inputs = [_slot(shape, dtype), _known(pads)]
    if rng.random() < 0.4:
        inputs.append(_slot(rng.choice(((), (1,))), rng.choice((dtype, "float32")), "c"))
    modes = ("constant", "edge", "reflect", "odd")
    return inputs, {"mode": rng.choice(modes)} if rng.random() < 0.4 else {}, 1


def _recurrent(gates: int) -> Callable[[random.Random], Drawn]:
    def drawn(rng: random.Random) -> Drawn:
        shape, hidden = rng.choice(((5, 2, 8), (1, 1, 4), rng.choice(_SHAPES))), rng.choice((3, 6, 0))
        rows, width = gates * max(hidden, 1), (shape or (1,))[-1]
        inputs = [_slot(shape, "float32"), _slot((1, rows, width), "float32", "w")]
        inputs.append(_slot((1, rows, max(hidden, 1)), rng.choice(("float32", "float32", "float16")), "r"))
        attributes: dict[str, Any] = {"hidden_size": hidden}
        if rng.random() < 0.4:
            attributes["direction"] = rng.choice(("forward", "reverse", "bidirectional", "x"))
        return inputs, attributes, 1

    return drawn


def _of_integers(rng: random.Random) -> Drawn:
    left = rng.choice(_SHAPES)
    right = (left[-1], 5) if len(left) > 1 and rng.random() < 0.8 else rng.choice(_SHAPES)
    inputs = [
        _slot(shape, rng.choice(("int8", "uint8")), name) for shape, name in ((left, "x"), (right, "w"))
    ]
    if rng.random() < 0.5:
        inputs.append(_slot(rng.choice(((), (1,), (3,))), rng.choice(("int8", "uint8")), "z"))
    return inputs, {}, 1


def _of_two(rng: random.Random) -> Drawn:
    shape, dtype = rng.choice(_SHAPES), rng.choice(_DTYPES)
    other = rng.choice((shape, (), (1,), rng.choice(_SHAPES), shape[1:]))
    return [_slot(shape, dtype), _slot(other, rng.choice((dtype, dtype, "float32")), "y")], {}, 1


def _split(rng: random.Random) -> Drawn:
    shape, axis, count = rng.choice(_SHAPES), rng.randint(-1, 3), rng.choice((2, 2, 3, 4))
    size = shape[axis] if -len(shape) <= axis < len(shape) else 4
    parts = [size // count] * count
    parts[-1] += size - sum(parts) + (rng.random() < 0.1)
    inputs, attributes = [_slot(shape, rng.choice(_DTYPES))], {"axis": axis}
    if rng.random() < 0.4:
        return inputs, {**attributes, "split": parts}, count
    return [*inputs, *([_known(parts)] if rng.random() < 0.6 else [])], attributes, count


def _to_quantise(rng: random.Random) -> Drawn:
    return [_slot(rng.choice(_SHAPES), rng.choice(_DTYPES))], {}, rng.choice((3, 3, 2))


_DRAWN: Mapping[str, Callable[[random.Random], Drawn]] = {
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), _reduced), "Squeeze": _along_axes,
    "Pad": _padded, "GRU": _recurrent(3), "LSTM": _recurrent(4), "RNN": _recurrent(1),
    "MatMulInteger": _of_integers, "Pow": _of_two, "PRelu": _of_two, "Split": _split,
    "DynamicQuantizeLinear": _to_quantise,
}  # fmt: skip


@pytest.mark.parametrize("kind", _DRAWN)
def test_rules_agree_with_inference(kind: str) -> None:
    rng, answered = random.Random(kind), 0
    for number in range(500):
        opset = OPSETS[number % len(OPSETS)]
        inputs, attributes, count = _DRAWN[kind](rng)
        outputs = [f"o{index}" for index in range(count)]
        node = decoded_node(helper.make_node(kind, [slot.name for slot in inputs], outputs, **attributes))
        said = plain_outputs(node, inputs, opset)
        if said is not None:
            answered += 1
            assert list(said) == inferred_types(node, inputs, {"": opset}), (opset, attributes, inputs)
    assert answered > 20


def test_padding_that_overflows_is_left_to_inference() -> None:
    node = decoded_node(helper.make_node("Pad", ["x", "v"], ["y"]))
    assert plain_outputs(node, [_slot((4,), "float32"), _known([0, 2**62])], 17) is None
