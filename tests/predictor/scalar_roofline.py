"""The nominal times of one kernel, written out plainly: what `nominal_times` must give for all at once."""

from __future__ import annotations

from predictor.kernels import Kernel
from predictor.kinds import Family
from predictor.roofline import EFFICIENCY, KernelClass, Machine, Slopes, class_of

_SHORT_FLOATS = ("float16", "bfloat16")
_BYTES = {
    "float16": 2.0, "bfloat16": 2.0, "int8": 1.0, "uint8": 1.0, "int4": 0.5, "uint4": 0.5, "float64": 8.0,
}  # fmt: skip
_CONV_INTEGER = 0.35
_UNROLL_CYCLES = 0.75
_MATRIX = (KernelClass.GEMM, KernelClass.GEMV, KernelClass.RECURRENT)


def times_ms(kernel: Kernel, machine: Machine, graph_weight_bytes: float) -> dict[KernelClass, float]:
    """Nominal milliseconds by class: the kernel's own, its launch, and conversions that the precision
    forces. `graph_weight_bytes`: of one launch of each kernel beside it.
    """
    kind = class_of(kernel)
    is_idle = kernel.family in (Family.VIEW, Family.CONTROL)
    launch_s = (machine.view_s if is_idle else machine.launch_s) * kernel.launches
    if kind is KernelClass.RECURRENT:
        launch_s *= machine.habits.step_launches
    times = {KernelClass.LAUNCH: 1e3 * launch_s}
    if is_idle:
        return times
    arithmetic_s = _arithmetic_s(kernel, kind, machine)
    arithmetic_s += kernel.work / machine.work_per_s + _scalar_cycles(kernel, machine) / machine.cycles_per_s
    if kernel.precision in _SHORT_FLOATS and kind in EFFICIENCY and kind is not KernelClass.RECURRENT:
        is_aliased = kind is KernelClass.CONV and kernel.rows % 1024 == 0
        longer = machine.habits.half_aliasing if is_aliased else 1.0
        arithmetic_s += longer * machine.habits.half_mac_cycles * kernel.macs / machine.cycles_per_s
    if kind is KernelClass.CONV and not _is_pointwise(kernel):
        unfolded = kernel.rows * kernel.inner * kernel.groups  # of one image
        if 4 * unfolded > machine.cache_bytes:
            cycles = machine.habits.unfold_cycles * unfolded * kernel.launches
            arithmetic_s += cycles / machine.cycles_per_s
    if kernel.anchor.kind == "LSTM":
        arithmetic_s += machine.habits.lstm_weight_cycles * kernel.weight_bytes / 4 / machine.cycles_per_s
    times[kind] = 1e3 * (arithmetic_s + _memory_s(kernel, machine, graph_weight_bytes))
    if kernel.precision in _SHORT_FLOATS and not machine.has_short_floats:
        elements = (kernel.bytes_moved - kernel.weight_bytes) / 2
        converted_s = 2.0 * elements / machine.work_per_s
        times[KernelClass.CONVERT] = times.get(KernelClass.CONVERT, 0.0) + 1e3 * converted_s
    return times


def _arithmetic_s(kernel: Kernel, kind: KernelClass, machine: Machine) -> float:
    if not kernel.macs:
        return 0.0
    is_product = kind in _MATRIX or _is_pointwise(kernel)
    peak = machine.product_macs_per_s if is_product else machine.macs_per_s
    rate = peak * EFFICIENCY.get(kind, 0.5)
    if kind in (KernelClass.INT8, KernelClass.DYNAMIC_INT8):
        rate *= machine.int8_speedup
        rate *= _CONV_INTEGER if kernel.anchor.kind == "ConvInteger" else 1.0
    elif kernel.precision == "float64":
        rate *= 0.5
    elif kernel.precision in _SHORT_FLOATS:
        rate /= machine.habits.half_slowdown
    if kind is KernelClass.DEPTHWISE:
        return kernel.macs / (min(rate, machine.cycles_per_s) if _is_generic(kernel, machine) else rate)
    arithmetic_s = kernel.macs / (rate * _use_of_lanes(kernel, machine.lanes))
    if kernel.family is Family.CONV and _is_generic(kernel, machine):
        unrolled = kernel.rows * kernel.inner * kernel.groups * kernel.launches
        arithmetic_s += _UNROLL_CYCLES * unrolled / machine.cycles_per_s
    return arithmetic_s


def _scalar_cycles(kernel: Kernel, machine: Machine) -> float:
    """Of models whose slopes have no axis of a batch, that have no pools of bytes and whose transpositions
    move one axis.
    """
    slow = machine.habits.slow_slopes
    is_fast = kernel.anchor.kind == "PRelu" and slow is not None and slow is not Slopes.UNRANKED
    return 0.0 if is_fast else kernel.scalar_cycles


def _is_pointwise(kernel: Kernel) -> bool:
    return kernel.anchor.kind == "Conv" and set(kernel.anchor.attributes.get("kernel_shape", ())) <= {1}


def _is_generic(kernel: Kernel, machine: Machine) -> bool:
    """A convolution whose weights cannot be laid out in vectors of filters: the image is unrolled into a
    matrix instead.
    """
    filters = kernel.columns * kernel.groups if kernel.is_depthwise else kernel.columns
    return filters % machine.lanes != 0 or kernel.has_replaceable_weights


def _use_of_lanes(kernel: Kernel, lanes: int) -> float:
    """Vectors are filled along the columns, and a sum over few products does not hide its loads and
    stores.
    """
    if not kernel.columns:
        return 1.0
    filled = kernel.columns / (-(-kernel.columns // lanes) * lanes)
    if kernel.family is Family.CONV and kernel.columns < lanes:
        filled = max(filled, min(kernel.rows, lanes) / lanes * 0.5)  # few channels: along the image instead
    return filled * kernel.inner / (kernel.inner + 16.0)


def _memory_s(kernel: Kernel, machine: Machine, graph_weight_bytes: float) -> float:
    """Level by level: what a level holds comes from there, unless a nearer one holds it too."""
    levels = (
        (machine.cache_bytes, machine.cache_bytes_per_s),
        (machine.shared_cache_bytes, machine.shared_cache_bytes_per_s),
        (float("inf"), machine.memory_bytes_per_s),
    )
    total_s, held = 0.0, 0.0
    for size, rate in levels:
        within = _held(kernel, size, graph_weight_bytes)
        total_s += (within - held) / rate
        held = within
    return total_s


def _held(kernel: Kernel, size: float, graph_weight_bytes: float) -> float:
    """Bytes that the kernel moves and that a level of this size has at hand."""
    launches = max(kernel.launches, 1)
    moved = max(kernel.bytes_moved - kernel.weight_bytes, 0.0) / launches
    held = min(moved, size) * launches + kernel.weight_bytes * _kept(graph_weight_bytes, size)
    if kernel.family is Family.RECURRENT:
        width = _BYTES.get(kernel.precision, 4.0)
        steps = kernel.macs / max(kernel.weight_bytes / width * max(kernel.rows, 1), 1.0)
        of_state = kernel.columns / (kernel.inner + kernel.columns)
        state = 3.5 * kernel.columns**2 * width
        held += of_state * kernel.weight_bytes * max(steps - 1.0, 0.0) * _kept(state, size)
    return held


def _kept(bytes_in_turn: float, size: float) -> float:
    """Read in turn, again and again: of what exceeds the size by half, nothing is left when it is wanted."""
    return min(max(3.0 - 2.0 * bytes_in_turn / size, 0.0), 1.0)
