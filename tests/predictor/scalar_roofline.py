"""The nominal times of one kernel, written out plainly: what `nominal_times` must give for all at once."""

from __future__ import annotations

from predictor.kernels import Kernel
from predictor.kinds import Family
from predictor.roofline import EFFICIENCY, KernelClass, Machine, class_of

_SHORT_FLOATS = ("float16", "bfloat16")
_CONV_INTEGER = 0.35
_UNROLL_CYCLES = 0.75


def times_ms(kernel: Kernel, machine: Machine) -> dict[KernelClass, float]:
    """Nominal milliseconds by class: the kernel's own, its launch, and conversions that the precision
    forces.
    """
    kind = class_of(kernel)
    is_idle = kernel.family in (Family.VIEW, Family.CONTROL)
    launch_s = (machine.view_s if is_idle else machine.launch_s) * kernel.launches
    times = {KernelClass.LAUNCH: 1e3 * launch_s}
    if is_idle:
        return times
    arithmetic_s = _arithmetic_s(kernel, kind, machine)
    arithmetic_s += kernel.work / machine.work_per_s + kernel.scalar_cycles / machine.cycles_per_s
    times[kind] = 1e3 * max(arithmetic_s, _memory_s(kernel, machine))
    if kernel.precision in _SHORT_FLOATS and not machine.has_short_floats:
        elements = (kernel.bytes_moved - kernel.weight_bytes) / 2
        converted_s = 2.0 * elements / machine.work_per_s
        times[KernelClass.CONVERT] = times.get(KernelClass.CONVERT, 0.0) + 1e3 * converted_s
    return times


def _arithmetic_s(kernel: Kernel, kind: KernelClass, machine: Machine) -> float:
    if not kernel.macs:
        return 0.0
    rate = machine.macs_per_s * EFFICIENCY.get(kind, 0.5)
    if kind is KernelClass.INT8:
        rate *= machine.int8_speedup
    elif kernel.precision == "float64":
        rate *= 0.5
    if kernel.anchor.kind == "ConvInteger":
        rate *= _CONV_INTEGER
    if kind is KernelClass.DEPTHWISE:
        return kernel.macs / (min(rate, machine.cycles_per_s) if _is_generic(kernel, machine) else rate)
    arithmetic_s = kernel.macs / (rate * _use_of_lanes(kernel, machine.lanes))
    if kernel.family is Family.CONV and _is_generic(kernel, machine):
        unrolled = kernel.rows * kernel.inner * kernel.groups * kernel.launches
        arithmetic_s += _UNROLL_CYCLES * unrolled / machine.cycles_per_s
    return arithmetic_s


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


def _memory_s(kernel: Kernel, machine: Machine) -> float:
    """What fits the cache comes from there; the rest streams from memory. Per launch: a loop reads the
    same bytes again.
    """
    per_launch = kernel.bytes_moved / max(kernel.launches, 1)
    near = min(per_launch, machine.cache_bytes)
    once = near / machine.cache_bytes_per_s + (per_launch - near) / machine.memory_bytes_per_s
    return once * kernel.launches
