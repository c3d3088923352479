"""What a graph would take on the runtimes that the cost network knows, kernel by kernel, on a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from devices.target import Hardware, Runtime
from predictor.graph import ModelGraph
from predictor.kernel_costs.features import as_run_by, has_replaceable, stacked_features
from predictor.kernel_costs.network import CostNetwork
from predictor.kernel_costs.nominal import NominalTimes, nominal_times
from predictor.kernel_costs.table import CLASSES, KernelTable, View, stacked_tables, under_each_other, view_of
from predictor.roofline import KernelClass, Machine, machine_of, unfolding

Floats = NDArray[np.float64]

NOMINAL_COUNT = 2  # the nominal machine, and the same with an engine that unfolds its convolutions
MOST_COMMON_VIEW = View.FUSED  # in which the nominal machines run a graph where nothing says otherwise

_LOADS_AS_IT_IS = "onnxruntime"  # the others convert a file before they run it
_BLOCKING_OPTIMIZATIONS = frozenset(("default", "all"))

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
    """S sources' milliseconds of a graph, and the nominal machines' as N more: `total_ms` (S + N,) and, by
    class of kernels, `class_ms` (S + N, C). `kernel_ms` by view: (K, s) for the sources of that view, or the
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
    engines: tuple[str, ...]  # of each source
    converting: tuple[int, ...] = ()  # sources whose engines convert files
    blocking: tuple[int, ...] = ()  # sources that keep constant weights alone in blocks of channels

    @classmethod
    def of(cls, network: CostNetwork, runtimes: Sequence[Runtime]) -> Pricer:
        """`runtimes` in the order of the network's outputs."""
        views = tuple(view_of(runtime) for runtime in runtimes)
        engines = tuple(runtime.engine for runtime in runtimes)
        converting = [place for place, engine in enumerate(engines) if engine != _LOADS_AS_IT_IS]
        blocking = [
            place
            for place, runtime in enumerate(runtimes)
            if runtime.engine == _LOADS_AS_IT_IS and runtime.optimization in _BLOCKING_OPTIMIZATIONS
        ]
        return cls(network, views, engines, tuple(converting), tuple(blocking))

    def encode(self, graph: ModelGraph) -> Encoded:
        """What of a graph does not depend on the machine."""
        return encode(graph, sorted({*self.views, MOST_COMMON_VIEW}))

    def machines(self, runtime: Runtime, hardware: Hardware) -> tuple[Machine, ...]:
        """For each source the nominal machine of its engine, with this many threads on this hardware, and the
        runtime's own last: as it is, and unfolding.
        """
        return _machines(self.engines, runtime, hardware)

    def _log_factors(self, features: NDArray[np.float32]) -> Floats:
        """Of kernels (K, F), (K, S): each source's as it runs weights that a caller may replace."""
        factors = self.network.log_factors(features)
        if has_replaceable(features):
            for columns, converts in ((self.converting, True), (self.blocking, False)):
                if columns:
                    own = as_run_by(features, converts=converts)
                    factors[:, columns] = self.network.log_factors(own)[:, columns]
        return factors

    def price(self, encoded: Encoded, runtime: Runtime, hardware: Hardware) -> Priced:
        """The sources' milliseconds, if they ran with this many threads on this hardware. The nominal
        machines' stand last, as they run graphs in the runtime's own view: what no source resembles may still
        follow their classes of kernels.
        """
        return self.price_on(encoded, self.machines(runtime, hardware), view_of(runtime))

    def price_on(self, encoded: Encoded, machines: Sequence[Machine], view: View) -> Priced:
        """The same on the machines that `machines` gave."""
        whole = under_each_other(tuple(encoded.tables.values()))
        rows = [encoded.features[view] for view in encoded.tables]
        factors = np.exp(self._log_factors(rows[0] if len(rows) == 1 else np.concatenate(rows)))
        total = np.zeros(len(machines))
        by_class = np.zeros((len(total), len(CLASSES)))
        kernels: dict[View, Floats] = {}
        sources, nominal = machines[:-NOMINAL_COUNT], machines[-NOMINAL_COUNT:]
        for machine in dict.fromkeys(sources):  # most often one
            times = nominal_times(whole, machine, has_generic_paths=False)
            own = [column for column, other in enumerate(sources) if other == machine]
            factors[:, own] *= times.total[:, None]  # (K, S), all views under each other
            by_kernel = _parts(whole, times)
            for way, start, end in _places(encoded):
                columns = [column for column in own if self.views[column] is way]
                by_class[columns] = factors[start:end, columns].T @ by_kernel[start:end]
        for way, start, end in _places(encoded):
            columns = [column for column, other in enumerate(self.views) if other is way]
            if columns:
                kernels[way] = factors[start:end, columns]  # (K, s)
                total[columns] = kernels[way].sum(axis=0)
            else:
                kernels[way] = nominal_times(encoded.tables[way], nominal[0]).total[:, None]
        table = encoded.tables.get(view, encoded.tables[MOST_COMMON_VIEW])
        for column, machine in enumerate(nominal, len(sources)):
            plain = nominal_times(table, machine)
            total[column], by_class[column] = plain.total.sum(), plain.total @ _parts(table, plain)
        return Priced(kernels, total, by_class)


@lru_cache(maxsize=1024)  # a target asks for every graph
def _machines(engines: tuple[str, ...], runtime: Runtime, hardware: Hardware) -> tuple[Machine, ...]:
    by_engine = {
        engine: machine_of(runtime.model_copy(update={"engine": engine}), hardware) for engine in set(engines)
    }
    own = machine_of(runtime, hardware)
    return (*(by_engine[engine] for engine in engines), own, unfolding(own))


def _places(encoded: Encoded) -> Iterator[tuple[View, int, int]]:
    """Where each view's kernels begin and end, with all views under each other."""
    end = 0
    for view, table in encoded.tables.items():
        start, end = end, end + len(table)
        yield view, start, end


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


def as_loaded_by(graph: ModelGraph, runtime: Runtime) -> ModelGraph:
    """The graph as this runtime sees it: what converts files takes weights that a caller may replace for
    constants.
    """
    return graph if runtime.engine == _LOADS_AS_IT_IS else graph.fixed


def encode(graph: ModelGraph, views: Sequence[View]) -> Encoded:
    """A graph in the given views."""
    if not views:
        return Encoded({}, {})
    stacked = stacked_tables(graph, views)
    features = stacked_features(graph, stacked)
    starts = (0, *stacked.ends[:-1])
    parts = [features[start:end] for start, end in zip(starts, stacked.ends, strict=True)]
    return Encoded(dict(zip(views, stacked.apart(), strict=True)), dict(zip(views, parts, strict=True)))
