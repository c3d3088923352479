"""Graphs as arrays, made once for all methods of the graph benchmark.

A graph is its kernels in each view (`predictor.kernel_costs.table`), and its operators as listed, with the
edges between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.target import Hardware, Runtime
from predictor.graph import ModelGraph
from predictor.kernel_costs.features import kernel_features
from predictor.kernel_costs.nominal import nominal_times
from predictor.kernel_costs.table import CLASSES, Amount, KernelTable, View, table_of, view_of
from predictor.roofline import KernelClass, machine_of

Floats = NDArray[np.float64]

_LAUNCH = CLASSES.index(KernelClass.LAUNCH)
_CALL = CLASSES.index(KernelClass.CALL)


@dataclass(frozen=True, slots=True, eq=False)
class GraphArrays:
    """One graph. `tables`: its kernels by view; `nodes` (V, F): features of its operators; `edges` (E, 2):
    from the operator that makes a tensor to one that reads it.
    """

    tables: Mapping[View, KernelTable]
    nodes: NDArray[np.float32]
    edges: NDArray[np.int64]

    @property
    def macs(self) -> float:
        """Multiply-accumulates of one inference."""
        return float(self.tables[View.LISTED].amounts[:, Amount.MACS].sum())

    @property
    def bytes_moved(self) -> float:
        """Bytes that fused kernels read and write in one inference."""
        amounts = self.tables[View.FUSED].amounts
        return float(amounts[:, [Amount.BYTES_READ, Amount.BYTES_WRITTEN]].sum())


class ArrayCache:
    """Arrays of graphs by their digest; shared by all methods of a run."""

    def __init__(self) -> None:
        self._known: dict[str, GraphArrays] = {}

    def of(self, graph: ModelGraph) -> GraphArrays:
        """The arrays of a graph, made when they are first asked for."""
        known = self._known.get(graph.digest)
        if known is None:
            known = self._known[graph.digest] = arrays_of(graph)
        return known


def arrays_of(graph: ModelGraph) -> GraphArrays:
    """The arrays of a graph; they depend on no target."""
    tables = {view: table_of(graph, view) for view in View}
    return GraphArrays(
        tables=tables, nodes=kernel_features(graph, tables[View.LISTED])[:-1], edges=_edges(graph)
    )


def _edges(graph: ModelGraph) -> NDArray[np.int64]:
    makers: dict[str, int] = {}
    found: set[tuple[int, int]] = set()
    for index, op in enumerate(graph.operators):
        found |= {(makers[name], index) for name in op.inputs if name in makers}
        makers.update({name: index for name in op.outputs if name})
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def class_times(arrays: GraphArrays, runtime: Runtime, hardware: Hardware) -> Floats:
    """Nominal milliseconds by class of kernels (C,), in the view of the runtime."""
    table = arrays.tables[view_of(runtime)]
    times = nominal_times(table, machine_of(runtime, hardware))
    by_class: Floats = np.bincount(table.classes, weights=times.own, minlength=len(CLASSES)).astype(
        np.float64
    )
    is_call = table.classes == _CALL
    by_class[_LAUNCH] += times.launch[~is_call].sum()
    by_class[_CALL] += times.launch[is_call].sum()
    return by_class
