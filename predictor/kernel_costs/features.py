"""What the cost network sees of a kernel: logarithms of what it does, what it is, and in what company it
runs.

No feature depends on a target, and none names a model: a kernel of an unknown network looks like the kernels
of known ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predictor.graph import ModelGraph
from predictor.kernel_costs.rows import FIXED_AMOUNTS, FLAGS, INDICES, numbers_of
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

FEATURE_VERSION = 15  # raise it when the same graph gets other numbers: older checkpoints are then refused

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


_SURROUNDED = _LOGS - FIXED_AMOUNTS.stop  # amounts that depend on the graph around a kernel
_STREAMED = _LOGS + 3  # bytes of weights from memory, per launch
_LAST_LOG = _LOGS + 5
_LAST_FILLED = _LAST_LOG + _LANES.size
_FLAGS = _LAST_FILLED + _COMPANY
_BEFORE = _FLAGS + len(Flag)
_BEHIND = _BEFORE + len(Neighbour)
_CLASSES = _BEHIND + len(Neighbour)
_KINDS = _CLASSES + len(CLASSES)
COMPANY = tuple(range(_LAST_FILLED, _FLAGS))  # what is the same for all kernels of a graph in a view
_PRECISIONS = _KINDS + len(KIND_NAMES)


def kernel_features(graph: ModelGraph, table: KernelTable) -> NDArray[np.float32]:
    """(K, FEATURE_COUNT), of the order of one, all finite."""
    indices = np.stack([table.classes, table.kinds, table.precisions], axis=1)
    features = _fixed_features(table.amounts, table.flags, indices)
    _write_surroundings(features, graph, table, (len(table),))
    return features


def stacked_features(graph: ModelGraph, stacked: StackedTables) -> NDArray[np.float32]:
    """The same of a graph's tables in several views, under each other."""
    new = [row for row in stacked.rows if row.features is None]
    if new:
        numbers = numbers_of(new)
        indices = numbers[:, INDICES].astype(np.int64)
        fixed = _fixed_features(numbers[:, FIXED_AMOUNTS], numbers[:, FLAGS], indices)
        for row, own in zip(new, fixed, strict=True):
            row.features = own.copy()  # which outlives the others
    known = np.concatenate([row.features for row in stacked.rows if row.features is not None])
    features = known.reshape(-1, FEATURE_COUNT).take(stacked.places, axis=0)
    _write_surroundings(features, graph, stacked.table, stacked.ends)
    return features


def _fixed_features(amounts: Floats, flags: Floats, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """What is seen of kernels wherever they run; zero where `_write_surroundings` writes. `indices` (K, 3)
    into classes, kinds and precisions.
    """
    features = np.zeros((len(amounts), FEATURE_COUNT), dtype=np.float32)
    _write_logs(features, amounts)
    features[:, _LAST_LOG:_LAST_FILLED] = _filled(amounts, flags)
    features[:, _FLAGS:_BEFORE] = flags
    fields, starts = features.reshape(-1), np.arange(0, features.size, FEATURE_COUNT)
    classes, kinds, precisions = indices.T
    fields[starts + (_KINDS + kinds)] = kinds >= 0  # -1: the field before, written next
    fields[starts + (_CLASSES + classes)] = 1.0
    fields[starts + (_PRECISIONS + precisions)] = 1.0
    return features


def _write_surroundings(
    features: NDArray[np.float32], graph: ModelGraph, table: KernelTable, ends: Sequence[int]
) -> None:
    """What is seen of kernels in this graph, view by view."""
    amounts = table.amounts
    launches = np.maximum(amounts[:, Amount.LAUNCHES], 1.0)
    counted = np.empty((len(amounts), _SURROUNDED + 1))
    counted[:, :_SURROUNDED] = amounts[:, FIXED_AMOUNTS.stop : _LOGS]
    counted[:, _SURROUNDED] = weight_traffic(table, _NEAR_BYTES)[1] / launches
    logs = np.log1p(counted) / 8.0
    features[:, FIXED_AMOUNTS.stop : _LOGS] = logs[:, :_SURROUNDED]
    features[:, _STREAMED] = logs[:, _SURROUNDED]
    _write_company(features[:, _LAST_FILLED:_FLAGS], graph, amounts, ends)
    features[:, _BEFORE:_BEHIND] = table.before
    features[:, _BEHIND:_CLASSES] = table.behind


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


def _write_logs(features: NDArray[np.float32], amounts: Floats) -> None:
    """What is known of the kernel by its size. The fields derived here: arithmetic intensity; per launch the
    working set and the multiply-accumulates; the weights of a product.
    """
    macs, moved = amounts[:, Amount.MACS], _moved(amounts)
    launches = np.maximum(amounts[:, Amount.LAUNCHES], 1.0)
    counted = np.zeros((len(amounts), _LAST_LOG))
    counted[:, FIXED_AMOUNTS] = amounts[:, FIXED_AMOUNTS]
    derived = counted[:, _LOGS + 1 :]
    derived[:, 0] = moved / launches
    derived[:, 1] = macs / launches
    derived[:, 3] = amounts[:, Amount.INNER] * amounts[:, Amount.COLUMNS]
    np.log1p(counted, out=counted)
    np.divide(counted, 8.0, out=features[:, :_LAST_LOG], casting="same_kind")
    features[:, _LOGS] = np.log((macs + 1.0) / (moved + 1.0)) / 4.0


def _moved(amounts: Floats) -> Floats:
    moved: Floats = amounts[:, Amount.BYTES_READ] + amounts[:, Amount.BYTES_WRITTEN]
    return moved


def _filled(amounts: Floats, flags: Floats) -> Floats:
    """Share of the last vector's lanes that is used, over all vectors, (K, N * L) for N sizes; one where
    there is nothing to fill them. The outputs of a product lie along its columns; a depthwise filter sees
    one channel, so there they lie along the channels.
    """
    sizes = amounts.take(_FILLING_COLUMNS, axis=1)
    is_depthwise = flags[:, Flag.DEPTHWISE] > 0
    if is_depthwise.any():
        sizes[is_depthwise, 0] *= amounts[is_depthwise, Amount.GROUPS]
    sizes = sizes[:, :, None]
    lanes = np.ceil(np.maximum(sizes, 1.0) / _LANES)
    lanes *= _LANES
    filled: Floats = np.where(sizes > 0, sizes / lanes, 1.0)
    return filled.reshape(len(sizes), -1)


def _write_company(
    columns: NDArray[np.float32], graph: ModelGraph, amounts: Floats, ends: Sequence[int]
) -> None:
    """The same for all kernels of a graph in a view: what else wants the caches."""
    batch = max((tensor.shape[0] for tensor in graph.inputs if tensor.shape), default=1)
    starts = (0, *ends[:-1])
    rows = np.empty((len(starts), _COMPANY))
    rows[:, 0] = amounts[starts, Amount.GRAPH_WEIGHT_BYTES]
    rows[:, 1] = np.add.reduceat(amounts[:, Amount.BYTES_WRITTEN], starts)
    rows[:, 2] = np.maximum.reduceat(_moved(amounts), starts)
    rows[:, 3] = batch
    for start, end, row in zip(starts, ends, np.log1p(rows) / 8.0, strict=True):
        columns[start:end] = row
