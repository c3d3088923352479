"""What the cost network sees of a kernel: logarithms of what it does, what it is, and in what company it
runs.

No feature depends on a target, and none names a model: a kernel of an unknown network looks like the kernels
of known ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from predictor.graph import ModelGraph
from predictor.kernel_costs.table import (
    CLASSES,
    KIND_NAMES,
    PRECISIONS,
    Amount,
    Flag,
    KernelTable,
    Neighbour,
    StackedTables,
)
from predictor.kernel_costs.weight_traffic import weight_traffic

Floats = NDArray[np.float64]

FEATURE_VERSION = 12  # raise it when the same graph gets other numbers: older checkpoints are then refused

_LOGS = Amount.GRAPH_WEIGHT_BYTES  # the amounts before it have a field each
_VECTORS = (4.0, 16.0, 64.0)  # and tiles that a row of outputs fills, or does not
# Blocks of channels, tiles of images (six where Winograd's transformation is used) and vectors.
_BLOCKS = (4.0, 6.0, 16.0)
_FILLING = {
    Amount.COLUMNS: _VECTORS,
    Amount.INNER: _VECTORS,
    Amount.CHANNELS_READ: _BLOCKS,
    Amount.CHANNELS_WRITTEN: _BLOCKS,
    Amount.WIDTH: _BLOCKS,
    Amount.HEIGHT: _BLOCKS,
    Amount.RUN: _BLOCKS,
}
_FILLING_COLUMNS = np.array(list(_FILLING))
_LANES = np.array(list(_FILLING.values()))  # (N, L)
_NEAR_BYTES = 2e6  # a cache near the core, as most have it
_COMPANY = 4
FEATURE_COUNT = (
    _LOGS + 5 + _LANES.size + _COMPANY + len(Flag) + 2 * len(Neighbour)
    + len(CLASSES) + len(KIND_NAMES) + len(PRECISIONS)
)  # fmt: skip


_LAST_LOG = _LOGS + 5
_LAST_FILLED = _LAST_LOG + _LANES.size
_FLAGS = _LAST_FILLED + _COMPANY
_BEFORE = _FLAGS + len(Flag)
_BEHIND = _BEFORE + len(Neighbour)
_CLASSES = _BEHIND + len(Neighbour)
_KINDS = _CLASSES + len(CLASSES)
_PRECISIONS = _KINDS + len(KIND_NAMES)


def kernel_features(graph: ModelGraph, table: KernelTable) -> NDArray[np.float32]:
    """(K, FEATURE_COUNT), of the order of one, all finite."""
    return stacked_features(graph, StackedTables(table, (len(table),)))


def stacked_features(graph: ModelGraph, stacked: StackedTables) -> NDArray[np.float32]:
    """The same of a graph's tables in several views, under each other."""
    table = stacked.table
    amounts = table.amounts
    features = np.zeros((len(table), FEATURE_COUNT), dtype=np.float32)
    moved = amounts[:, Amount.BYTES_READ] + amounts[:, Amount.BYTES_WRITTEN]
    _write_logs(features, table, moved)
    features[:, _LAST_LOG:_LAST_FILLED] = _filled(table)
    _write_company(features[:, _LAST_FILLED:_FLAGS], graph, stacked, moved)
    features[:, _FLAGS:_BEFORE] = table.flags
    features[:, _BEFORE:_BEHIND] = table.before
    features[:, _BEHIND:_CLASSES] = table.behind
    fields, starts = features.reshape(-1), np.arange(0, features.size, FEATURE_COUNT)
    fields[starts + (_KINDS + table.kinds)] = table.kinds >= 0  # -1: the field before, written next
    fields[starts + (_CLASSES + table.classes)] = 1.0
    fields[starts + (_PRECISIONS + table.precisions)] = 1.0
    return features


def as_run_by(features: NDArray[np.float32], *, converts: bool) -> NDArray[np.float32]:
    """The features (K, F) of a graph whose weights a caller may replace, as a runtime runs it: one that
    converts the file takes them for constants; another has blocks of channels for constants alone.
    """
    own = features.copy()
    if converts:
        own[:, _FLAGS + Flag.REPLACEABLE_WEIGHTS] = 0.0
    else:
        is_off = own[:, Amount.OFF_BLOCKS] > 0
        own[is_off, Amount.ON_BLOCKS] = own[is_off, Amount.REARRANGED_BYTES] = 0.0
    own[:, Amount.OFF_BLOCKS] = 0.0
    return own


def has_replaceable(features: NDArray[np.float32]) -> bool:
    """Whether a caller may replace weights of these kernels (K, F)."""
    return bool((features[:, _FLAGS + Flag.REPLACEABLE_WEIGHTS] > 0).any())


def _write_logs(features: NDArray[np.float32], table: KernelTable, moved: Floats) -> None:
    """What is known of the kernel by its size. The fields derived here: arithmetic intensity; per launch the
    working set, the multiply-accumulates and the weights that come from memory; the weights of a product.
    """
    amounts = table.amounts
    macs = amounts[:, Amount.MACS]
    launches = np.maximum(amounts[:, Amount.LAUNCHES], 1.0)
    counted = np.empty((len(amounts), _LAST_LOG))
    counted[:, :_LOGS] = amounts[:, :_LOGS]
    counted[:, _LOGS] = 0.0
    derived = counted[:, _LOGS + 1 :]
    derived[:, 0] = moved / launches
    derived[:, 1] = macs / launches
    derived[:, 2] = weight_traffic(table, _NEAR_BYTES)[1] / launches
    derived[:, 3] = amounts[:, Amount.INNER] * amounts[:, Amount.COLUMNS]
    np.log1p(counted, out=counted)
    np.divide(counted, 8.0, out=features[:, :_LAST_LOG], casting="same_kind")
    features[:, _LOGS] = np.log((macs + 1.0) / (moved + 1.0)) / 4.0


def _filled(table: KernelTable) -> Floats:
    """Share of the last vector's lanes that is used, over all vectors, (K, N * L) for N sizes; one where
    there is nothing to fill them. The outputs of a product lie along its columns; a depthwise filter sees
    one channel, so there they lie along the channels.
    """
    sizes = table.amounts.take(_FILLING_COLUMNS, axis=1)
    is_depthwise = table.flags[:, Flag.DEPTHWISE] > 0
    if is_depthwise.any():
        sizes[is_depthwise, 0] *= table.amounts[is_depthwise, Amount.GROUPS]
    sizes = sizes[:, :, None]
    lanes = np.ceil(np.maximum(sizes, 1.0) / _LANES)
    lanes *= _LANES
    filled: Floats = np.where(sizes > 0, sizes / lanes, 1.0)
    return filled.reshape(len(sizes), -1)


def _write_company(
    columns: NDArray[np.float32], graph: ModelGraph, stacked: StackedTables, moved: Floats
) -> None:
    """The same for all kernels of a graph in a view: what else wants the caches."""
    amounts = stacked.table.amounts
    batch = max((tensor.shape[0] for tensor in graph.inputs if tensor.shape), default=1)
    starts = (0, *stacked.ends[:-1])
    rows = np.empty((len(starts), _COMPANY))
    rows[:, 0] = amounts[starts, Amount.GRAPH_WEIGHT_BYTES]
    rows[:, 1] = np.add.reduceat(amounts[:, Amount.BYTES_WRITTEN], starts)
    rows[:, 2] = np.maximum.reduceat(moved, starts)
    rows[:, 3] = batch
    for start, end, row in zip(starts, stacked.ends, np.log1p(rows) / 8.0, strict=True):
        columns[start:end] = row
