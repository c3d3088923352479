"""Graphs of stored models at given sizes, parsed once per process as long as they are in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from predictor.errors import GraphRejected
from predictor.graph import ModelGraph
from predictor.reading.reader import read_graph
from service.artifacts import ArtifactStore

CACHED_GRAPHS = 256  # about 1 MB each for a network of a thousand operators

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a model cannot be costed: `code` of `predictor.errors.GraphCode`, and a message for people."""

    code: str
    detail: str


def graph_of(store: ArtifactStore, sha256: str, input_shapes: Shapes) -> ModelGraph | Rejection:
    """The graph of a stored model at complete sizes. Slow the first time: not for the event loop, nor for
    a transaction.
    """
    return _read(store, sha256, tuple(sorted(input_shapes.items())))


@lru_cache(maxsize=CACHED_GRAPHS)
def _read(
    store: ArtifactStore, sha256: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> ModelGraph | Rejection:
    try:
        return read_graph(store.read(sha256), dict(shapes))
    except GraphRejected as rejected:  # as data: an exception in the cache would keep its whole stack alive
        return Rejection(rejected.code.value, str(rejected))
