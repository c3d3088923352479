"""ONNX operators with weights or windows, as PyTorch functions: convolutions, pools, normalisations, matrix
products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from devices.engines.torch_node import Builder, Function, Node

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
MAX_POOLS = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
AVERAGE_POOLS = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
ADAPTIVE_AVERAGES = (
    functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d,
    functional.adaptive_avg_pool3d,
)
Pads = tuple[tuple[int, int], ...]  # before and after each spatial axis


def _of_rank(node: Node, functions: Sequence[Callable[..., Tensor]], rank: int) -> Callable[..., Tensor]:
    if not 1 <= rank <= len(functions):
        raise node.refusal(f"{rank} spatial axes")
    return functions[rank - 1]


def _per_axis(node: Node, name: str, rank: int) -> tuple[int, ...]:
    return node.integers(name) or (1,) * rank


def _pads(node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Pads:
    """As written, or as `auto_pad` makes them: the output is the input over the stride, rounded up."""
    automatic = node.text("auto_pad", "NOTSET")
    rank = len(kernel)
    if automatic in ("NOTSET", "VALID"):
        stated = node.integers("pads") if automatic == "NOTSET" else None
        pads = stated or (0,) * (2 * rank)
        return tuple(zip(pads[:rank], pads[rank:], strict=True))
    found = []
    for size, k, s, d in zip(node.shape(0)[2:], kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
        small, large = total // 2, total - total // 2
        found.append((small, large) if automatic == "SAME_UPPER" else (large, small))
    return tuple(found)


def _is_symmetric(pads: Pads) -> bool:
    return all(before == after for before, after in pads)


def _in_torch_order(pads: Pads) -> list[int]:
    return [side for pair in reversed(pads) for side in pair]


def _convolution(node: Node) -> Function:
    kernel = node.shape(1)[2:]
    function = _of_rank(node, CONVOLUTIONS, len(kernel))
    strides, dilations = (_per_axis(node, name, len(kernel)) for name in ("strides", "dilations"))
    pads, groups = _pads(node, kernel, strides, dilations), node.integer("group", 1)
    if _is_symmetric(pads):
        padding = tuple(before for before, _ in pads)
        return lambda x, w, b=None: function(x, w, b, strides, padding, dilations, groups)
    around = _in_torch_order(pads)
    return lambda x, w, b=None: function(functional.pad(x, around), w, b, strides, 0, dilations, groups)


def _transposed_convolution(node: Node) -> Function:
    kernel = node.shape(1)[2:]
    rank = len(kernel)
    function = _of_rank(node, TRANSPOSED, rank)
    strides, dilations = (_per_axis(node, name, rank) for name in ("strides", "dilations"))
    extra, groups = node.integers("output_padding") or (0,) * rank, node.integer("group", 1)
    if node.integers("output_shape") or node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise node.refusal("its output's size decides on the padding")
    pads = _pads(node, kernel, strides, dilations)
    if _is_symmetric(pads):
        padding = tuple(before for before, _ in pads)
        return lambda x, w, b=None: function(x, w, b, strides, padding, extra, groups, dilations)
    cropped = [-side for side in _in_torch_order(pads)]

    def convolve_and_crop(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return functional.pad(function(x, w, b, strides, 0, extra, groups, dilations), cropped)

    return convolve_and_crop


def _max_pool(node: Node) -> Function:
    kernel = node.integers("kernel_shape") or ()
    function = _of_rank(node, MAX_POOLS, len(kernel))
    strides, dilations = (_per_axis(node, name, len(kernel)) for name in ("strides", "dilations"))
    pads, ceil = _pads(node, kernel, strides, dilations), bool(node.integer("ceil_mode", 0))
    if node.output_count > 1:
        raise node.refusal("the places of the maxima are asked for")
    padding = tuple(before for before, _ in pads)
    if _is_symmetric(pads) and all(2 * pad <= k for pad, k in zip(padding, kernel, strict=True)):
        return partial(
            function, kernel_size=kernel, stride=strides, padding=padding, dilation=dilations, ceil_mode=ceil
        )
    around = _in_torch_order(pads)
    return lambda x: function(
        functional.pad(x, around, value=-math.inf), kernel, strides, 0, dilations, ceil_mode=ceil
    )


def _average_pool(node: Node) -> Function:
    kernel = node.integers("kernel_shape") or ()
    function = _of_rank(node, AVERAGE_POOLS, len(kernel))
    strides = _per_axis(node, "strides", len(kernel))
    pads, ceil = _pads(node, kernel, strides, (1,) * len(kernel)), bool(node.integer("ceil_mode", 0))
    counts_pads = bool(node.integer("count_include_pad", 0))
    if any(size != 1 for size in node.integers("dilations") or ()):
        raise node.refusal("it is dilated")
    padding = tuple(before for before, _ in pads)
    if _is_symmetric(pads) and all(2 * pad <= k for pad, k in zip(padding, kernel, strict=True)):
        return lambda x: function(x, kernel, strides, padding, ceil, counts_pads)
    around = _in_torch_order(pads)
    if counts_pads:
        return lambda x: function(functional.pad(x, around), kernel, strides, 0, ceil)
    inside = torch.ones_like(node.example(0)[:1, :1])
    share = function(functional.pad(inside, around), kernel, strides, 0, ceil)
    return lambda x: function(functional.pad(x, around), kernel, strides, 0, ceil) / share


def _global_average(node: Node) -> Function:
    return partial(_of_rank(node, ADAPTIVE_AVERAGES, len(node.shape(0)) - 2), output_size=1)


def _global_maximum(node: Node) -> Function:
    axes = tuple(range(2, len(node.shape(0))))
    return lambda x: torch.amax(x, axes, keepdim=True)


def _batch_normalisation(node: Node) -> Function:
    if node.integer("training_mode", 0):
        raise node.refusal("it is in training mode")
    epsilon = node.real("epsilon", 1e-5)
    return lambda x, scale, shift, mean, variance: functional.batch_norm(
        x, mean, variance, scale, shift, False, 0.0, epsilon
    )


def _instance_normalisation(node: Node) -> Function:
    epsilon = node.real("epsilon", 1e-5)
    return lambda x, scale, shift: functional.instance_norm(x, weight=scale, bias=shift, eps=epsilon)


def _layer_normalisation(node: Node) -> Function:
    if node.output_count > 1:
        raise node.refusal("mean or deviation are asked for")
    shape, epsilon = node.shape(0)[node.integer("axis", -1) :], node.real("epsilon", 1e-5)
    return lambda x, scale, shift=None: functional.layer_norm(x, shape, scale, shift, epsilon)


def _rms_normalisation(node: Node) -> Function:
    shape, epsilon = node.shape(0)[node.integer("axis", -1) :], node.real("epsilon", 1e-5)
    return lambda x, scale: functional.rms_norm(x, shape, scale, epsilon)


def _group_normalisation(node: Node) -> Function:
    groups, epsilon = node.integer("num_groups"), node.real("epsilon", 1e-5)
    if node.shape(1)[0] != node.shape(0)[1]:
        raise node.refusal("it scales groups, not channels")
    return lambda x, scale, shift: functional.group_norm(x, groups, scale, shift, epsilon)


def _local_response(node: Node) -> Function:
    size, alpha = node.integer("size"), node.real("alpha", 1e-4)
    beta, bias = node.real("beta", 0.75), node.real("bias", 1.0)
    return lambda x: functional.local_response_norm(x, size, alpha, beta, bias)


def _gemm(node: Node) -> Function:
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    turns_a, turns_b = bool(node.integer("transA", 0)), bool(node.integer("transB", 0))
    is_linear = not turns_a and turns_b and alpha == 1 and beta == 1
    if is_linear and (not node.has(2) or len(node.shape(2)) == 1):
        return lambda a, b, c=None: functional.linear(a, b, c)

    def multiply(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.t() if turns_a else a, b.t() if turns_b else b
        if c is None:
            return a @ b if alpha == 1 else alpha * (a @ b)
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return multiply


def _einsum(node: Node) -> Function:
    equation = node.text("equation", "")
    return lambda *values: torch.einsum(equation, *values)


OPERATORS: Mapping[str, Builder] = {
    "Conv": _convolution, "ConvTranspose": _transposed_convolution, "MaxPool": _max_pool,
    "AveragePool": _average_pool, "GlobalAveragePool": _global_average, "GlobalMaxPool": _global_maximum,
    "BatchNormalization": _batch_normalisation, "InstanceNormalization": _instance_normalisation,
    "LayerNormalization": _layer_normalisation, "RMSNormalization": _rms_normalisation,
    "GroupNormalization": _group_normalisation, "LRN": _local_response, "Gemm": _gemm,
    "MatMul": lambda _: torch.matmul, "Einsum": _einsum,
}  # fmt: skip
