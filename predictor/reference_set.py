"""The reference set: ten small models that every new target measures first, and why each of them.

Together they hold every class of kernels that `predictor.roofline` tells apart and that standard operators
can express, in such proportions that ten latencies tell the classes' speeds apart. Each takes 0.2 to 60 ms
on one laptop core. They are built here, from our own code, and their bytes never change: a change would
make another set, whose measurements mean something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from predictor.reference_net import Net

_Shapes = dict[str, tuple[int, ...]]
_Built = tuple[bytes, _Shapes]


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """A model of the set: what it is there for, its bytes, and the shapes of its inputs."""

    name: str
    why: str
    model: bytes
    input_shapes: Mapping[str, tuple[int, ...]]


@lru_cache(maxsize=1)
def reference_models() -> tuple[ReferenceModel, ...]:
    """The ten models, always in the same order."""
    built = [(name, why, build()) for name, (why, build) in _MODELS.items()]
    return tuple(ReferenceModel(name, why, model, shapes) for name, why, (model, shapes) in built)


def _residual_convs() -> _Built:
    shapes: _Shapes = {"image": (1, 3, 112, 112)}
    net = Net("residual-convs", shapes)
    x = net.conv("image", (3, 64, 7), stride=2)
    for channels, wider in ((64, 128), (128, 256)):
        for _ in range(2):
            y = net.conv(net.conv(x, (channels, channels, 3)), (channels, channels, 3), activation="")
            x = net.op("Relu", net.op("Add", x, y))
        x = net.conv(x, (channels, wider, 3), stride=2)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.finish(net.linear(pooled, 256, 100), 1, 100), shapes


def _inverted_residuals() -> _Built:
    shapes: _Shapes = {"image": (1, 3, 160, 160)}
    net = Net("inverted-residuals", shapes)
    x = net.conv("image", (3, 16, 3), stride=2)
    channels = 16
    for filters, stride in ((24, 2), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (64, 1)):
        wide = 6 * channels
        y = net.conv(x, (channels, wide, 1))
        y = net.conv(y, (wide, wide, 3), stride=stride, groups=wide)
        y = net.conv(y, (wide, filters, 1), activation="")
        x = net.op("Add", x, y) if stride == 1 and filters == channels else y
        channels = filters
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.finish(net.linear(pooled, 64, 100), 1, 100), shapes


def _deep_and_narrow() -> _Built:
    shapes: _Shapes = {"image": (1, 8, 8, 8)}
    net = Net("deep-and-narrow", shapes)
    x = "image"
    for _ in range(64):
        y = net.conv(x, (8, 8, 1), activation="")
        gate = net.op("Sigmoid", net.op("ReduceMean", y, axes=[2, 3]))
        y = net.op("Mul", y, gate)
        x = net.op("Tanh", net.op("Sub", y, net.op("Mul", x, x)))
    return net.finish(x, 1, 8, 8, 8), shapes


def _encoder() -> _Built:
    length, size, heads = 96, 256, 4
    shapes: _Shapes = {"embedded": (1, length, size)}
    net = Net("encoder", shapes)
    x = "embedded"
    for _ in range(2):
        normal = net.normalised(x, size)
        split = [
            net.op(
                "Transpose",
                net.op("Reshape", net.linear(normal, size, size), net.ints(1, length, heads, -1)),
                perm=perm,
            )
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        ]
        scores = net.op("Mul", net.op("MatMul", split[0], split[1]), net.store(np.asarray(0.125, np.float32)))
        mixed = net.op(
            "Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), split[2]), perm=[0, 2, 1, 3]
        )
        x = net.op("Add", x, net.linear(net.op("Reshape", mixed, net.ints(1, length, size)), size, size))
        wide = net.linear(net.normalised(x, size), size, 4 * size)
        curve = net.op("Erf", net.op("Mul", wide, net.store(np.asarray(0.70710677, np.float32))))
        half = net.op("Mul", net.op("Add", curve, net.store(np.asarray(1.0, np.float32))), wide)
        x = net.op("Add", x, net.linear(half, 4 * size, size))
    return net.finish(net.normalised(x, size), 1, length, size), shapes


def _decoder_step() -> _Built:
    size = 1024
    shapes: _Shapes = {"token": (1, 1, size)}
    net = Net("decoder-step", shapes)
    x = "token"
    for _ in range(2):
        x = net.op("Add", x, net.linear(net.linear(net.normalised(x, size), size, size), size, size))
        wide = net.linear(net.normalised(x, size), size, 2 * size)
        x = net.op("Add", x, net.linear(net.op("Relu", wide), 2 * size, size))
    return net.finish(net.normalised(x, size), 1, 1, size), shapes


def _recurrent() -> _Built:
    length, size, hidden = 64, 128, 192
    shapes: _Shapes = {"frames": (length, 1, size)}
    net = Net("recurrent", shapes)
    x = "frames"
    for width in (size, 2 * hidden):
        gates = 4 * hidden
        y = net.op(
            "LSTM", x, net.weight(2, gates, width, fan_in=width), net.weight(2, gates, hidden, fan_in=hidden),
            net.weight(2, 2 * gates), direction="bidirectional", hidden_size=hidden,
        )  # fmt: skip
        x = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(length, 1, 2 * hidden))
    return net.finish(net.linear(x, 2 * hidden, 64), length, 1, 64), shapes


def _quantised_convs() -> _Built:
    shapes: _Shapes = {"image": (1, 3, 112, 112)}
    net = Net("quantised-convs", shapes)
    scale = net.store(np.asarray(0.01, np.float32))
    middle, bottom = net.store(np.asarray(128, np.uint8)), net.store(np.asarray(0, np.uint8))

    def dequantised(x: str, zero: str) -> str:
        return net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero)

    def conv(x: str, channels: int, filters: int, stride: int) -> str:
        """Unsigned activations, signed weights with one scale per filter: the pair that CPU kernels like
        best.

        Zero is the bottom of the range behind a Relu, which then disappears into the rounding.
        """
        stored = net.store(net.integers8(filters, channels, 3, 3))
        each = net.store(np.full(filters, 0.02 / np.sqrt(9.0 * channels), np.float32))
        none = net.store(np.zeros(filters, np.int8))
        weight = net.op("DequantizeLinear", stored, each, none, axis=0)
        y = net.op("Conv", x, weight, kernel_shape=[3, 3], pads=[1] * 4, strides=[stride, stride])
        return dequantised(net.op("Relu", y), bottom)

    x = conv(dequantised("image", middle), 3, 32, 2)
    x = conv(x, 32, 64, 1)
    for _ in range(3):
        x = conv(x, 64, 64, 1)
    x = conv(x, 64, 128, 2)
    x = conv(x, 128, 128, 1)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.finish(net.linear(pooled, 128, 100), 1, 100), shapes


def _upscaler() -> _Built:
    shapes: _Shapes = {"image": (1, 1, 192, 192)}
    net = Net("upscaler", shapes)
    x = net.conv("image", (1, 32, 5))
    x = net.conv(x, (32, 16, 3))
    bent = net.op("Tanh", net.op("Mul", x, net.op("Sigmoid", x)))
    y = net.op("DepthToSpace", net.conv(bent, (16, 9, 3), activation=""), blocksize=3)
    empty = net.store(np.zeros(0, np.float32))
    scales = net.store(np.asarray([1, 1, 3, 3], np.float32))
    smooth = net.op(
        "Resize", "image", empty, scales, mode="linear", coordinate_transformation_mode="asymmetric"
    )
    return net.finish(net.op("Add", y, smooth), 1, 1, 576, 576), shapes


def _pyramid() -> _Built:
    shapes: _Shapes = {"features": (1, 32, 80, 80)}
    net = Net("pyramid", shapes)
    empty = net.store(np.zeros(0, np.float32))
    scales = net.store(np.asarray([1, 1, 2, 2], np.float32))
    x = "features"
    for _ in range(3):
        small = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        large = net.op(
            "Resize", small, empty, scales, mode="nearest", coordinate_transformation_mode="asymmetric"
        )
        both = net.op("Concat", x, large, axis=1)
        mixed = net.op("Reshape", both, net.ints(1, 2, 32, 80, 80))
        mixed = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3, 4]), net.ints(1, 64, 80, 80))
        near = net.op("Slice", mixed, net.ints(0), net.ints(32), net.ints(1))
        x = net.op("AveragePool", near, kernel_shape=[3, 3], pads=[1] * 4)
    rows = net.op("Transpose", net.op("Reshape", x, net.ints(1, 32, 6400)), perm=[0, 2, 1])
    return net.finish(net.op("Softmax", rows, axis=-1), 1, 6400, 32), shapes


def _small_mlp() -> _Built:
    shapes: _Shapes = {"rows": (16, 256)}
    net = Net("small-mlp", shapes)
    x = "rows"
    for inner, columns in ((256, 512), (512, 512), (512, 512), (512, 256)):
        x = net.op("Relu", net.linear(x, inner, columns))
    return net.finish(net.op("Softmax", x, axis=-1), 16, 256), shapes


_MODELS: Mapping[str, tuple[str, Callable[[], _Built]]] = {
    "residual-convs": (
        "dense 3x3 convolutions with residual sums: bound by float arithmetic",
        _residual_convs,
    ),
    "inverted-residuals": (
        "depthwise and pointwise convolutions: little arithmetic per byte",
        _inverted_residuals,
    ),
    "deep-and-narrow": ("hundreds of tiny operators in a row: bound by launching them", _deep_and_narrow),
    "encoder": (
        "transformer encoder blocks: matrix products with many rows, softmax, normalisation",
        _encoder,
    ),
    "decoder-step": ("one token through wide layers: bound by reading weights from memory", _decoder_step),
    "recurrent": ("bidirectional LSTM: products that wait for each other", _recurrent),
    "quantised-convs": ("int8 convolutions between QuantizeLinear and DequantizeLinear", _quantised_convs),
    "upscaler": (
        "few channels over a large image: activations that leave the cache, curves, resizing",
        _upscaler,
    ),
    "pyramid": (
        "pooling, resizing, concatenating, transposing, slicing: no arithmetic to speak of",
        _pyramid,
    ),
    "small-mlp": ("a few small matrix products: dense layers with little to do", _small_mlp),
}
