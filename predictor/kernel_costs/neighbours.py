"""In what company kernels run: what stands before each (by the bytes that it reads) and behind (by the
readers).

All ways to run a graph are taken at once: their kernels are numbered through, way by way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.wiring import Connections

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CALLER = -1  # makes the inputs


@dataclass(frozen=True, slots=True)
class Reads:
    """R pairs of an operator and a tensor that it reads and that is no weight, all (R,): places of the reader
    and of the maker (-1 for an input of the graph), a number of the tensor, its bytes (at least one).
    """

    readers: Integers
    makers: Integers
    tensors: Integers
    sizes: Floats
    tensor_count: int


def reads_of(connections: Connections) -> Reads:
    """All that a graph's operators read from each other and from the caller."""
    given = {tensor.name for tensor in connections.graph.inputs}
    producer, size_bytes = connections.producer, connections.size_bytes
    readers: list[int] = []
    makers: list[int] = []
    tensors: list[int] = []
    sizes: list[int] = []
    for number, (name, users) in enumerate(connections.uses.items()):
        maker = producer.get(name)
        if maker is None:
            if name not in given:
                continue  # a weight
            maker = _CALLER
        size = size_bytes(name) or 1
        for user in users:
            readers.append(user)
            makers.append(maker)
            tensors.append(number)
            sizes.append(size)
    return Reads(
        np.array(readers, dtype=np.int64),
        np.array(makers, dtype=np.int64),
        np.array(tensors, dtype=np.int64),
        np.array(sizes, dtype=np.float64),
        len(connections.uses),
    )


@dataclass(frozen=True, slots=True)
class Homes:
    """V ways to run a graph of N operators as K kernels in all. `kernels` (V, N + 1): which kernel an
    operator is in; the last column, for the caller, is K. What a kernel is to its neighbours is one of
    `kinds` kinds: `own` (K + 1,) to those before it, `seen` (K + 1,) to those behind it; the caller's is the
    last.
    """

    kernels: Integers
    own: Integers
    seen: Integers
    kinds: int


def neighbours(reads: Reads, homes: Homes, ends: Sequence[int]) -> tuple[Floats, Floats]:
    """Shares (K, kinds) before and behind each kernel. `ends`: the operators that make the graph's outputs. A
    tensor counts once per kernel, and not at all within one.
    """
    count = homes.own.size - 1
    readers, makers = homes.kernels[:, reads.readers], homes.kernels[:, reads.makers]
    keys = readers * max(reads.tensor_count, 1) + reads.tensors
    keys[readers == makers] = -1
    found, first = np.unique(keys, return_index=True)
    if found.size and found[0] < 0:
        first = first[1:]
    readers, makers = readers.ravel()[first], makers.ravel()[first]
    sizes = reads.sizes[first % max(reads.sizes.size, 1)]
    size = (count + 1) * homes.kinds
    before = np.bincount(readers * homes.kinds + homes.seen[makers], weights=sizes, minlength=size)
    behind = np.bincount(makers * homes.kinds + homes.own[readers], minlength=size).astype(np.float64)
    border = int(homes.own[-1])
    for end in ends:
        behind[homes.kernels[:, end] * homes.kinds + border] += 1.0
    both = np.concatenate([before, behind]).reshape(2, count + 1, homes.kinds)
    both /= np.maximum(both.sum(axis=2, keepdims=True), 1.0)
    return both[0, :-1], both[1, :-1]
