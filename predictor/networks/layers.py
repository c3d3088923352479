"""The layers that the published spaces are made of, written as ONNX through `predictor.networks.onnx_net`.

Batch normalisation is folded into the convolution before it, as deployed models have it. Weights are slices
of one random sequence that is made once in a process, and a large one is stored as a few of its filters,
which the graph repeats when it is loaded: a file has a few hundred kilobytes, and every inference still
reads the whole weight. Filters are repeated, never channels, so that sums over channels do not grow from
layer to layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from predictor.networks.onnx_net import Net, uniform

IMAGE = "image"
_RANDOM = 1 << 16  # numbers in the sequence that weights are slices of
_STEP = 7919  # a prime: no two weights of one network begin at the same place
_STORED_ELEMENTS = 2048  # of a weight; a single filter may be larger


@dataclass(frozen=True, slots=True)
class Maps:
    """Feature maps (B, channels, size, size) under construction, by the name of their tensor."""

    name: str
    channels: int
    size: int


class LayerNet(Net):
    """A network of square images under construction."""

    def __init__(self, name: str, *, size: int, batch: int) -> None:
        super().__init__(name, {IMAGE: (batch, 3, size, size)})
        self.image = Maps(IMAGE, 3, size)
        self._batch = batch
        self._integers: dict[tuple[int, ...], str] = {}

    def ints(self, *values: int) -> str:
        """A constant vector of integers; one for all that need the same."""
        if values not in self._integers:
            self._integers[values] = super().ints(*values)
        return self._integers[values]

    def weight(self, *shape: int) -> str:
        """A float weight (filters, ...) with a variance of one by the product of all axes but the first."""
        inner = max(math.prod(shape[1:]), 1)
        scale = np.float32(math.sqrt(3.0 / inner))
        filters = _stored_filters(shape[0], inner)
        stored = self.store(scale * self._uniform((filters, *shape[1:])))
        if filters == shape[0]:
            return stored
        return self.op("Tile", stored, self.ints(shape[0] // filters, *[1] * (len(shape) - 1)))

    def convolved(
        self, x: Maps, filters: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: str = ""
    ) -> Maps:
        """A square convolution with bias and "same" padding, and an activation ("" for none)."""
        weight = self.weight(filters, x.channels // groups, kernel, kernel)
        bias = self.store(0.1 * self._uniform((filters,)))
        y = self.op(
            "Conv", x.name, weight, bias, group=groups, kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4, strides=[stride, stride],
        )  # fmt: skip
        return Maps(self.op(activation, y) if activation else y, filters, strided(x.size, stride))

    def apply(self, kind: str, x: Maps, *others: str, **attributes: int | float | Sequence[int]) -> Maps:
        """An operator that keeps the shape."""
        return Maps(self.op(kind, x.name, *others, **attributes), x.channels, x.size)

    def added(self, x: Maps, y: Maps) -> Maps:
        """The sum of two."""
        return Maps(self.op("Add", x.name, y.name), x.channels, x.size)

    def shuffled(self, x: Maps, groups: int) -> Maps:
        """Channels of all groups in turn (ShuffleNet, arXiv 1707.01083, figure 1)."""
        batch, size = self._batch, x.size
        split = self.op("Reshape", x.name, self.ints(batch, groups, x.channels // groups, size, size))
        mixed = self.op("Transpose", split, perm=[0, 2, 1, 3, 4])
        return Maps(self.op("Reshape", mixed, self.ints(batch, x.channels, size, size)), x.channels, size)

    def pooled(self, x: Maps) -> Maps:
        """The mean of each channel."""
        return Maps(self.op("GlobalAveragePool", x.name), x.channels, 1)

    def classified(self, x: Maps, classes: int) -> bytes:
        """The model, whose output are logits (B, classes) of pooled maps."""
        flat = self.op("Flatten", x.name)
        bias = self.store(np.float32(0.1) * self._uniform((classes,)))
        return self.finish(
            self.op("Gemm", flat, self.weight(classes, x.channels), bias, transB=1), self._batch, classes
        )

    def _uniform(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        self._count += 1
        count = math.prod(shape)
        start = self._count * _STEP % (_RANDOM - count)
        return _sequence()[start : start + count].reshape(shape)


def strided(size: int, stride: int) -> int:
    """Height and width behind a convolution with an odd kernel and "same" padding."""
    return (size - 1) // stride + 1


def conv_macs(channels: int, filters: int, kernel: int, *, size: int, groups: int = 1) -> int:
    """Multiply-accumulates of a convolution whose output is `size` x `size`."""
    return size * size * filters * (channels // groups) * kernel * kernel


def divisible(value: float, by: int = 8) -> int:
    """The nearest multiple, at least `by`, and not below nine tenths of the value (MobileNetV2's rule for
    widths, arXiv 1801.04381).
    """
    nearest = max(by, int(value + by / 2) // by * by)
    return nearest + by if nearest < 0.9 * value else nearest


@lru_cache(maxsize=1)
def _sequence() -> NDArray[np.float32]:
    return uniform(_RANDOM, 0)


@lru_cache(maxsize=4096)
def _stored_filters(filters: int, inner: int) -> int:
    """The largest divisor of `filters` so that these many filters of `inner` elements are few enough."""
    most = max(_STORED_ELEMENTS // inner, 1)
    return max(count for count in range(1, min(most, filters) + 1) if filters % count == 0)
