"""Training of a chain network, its calibration, and the simulation that its export is checked against.

Deterministic: one thread, deterministic kernels, and all randomness from one generator, so that the weights
are a function of (architecture, samples, seed), in every process on one kind of machine. PyTorch's global
generator is neither read nor moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from search.architecture import (
    IMAGE,
    POOLED,
    Architecture,
    Convolution,
    LayerWeights,
    Ranges,
    Weights,
)
from search.quant import affine_of_range, quantise_layer


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyper-parameters: AdamW with the learning rate warmed up linearly, then brought to 0 by a cosine."""

    epochs: int = 10
    batch_size: int = 64
    peak_learning_rate: float = 0.01
    warmup_share: float = 0.2
    weight_decay: float = 0.01
    calibration_count: int = 256
    calibration_percentile: float = 99.99  # of activations; what lies above is clipped


RECIPE = Recipe()
BATCH_NORM_EPSILON = 1e-5  # PyTorch's default


@contextmanager
def deterministic_torch() -> Iterator[None]:
    """One thread and deterministic kernels; both are process-wide, and as they were before when this ends."""
    threads, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(was_deterministic)


def train(
    architecture: Architecture,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    seed: int,
    recipe: Recipe = RECIPE,
) -> Weights:
    """Weights with normalisation folded in, from images `(N, C, R, R)` and labels `(N,)`; `seed` < 2^63."""
    with deterministic_torch():
        generator = torch.Generator().manual_seed(seed)
        network = _Network.initial(architecture, generator)
        _fit(network, torch.from_numpy(images), torch.from_numpy(labels), generator, recipe)
        return network.folded()


def calibrate(
    architecture: Architecture, weights: Weights, images: NDArray[np.float32], *, recipe: Recipe = RECIPE
) -> Ranges:
    """Ranges of every activation tensor: from the least value to a high percentile.

    Taken over the first `calibration_count` of the images `(N, C, R, R)`. Activations are not negative
    behind a ReLU, so only their upper end has a tail worth clipping.
    """
    ranges: dict[str, tuple[float, float]] = {}

    def record(name: str, tensor: Tensor) -> Tensor:
        values = tensor.detach().numpy()
        ranges[name] = (float(values.min()), float(np.percentile(values, recipe.calibration_percentile)))
        return tensor

    with deterministic_torch():
        _forward(architecture, weights, torch.from_numpy(images[: recipe.calibration_count]), record)
    return ranges


