"""The kernels of a graph as arrays, in each way that runtimes run it.

A view is a way to run a graph: operator by operator as the file lists them, as most CPU runtimes fuse them,
or with chains of element-wise operators in one kernel too. Which view a runtime takes is its own affair
(`view_of`); a predictor learns a runtime's costs on that runtime's view.

Nothing here depends on a target: the same arrays serve every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from devices.target import Runtime
from predictor.graph import ModelGraph
from predictor.kernel_costs.geometry import NOTHING
from predictor.kernel_costs.layout import Need, layouts_of
from predictor.kernel_costs.neighbours import Homes, neighbours, reads_of
from predictor.kernel_costs.regrouping import regrouped_of
from predictor.kernel_costs.rows import (
    CALL_NAME,
    CALL_PLACE,
    CLASSES,
    FIXED_AMOUNTS,
    FLAGS,
    INDICES,
    KIND_NAMES,
    PRECISIONS,
    Amount,
    Flag,
    Neighbour,
    Row,
    Rows,
    Traits,
    name_of,
    numbers_of,
)
from predictor.kernels import Kernel, Views
from predictor.wiring import Connections

__all__ = [
    "CALL_NAME",
    "CLASSES",
    "KIND_NAMES",
    "PRECISIONS",
    "Amount",
    "Flag",
    "KernelTable",
    "Neighbour",
    "StackedTables",
    "View",
    "kernels_in",
    "name_of",
    "stacked_tables",
    "table_of",
    "under_each_other",
    "view_of",
]

Floats = NDArray[np.float64]


class View(IntEnum):
    """Ways to run a graph."""

    LISTED = 0
    FUSED = 1
    CHAINED = 2


_CHAINING_ENGINES = frozenset(("openvino", "tensorrt", "tvm", "iree"))
_LISTED_OPTIMIZATIONS = frozenset(("none", "basic", "eager"))
_LISTING_ENGINES = frozenset(("torch",))  # unless it compiles


def view_of(runtime: Runtime) -> View:
    """How a runtime runs graphs; an engine that nobody has studied is taken to fuse as most do."""
    if runtime.optimization in _LISTED_OPTIMIZATIONS:
        return View.LISTED
    if runtime.engine in _LISTING_ENGINES:
        return View.CHAINED if runtime.optimization == "compiled" else View.LISTED
    return View.CHAINED if runtime.engine in _CHAINING_ENGINES else View.FUSED


@dataclass(frozen=True, slots=True)
class KernelTable:
    """K kernels of one graph in one view, the call around them last. `amounts` (K, len(Amount)), `flags` (K,
    len(Flag)); `before` and `behind` (K, len(Neighbour)) the shares of what is read and of who reads; and as
    indices (K,): `classes` into `CLASSES`, `kinds` into `KIND_NAMES` (or -1) and `precisions` into
    `PRECISIONS`. `names`: what each kernel counts as when asking whether a target ever ran the like.
    """

    amounts: Floats
    flags: Floats
    before: Floats
    behind: Floats
    classes: NDArray[np.int64]
    kinds: NDArray[np.int64]
    precisions: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.classes)


def kernels_in(graph: ModelGraph, view: View) -> tuple[Kernel, ...]:
    """The kernels that a runtime of this view launches."""
    return _kernels_in(Views(graph), view)


def _kernels_in(views: Views, view: View) -> tuple[Kernel, ...]:
    return views.listed() if view is View.LISTED else views.fused(fuses_chains=view is View.CHAINED)


def table_of(graph: ModelGraph, view: View) -> KernelTable:
    """The kernels of a graph as arrays, in the order of `kernels_in`, and the call."""
    return stacked_tables(graph, [view]).table


@dataclass(frozen=True, slots=True)
class StackedTables:
    """The tables of several views of one graph under each other, and where each ends. `rows`: of kernels that
    are not alike; `places`: which of them each kernel has.
    """

    table: KernelTable
    ends: tuple[int, ...]
    rows: Sequence[Row]
    places: NDArray[np.int64]

    def apart(self) -> list[KernelTable]:
        """The table of each view; parts of the arrays here."""
        whole, starts = self.table, (0, *self.ends[:-1])
        return [
            KernelTable(
                whole.amounts[start:end],
                whole.flags[start:end],
                whole.before[start:end],
                whole.behind[start:end],
                whole.classes[start:end],
                whole.kinds[start:end],
                whole.precisions[start:end],
                whole.names[start:end],
            )
            for start, end in zip(starts, self.ends, strict=True)
        ]


def under_each_other(tables: Sequence[KernelTable]) -> KernelTable:
    """Tables as one; there is one at least."""
    if len(tables) == 1:
        return tables[0]
    return KernelTable(
        amounts=np.concatenate([table.amounts for table in tables]),
        flags=np.concatenate([table.flags for table in tables]),
        before=np.concatenate([table.before for table in tables]),
        behind=np.concatenate([table.behind for table in tables]),
        classes=np.concatenate([table.classes for table in tables]),
        kinds=np.concatenate([table.kinds for table in tables]),
        precisions=np.concatenate([table.precisions for table in tables]),
        names=tuple(chain.from_iterable([table.names for table in tables])),
    )


def stacked_tables(graph: ModelGraph, views: Sequence[View]) -> StackedTables:
    """A graph in several views at once, which takes much less than one after the other."""
    ways = Views(graph)
    return _stacked(ways.connections, [_kernels_in(ways, view) for view in views])


def _stacked(connections: Connections, ways: Sequence[Sequence[Kernel]]) -> StackedTables:
    written = Rows(_call_amounts(connections), connections)
    listed: list[int] = []
    ends: list[int] = []
    for kernels in ways:
        listed += written.places_of(kernels)
        listed.append(CALL_PLACE)
        ends.append(len(listed))
    rows, places = written.rows, np.array(listed)
    each = [rows[place] for place in listed]
    numbers = numbers_of(rows).take(places, axis=0)
    amounts = _amounts(numbers, each, ends)
    _write_layouts(amounts, connections, ways, each)
    if "PRelu" in connections.kinds:
        amounts[:, Amount.SLOPES] = [row.slopes for row in each]
    if connections.graph.folded_bytes:
        amounts[np.array(ends) - 1, Amount.FOLDED_BYTES] = connections.graph.folded_bytes
    regrouped = [elements for kernels in ways for elements in regrouped_of(kernels, connections.graph)]
    if any(regrouped):
        amounts[:, Amount.REGROUPED] = regrouped
    indices = numbers[:, INDICES].astype(np.int64)
    traits = [row.traits for row in each]
    before, behind = _neighbours(connections, ways, traits)
    table = KernelTable(
        amounts=amounts,
        flags=numbers[:, FLAGS],
        before=before,
        behind=behind,
        classes=indices[:, 0],
        kinds=indices[:, 1],
        precisions=indices[:, 2],
        names=tuple([one.name for one in traits]),
    )
    return StackedTables(table, tuple(ends), rows, places)


def _amounts(numbers: Floats, each: Sequence[Row], ends: Sequence[int]) -> Floats:
    """Of the kernels with these numbers and rows (K, len(Amount)), with the weights of all kernels of each
    view; zero where later columns are written.
    """
    amounts = np.zeros((len(numbers), len(Amount)))
    amounts[:, FIXED_AMOUNTS] = numbers[:, FIXED_AMOUNTS]
    launches = np.maximum(amounts[:, Amount.LAUNCHES], 1.0)
    _write_sums(amounts, Amount.GRAPH_WEIGHT_BYTES, amounts[:, Amount.WEIGHT_BYTES] / launches, ends)
    enlarged = [row.winograd_bytes for row in each]
    if any(enlarged):
        amounts[:, Amount.WINOGRAD_BYTES] = enlarged
        _write_sums(amounts, Amount.GRAPH_WINOGRAD_BYTES, enlarged / launches, ends)
    return amounts


def _write_sums(amounts: Floats, column: Amount, each: Floats, ends: Sequence[int]) -> None:
    """In each view the sum over all its kernels, (K,)."""
    starts = (0, *ends[:-1])
    for start, end, total in zip(starts, ends, np.add.reduceat(each, starts), strict=True):
        amounts[start:end, column] = total


def _write_layouts(
    amounts: Floats, connections: Connections, ways: Sequence[Sequence[Kernel]], each: Sequence[Row]
) -> None:
    """In each view what runs on blocks of channels, and what is rearranged for that. `each`: the row of each
    kernel.
    """
    if "Conv" not in connections.kinds:
        return  # nor in any kernel
    runs, rearranged = _layouts(connections, ways, [row.blocks for row in each])
    if not any(runs):
        return  # nothing is rearranged either
    amounts[:, Amount.ON_BLOCKS] = runs
    amounts[:, Amount.REARRANGED_BYTES] = rearranged
    if connections.has_overridable:
        still, _ = _layouts(connections, ways, [row.fixed_blocks for row in each])
        amounts[:, Amount.OFF_BLOCKS] = amounts[:, Amount.ON_BLOCKS] - still


def _layouts(
    connections: Connections, ways: Sequence[Sequence[Kernel]], needs: Sequence[Need]
) -> tuple[list[float], list[float]]:
    """`layouts_of` each view, under each other."""
    runs: list[float] = []
    rearranged: list[float] = []
    for kernels in ways:
        start = len(runs)
        own = layouts_of(kernels, needs[start : start + len(kernels)], connections)
        runs += own[0]
        rearranged += own[1]
    return runs, rearranged


def _neighbours(
    connections: Connections, ways: Sequence[Sequence[Kernel]], traits: Sequence[Traits]
) -> tuple[Floats, Floats]:
    """Shares (K, len(Neighbour)) of what stands before and behind each kernel."""
    homes = _homes(connections, ways)
    own = [one.neighbour for one in traits]
    own.append(int(Neighbour.BORDER))  # the caller
    seen = _seen_through_views(connections, ways, traits, own, homes)
    return neighbours(reads_of(connections), Homes(homes, own, seen, len(Neighbour)))


def _homes(connections: Connections, ways: Sequence[Sequence[Kernel]]) -> list[list[int]]:
    """For each way the kernel of each operator; the kernels of all ways are numbered through."""
    count = len(connections.operators)
    places = {id(op): place for place, op in enumerate(connections.operators)}
    found: list[list[int]] = []
    start = 0
    for kernels in ways:
        homes = list(range(start, start + count))
        if len(kernels) != count:  # some operators run together
            for index, kernel in enumerate(kernels, start):
                for op in kernel.members:
                    homes[places[id(op)]] = index
        found.append(homes)
        start += len(kernels) + 1
    return found


def _seen_through_views(
    connections: Connections,
    ways: Sequence[Sequence[Kernel]],
    traits: Sequence[Traits],
    own: Sequence[int],
    homes: Sequence[Sequence[int]],
) -> list[int]:
    """What each kernel is to those behind it: in place of a view, who made what it renames."""
    seen = list(own)
    given = {tensor.name for tensor in connections.graph.inputs}
    start = 0
    for kernels, home in zip(ways, homes, strict=True):
        for index, kernel in enumerate(kernels, start):
            if traits[index].is_view and kernel.anchor.inputs:
                renamed = kernel.anchor.inputs[0]
                maker = connections.producer.get(renamed)
                if maker is not None:
                    seen[index] = seen[home[maker]]
                elif renamed in given:
                    seen[index] = own[-1]
        start += len(kernels) + 1
    return seen


def _call_amounts(connections: Connections) -> tuple[float, ...]:
    """What passes between the caller and the runtime."""
    graph, size_bytes = connections.graph, connections.size_bytes
    given = sum([size_bytes[tensor.name] for tensor in graph.inputs])
    returned = sum([size_bytes[tensor.name] for tensor in graph.outputs])
    members = len(graph.inputs) + len(graph.outputs)
    sizes = (0.0, 0.0, 0.0, given, returned, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, members)
    return (*sizes, *NOTHING)
