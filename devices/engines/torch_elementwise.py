"""ONNX operators that work element by element, activations and reductions, as PyTorch functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce

import torch
from torch import Tensor
from torch.nn import functional

from devices.engines.torch_node import Builder, Function, Node

AXES_OF_OWN = 13  # before this opset softmax took all axes from its own on as one

# onnx.TensorProto.DataType
DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


def dtype_of(node: Node, number: int) -> torch.dtype:
    """The type of that number in ONNX; refuses the node where PyTorch does not compute with it."""
    if number not in DTYPES:
        raise node.refusal(f"PyTorch has no data type {number}")
    return DTYPES[number]


def _plain(function: Callable[..., Tensor]) -> Builder:
    def build(node: Node) -> Function:
        del node
        return function

    return build


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Builder:
    return _plain(lambda *values: reduce(function, values))


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(node: Node) -> Function:
    if node.is_constant[1] and node.example(1).numel() == 1 and node.example(0).is_floating_point():
        exponent = float(node.example(1))
        return lambda a, _: torch.pow(a, exponent)
    dtype = node.example(0).dtype
    return lambda a, b: torch.pow(a, b).to(dtype)


def _remainder(node: Node) -> Function:
    return torch.fmod if node.integer("fmod", 0) else torch.remainder


def _clip(node: Node) -> Function:
    low, high = (_bound(node, name, index) for index, name in ((1, "min"), (2, "max")))
    if low is None and high is None:
        return lambda x, *_: x
    return lambda x, *_: torch.clamp(x, low, high)


def _bound(node: Node, name: str, index: int) -> float | None:
    """An attribute of that name in old files, this input in new ones."""
    if name in node.attributes:
        return node.real(name, 0.0)
    value = node.constant(index)
    return None if value is None else value.item()


def _prelu(node: Node) -> Function:
    slope = node.shape(1)
    channels = node.shape(0)[1] if len(node.shape(0)) > 1 else 1
    if node.example(1).numel() in (1, channels) and all(size == 1 for size in slope[1:]):
        return lambda x, weight: functional.prelu(x, weight.reshape(-1))
    return lambda x, weight: torch.where(x < 0, x * weight, x)


def _softmax(function: Callable[..., Tensor]) -> Builder:
    def build(node: Node) -> Function:
        if node.opset >= AXES_OF_OWN:
            return partial(function, dim=node.integer("axis", -1))
        shape, axis = node.shape(0), node.integer("axis", 1)
        axis %= len(shape)
        if axis == len(shape) - 1:
            return partial(function, dim=axis)
        return lambda x: function(x.flatten(axis), dim=axis).reshape(shape)

    return build


def _hard_sigmoid(node: Node) -> Function:
    slope, shift = node.real("alpha", 0.2), node.real("beta", 0.5)
    if abs(slope - 1 / 6) < 1e-6 and shift == 0.5:
        return functional.hardsigmoid
    return lambda x: torch.clamp(x * slope + shift, 0, 1)


def _thresholded(node: Node) -> Function:
    bound = node.real("alpha", 1.0)
    return lambda x: torch.where(x > bound, x, torch.zeros_like(x))


def _cast(node: Node) -> Function:
    dtype = node.example(1).dtype if node.kind == "CastLike" else dtype_of(node, node.integer("to"))
    return lambda x, *_: x.to(dtype)


def _reduction(function: Callable[..., Tensor], before: Callable[[Tensor], Tensor] | None = None) -> Builder:
    def build(node: Node) -> Function:
        axes, keep = node.axes(1), bool(node.integer("keepdims", 1))
        if not axes:
            if node.integer("noop_with_empty_axes", 0):
                return lambda x, *_: x
            axes = tuple(range(len(node.shape(0))))
        wanted = axes
        if not wanted:  # of a scalar
            return lambda x, *_: x
        if before is None:
            return lambda x, *_: function(x, dim=wanted, keepdim=keep)
        return lambda x, *_: function(before(x), dim=wanted, keepdim=keep)

    return build


def _product(x: Tensor, *, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted((one % x.dim() for one in dim), reverse=True):
        x = torch.prod(x, axis, keepdim=keepdim)
    return x


def _extreme_index(function: Callable[..., Tensor]) -> Builder:
    def build(node: Node) -> Function:
        axis, keep = node.integer("axis", 0), bool(node.integer("keepdims", 1))
        if node.integer("select_last_index", 0):
            raise node.refusal("the last of equal values is asked for")
        return lambda x: function(x, dim=axis, keepdim=keep)

    return build


def _norm(x: Tensor, *, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)
    return length


def _mean(*values: Tensor) -> Tensor:
    return reduce(torch.add, values) / len(values)


def _identity(x: Tensor, *_: Tensor) -> Tensor:
    return x


_PLAIN: Mapping[str, Callable[..., Tensor]] = {
    "Abs": torch.abs, "Neg": torch.neg, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round,
    "Sign": torch.sign, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin,
    "Acos": torch.acos, "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh, "Erf": torch.erf,
    "Not": torch.logical_not, "IsNaN": torch.isnan, "IsInf": torch.isinf, "Where": torch.where,
    "Relu": functional.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Softplus": functional.softplus,
    "Softsign": functional.softsign, "HardSwish": functional.hardswish, "Mish": functional.mish,
    "Selu": functional.selu, "Mean": _mean, "Identity": _identity, "Dropout": _identity,
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": _divide, "And": torch.logical_and,
    "Or": torch.logical_or, "Xor": torch.logical_xor, "Equal": torch.eq, "Greater": torch.gt,
    "Less": torch.lt, "GreaterOrEqual": torch.ge, "LessOrEqual": torch.le,
}  # fmt: skip
OPERATORS: Mapping[str, Builder] = {
    **{name: _plain(function) for name, function in _PLAIN.items()},
    "Sum": _variadic(torch.add),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Pow": _power,
    "Mod": _remainder,
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": _cast,
    "PRelu": _prelu,
    "LeakyRelu": lambda node: partial(functional.leaky_relu, negative_slope=node.real("alpha", 0.01)),
    "Elu": lambda node: partial(functional.elu, alpha=node.real("alpha", 1.0)),
    "Celu": lambda node: partial(functional.celu, alpha=node.real("alpha", 1.0)),
    "Gelu": lambda node: partial(functional.gelu, approximate=node.text("approximate", "none")),
    "HardSigmoid": _hard_sigmoid,
    "ThresholdedRelu": _thresholded,
    "Softmax": _softmax(functional.softmax),
    "LogSoftmax": _softmax(functional.log_softmax),
    "ArgMax": _extreme_index(torch.argmax),
    "ArgMin": _extreme_index(torch.argmin),
    "ReduceSum": _reduction(torch.sum),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(torch.sum, torch.abs),
    "ReduceL2": _reduction(_norm),
    "ReduceSumSquare": _reduction(torch.sum, torch.square),
    "ReduceLogSumExp": _reduction(torch.logsumexp),
}
