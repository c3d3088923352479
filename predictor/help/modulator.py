"""The z modulator: a normal distribution that depends on the hardware embedding scales the head's weights.

Of the head's layers fc3, fc4, fc5, z has one number per input (it scales that input's weights) and one per
layer (it shifts the biases).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from predictor.help.network import HEAD_LAYERS, Parameters

HIDDEN = 10


def initial_modulator(width: int, *, reference_count: int, generator: Generator) -> Parameters:
    """Random parameters of the two layers from the embedding to the mean and the spread of z."""
    sizes = {"z1": (reference_count, HIDDEN), "z2": (HIDDEN, 2 * z_size(width))}
    parameters: Parameters = {}
    for name, (inputs, outputs) in sizes.items():
        for part, shape in (("weight", (inputs, outputs)), ("bias", (outputs,))):
            values = (2.0 * torch.rand(shape, generator=generator) - 1.0) / math.sqrt(inputs)
            parameters[f"{name}.{part}"] = values
    return parameters


def z_size(width: int) -> int:
    """Numbers in z: per layer of the head, one for each of its 2 L inputs and one for its biases."""
    return len(HEAD_LAYERS) * (2 * width + 1)


def distribution(modulator: Parameters, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of z, (T, Z) each, from embeddings (T, R)."""
    hidden = torch.relu(embedding @ modulator["z1.weight"] + modulator["z1.bias"])
    statistics = hidden @ modulator["z2.weight"] + modulator["z2.bias"]  # (T, 2 Z)
    mean, spread = statistics.chunk(2, dim=-1)
    return mean, softplus(spread)


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL(z || N(0, 1)) (T,), summed over the Z independent numbers."""
    terms = 0.5 * (mean.square() + deviation.square() - 1.0) - deviation.log()
    return terms.sum(dim=-1)


def modulated(parameters: Parameters, z: Tensor, scale: float) -> Parameters:
    """Parameters (T, ...) with a head of weight (1 + scale z) by input, and bias + scale z. z: (T, Z)."""
    changed = dict(parameters)
    inputs = parameters["fc3.weight"].shape[1]
    for index, name in enumerate(HEAD_LAYERS):
        of_weights = z[:, index * inputs : (index + 1) * inputs, None]  # (T, 2L, 1)
        of_bias = z[:, len(HEAD_LAYERS) * inputs + index, None]  # (T, 1)
        changed[f"{name}.weight"] = parameters[f"{name}.weight"] * (1.0 + scale * of_weights)
        changed[f"{name}.bias"] = parameters[f"{name}.bias"] + scale * of_bias
    return changed
