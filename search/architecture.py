"""Architecture: the layers that a genome stands for, with their quantisation, before they have weights.

A chain: convolutions, each followed by a ReLU, then a global average pool and one linear layer. Batch
normalisation exists in training only; weights are kept with it folded in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.quant import QuantConfig, TensorQuant

IMAGE = "image"  # the model's input tensor
POOLED = "pooled"  # averages, before the linear layer; a convolution's output is called like the convolution
LOGITS = "logits"  # the model's output tensor


@dataclass(frozen=True, slots=True)
class Convolution:
    """A square convolution with padding `kernel // 2`, followed by a ReLU. `groups` equal to the channels:
    depthwise.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Linear:
    """A fully connected layer."""

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """A chain of layers on `batch` square images with `channels` planes."""

    batch: int
    channels: int
    resolution: int
    convolutions: tuple[Convolution, ...]
    head: Linear
    quant: QuantConfig

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Batch, channels, height, width."""
        return (self.batch, self.channels, self.resolution, self.resolution)

    def activation_quants(self) -> dict[str, TensorQuant | None]:
        """How each activation tensor is quantised, in the order of computing: as the layer that reads it
        says.

        What the head reads are averages of the last convolution's output, so both are quantised as the head
        says.
        """
        readers = [layer.name for layer in self.convolutions] + [self.head.name] * 2
        tensors = [IMAGE, *(layer.name for layer in self.convolutions), POOLED]
        return {
            name: self.quant.of(reader).activations for name, reader in zip(tensors, readers, strict=True)
        }


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Of a layer, batch normalisation folded in: weight `(O, I / groups, k, k)` or `(O, I)`, bias `(O,)`."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


Weights = Mapping[str, LayerWeights]
Ranges = Mapping[
    str, tuple[float, float]
]  # of activations, by tensor name: IMAGE, each convolution's name, POOLED