def simulate(
    architecture: Architecture, weights: Weights, ranges: Ranges, images: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Logits `(N, classes)` that the exported model should give, quantised alike, in float64."""
    quants = architecture.activation_quants()

    def quantise(name: str, tensor: Tensor) -> Tensor:
        quant = quants[name]
        if quant is None:
            return tensor
        affine = affine_of_range(*ranges[name], quant)
        levels = torch.clamp(torch.round(tensor / affine.scale) + affine.zero_point, 0, 255)
        return (levels - affine.zero_point) * affine.scale

    with deterministic_torch():
        simulated = _as_executed(architecture, weights, ranges)
        return _forward(architecture, simulated, torch.from_numpy(images).double(), quantise).numpy()


@dataclass(frozen=True, slots=True)
class _Normalised:
    """A convolution in training: weight `(O, I / groups, k, k)` and batch normalisation, each `(O,)`."""

    layer: Convolution
    weight: Tensor
    gain: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def initial(cls, layer: Convolution, generator: torch.Generator) -> _Normalised:
        """He initialisation; normalisation begins as the identity."""
        fan_in = layer.in_channels // layer.groups * layer.kernel**2
        shape = (layer.out_channels, layer.in_channels // layer.groups, layer.kernel, layer.kernel)
        weight = torch.randn(shape, generator=generator) * math.sqrt(2 / fan_in)
        ones, zeros = torch.ones(layer.out_channels), torch.zeros(layer.out_channels)
        return cls(layer, weight.requires_grad_(), ones.requires_grad_(), zeros.requires_grad_(),
                   torch.zeros(layer.out_channels), torch.ones(layer.out_channels))  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        """`(B, I, R, R)` to `(B, O, R / stride, R / stride)`; moves the running mean and variance."""
        layer = self.layer
        x = functional.conv2d(x, self.weight, None, layer.stride, layer.kernel // 2, groups=layer.groups)
        return functional.batch_norm(x, self.mean, self.variance, self.gain, self.shift, training=True).relu()

    def folded(self) -> LayerWeights:
        """The weights of an equal convolution without normalisation."""
        gain = self.gain / torch.sqrt(self.variance + BATCH_NORM_EPSILON)
        return _detached(self.weight * gain[:, None, None, None], self.shift - self.mean * gain)


@dataclass(frozen=True, slots=True)
class _Network:
    """The architecture in training. The head's weight is `(classes, C)`, its bias `(classes,)`."""

    architecture: Architecture
    convolutions: tuple[_Normalised, ...]
    head_weight: Tensor
    head_bias: Tensor

    @classmethod
    def initial(cls, architecture: Architecture, generator: torch.Generator) -> _Network:
        """With weights from the generator, in the order of the layers."""
        convolutions = tuple(_Normalised.initial(layer, generator) for layer in architecture.convolutions)
        head = architecture.head
        weight = torch.randn((head.out_features, head.in_features), generator=generator)
        weight = (weight / math.sqrt(head.in_features)).requires_grad_()
        return cls(architecture, convolutions, weight, torch.zeros(head.out_features).requires_grad_())

    def parameters(self) -> list[Tensor]:
        """All that is learned."""
        learned = [
            tensor for layer in self.convolutions for tensor in (layer.weight, layer.gain, layer.shift)
        ]
        return [*learned, self.head_weight, self.head_bias]

    def __call__(self, x: Tensor) -> Tensor:
        """Images `(B, C, R, R)` to logits `(B, classes)`."""
        for layer in self.convolutions:
            x = layer(x)
        return functional.linear(x.mean(dim=(2, 3)), self.head_weight, self.head_bias)

    def folded(self) -> Weights:
        """By layer name, normalisation folded in."""
        weights = {layer.layer.name: layer.folded() for layer in self.convolutions}
        return weights | {self.architecture.head.name: _detached(self.head_weight, self.head_bias)}


def _fit(
    network: _Network, images: Tensor, labels: Tensor, generator: torch.Generator, recipe: Recipe
) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    batches = len(images) // recipe.batch_size
    steps = recipe.epochs * batches
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in range(batches):
            rows = order[batch * recipe.batch_size :][: recipe.batch_size]
            for group in optimiser.param_groups:
                group["lr"] = _learning_rate(epoch * batches + batch, steps, recipe)
            loss = functional.cross_entropy(network(images[rows]), labels[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()


def _learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    warmup = max(1, round(steps * recipe.warmup_share))
    if step < warmup:
        return recipe.peak_learning_rate * (step + 1) / warmup
    return (
        recipe.peak_learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    )


def _forward(
    architecture: Architecture, weights: Weights, x: Tensor, at_tensor: Callable[[str, Tensor], Tensor]
) -> Tensor:
    """Logits; each activation tensor passes through `at_tensor`, which may look at it or replace it."""
    x = at_tensor(IMAGE, x)
    for layer in architecture.convolutions:
        weight, bias = _tensors(weights[layer.name], x)
        x = functional.conv2d(x, weight, bias, layer.stride, layer.kernel // 2, groups=layer.groups)
        x = at_tensor(layer.name, functional.relu(x))
    x = at_tensor(POOLED, x.mean(dim=(2, 3)))
    weight, bias = _tensors(weights[architecture.head.name], x)
    return functional.linear(x, weight, bias)


def _as_executed(architecture: Architecture, weights: Weights, ranges: Ranges) -> Weights:
    """Weights and biases rounded to the levels that the exported model holds."""
    quants = architecture.activation_quants()
    read = dict(zip([layer.name for layer in architecture.convolutions], quants, strict=False))
    read[architecture.head.name] = POOLED
    rounded: dict[str, LayerWeights] = {}
    for name, layer in weights.items():
        quant, input_quant = architecture.quant.of(name).weights, quants[read[name]]
        if quant is None:
            rounded[name] = layer
            continue
        input_scale = 1.0 if input_quant is None else affine_of_range(*ranges[read[name]], input_quant).scale
        q = quantise_layer(layer.weight, layer.bias, quant, input_scale)
        scale = np.broadcast_to(q.weight_scale, len(q.weights)).reshape(-1, *[1] * (q.weights.ndim - 1))
        rounded[name] = LayerWeights(q.weights * scale, q.bias * q.bias_scale)
    return rounded


def _tensors(layer: LayerWeights, like: Tensor) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(layer.weight).to(like.dtype), torch.from_numpy(layer.bias).to(like.dtype)


def _detached(weight: Tensor, bias: Tensor) -> LayerWeights:
    return LayerWeights(weight.detach().numpy().copy(), bias.detach().numpy().copy())
