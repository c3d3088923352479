"""Architectures of the three published spaces as HELP's networks read them.

NAS-Bench-201 becomes a graph with operations on its nodes: input, the six edges of a cell, output, and a
global node that receives from all. Its structure is the same for every cell, so one adjacency matrix serves
all. FBNet and OFA-MobileNetV3 become rows of zeros and ones. Genomes are the integer rows of
`predictor.networks`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor.networks import ofa_mbv3

Genomes = NDArray[np.int64]

NODES = 9  # input, six operations, output, global
NODE_TYPES = 8  # input, five operations, output, global
OPERATIONS = 5
FBNET_SKIP = 8
FBNET_KINDS = 4  # of a kernel size: e1, e1 in two groups, e3, e6

# Nodes of a cell: 0 input, 1..6 the edges (1<-0) (2<-0) (2<-1) (3<-0) (3<-1) (3<-2), 7 output, 8 global.
_CELL_EDGES = ((0, 1), (0, 2), (1, 3), (0, 4), (1, 5), (2, 6), (3, 6), (4, 7), (5, 7), (6, 7))


def cell_adjacency() -> Tensor:
    """(9, 9): entry (receiver, sender) of a NAS-Bench-201 cell, with self loops; the last row is all ones."""
    adjacency = torch.eye(NODES)
    for sender, receiver in _CELL_EDGES:
        adjacency[receiver, sender] = 1.0
    adjacency[NODES - 1] = 1.0
    return adjacency


def encode(space: str, genomes: Genomes) -> Tensor:
    """(N, 9, 8) node types of "nb201", (N, 132) of "fbnet", (N, 145) of "ofa"; `KeyError` otherwise."""
    return torch.as_tensor(ENCODERS[space](genomes), dtype=torch.float32)


def _encode_nb201(genomes: Genomes) -> NDArray[np.float64]:
    types = np.empty((len(genomes), NODES), dtype=np.int64)
    types[:, 0] = 0
    types[:, 1:7] = 1 + genomes
    types[:, 7] = 1 + OPERATIONS
    types[:, 8] = 2 + OPERATIONS
    return np.eye(NODE_TYPES)[types]


def _encode_fbnet(genomes: Genomes) -> NDArray[np.float64]:
    """A block has 6 bits: one of two kernel sizes, one of four kinds; a skipped block has none set."""
    kernel = np.eye(2)[np.minimum(genomes // FBNET_KINDS, 1)]
    kind = np.eye(FBNET_KINDS)[genomes % FBNET_KINDS]
    blocks = np.concatenate([kernel, kind], axis=-1)  # (N, 22, 6)
    blocks[genomes == FBNET_SKIP] = 0.0
    return blocks.reshape(len(genomes), -1)


def _encode_ofa(genomes: Genomes) -> NDArray[np.float64]:
    """One-hot kernels, then expansions, of the blocks within their stage's depth, then the resolution."""
    blocks = ofa_mbv3.BLOCKS
    kernels, expansions = genomes[:, :blocks, None], genomes[:, blocks : 2 * blocks, None]
    used = ofa_mbv3.present(genomes)[..., None]  # (N, 20, 1)
    parts = [
        ((kernels == ofa_mbv3.KERNELS) & used).reshape(len(genomes), -1),
        ((expansions == ofa_mbv3.EXPANSIONS) & used).reshape(len(genomes), -1),
        genomes[:, -1:] == ofa_mbv3.RESOLUTIONS,
    ]
    return np.concatenate(parts, axis=1).astype(np.float64)


ENCODERS: dict[str, Callable[[Genomes], NDArray[np.float64]]] = {
    "nb201": _encode_nb201,
    "fbnet": _encode_fbnet,
    "ofa": _encode_ofa,
}
