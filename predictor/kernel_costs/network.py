"""The cost network: from a kernel to how far off the nominal its time is, on each runtime that was learned.

Legend: x (F,) a kernel's features, n_s its nominal milliseconds for source s
(`predictor.kernel_costs.nominal`, on the asking target's hardware), z = network(x) (S,) a logarithm for each
of S sources. A graph takes

    t_s = sum over kernels of n_s * exp(z_s)

with the call around them counted as one more kernel.
A source is a runtime that a campaign has measured. The network is an ensemble: z is the members' mean. They
take the features with pieces of their ranges behind them (`predictor.kernel_costs.bins`).
Inference is numpy; training is in `predictor.kernel_costs.training`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predictor.kernel_costs.bins import Bins

Floats32 = NDArray[np.float32]

MOST = 4.0  # logarithms are bounded: a factor of 55 either way
LAYERS = 3  # of a member, as training makes it


@dataclass(frozen=True, slots=True)
class Member:
    """One network of the ensemble: F + B inputs, two hidden layers, S outputs. Weights are (in, out)."""

    weights: tuple[Floats32, ...]
    biases: tuple[Floats32, ...]

    def log_factors(self, encoded: Floats32) -> Floats32:
        """(K, S) of (K, F + B)."""
        with np.errstate(over="ignore"):
            return _log_factors(encoded, self.weights, self.biases)


@dataclass(frozen=True)
class CostNetwork:
    """An ensemble over the same sources and features."""

    members: tuple[Member, ...]
    bins: Bins = field(default_factory=Bins.none)

    def log_factors(self, features: Floats32) -> NDArray[np.float64]:
        """(K, S) of (K, F): the mean of all members."""
        encoded = self.bins.encoded(features)
        with np.errstate(over="ignore"):
            said = [_log_factors(encoded, *layers).sum(axis=0) for layers in self._side_by_side]
        whole = said[0] if len(said) == 1 else np.sum(said, axis=0)
        mean: NDArray[np.float64] = (whole / np.float32(len(self.members))).astype(np.float64)
        return mean

    def of_sources(self, columns: Sequence[int]) -> CostNetwork:
        """With these outputs only, in this order."""
        kept = list(columns)
        members = tuple(
            Member(
                weights=(*one.weights[:-1], np.ascontiguousarray(one.weights[-1][:, kept])),
                biases=(*one.biases[:-1], one.biases[-1][kept]),
            )
            for one in self.members
        )
        return replace(self, members=members)

    @cached_property
    def _side_by_side(self) -> list[tuple[list[Floats32], list[Floats32]]]:
        """Weights (M, in, out) and biases (M, 1, out) of each layer, for members of equal sizes."""
        alike: dict[tuple[tuple[int, ...], ...], list[Member]] = {}
        for member in self.members:
            alike.setdefault(tuple(weight.shape for weight in member.weights), []).append(member)
        return [
            (
                [np.stack(weights) for weights in zip(*(one.weights for one in group), strict=True)],
                [np.stack(biases)[:, None] for biases in zip(*(one.biases for one in group), strict=True)],
            )
            for group in alike.values()
        ]


def _log_factors(x: Floats32, weights: Sequence[Floats32], biases: Sequence[Floats32]) -> Floats32:
    last = len(weights) - 1
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight
        x += bias
        if layer < last:  # SiLU, x / (1 + exp(-x))
            gate = np.exp(-x)
            gate += 1.0
            x /= gate
    x /= MOST
    np.tanh(x, out=x)
    x *= MOST
    return x


def to_arrays(network: CostNetwork) -> dict[str, NDArray[np.generic]]:
    """By name, for a checkpoint."""
    bins = network.bins
    arrays: dict[str, NDArray[np.generic]] = {
        "bins.fields": bins.fields, "bins.starts": bins.starts, "bins.widths": bins.widths,
    }  # fmt: skip
    for number, member in enumerate(network.members):
        for layer, (weight, bias) in enumerate(zip(member.weights, member.biases, strict=True)):
            arrays[f"member{number}.layer{layer}.weight"] = weight
            arrays[f"member{number}.layer{layer}.bias"] = bias
    return arrays


def from_arrays(arrays: Mapping[str, NDArray[np.generic]], *, members: int, layers: int) -> CostNetwork:
    """What `to_arrays` gave. Raises KeyError where an array is missing."""
    bins = Bins(
        fields=arrays["bins.fields"].astype(np.int64),
        starts=arrays["bins.starts"].astype(np.float32),
        widths=arrays["bins.widths"].astype(np.float32),
    )
    return CostNetwork(
        tuple(
            Member(
                weights=_layers(arrays, number, layers, "weight"),
                biases=_layers(arrays, number, layers, "bias"),
            )
            for number in range(members)
        ),
        bins,
    )


def _layers(
    arrays: Mapping[str, NDArray[np.generic]], number: int, layers: int, kind: str
) -> tuple[Floats32, ...]:
    names: Sequence[str] = [f"member{number}.layer{layer}.{kind}" for layer in range(layers)]
    return tuple(arrays[name].astype(np.float32) for name in names)
