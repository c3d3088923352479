"""What a graph would take on the runtimes that the cost network knows, kernel by kernel, on a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.target import Hardware, Runtime
from predictor.graph import ModelGraph
from predictor.kernel_costs.features import stacked_features
from predictor.kernel_costs.network import CostNetwork
from predictor.kernel_costs.nominal import NominalTimes, nominal_times
from predictor.kernel_costs.table import CLASSES, KernelTable, View, stacked_tables, under_each_other, view_of
from predictor.roofline import KernelClass, machine_of

Floats = NDArray[np.float64]

NOMINAL_VIEW = View.FUSED  # in which the nominal machine runs a graph

_CLASS_NUMBERS = np.arange(len(CLASSES))
_LEAST_MS = 1e-12  # what a loop of no trips launches takes nothing
_LAUNCH, _CALL = CLASSES.index(KernelClass.LAUNCH), CLASSES.index(KernelClass.CALL)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A graph as the network takes it: for each view its kernels and their features."""

    tables: Mapping[View, KernelTable]
    features: Mapping[View, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Priced:
    """S sources' milliseconds of a graph, and the nominal machine's as one more: `total_ms` (S + 1,) and, by
    class of kernels, `class_ms` (S + 1, C). `kernel_ms` by view: (K, s) for the sources of that view, or the
    nominal machine's (K, 1) where there are none.
    """

    kernel_ms: Mapping[View, Floats]
    total_ms: Floats
    class_ms: Floats


@dataclass(frozen=True, slots=True)
class Pricer:
    """The cost network with the runtimes that its outputs stand for."""

    network: CostNetwork
    views: tuple[View, ...]  # of each source

    @classmethod
    def of(cls, network: CostNetwork, runtimes: Sequence[Runtime]) -> Pricer:
        """`runtimes` in the order of the network's outputs."""
        return cls(network, tuple(view_of(runtime) for runtime in runtimes))

    def encode(self, graph: ModelGraph) -> Encoded:
        """What of a graph does not depend on the machine."""
        return encode(graph, sorted({*self.views, NOMINAL_VIEW}))

    def price(self, encoded: Encoded, runtime: Runtime, hardware: Hardware) -> Priced:
        """The sources' milliseconds, if they ran with this many threads on this hardware. The nominal
        machine's stand last: what no source resembles may still follow its classes of kernels.
        """
        tables = tuple(encoded.tables.values())
        whole = under_each_other(tables)
        machine = machine_of(runtime, hardware)
        times = nominal_times(whole, machine, has_generic_paths=False)
        nominal = times.total
        rows = [encoded.features[view] for view in encoded.tables]
        factors = np.exp(self.network.log_factors(rows[0] if len(rows) == 1 else np.concatenate(rows)))
        factors *= nominal[:, None]  # (K, S), all views under each other
        by_kernel = _parts(whole, times)
        total = np.zeros(len(self.views) + 1)
        by_class = np.zeros((len(total), len(CLASSES)))
        kernels: dict[View, Floats] = {}
        end = 0
        for view, table in encoded.tables.items():
            start, end = end, end + len(table)
            columns = [index for index, own in enumerate(self.views) if own is view]
            own = kernels[view] = factors[start:end, columns]  # (K, s)
            total[columns] = own.sum(axis=0)
            by_class[columns] = own.T @ by_kernel[start:end]
            if view is NOMINAL_VIEW:
                plain = nominal_times(table, machine)
                total[-1], by_class[-1] = plain.total.sum(), plain.total @ _parts(table, plain)
                kernels[view] = own if columns else plain.total[:, None]
        return Priced(kernels, total, by_class)


def _parts(table: KernelTable, times: NominalTimes) -> Floats:
    """Shares (K, C) of K kernels' times by class: what nominally is its launch, and the rest, which is of the
    kernel's class. A runtime that takes long over each launch does so whatever it launches.
    """
    is_own = table.classes[:, None] == _CLASS_NUMBERS
    is_called = table.classes == _CALL
    launched = np.where(is_called, 0.0, times.launch / np.maximum(times.total, _LEAST_MS))
    parts: Floats = np.where(is_own, 1.0 - launched[:, None], 0.0)
    parts[:, _LAUNCH] += launched
    return parts


def encode(graph: ModelGraph, views: Sequence[View]) -> Encoded:
    """A graph in the given views."""
    if not views:
        return Encoded({}, {})
    stacked = stacked_tables(graph, views)
    features = stacked_features(graph, stacked)
    starts = (0, *stacked.ends[:-1])
    parts = [features[start:end] for start, end in zip(starts, stacked.ends, strict=True)]
    return Encoded(dict(zip(views, stacked.apart(), strict=True)), dict(zip(views, parts, strict=True)))
