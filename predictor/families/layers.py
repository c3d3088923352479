"""The layers that families of models are made of, each in the dialect of the draft's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from predictor.families.draft import Draft

# How much smaller an activation makes numbers of size one, and whether it leaves negative ones.
_CURVES = {
    "Relu": (0.71, True), "relu6": (0.71, True), "LeakyRelu": (0.72, False), "PRelu": (0.75, False),
    "hardswish": (0.68, False), "silu": (0.68, False), "Sigmoid": (0.6, True), "Tanh": (0.63, False),
    "Elu": (0.8, False), "gelu": (0.68, False), "Softplus": (0.95, True), "HardSigmoid": (0.6, True),
}  # fmt: skip


class Net(Draft):
    """A draft with layers."""

    def conv(
        self,
        x: str,
        filters: int,
        kernel: int | tuple[int, ...] = 3,
        *,
        stride: int | tuple[int, ...] = 1,
        groups: int = 1,
        dilation: int = 1,
        act: str = "",
        pads: Sequence[int] | None = None,
        has_norm: bool = True,
    ) -> str:
        """A convolution over one or two axes, "same" padding unless `pads` says otherwise, with batch
        normalisation (folded or not) or a bias, and an activation.
        """
        shape = self.shape(x)
        rank = len(shape) - 2
        kernels = (kernel,) * rank if isinstance(kernel, int) else kernel
        strides = (stride,) * rank if isinstance(stride, int) else stride
        around = list(pads) if pads is not None else [dilation * (k - 1) // 2 for k in kernels] * 2
        fan_in = shape[1] // groups * math.prod(kernels)
        inputs = [x, self.weight(x, filters, shape[1] // groups, *kernels, fan_in=fan_in)]
        is_normed = has_norm and self.style.has_batch_norm
        if not is_normed:
            inputs.append(self.noise(filters, scale=0.1))
        sizes = [
            (size + around[i] + around[rank + i] - dilation * (kernels[i] - 1) - 1) // strides[i] + 1
            for i, size in enumerate(shape[2:])
        ]
        y = self.op(
            "Conv", *inputs, shape=(shape[0], filters, *sizes), level=1.0, is_positive=False,
            dilations=[dilation] * rank, group=groups, kernel_shape=kernels, pads=around, strides=strides,
        )  # fmt: skip
        return self.act(self.batch_norm(y) if is_normed else y, act)

    def deconv(self, x: str, filters: int, kernel: int = 2, *, stride: int = 2, act: str = "") -> str:
        """A transposed convolution over one or two axes that enlarges by its stride."""
        batch, channels, *sizes = self.shape(x)
        rank, pad = len(sizes), (kernel - stride) // 2
        fan_in = channels * (kernel // stride) ** rank
        weight = self.weight(x, channels, filters, *[kernel] * rank, fan_in=fan_in)
        y = self.op(
            "ConvTranspose", x, weight, self.noise(filters, scale=0.1),
            shape=(batch, filters, *(size * stride for size in sizes)), level=1.0, is_positive=False,
            kernel_shape=[kernel] * rank, pads=[pad] * 2 * rank, strides=[stride] * rank,
        )  # fmt: skip
        return self.act(y, act)

    def batch_norm(self, x: str) -> str:
        """Batch normalisation with statistics near those of normal activations."""
        channels = self.shape(x)[1]
        level = max(self.level(x), 1e-3)
        parameters = (
            self.noise(channels, scale=0.1, centre=1.0), self.noise(channels, scale=0.1),
            self.noise(channels, scale=0.1 * level),
            self.noise(channels, scale=0.1 * level**2, centre=level**2),
        )  # fmt: skip
        return self.op(
            "BatchNormalization", x, *parameters, shape=self.shape(x), level=1.0, is_positive=False,
            epsilon=1e-5,
        )  # fmt: skip

    def act(self, x: str, kind: str) -> str:
        """An activation: an operator's name, or relu6, hardswish, silu, gelu in the style's spelling."""
        if not kind:
            return x
        shrink, is_positive = _CURVES[kind]
        is_bounded = kind in ("Sigmoid", "HardSigmoid", "Tanh")
        lean = self.tensors[x].lean
        if lean and not is_bounded:  # what is positive passes
            shrink = max(shrink, math.sqrt(0.7 + 0.3 * lean))
        level = shrink if is_bounded else self.level(x) * shrink
        positive = is_positive or (self.tensors[x].is_positive and kind != "Elu")
        if kind == "relu6":
            return self.clip(x, 0.0, 6.0)
        if kind == "hardswish":
            y = self._hardswish(x)
        elif kind == "silu":
            y = self.op("Mul", x, self.act(x, "Sigmoid"))
        elif kind == "gelu":
            y = self._gelu(x)
        elif kind == "PRelu":
            rank = len(self.shape(x)) - 2
            y = self.op("PRelu", x, self.noise(self.shape(x)[1], *[1] * rank, scale=0.05, centre=0.25))
        else:
            y = self.op(kind, x, alpha=0.1) if kind == "LeakyRelu" else self.op(kind, x)
        return self.learn(y, self.shape(x), level, is_positive=positive, lean=0.0 if is_bounded else 1.0)

    def sloped(self, x: str) -> str:
        """A PRelu with a slope for each channel of an image, written with as many axes as the image has."""
        slopes = self.noise(1, self.shape(x)[1], 1, 1, scale=0.05, centre=0.25)
        return self.op("PRelu", x, slopes, shape=self.shape(x), level=0.75 * self.level(x), is_positive=False)

    def clip(self, x: str, low: float, high: float) -> str:
        """Bounds as attributes, inputs, or two operators, by opset and style."""
        lean = self.tensors[x].lean
        shrink = math.sqrt(0.7 + 0.3 * lean) if lean else 0.71
        level = min(self.level(x) * shrink, high / 4.0)
        if self.style.opset < 11:
            return self.op("Clip", x, level=level, is_positive=low >= 0, min=low, max=high)
        bounds = self.const(low), self.const(high)
        if self.style.has_plain_relu6 and low == 0.0:
            relu = self.op("Relu", x, level=level, is_positive=True)
            return self.op("Min", relu, bounds[1])
        return self.op("Clip", x, *bounds, shape=self.shape(x), level=level, is_positive=low >= 0)

    def _hardswish(self, x: str) -> str:
        if self.style.opset >= 14 and not self.style.has_decomposed_curves:
            return self.op("HardSwish", x)
        if self.style.has_decomposed_curves:
            shifted = self.op("Add", x, self.const(3.0), is_positive=False, level=3.2)
            gate = self.op("Div", self.clip(shifted, 0.0, 6.0), self.const(6.0), level=0.55)
        else:
            gate = self.op("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5, level=0.55, is_positive=True)
        return self.op("Mul", x, gate)

    def _gelu(self, x: str) -> str:
        if self.style.opset >= 20 and not self.style.has_decomposed_curves:
            return self.op("Gelu", x)
        if self.style.has_gemm and self.style.has_decomposed_curves:
            cube = self.op("Pow", x, self.const(3.0), shape=self.shape(x))
            inner = self.op("Add", x, self.op("Mul", cube, self.const(0.044715)))
            curve = self.op("Tanh", self.op("Mul", inner, self.const(0.7978846)), level=0.6)
            both = self.op("Add", curve, self.const(1.0), level=1.2, is_positive=True)
            return self.op("Mul", self.op("Mul", x, self.const(0.5)), both)
        curve = self.op("Erf", self.op("Div", x, self.const(1.4142135)), level=0.6)
        both = self.op("Add", curve, self.const(1.0), level=1.2, is_positive=True)
        return self.op("Mul", self.op("Mul", x, both), self.const(0.5))

    def add(self, x: str, y: str) -> str:
        """A sum; sizes of numbers add as those of independent ones do."""
        powers = self.level(x) ** 2, self.level(y) ** 2
        leans = self.tensors[x].lean, self.tensors[y].lean
        level = math.sqrt(sum(powers))
        lean = sum(power * lean for power, lean in zip(powers, leans, strict=True)) / max(level**2, 1e-9)
        total = self.op("Add", x, y)
        return self.learn(total, self.shape(total), level, is_positive=self._both_positive(x, y), lean=lean)

    def mul(self, x: str, y: str) -> str:
        """A product of two activations."""
        return self.op(
            "Mul", x, y, level=self.level(x) * self.level(y), is_positive=self._both_positive(x, y)
        )

    def scaled(self, x: str, factor: float) -> str:
        """`x` times a constant."""
        return self.op("Mul", x, self.const(factor), level=self.level(x) * abs(factor))

    def _both_positive(self, x: str, y: str) -> bool:
        return all(name in self.tensors and self.tensors[name].is_positive for name in (x, y))

    def pool(self, x: str, kind: str = "MaxPool", kernel: int = 2, *, stride: int = 2, pad: int = 0) -> str:
        """`MaxPool` or `AveragePool` over one or two axes."""
        shape = self.shape(x)
        rank = len(shape) - 2
        rise = 1.0 + 0.15 * (kernel - 1) if kind == "MaxPool" else 1.0  # the largest of neighbours
        sizes = [(size + 2 * pad - kernel) // stride + 1 for size in shape[2:]]
        return self.op(
            kind, x, shape=(*shape[:2], *sizes), level=rise * self.level(x), kernel_shape=[kernel] * rank,
            pads=[pad] * 2 * rank, strides=[stride] * rank,
        )  # fmt: skip

    def pooled(self, x: str, *, is_flat: bool = True) -> str:
        """The mean of each channel: (B, C), or (B, C, 1, 1) if not flat."""
        shape = self.shape(x)
        level = (0.9 if self.tensors[x].lean else 0.6) * self.level(x)
        if self.style.has_mean_pool:
            axes = list(range(2, len(shape)))
            kept = shape[:2] if is_flat else (*shape[:2], *[1] * len(axes))
            return self.reduce_mean(x, axes, shape=kept, keepdims=0 if is_flat else 1, level=level)
        y = self.op("GlobalAveragePool", x, shape=(*shape[:2], *[1] * (len(shape) - 2)), level=level)
        return self.flat(y) if is_flat else y

    def reduce_mean(
        self, x: str, axes: Sequence[int], *, shape: Sequence[int], keepdims: int = 1, level: float = 1.0
    ) -> str:
        """Axes as an attribute, or as an input from opset 18 on."""
        if self.style.opset >= 18:
            return self.op("ReduceMean", x, self.ints(*axes), shape=shape, level=level, keepdims=keepdims)
        return self.op("ReduceMean", x, shape=shape, level=level, axes=list(axes), keepdims=keepdims)

    def flat(self, x: str) -> str:
        """(B, ...) to (B, all), by Flatten, Reshape, or Reshape to a shape that is put together."""
        batch, *rest = self.shape(x)
        sizes = (batch, math.prod(rest))
        if self.style.flattening == 0:
            return self.op("Flatten", x, shape=sizes, axis=1)
        if self.style.flattening == 1:
            return self.reshape(x, sizes, written=(batch, -1))
        shape = self.op("Shape", x, shape=(len(rest) + 1,), dtype="int64")
        first = self.op("Gather", shape, self.const(0, "int64"), shape=(), dtype="int64", axis=0)
        if self.style.opset >= 13:
            row = self.op("Unsqueeze", first, self.ints(0), shape=(1,), dtype="int64")
        else:
            row = self.op("Unsqueeze", first, shape=(1,), dtype="int64", axes=[0])
        whole = self.op("Concat", row, self.ints(-1), shape=(2,), dtype="int64", axis=0)
        return self.op("Reshape", x, whole, shape=sizes)

    def dense(self, x: str, columns: int, *, act: str = "") -> str:
        """(B, N) times a weight plus a bias."""
        rows, inner = self.shape(x)
        bias = self.noise(columns, scale=0.1)
        if self.style.has_gemm:
            weight = self.weight(x, columns, inner, fan_in=inner)
            y = self.op(
                "Gemm", x, weight, bias, shape=(rows, columns), level=1.0, is_positive=False, transB=1
            )
        else:
            y = self.op("Add", self.matmul(x, columns), bias)
        return self.act(y, act)

    def matmul(self, x: str, columns: int, *, level: float = 1.0) -> str:
        """(..., N) times a weight (N, columns)."""
        *outer, inner = self.shape(x)
        weight = self.weight(x, inner, columns, fan_in=inner, level=level)
        return self.op("MatMul", x, weight, shape=(*outer, columns), level=level, is_positive=False)

    def linear(self, x: str, columns: int, *, act: str = "", level: float = 1.0) -> str:
        """(..., N) times a weight plus a bias, as MatMul and Add."""
        y = self.op("Add", self.matmul(x, columns, level=level), self.noise(columns, scale=0.1 * level))
        return self.act(y, act)

    def product(self, x: str, y: str, *, level: float = 1.0) -> str:
        """A matrix product of two activations (..., M, K) and (..., K, N)."""
        left, right = self.shape(x), self.shape(y)
        outer = max(left[:-2], right[:-2], key=len)
        return self.op("MatMul", x, y, shape=(*outer, left[-2], right[-1]), level=level, is_positive=False)

    def reshape(self, x: str, shape: Sequence[int], *, written: Sequence[int] | None = None) -> str:
        """To a constant shape; `written` is how the file says it (-1 for one size)."""
        return self.op("Reshape", x, self.ints(*(written or shape)), shape=shape)

    def transpose(self, x: str, *perm: int) -> str:
        """Axes in another order."""
        shape = self.shape(x)
        return self.op("Transpose", x, shape=[shape[axis] for axis in perm], perm=perm)

    def concat(self, parts: Sequence[str], axis: int = 1) -> str:
        """Joined along one axis."""
        shape = list(self.shape(parts[0]))
        shape[axis] = sum(self.shape(part)[axis] for part in parts)
        level = max(self.level(part) for part in parts)
        positive = all(self.tensors[part].is_positive for part in parts)
        return self.op("Concat", *parts, shape=shape, level=level, is_positive=positive, axis=axis)

    def split(self, x: str, sizes: Sequence[int], axis: int = 1) -> list[str]:
        """Parts along one axis, by Split in the opset's form."""
        shape = list(self.shape(x))
        if self.style.opset >= 13:
            parts = self.ops("Split", (x, self.ints(*sizes)), len(sizes), axis=axis)
        else:
            parts = self.ops("Split", (x,), len(sizes), axis=axis, split=list(sizes))
        for part, size in zip(parts, sizes, strict=True):
            shape[axis] = size
            self.learn(part, shape, self.level(x), is_positive=self.tensors[x].is_positive)
        return parts

    def slice(self, x: str, start: int, end: int, axis: int) -> str:
        """A range along one axis."""
        shape = list(self.shape(x))
        shape[axis] = end - start
        if self.style.opset < 10:
            return self.op("Slice", x, shape=shape, starts=[start], ends=[end], axes=[axis])
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), shape=shape)

    def pad(self, x: str, before: Sequence[int], after: Sequence[int], mode: str = "constant") -> str:
        """Padding on every axis."""
        around = [*before, *after]
        shape = [size + a + b for size, a, b in zip(self.shape(x), before, after, strict=True)]
        if self.style.opset < 11:
            return self.op("Pad", x, shape=shape, mode=mode, pads=around)
        return self.op("Pad", x, self.ints(*around), shape=shape, mode=mode)

    def resized(self, x: str, factor: int, *, mode: str = "nearest") -> str:
        """Images enlarged by a whole factor (Resize, opset 11 on)."""
        batch, channels, height, width = self.shape(x)
        rule = "asymmetric" if mode == "nearest" else "half_pixel"
        region = "" if self.style.opset >= 13 else self.const(np.zeros(0))  # unused, but once required
        return self.op(
            "Resize", x, region, self.const([1.0, 1.0, factor, factor]),
            shape=(batch, channels, height * factor, width * factor), mode=mode,
            coordinate_transformation_mode=rule, nearest_mode="floor",
        )  # fmt: skip

    def layer_norm(self, x: str) -> str:
        """Over the last axis: one operator from opset 17 on, or its parts as older exporters write them."""
        *outer, size = self.shape(x)
        scale, bias = self.noise(size, scale=0.1, centre=1.0), self.noise(size, scale=0.1)
        if self.style.opset >= 17 and not self.style.has_decomposed_curves:
            return self.op(
                "LayerNormalization", x, scale, bias, level=1.0, is_positive=False, axis=-1, epsilon=1e-5,
                shape=(*outer, size),
            )  # fmt: skip
        centred = self.op("Sub", x, self.reduce_mean(x, [-1], shape=(*outer, 1)), is_positive=False)
        square = self.op("Pow", centred, self.const(2.0), is_positive=True)
        variance = self.reduce_mean(square, [-1], shape=(*outer, 1))
        root = self.op("Sqrt", self.op("Add", variance, self.const(1e-5)))
        normal = self.op("Div", centred, root, level=1.0)
        return self.op("Add", self.op("Mul", normal, scale), bias)

    def rms_norm(self, x: str) -> str:
        """Root-mean-square normalisation in its parts, as decoders are exported."""
        *outer, size = self.shape(x)
        square = self.op("Pow", x, self.const(2.0), is_positive=True)
        mean = self.reduce_mean(square, [-1], shape=(*outer, 1))
        root = self.op("Sqrt", self.op("Add", mean, self.const(1e-6)))
        inverse = self.op("Div", self.const(1.0), root, shape=(*outer, 1))
        normal = self.op("Mul", x, inverse, level=1.0, is_positive=False)
        return self.op("Mul", self.noise(size, scale=0.1, centre=1.0), normal, shape=(*outer, size))

    def softmax(self, x: str, axis: int = -1) -> str:
        """Over the last axis (any axis from opset 13 on)."""
        size = self.shape(x)[axis]
        level = min(0.25, 8.0 / size)
        return self.op("Softmax", x, level=level, is_positive=True, axis=axis % len(self.shape(x)))
