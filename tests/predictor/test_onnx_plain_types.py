"""What the quick rules say of a node is what onnx's inference says, in every opset that they answer for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from predictor.reading.decoded import decoded_node
from predictor.reading.plain_types import OPSETS, plain_output
from predictor.reading.slots import Slot
from predictor.reading.typing import inferred_types

_DTYPES = {"float32": 12, "float16": 2, "int64": 2, "int8": 1, "uint8": 1, "bool": 1, "float64": 1}
_SHAPES: Sequence[tuple[int, ...]] = (
    (2, 3, 8, 9), (1, 4, 5, 5), (1, 6, 10, 10), (4,), (1,), (), (2, 3), (3, 4), (4, 3, 1, 1), (3, 1, 1), (2,
        1, 9), (2, 0, 4), (1, 4, 6),
)  # fmt: skip
_OTHER: dict[str, Sequence[Any]] = {
    "axis": (-5, -1, 0, 1, 2, 7), "alpha": (0.5, 2), "beta": (0.5,), "min": (0.0,), "max": (6.0,),
    "epsilon": (1e-5,), "training_mode": (0, 1), "spatial": (1,), "transA": (0, 1), "transB": (0, 1),
    "perm": ((0, 2, 3, 1), (1, 0), (0, 2, 1), (0, 0)), "to": (1, 7, 9, 10, 16, 8, 99), "group": (1, 2),
    "kernel_shape": ((3, 3), (1, 1), (2, 2), (2, 2), (3,), (9, 9)), "strides": ((1, 1), (2, 2), (0, 1), (2,)),
    "pads": ((1, 1, 1, 1), (0, 1, 2, 0), (0, 0), (-1, 0, 0, 0)), "dilations": ((1, 1), (2, 2), (2,)),
    "ceil_mode": (0, 1), "auto_pad": ("SAME_UPPER", "NOTSET", "VALID"), "count_include_pad": (0, 1),
    "mode": ("x",), "size": (3,), "bias": (1.0,),
}  # fmt: skip
_USUAL: dict[str, Sequence[str]] = {
    **dict.fromkeys(
        ("Conv", "ConvInteger"), ("kernel_shape", "strides", "pads", "dilations", "group", "auto_pad")
    ),
    "LRN": ("size", "alpha", "beta", "bias"), "Gather": ("axis",),
    "MaxPool": ("kernel_shape", "strides", "pads", "ceil_mode", "auto_pad", "dilations"),
    "AveragePool": ("kernel_shape", "strides", "pads", "count_include_pad", "ceil_mode", "auto_pad"),
    "BatchNormalization": ("epsilon", "training_mode", "spatial"),
    "Gemm": ("alpha", "beta", "transA", "transB"), "Clip": ("min", "max"), "Transpose": ("perm",),
    "Cast": ("to",),
    "HardSigmoid": ("alpha", "beta"), "LeakyRelu": ("alpha",), "Elu": ("alpha",),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Concat", "Flatten", "QuantizeLinear", "DequantizeLinear"),
        ("axis",)),
}  # fmt: skip
_INPUTS = {
    "Conv": (2, 3), "ConvInteger": (2, 3, 4), "Sum": (1, 2, 3), "Gather": (2,),
    "BatchNormalization": (5,), "Gemm": (2, 3), "MatMul": (2,), "Concat": (1, 2, 3),
    "Clip": (1, 2, 3),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater"), (2,)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), (2, 3)),
}  # fmt: skip
_PLAIN = (
    "Relu", "Sigmoid", "Tanh", "Exp", "Log", "LRN", "Sum", "Gather", "ConvInteger",
    "Sqrt", "Erf", "Abs", "Neg", "Floor", "Softplus", "Identity",
    "LeakyRelu", "Elu",
    "HardSigmoid", "Clip", "Softmax", "LogSoftmax", "Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater",
    "Conv",
    "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization", "MatMul", "Gemm", "Concat",
    "Transpose",
    "Flatten", "Cast", "DequantizeLinear", "QuantizeLinear",
)  # fmt: skip


def _shapes(kind: str, count: int, rng: random.Random) -> list[tuple[int, ...]]:
    """Often shapes that fit, else any."""
    shapes = [rng.choice(_SHAPES) for _ in range(count)]
    if rng.random() < 0.2:
        return shapes
    first = shapes[0]
    if kind in ("Conv", "ConvInteger") and len(first) > 2:
        others = [(6,)] if kind == "Conv" else [(), ()]
        return [first, (6, first[1], *(rng.choice((1, 2, 3)) for _ in first[2:])), *others][:count]
    if kind == "Sum":
        return [first, first, rng.choice((first, ()))][:count]
    if kind == "BatchNormalization" and len(first) > 1:
        return [first] + [(first[1],)] * 4
    if kind in ("MatMul", "Gemm") and len(first) > 1:
        return [first, (*rng.choice((first[:-2], ())), first[-1], 5), (5,)][:count]
    if kind == "Concat" and first:
        return [(*first[:-1], rng.randint(1, 4)) for _ in range(count)]
    if kind in ("QuantizeLinear", "DequantizeLinear", "Clip"):
        return [first] + [()] * (count - 1)
    return shapes


def _dtypes(kind: str, count: int, rng: random.Random) -> list[str]:
    any_of = rng.choices(list(_DTYPES), list(_DTYPES.values()), k=count)
    if rng.random() < 0.1:
        return any_of
    if kind == "ConvInteger":
        return ["uint8", (few := rng.choice(("int8", "uint8"))), "uint8", few][:count]
    if kind == "Gather":
        return [any_of[0], "int64"]
    if kind == "QuantizeLinear":
        return ["float32", "float32", rng.choice(("int8", "uint8"))][:count]
    if kind == "DequantizeLinear":
        return [(few := rng.choice(("int8", "uint8"))), "float32", few][:count]
    return any_of[:1] * count


@pytest.mark.parametrize("kind", _PLAIN)
def test_rules_agree_with_inference(kind: str) -> None:
    rng = random.Random(kind)
    answered = 0
    for number in range(500):
        opset = OPSETS[number % len(OPSETS)]
        count = rng.choice(_INPUTS.get(kind, (1,)))
        pairs = zip(_dtypes(kind, count, rng), _shapes(kind, count, rng), strict=True)
        slots = [Slot(name=f"i{i}", dtype=dtype, shape=shape) for i, (dtype, shape) in enumerate(pairs)]
        names = [name for name in _USUAL.get(kind, ()) if rng.random() < 0.4]
        names += [rng.choice(list(_OTHER))] if rng.random() < 0.1 else []
        if kind in ("Concat", "Cast", "Transpose", "MaxPool", "AveragePool", "LRN") and rng.random() < 0.9:
            names += _USUAL[kind][:1]
        attributes = {name: rng.choice(_OTHER[name]) for name in names}
        node = decoded_node(helper.make_node(kind, [slot.name for slot in slots], ["y"], **attributes))
        said = plain_output(node, slots, opset)
        if said is not None:
            answered += 1
            assert [said] == inferred_types(node, slots, {"": opset}), (opset, attributes, slots)
    assert answered > 8


@pytest.mark.parametrize("kind", ["Reshape", "Slice", "Unsqueeze"])
def test_rules_that_look_at_values_agree_with_inference(kind: str) -> None:
    rng, answered = random.Random(kind), 0
    for number in range(600):
        opset, shape = OPSETS[number % len(OPSETS)], rng.choice(_SHAPES)
        count = rng.choice((1, 2)) if shape else 1
        few = [[rng.choice((-1, 0, 1, 2, 3, 6, -9, 2**62)) for _ in range(count)] for _ in range(4)]
        if kind == "Reshape":
            given = [rng.choice(([*shape], [0, -1], [-1], [1, *shape], [*shape[:1], -1], few[0]))]
        elif kind == "Slice":
            axes = rng.sample(range(max(len(shape), 2)), count)
            given = [few[0], few[1], axes, rng.choice(([1] * count, few[3]))][: rng.choice((2, 3, 4))]
        else:
            given = [rng.choice(([0], [1], [-1], [0, 2], few[0]))]
        attributes: dict[str, Any] = {"axes": given.pop()} if kind == "Unsqueeze" and opset < 13 else {}
        slots = [Slot(name="x", dtype=rng.choice(("float32", "int64")), shape=shape)]
        for index, items in enumerate(given):
            value = np.asarray(items, np.int64)
            slots.append(
                Slot(name=f"v{index}", dtype="int64", shape=value.shape, role="constant", value=value)
            )
        node = decoded_node(helper.make_node(kind, [slot.name for slot in slots], ["y"], **attributes))
        said = plain_output(node, slots, opset)
        if said is not None:
            answered += 1
            assert [said] == inferred_types(node, slots, {"": opset}), (opset, shape, given, attributes)
    assert answered > 40


def test_what_is_not_ordinary_is_left_to_inference() -> None:
    two = helper.make_node("Relu", ["i"], ["y", "z"])
    odd = helper.make_node("Conv", ["i", "w"], ["y"], auto_pad="SAME_LOWER")
    data = Slot(name="i", dtype="float32", shape=(1, 3, 8, 8))
    weight = Slot(name="w", dtype="float32", shape=(4, 3, 3, 3))
    assert plain_output(decoded_node(two), [data], 17) is None
    assert plain_output(decoded_node(odd), [data, weight], 17) is None
    assert plain_output(decoded_node(helper.make_node("Relu", ["i"], ["y"])), [data], OPSETS.stop) is None
    cast = helper.make_node("Cast", ["i"], ["y"], to=TensorProto.STRING)
    assert plain_output(decoded_node(cast), [data], 17) is None
