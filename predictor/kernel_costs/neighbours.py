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

_CALLER = -1  # makes the inputs and reads the outputs


@dataclass(frozen=True, slots=True)
class Reads:
    """R pairs of an operator and a tensor that it reads and that is no weight, R numbers each: places of the
    reader and of the maker (-1 for the caller), and bytes of the tensor (at least one). `shared`: for each
    tensor with several readers, where its pairs begin and end.
    """

    readers: list[int]
    makers: list[int]
    sizes: list[int]
    shared: list[tuple[int, int]]


def reads_of(connections: Connections) -> Reads:
    """All that a graph's operators read from each other and from the caller, and the caller from them."""
    graph, producer, size_bytes = connections.graph, connections.producer, connections.size_bytes
    given = {tensor.name: _CALLER for tensor in graph.inputs}
    readers: list[int] = []
    makers: list[int] = []
    sizes: list[int] = []
    shared: list[tuple[int, int]] = []
    for name, maker in (given | producer).items():  # all but weights
        users = connections.uses.get(name)
        if users is None:
            continue
        count, size = len(users), size_bytes[name] or 1
        if count > 1:
            shared.append((len(readers), len(readers) + count))
        readers += users
        makers += [maker] * count
        sizes += [size] * count
    ends = [producer[tensor.name] for tensor in graph.outputs if tensor.name in producer]
    readers += [_CALLER] * len(ends)
    makers += ends
    sizes += [1] * len(ends)
    return Reads(readers, makers, sizes, shared)


@dataclass(frozen=True, slots=True)
class Homes:
    """V ways to run a graph of N operators as K kernels in all. `kernels` (V, N): which kernel an operator is
    in. What a kernel is to its neighbours is one of `kinds` kinds: `own` (K + 1) to those before it, `seen`
    (K + 1) to those behind it; the caller's is the last.
    """

    kernels: Sequence[list[int]]
    own: Sequence[int]
    seen: Sequence[int]
    kinds: int


def neighbours(reads: Reads, homes: Homes) -> tuple[Floats, Floats]:
    """Shares (K, kinds) before and behind each kernel. A tensor counts once per kernel, and not at all within
    one.
    """
    count = len(homes.own) - 1
    kernels = np.array([[*home, count] for home in homes.kernels])  # the caller is found from the end
    readers, makers = kernels[:, reads.readers], kernels[:, reads.makers]
    is_counted = readers != makers
    for way, read in _repeated(reads, homes):
        is_counted[way, read] = False
    places = np.empty((2, *readers.shape), dtype=np.int64)
    places[0] = readers * homes.kinds + np.array(homes.seen)[makers]
    places[1] = (makers + (count + 1)) * homes.kinds + np.array(homes.own)[readers]
    weights = np.empty(places.shape)
    np.multiply(is_counted, np.array(reads.sizes, dtype=np.float64), out=weights[0])
    weights[1] = is_counted
    sums = np.bincount(places.ravel(), weights.ravel(), 2 * (count + 1) * homes.kinds)
    sums = sums.reshape(2, count + 1, homes.kinds)
    shares = sums / np.maximum(sums.sum(axis=2, keepdims=True), 1.0)
    return shares[0, :-1], shares[1, :-1]


def _repeated(reads: Reads, homes: Homes) -> list[tuple[int, int]]:
    """Ways and reads where the same kernel has read the same tensor before."""
    found: list[tuple[int, int]] = []
    for way, home in enumerate(homes.kernels):
        for begin, end in reads.shared:
            kernels = [home[reader] for reader in reads.readers[begin:end]]
            if len(set(kernels)) < len(kernels):
                found += [(way, begin + at) for at, kernel in enumerate(kernels) if kernel in kernels[:at]]
    return found
