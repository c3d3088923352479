"""A nominal machine: how long a kernel would take on a textbook processor with this one's instruction set.

Each kernel takes the longer of its arithmetic and its memory traffic (Williams, Waterman and Patterson,
"Roofline", doi:10.1145/1498765.1498785), plus a launch. The figures are round numbers for a laptop core at
3 GHz, checked against single-operator models of our own on ONNX Runtime and fitted to no real model: what a
target really does is learned as one factor per class of kernels (`predictor.adapt`). The accelerator's
figures are orders of magnitude, not checked yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from devices.target import Hardware, Runtime
from predictor.kernels import Kernel
from predictor.kinds import Family


class KernelClass(StrEnum):
    """Kernels whose speed on a target is off the nominal by a common factor."""

    CONV = "conv"
    DEPTHWISE = "depthwise"
    GEMM = "gemm"
    GEMV = "gemv"  # few rows: bound by reading the weights
    RECURRENT = "recurrent"
    INT8 = "int8"
    LOW_BIT = "low_bit"  # weights in 4 or 2 bits
    ELEMENTWISE = "elementwise"
    NORMALISE = "normalise"
    MOVE = "move"
    CONVERT = "convert"
    LAUNCH = "launch"
    CALL = "call"  # no kernel: from the caller to the first one and back, whatever the model


GEMV_ROWS = 4  # up to here a product with a weight matrix is bound by reading it
_FREQUENCY_HZ = 3e9
_SHORT_FLOATS = ("float16", "bfloat16")
_BY_FAMILY = {
    Family.RECURRENT: KernelClass.RECURRENT,
    Family.ELEMENTWISE: KernelClass.ELEMENTWISE,
    Family.NORMALISE: KernelClass.NORMALISE,
    Family.REDUCE: KernelClass.NORMALISE,
    Family.POOL: KernelClass.NORMALISE,
    Family.MOVE: KernelClass.MOVE,
    Family.SEARCH: KernelClass.MOVE,
    Family.CONVERT: KernelClass.CONVERT,
    Family.VIEW: KernelClass.LAUNCH,
    Family.CONTROL: KernelClass.LAUNCH,
}
# Share of the peak that a good library reaches. Depthwise kernels load about as often as they multiply.
_EFFICIENCY = {
    KernelClass.CONV: 0.6, KernelClass.DEPTHWISE: 0.15, KernelClass.GEMM: 0.7, KernelClass.GEMV: 0.7,
    KernelClass.RECURRENT: 0.4, KernelClass.INT8: 0.5, KernelClass.LOW_BIT: 0.3,
}  # fmt: skip
_CONV_INTEGER = 0.35  # the operator of dynamic quantisation goes through a generic path
_UNROLL_CYCLES = 0.75


@dataclass(frozen=True, slots=True)
class Machine:
    """Nominal rates of the threads (or of the accelerator) that a runtime uses."""

    macs_per_s: float  # float32
    int8_speedup: float  # over float32
    has_short_floats: bool  # computes in float16 or bfloat16 without converting
    lanes: int  # float32 numbers per vector
    work_per_s: float  # simple vector operations, in elements
    cycles_per_s: float  # of all threads together
    cache_bytes: float
    cache_bytes_per_s: float
    memory_bytes_per_s: float
    launch_s: float
    view_s: float  # an operator that moves nothing still passes through the executor
    call_s: float  # from the caller to the first operator and back


def machine_of(runtime: Runtime, hardware: Hardware) -> Machine:
    """Nominal rates for a runtime on a device."""
    if runtime.provider != "cpu":
        return Machine(
            macs_per_s=8e12,
            int8_speedup=2.0,
            has_short_floats=True,
            lanes=32,
            work_per_s=4e11,
            cycles_per_s=4e11,
            cache_bytes=3e7,
            cache_bytes_per_s=2e12,
            memory_bytes_per_s=5e11,
            launch_s=6e-6,
            view_s=1e-6,
            call_s=3e-5,
        )
    lanes, int8_speedup = _vectors(set(hardware.isa_flags))
    threads = max(min(runtime.threads, hardware.logical_cores), 1)
    scale = 1.0 / (0.1 + 0.9 / threads)  # Amdahl, a tenth of the work not shared out
    per_cycle = 2.0 * lanes  # two fused multiply-add pipes
    return Machine(
        macs_per_s=per_cycle * _FREQUENCY_HZ * scale,
        int8_speedup=int8_speedup,
        has_short_floats=False,
        lanes=lanes,
        work_per_s=0.5 * lanes * _FREQUENCY_HZ * scale,
        cycles_per_s=_FREQUENCY_HZ * scale,
        cache_bytes=2e6 * scale,
        cache_bytes_per_s=4e10 * scale,
        memory_bytes_per_s=1.2e10 * min(scale, 4.0),
        launch_s=1e-6 * (1.0 if threads == 1 else 2.0),
        view_s=0.4e-6,
        call_s=5e-6,
    )


def class_of(kernel: Kernel) -> KernelClass:
    """The class that a kernel's time belongs to."""
    if kernel.family not in (Family.CONV, Family.MATMUL):
        return _BY_FAMILY[kernel.family]
    if kernel.precision in ("int4", "uint4", "int2", "uint2"):
        return KernelClass.LOW_BIT
    if kernel.precision in ("int8", "uint8"):
        return KernelClass.INT8
    if kernel.family is Family.CONV:
        return KernelClass.DEPTHWISE if kernel.is_depthwise else KernelClass.CONV
    is_bound_by_weights = kernel.rows <= GEMV_ROWS and kernel.weight_bytes > 0
    return KernelClass.GEMV if is_bound_by_weights else KernelClass.GEMM


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
    rate = machine.macs_per_s * _EFFICIENCY.get(kind, 0.5)
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


def _vectors(flags: set[str]) -> tuple[int, float]:
    """float32 lanes, and how much faster int8 products are than float32 ones."""
    has_dot = bool(flags & {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"})
    int8_speedup = 3.0 if has_dot else 1.7
    if flags & {"amx_int8"}:
        int8_speedup = 5.0
    if "avx512f" in flags:
        return 16, int8_speedup
    if "avx2" in flags or "avx" in flags:
        return 8, int8_speedup
    return 4, int8_speedup
