"""Muon (Jordan and others 2024, kellerjordan.github.io/posts/muon): momentum whose matrix is made orthogonal
before it is taken as a step, so that all directions of a layer learn alike.

torch's own iterates in bfloat16, which takes processors without such arithmetic longer than the rest of the
training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MOMENTUM = 0.95
_ITERATIONS = 5
# Of the odd polynomial that brings singular values near one (quintic Newton-Schulz, as published).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_LEAST_NORM = 1e-7


class Muon:
    """For weight matrices of hidden layers; what else a network has wants another optimiser."""

    def __init__(self, weights: Sequence[Tensor], *, decay: float) -> None:
        self._weights = weights
        self._momenta = [torch.zeros_like(weight) for weight in weights]
        self._decay = decay

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Along the gradients that the weights hold."""
        for weight, momentum in zip(self._weights, self._momenta, strict=True):
            if weight.grad is None:
                continue
            momentum.lerp_(weight.grad, 1.0 - _MOMENTUM)
            along = weight.grad.lerp(momentum, _MOMENTUM)  # Nesterov's
            rows, columns = weight.shape
            weight.mul_(1.0 - learning_rate * self._decay)
            weight.add_(_orthogonal(along), alpha=-learning_rate * max(1.0, rows / columns) ** 0.5)


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are about one."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + _LEAST_NORM)
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = _A * x + (_B * square + _C * (square @ square)) @ x
    nearest: Tensor = x.T if is_tall else x
    return nearest
