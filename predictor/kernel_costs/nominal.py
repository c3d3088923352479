"""What kernels would take on a nominal machine (`predictor.roofline`), all kernels of a table at once.

Each kernel takes its arithmetic and its memory traffic, plus a launch; a precision that the machine does not
compute in adds conversions. A roofline has the longer of arithmetic and traffic, as if each hid behind the
other. On processors they hardly do (the execution-cache-memory model of Treibig and Hager,
doi:10.1007/978-3-642-14390-8_64, adds the transfers up too), and where they do is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.kernel_costs.table import CLASSES, KIND_NAMES, PRECISIONS, Amount, Flag, KernelTable
from predictor.kernel_costs.weight_traffic import weight_traffic
from predictor.roofline import EFFICIENCY, Habits, KernelClass, Machine

Floats = NDArray[np.float64]

_CONV_INTEGER = 0.35  # the operator of dynamic quantisation goes through a generic path
_UNROLL_CYCLES = 0.75
_SIGNAL_RANK = 3
_HALF = PRECISIONS.index("float16")
_PRODUCTS = np.array([kind in EFFICIENCY and kind is not KernelClass.RECURRENT for kind in CLASSES])
_EFFICIENCIES = np.array([EFFICIENCY.get(kind, 0.5) for kind in CLASSES])
_MATRIX = [CLASSES.index(kind) for kind in (KernelClass.GEMM, KernelClass.GEMV, KernelClass.RECURRENT)]
_RECURRENT, _CONV = CLASSES.index(KernelClass.RECURRENT), CLASSES.index(KernelClass.CONV)
_LSTM, _TRANSPOSE = KIND_NAMES.index("LSTM"), KIND_NAMES.index("Transpose")
_MAX_POOL, _AVERAGE_POOL = KIND_NAMES.index("MaxPool"), KIND_NAMES.index("AveragePool")
_BYTES = PRECISIONS.index("int8")
_SIZES = np.array([2.0 if name == "float16" else 1.0 if name == "int8" else 4.0 for name in PRECISIONS])
_FLOAT_BYTES = 4.0
_ALIASED_ROWS = 1024.0  # places of an image: then its channels lie on the same lines of a cache near the core
_TILE = 4.0  # results along each axis that Winograd's transformation makes at once, of 6 x 6 products
_TILE_PRODUCTS = 36.0
_SHARING = 4.0  # tiles: loading transformed weights takes as long as multiplying so many by them
_FILTER = 9.0  # elements
_INT8 = [CLASSES.index(kind) for kind in (KernelClass.INT8, KernelClass.DYNAMIC_INT8)]


@dataclass(frozen=True, slots=True)
class NominalTimes:
    """Milliseconds of K kernels, each (K,): their own work, with conversions, and their launches.
    `arithmetic` and `memory` are parts of their own work.
    """

    own: Floats
    launch: Floats
    arithmetic: Floats
    memory: Floats

    @property
    def total(self) -> Floats:
        """(K,)."""
        return self.own + self.launch


def nominal_times(table: KernelTable, machine: Machine, *, has_generic_paths: bool = True) -> NominalTimes:
    """All positive for kernels that compute; views and the call have launches only, unless a change of shape
    is work to the engine.

    `has_generic_paths`: convolutions whose channels do not fill vectors take a slower path, as in libraries
    that lay channels out in vectors. Half of all runtimes do not have this step, so what is learned of them
    is learned on times without it.
    """
    amounts, launches = table.amounts, table.amounts[:, Amount.LAUNCHES]
    is_call = table.classes == CLASSES.index(KernelClass.CALL)
    is_idle = (table.classes == CLASSES.index(KernelClass.LAUNCH)) | is_call
    arithmetic = _arithmetic_s(table, machine, has_generic_paths)
    arithmetic += amounts[:, Amount.WORK] / machine.work_per_s
    scalar = _scalar_cycles(table, machine) / machine.cycles_per_s
    arithmetic += scalar
    memory = _memory_s(table, machine)
    own = np.where(is_idle, scalar, arithmetic + memory + _conversion_s(table, machine))
    if not machine.habits.folds_constants:
        own += _folding_s(amounts[:, Amount.FOLDED_BYTES], machine)
    launch = np.where(is_idle, machine.view_s, machine.launch_s) * launches
    launch = np.where(table.classes == _RECURRENT, machine.habits.step_launches * launch, launch)
    launch = np.where(is_call, machine.call_s, launch)
    return NominalTimes(own=1e3 * own, launch=1e3 * launch, arithmetic=1e3 * arithmetic, memory=1e3 * memory)


def _scalar_cycles(table: KernelTable, machine: Machine) -> Floats:
    """What is computed one by one: everywhere, and where an engine has no better code."""
    amounts, macs, habits = table.amounts, table.amounts[:, Amount.MACS], machine.habits
    cycles: Floats = amounts[:, Amount.SCALAR_CYCLES] + habits.regroup_cycles * amounts[:, Amount.REGROUPED]
    cycles += _moving_cycles(table, habits)
    if habits.unfold_cycles:
        cycles += habits.unfold_cycles * _unfolded(table, machine)
    if habits.slow_slopes is not None:
        slopes = amounts[:, Amount.SLOPES]
        cycles = np.where((slopes > 0) & (slopes != habits.slow_slopes), 0.0, cycles)
    if habits.flat_deconv_cycles:
        is_flat = (table.flags[:, Flag.TRANSPOSED] > 0) & (amounts[:, Amount.RANK] == _SIGNAL_RANK)
        cycles += habits.flat_deconv_cycles * np.where(is_flat, macs, 0.0)
    if habits.half_mac_cycles:
        is_half = (table.precisions == _HALF) & _PRODUCTS[table.classes]
        is_aliased = (table.classes == _CONV) & (amounts[:, Amount.ROWS] % _ALIASED_ROWS == 0)
        longer = np.where(is_aliased, habits.half_aliasing, 1.0)
        cycles += habits.half_mac_cycles * np.where(is_half, longer * macs, 0.0)
    if habits.lstm_weight_cycles:
        weights = amounts[:, Amount.WEIGHT_BYTES] / _FLOAT_BYTES
        cycles += habits.lstm_weight_cycles * np.where(table.kinds == _LSTM, weights, 0.0)
    return cycles


def _unfolded(table: KernelTable, machine: Machine) -> Floats:
    """Numbers that convolutions write out window by window, (K,), where those of an image do not fit into the
    cache near the core.
    """
    amounts = table.amounts
    numbers: Floats = amounts[:, Amount.MACS] / np.maximum(amounts[:, Amount.COLUMNS], 1.0)
    images = np.maximum(amounts[:, Amount.LAUNCHES] * amounts[:, Amount.BATCH], 1.0)
    is_large = _FLOAT_BYTES * numbers > machine.cache_bytes * images
    is_unfolded = (table.classes == _CONV) & (amounts[:, Amount.WINDOW] > 1) & is_large
    return np.where(is_unfolded, numbers, 0.0)


def _moving_cycles(table: KernelTable, habits: Habits) -> Floats:
    """Of transpositions that copy run by run, and of pools of bytes (K,)."""
    amounts = table.amounts
    cycles = np.zeros(len(amounts))
    if habits.scattered_cycles:
        is_scattered = (table.kinds == _TRANSPOSE) & (amounts[:, Amount.IS_TRANSPOSED] > 0)
        run_bytes = np.maximum(amounts[:, Amount.RUN], 1.0) * _SIZES[table.precisions]
        runs = amounts[:, Amount.BYTES_WRITTEN] / run_bytes
        cycles += habits.scattered_cycles * np.where(is_scattered, runs, 0.0)
    per_result, per_element = habits.byte_pool_cycles
    if per_result:
        is_largest = table.kinds == _MAX_POOL
        if habits.has_largest_of_bytes_on_blocks:
            is_largest &= amounts[:, Amount.ON_BLOCKS] == 0
        results = np.where(table.precisions == _BYTES, amounts[:, Amount.BYTES_WRITTEN], 0.0)
        of_largest = per_result + per_element * amounts[:, Amount.WINDOW]
        cycles += results * np.where(is_largest, of_largest, 0.0)
        cycles += results * np.where(table.kinds == _AVERAGE_POOL, per_result, 0.0)
    return cycles


def _arithmetic_s(table: KernelTable, machine: Machine, has_generic_paths: bool) -> Floats:
    amounts = table.amounts
    columns = amounts[:, Amount.COLUMNS]
    macs, transforming = _products(amounts, machine)
    is_any_conv = table.kinds == 0  # KIND_NAMES begins with Conv
    is_product = (is_any_conv & (amounts[:, Amount.WINDOW] <= 1)) | np.isin(table.classes, _MATRIX)
    peak = np.where(is_product, machine.product_macs_per_s, machine.macs_per_s)
    rate = peak * _EFFICIENCIES[table.classes]
    is_int8 = np.isin(table.classes, _INT8)
    rate = np.where(is_int8, rate * machine.int8_speedup, rate)
    rate = np.where(table.precisions == PRECISIONS.index("float64"), 0.5 * rate, rate)
    rate = np.where(table.precisions == _HALF, rate / machine.habits.half_slowdown, rate)
    rate = np.where(is_int8 & (table.flags[:, Flag.INTEGER_CONV] > 0), rate * _CONV_INTEGER, rate)
    is_depthwise = table.classes == CLASSES.index(KernelClass.DEPTHWISE)
    one_each = table.flags[:, Flag.DEPTHWISE] > 0  # in any precision
    filters = np.where(one_each, columns * amounts[:, Amount.GROUPS], columns)
    is_generic = (filters % machine.lanes != 0) | (table.flags[:, Flag.REPLACEABLE_WEIGHTS] > 0)
    is_generic &= has_generic_paths
    slow = np.where(is_generic, np.minimum(rate, machine.cycles_per_s), rate)
    is_conv = is_any_conv & ~is_depthwise
    used = _use_of_lanes(amounts, is_conv, machine.lanes)
    arithmetic: Floats = macs / np.where(is_depthwise, slow, rate * used)
    unrolled = amounts[:, Amount.ROWS] * amounts[:, Amount.INNER] * amounts[:, Amount.GROUPS]
    unrolled = unrolled * amounts[:, Amount.LAUNCHES] * _UNROLL_CYCLES / machine.cycles_per_s
    return arithmetic + transforming + np.where(is_conv & is_generic & (macs > 0), unrolled, 0.0)


def _products(amounts: Floats, machine: Machine) -> tuple[Floats, Floats]:
    """Multiply-accumulates of K kernels as an engine does them, (K,), and seconds of transforming for that:
    by Winograd's transformation a 3x3 filter's are a quarter, where its tiles fill the image (Lavin and Gray,
    doi:10.1109/CVPR.2016.435) and are so many that the weights are loaded for more than a few.
    """
    macs, is_transformed = amounts[:, Amount.MACS], amounts[:, Amount.WINOGRAD_BYTES] > 0
    if not machine.habits.winograd_cycles or not is_transformed.any():
        return macs, np.zeros(len(macs))
    results = np.maximum(amounts[:, Amount.WIDTH] * amounts[:, Amount.HEIGHT], 1.0)
    tiles = np.ceil(amounts[:, Amount.WIDTH] / _TILE) * np.ceil(amounts[:, Amount.HEIGHT] / _TILE)
    fewer = macs * _TILE_PRODUCTS * (tiles + _SHARING) / (_FILTER * results)
    channels = amounts[:, Amount.CHANNELS_READ] + amounts[:, Amount.CHANNELS_WRITTEN]
    numbers = _TILE_PRODUCTS * tiles * channels * amounts[:, Amount.BATCH] * amounts[:, Amount.LAUNCHES]
    seconds = machine.habits.winograd_cycles * numbers / machine.cycles_per_s
    return np.where(is_transformed, fewer, macs), np.where(is_transformed, seconds, 0.0)


def _use_of_lanes(amounts: Floats, is_conv: NDArray[np.bool_], lanes: int) -> Floats:
    """Vectors are filled along the columns, and a sum over few products does not hide its loads and
    stores.
    """
    rows, inner = amounts[:, Amount.ROWS], amounts[:, Amount.INNER]
    columns = np.maximum(amounts[:, Amount.COLUMNS], 1.0)
    filled = columns / (np.ceil(columns / lanes) * lanes)
    along_image = np.minimum(rows, lanes) / lanes * 0.5  # few channels: along the image instead
    filled = np.where(is_conv & (columns < lanes), np.maximum(filled, along_image), filled)
    used: Floats = np.where(amounts[:, Amount.COLUMNS] > 0, filled * inner / (inner + 16.0), 1.0)
    return used


def _memory_s(table: KernelTable, machine: Machine) -> Floats:
    """What the cache near the core holds comes from there, what else the shared one holds from there, and the
    rest streams from memory.
    """
    near, moved = _held(table, machine, machine.cache_bytes)
    within, _ = _held(table, machine, machine.shared_cache_bytes)
    timed: Floats = near / machine.cache_bytes_per_s
    timed += (within - near) / machine.shared_cache_bytes_per_s
    timed += (moved - within) / machine.memory_bytes_per_s
    return timed


def _folding_s(moved: Floats, machine: Machine) -> Floats:
    """Of making constants that read and write so many bytes, (K,), in every run."""
    within = np.minimum(moved, machine.shared_cache_bytes)
    timed: Floats = within / machine.shared_cache_bytes_per_s
    timed += (moved - within) / machine.memory_bytes_per_s
    return timed


def _held(table: KernelTable, machine: Machine, cache_bytes: float) -> tuple[Floats, Floats]:
    """Bytes that K kernels find in a cache of this size, and all that they move, each (K,). Activations are
    there as far as they fit, per launch: a loop reads the same bytes again.
    """
    amounts = table.amounts
    launches = np.maximum(amounts[:, Amount.LAUNCHES], 1.0)
    moved = amounts[:, Amount.BYTES_READ] + amounts[:, Amount.BYTES_WRITTEN]
    per_launch = np.maximum(moved - amounts[:, Amount.WEIGHT_BYTES], 0.0) / launches
    kept, streamed = weight_traffic(table, cache_bytes, winograd_growth=machine.habits.winograd_growth)
    return np.minimum(per_launch, cache_bytes) * launches + kept, per_launch * launches + kept + streamed


def _conversion_s(table: KernelTable, machine: Machine) -> Floats:
    is_short = table.precisions == _HALF
    if machine.has_short_floats or not is_short.any():
        return np.zeros(len(table))
    moved = table.amounts[:, Amount.BYTES_READ] + table.amounts[:, Amount.BYTES_WRITTEN]
    elements = (moved - table.amounts[:, Amount.WEIGHT_BYTES]) / 2.0
    return np.where(is_short, 2.0 * elements / machine.work_per_s, 0.0)
