"""From the layers of an ncnn network to the kernels of its graph.

ncnn's converter names layers after what they do and counts them (`convrelu_0`, `gemm_3`), whatever the
operators were called. It keeps their order, so layers of a kind are the kernels of that kind, one by one, if
there are as many.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from predictor.kernel_making import Kernel

_CONVOLUTION = re.compile(r"^(de)?conv(dw)?(1d)?([a-z]*)$")
_LINEAR = re.compile(r"^(?:linear|gemm|fc([a-z]*))$")
_BESIDE = ((-1, re.compile(r"^F_linear_\d+_ncnnreshape0$")), (1, re.compile(r"^F_linear_\d+_ncnnreshape1$")))
_LINEAR_SORT = ("product",)
_SUMS = frozenset(("add",))
_CURVES = frozenset(("Relu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "LeakyRelu", "HardSwish", "Elu"))
_KINDS = {
    "ln": "LayerNormalization", "bn": "BatchNormalization", "softmax": "Softmax", "cat": "Concat",
    "interpolate": "Resize", "maxpool2d": "MaxPool", "maxpool1d": "MaxPool", "avgpool2d": "AveragePool",
    "avgpool1d": "AveragePool", "lstm": "LSTM", "gru": "GRU", "rnn": "RNN", "prelu": "PRelu", "elu": "Elu",
    "gelu": "Gelu", "lrn": "LRN", "pixel_shuffle": "DepthToSpace", "pad": "Pad", "softplus": "Softplus",
    "leakyrelu": "LeakyRelu", "tanh": "Tanh", "sigmoid": "Sigmoid", "hsigmoid": "HardSigmoid", "relu": "Relu",
    "clamp": "Clip", "erf": "Erf", "matmul": "MatMul", "matmultransb": "MatMul",
    "silu": "Swish", "hswish": "HardSwish", "gap": "GlobalAveragePool", "gmp": "GlobalMaxPool",
}  # fmt: skip
_CURVE_LAYERS = frozenset(base for base, kind in _KINDS.items() if kind in _CURVES)

_Item = TypeVar("_Item")
_Sort = tuple[object, ...]


class _Product(NamedTuple):
    """Consecutive layers that compute a product."""

    places: tuple[int, ...]
    has_curve: bool


def ncnn_layers_of(kernels: Sequence[Kernel], names: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """Places of layers by the place of their kernel, for the kernels that can be told."""
    bases = [name.rpartition("_")[0] for name in names]
    own: dict[_Sort, list[int]] = defaultdict(list)
    for place, kernel in enumerate(kernels):
        own[_sort_of(kernel)].append(place)
    products: dict[_Sort, list[_Product]] = defaultdict(list)
    for place in range(len(names)):
        if (found := _product(names, bases, place)) is not None:
            products[found[0]].append(found[1])
    told: dict[int, tuple[int, ...]] = {}
    for home, product in _paired(own, products):
        if layers := _whole(product, kernels[home], bases):
            told[home] = layers
    taken = {place for layers in told.values() for place in layers}
    others: dict[_Sort, list[int]] = defaultdict(list)
    for place, base in enumerate(bases):
        if base in _KINDS and place not in taken:
            others[_KINDS[base],].append(place)
    return told | {home: (place,) for home, place in _paired(own, others)}


def _paired(
    own: Mapping[_Sort, list[int]], layers: Mapping[_Sort, list[_Item]]
) -> Iterator[tuple[int, _Item]]:
    """Kernels with the layers of their sort, where there are as many."""
    for sort, alike in layers.items():
        if len(alike) == len(own.get(sort, ())):
            yield from zip(own[sort], alike, strict=True)


def _product(names: Sequence[str], bases: Sequence[str], place: int) -> tuple[_Sort, _Product] | None:
    if match := _CONVOLUTION.match(bases[place]):
        transposes, is_grouped, is_flat, curve = match.groups()
        sort: _Sort = ("Conv", bool(transposes), bool(is_grouped), bool(is_flat))
        return sort, _Product((place,), bool(curve))
    if match := _LINEAR.match(bases[place]):
        beside = [
            place + step
            for step, name in _BESIDE
            if 0 <= place + step < len(names) and name.match(names[place + step])
        ]
        return _LINEAR_SORT, _Product(tuple(sorted([place, *beside])), bool(match[1]))
    return None


def _sort_of(kernel: Kernel) -> _Sort:
    kind = kernel.anchor.kind
    if kind == "Conv" and kernel.rows == kernel.groups == 1:
        return _LINEAR_SORT  # on what is left of an image by a global pooling
    if kind in ("Conv", "ConvTranspose"):
        window = kernel.anchor.attributes.get("kernel_shape")
        is_flat = isinstance(window, tuple) and len(window) == 1
        return ("Conv", kind == "ConvTranspose", kernel.groups > 1, is_flat)
    if kind == "Gemm" or (kind == "MatMul" and kernel.weight_bytes >= kernel.inner * kernel.columns > 0):
        return _LINEAR_SORT
    return (kind,)


def _whole(product: _Product, kernel: Kernel, bases: Sequence[str]) -> tuple[int, ...]:
    """The layers of a product and those behind it that do what else is in its kernel; none where they do more
    or less.
    """
    kinds = [member.kind for member in kernel.members if member is not kernel.anchor]
    wanted = []
    sums = kinds.count("Add") + kinds.count("Sum")
    if kernel.anchor.kind == "MatMul":
        sums -= 1  # a bias
    if sums > 0:
        wanted.append(_SUMS)
    has_curve = not _CURVES.isdisjoint(kinds)
    if (product.has_curve and not has_curve) or "Transpose" in kinds:  # a layer of its own in ncnn
        return ()
    if has_curve and not product.has_curve:
        wanted.append(_CURVE_LAYERS)
    places = list(product.places)
    for behind in wanted:
        following = places[-1] + 1
        if following >= len(bases) or bases[following] not in behind:
            return ()
        places.append(following)
    return tuple(places)
