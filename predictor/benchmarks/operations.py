"""Architectures as counts of operations by place: what linear baselines know of them.

Latency of a chain of layers is close to a sum over them, so a column for every (place, operation) pair is
the natural regressor. Of NAS-Bench-201 these are 6 edges with 5 operations, of FBNet 22 layers with 9, of
OFA-MobileNetV3 20 blocks with 9 pairs of kernel and expansion, where blocks beyond a stage's depth are
absent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.benchmarks.architectures import Architectures
from predictor.benchmarks.method import Floats, Indices
from predictor.networks import ofa_mbv3

_OPERATIONS = {"nb201": 5, "fbnet": 9}
_OFA_PAIRS = len(ofa_mbv3.KERNELS) * len(ofa_mbv3.EXPANSIONS)
_OFA_UNIT = 224.0  # resolution at which an operation counts as one


def operations_of(architectures: Architectures) -> Floats:
    """One column per place and operation, (N, P); without a constant column."""
    genomes = architectures.genomes
    if architectures.space == "ofa":
        return _ofa(genomes)
    kinds = _OPERATIONS[architectures.space]
    return np.eye(kinds)[genomes].reshape(len(genomes), -1)  # (N, G, kinds) -> (N, G * kinds)


def counts_of(architectures: Architectures, operations: Floats) -> Floats:
    """How often each operation stands anywhere, (N, K), from `operations_of` the same architectures."""
    if architectures.space == "ofa":
        blocks, rest = operations[:, :-1], operations[:, -1:]
        return np.concatenate([_over_places(blocks, _OFA_PAIRS), rest], axis=1)
    return _over_places(operations, _OPERATIONS[architectures.space])


def _over_places(operations: Floats, kinds: int) -> Floats:
    counts: Floats = operations.reshape(len(operations), -1, kinds).sum(axis=1)  # (N, places, K) -> (N, K)
    return counts


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Products of two columns, for those pairs that occur together: `first`, `second` (Q,)."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]

    @property
    def count(self) -> int:
        """Q."""
        return len(self.first)

    def __call__(self, operations: Floats) -> Floats:
        """The products, (N, Q)."""
        products: Floats = operations[:, self.first] * operations[:, self.second]
        return products


def pairs_of(operations: Floats) -> Pairs:
    """The pairs of columns that occur together in some row."""
    together = np.triu(operations.T @ operations, k=1)  # (P, P)
    return Pairs(*np.nonzero(together))


def _ofa(genomes: Indices) -> Floats:
    """Blocks, weighted by the area of the image that they work on, and the area itself: (N, 181)."""
    kernels, expansions = genomes[:, : ofa_mbv3.BLOCKS], genomes[:, ofa_mbv3.BLOCKS : 2 * ofa_mbv3.BLOCKS]
    area = (genomes[:, -1:] / _OFA_UNIT) ** 2  # (N, 1)
    pair = np.searchsorted(ofa_mbv3.KERNELS, kernels) * len(ofa_mbv3.EXPANSIONS)
    pair = pair + np.searchsorted(ofa_mbv3.EXPANSIONS, expansions)  # (N, 20)
    blocks = np.eye(_OFA_PAIRS)[pair]  # (N, 20, 9)
    blocks *= ofa_mbv3.present(genomes)[..., None]
    return np.concatenate([blocks.reshape(len(genomes), -1) * area, area], axis=1)
