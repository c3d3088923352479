"""A graph as a target's predictor takes it: what every known source would need for it on this target's
hardware, by class of kernels, and what in it was never measured anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.target import Hardware, Runtime
from predictor.graph import ModelGraph
from predictor.kernel_costs.pricing import MOST_COMMON_VIEW, Encoded, Priced, as_loaded_by
from predictor.kernel_costs.table import CLASSES, View
from predictor.meta_checkpoint import MetaCheckpoint

Floats = NDArray[np.float64]

_FLOAT_PRODUCTS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True, slots=True)
class Described:
    """One graph. `total_ms` (S,) and `class_ms` (S, C) of the sources, the nominal machines among them;
    `shares` of the time by name of kernel; `strange`: names of kernels that no measurement came near, with
    their share; `unpacked`: the share of products in floats whose weights may come from integers.
    """

    total_ms: Floats
    class_ms: Floats
    shares: Mapping[str, float]
    strange: Mapping[str, float]
    unpacked: float = 0.0

    @property
    def family(self) -> str:
        """The class of kernels that the graph spends most of its time in."""
        return CLASSES[int(np.argmax((self.class_ms / self.total_ms[:, None]).sum(axis=0)))].value


def describe(graph: ModelGraph, runtime: Runtime, hardware: Hardware, meta: MetaCheckpoint) -> Described:
    """The description of a graph for a target with this runtime and hardware."""
    encoded = meta.pricer.encode(as_loaded_by(graph, runtime))
    return description_of(graph, encoded, meta.pricer.price(encoded, runtime, hardware), meta)


def description_of(graph: ModelGraph, encoded: Encoded, priced: Priced, meta: MetaCheckpoint) -> Described:
    """The same of a graph that is encoded and priced already."""
    kernel_shares = shares_of_kernels(priced, MOST_COMMON_VIEW)
    table = encoded.tables[MOST_COMMON_VIEW]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(table.names))}
    summed = np.bincount([numbers[name] for name in table.names], weights=kernel_shares)
    shares = dict(zip(numbers, summed.tolist(), strict=True))
    strange = {
        what: float(kernel_shares[places].sum()) for what, places in meta.seen.strangeness(table).items()
    }
    unpacked = sum(shares.get(name, 0.0) for name in _FLOAT_PRODUCTS) if graph.unpacked else 0.0
    return Described(priced.total_ms, priced.class_ms, shares, strange, unpacked)


def shares_of_kernels(priced: Priced, view: View) -> Floats:
    """Shares of the time (K,), the mean over the sources that run graphs in this view."""
    times = priced.kernel_ms[view]
    shares: Floats = (times / times.sum(axis=0)).mean(axis=1)
    return shares
