"""Where a kernel's weights come from: the cache near the core, or the memory behind it.

Weights are read once in an inference, in the same order every time. So it is the weights of the whole graph
that must fit the cache, not those of the kernel: of a set that is read in turn and does not fit, the part
that comes next is always the part that was evicted. A recurrent kernel reads the weights of its state anew
at every step, and for those only their own size matters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from predictor.kernel_costs.rows import CLASSES, PRECISIONS, Amount
from predictor.kernel_costs.table import KernelTable
from predictor.roofline import KernelClass

Floats = NDArray[np.float64]

_BYTES_BY_PRECISION = {"float16": 2.0, "int8": 1.0, "low_bit": 0.5, "float64": 8.0}
_BYTES = np.array([_BYTES_BY_PRECISION.get(name, 4.0) for name in PRECISIONS])
_RECURRENT = CLASSES.index(KernelClass.RECURRENT)
_GATES = 3.5  # GRU has three, LSTM four
_FADES_OVER = 0.5  # of a cache's size: what exceeds it by more leaves nothing


def weight_traffic(
    table: KernelTable, cache_bytes: float, *, winograd_growth: float = 1.0
) -> tuple[Floats, Floats]:
    """Bytes of weights that K kernels find in a cache of this size, and that they do not, each (K,), all
    launches together. Weights that Winograd's transformation takes are `winograd_growth` times as large.
    """
    amounts = table.amounts
    weights, in_turn = amounts[:, Amount.WEIGHT_BYTES], amounts[:, Amount.GRAPH_WEIGHT_BYTES]
    if winograd_growth != 1.0:
        weights = weights + (winograd_growth - 1.0) * amounts[:, Amount.WINOGRAD_BYTES]
        in_turn = in_turn + (winograd_growth - 1.0) * amounts[:, Amount.GRAPH_WINOGRAD_BYTES]
    kept = weights * _kept(in_turn, cache_bytes)
    streamed = weights - kept
    recurrent = (table.classes == _RECURRENT).nonzero()[0]
    if len(recurrent):
        again, kept_again = _read_again(amounts[recurrent], table.precisions[recurrent], cache_bytes)
        kept[recurrent] += kept_again
        streamed[recurrent] = weights[recurrent] + again - kept[recurrent]
    return kept, streamed


def _read_again(amounts: Floats, precisions: NDArray[np.int64], cache_bytes: float) -> tuple[Floats, Floats]:
    """Bytes of their state's weights that recurrent kernels read behind the first step, and those among them
    that they find in the cache.
    """
    weights, bytes_each = amounts[:, Amount.WEIGHT_BYTES], _BYTES[precisions]
    inner, columns = amounts[:, Amount.INNER], amounts[:, Amount.COLUMNS]
    products = weights / bytes_each * np.maximum(amounts[:, Amount.ROWS], 1.0)
    later_steps = np.maximum(amounts[:, Amount.MACS] / np.maximum(products, 1.0) - 1.0, 0.0)
    again = weights * columns / np.maximum(inner + columns, 1.0) * later_steps
    return again, again * _kept(_GATES * columns**2 * bytes_each, cache_bytes)


def _kept(bytes_in_turn: Floats, cache_bytes: float) -> Floats:
    """Share of what is read in turn that a cache still has. One that forgets what was read longest ago would
    have nothing as soon as it is too small; real ones keep some.
    """
    excess = bytes_in_turn / cache_bytes - 1.0
    share: Floats = np.minimum(np.maximum(1.0 - excess / _FADES_OVER, 0.0), 1.0)
    return share
