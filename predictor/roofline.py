"""A nominal machine: how long a kernel would take on a textbook processor with this one's instruction set.

Its rates, and the classes of kernels that they hold for (after Williams, Waterman and Patterson, "Roofline",
doi:10.1145/1498765.1498785); `predictor.kernel_costs.nominal` makes times of them. The figures are round
numbers, checked against single-operator models of our own on ONNX Runtime and fitted to no real model: how
far a runtime is off them is learned (`predictor.kernel_costs`). An accelerator's rates are what small
networks see of a large GPU, which they do not fill; its launches were read off one (H200), through PyTorch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import NamedTuple

from devices.target import Hardware, Runtime
from predictor.kernel_making import QUANTISED_ON_THE_WAY, Kernel
from predictor.kinds import Family


class KernelClass(StrEnum):
    """Kernels whose speed on a target is off the nominal by a common factor."""

    CONV = "conv"
    DEPTHWISE = "depthwise"
    GEMM = "gemm"
    GEMV = "gemv"  # few rows: bound by reading the weights
    RECURRENT = "recurrent"
    INT8 = "int8"
    DYNAMIC_INT8 = "dynamic_int8"  # inputs quantised while running: few runtimes have kernels of their own
    LOW_BIT = "low_bit"  # weights in 4 or 2 bits
    ELEMENTWISE = "elementwise"
    NORMALISE = "normalise"
    MOVE = "move"
    CONVERT = "convert"
    LAUNCH = "launch"
    CALL = "call"  # no kernel: from the caller to the first one and back, whatever the model


GEMV_ROWS = 4  # up to here a product with a weight matrix is bound by reading it
_UNSHARED = 0.08  # of a kernel's work, which one thread does alone
_UNFOLD_CYCLES = 8.0  # read off two runtimes that are not in the dataset, OpenCV's and tract
_HANDOVER_S = 1e-6  # from one thread to several and back, for each kernel
CLASS_BY_FAMILY = {
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
EFFICIENCY = {
    KernelClass.CONV: 0.6, KernelClass.DEPTHWISE: 0.15, KernelClass.GEMM: 0.7, KernelClass.GEMV: 0.7,
    KernelClass.RECURRENT: 0.4, KernelClass.INT8: 0.5, KernelClass.DYNAMIC_INT8: 0.5,
    KernelClass.LOW_BIT: 0.7,
}  # fmt: skip


QUANTISED_CLASSES = (KernelClass.INT8, KernelClass.DYNAMIC_INT8, KernelClass.LOW_BIT, KernelClass.CONVERT)
_CONV = Family.CONV
_LOW_BIT_PRECISIONS = frozenset(("int4", "uint4", "int2", "uint2"))


class Slopes(IntEnum):
    """How a file writes the slopes of a PRelu, which not every engine has code for."""

    NONE = 0  # no PRelu
    ONE = 1
    UNRANKED = 2  # one for each channel, (C, 1, 1)
    RANKED = 3  # with as many axes as the image, (1, C, 1, 1)


class Habits(NamedTuple):
    """What the code of an engine does on every processor."""

    widest_lanes: float = math.inf  # float32 numbers per vector
    amd_product_lanes: float = math.inf  # the same of products with matrices, on AMD's processors
    regroup_cycles: float = 0.0  # of an element that a product's result is put back into axes by
    int8_speedup: float = math.inf  # at most: not every engine has code for tiles of integers
    winograd_growth: float = 1.0  # of the weights of 3x3 convolutions, which are stored transformed
    winograd_cycles: float = 0.0  # of a number that images and results are transformed into
    # Of a multiply-accumulate that no vector code has: of transposed convolutions over one axis, and of
    # products in float16.
    flat_deconv_cycles: float = 0.0
    half_mac_cycles: float = 0.0
    half_slowdown: float = 1.0  # of products in float16 where the processor has instructions for them
    half_aliasing: float = 1.0  # so much longer, of convolutions whose images alias in a cache
    lstm_weight_cycles: float = 0.0  # of a weight of an LSTM that is packed anew in every run
    step_launches: float = 1.0  # of a step of a recurrent layer
    unfold_cycles: float = 0.0  # of a number of the windows that convolutions write out to memory
    scattered_cycles: float = 0.0  # of a run of elements that a transposition of several axes copies
    # Of a result of a pool of bytes, and of an element of its window where the largest is looked for, unless
    # there is better code for that on blocks of channels.
    byte_pool_cycles: tuple[float, float] = (0.0, 0.0)
    has_largest_of_bytes_on_blocks: bool = True
    slow_slopes: Slopes | None = None  # the only ones that it applies one by one; None: all
    folds_constants: bool = True  # once, when it loads a model


@dataclass(frozen=True, slots=True)
class Machine:
    """Nominal rates of the threads (or of the accelerator) that a runtime uses."""

    macs_per_s: float  # float32
    product_macs_per_s: float  # the same, of products with matrices and of 1x1 convolutions
    int8_speedup: float  # over float32
    has_short_floats: bool  # computes in float16 or bfloat16 without converting
    lanes: int  # float32 numbers per vector
    work_per_s: float  # simple vector operations, in elements
    cycles_per_s: float  # of all threads together
    cache_bytes: float  # near the cores
    cache_bytes_per_s: float
    shared_cache_bytes: float
    shared_cache_bytes_per_s: float
    memory_bytes_per_s: float
    launch_s: float
    view_s: float  # an operator that moves nothing still passes through the executor
    call_s: float  # from the caller to the first operator and back
    habits: Habits


class _Processor(NamedTuple):
    """A core of a processor and the caches that it sees, in round figures."""

    frequency_hz: float
    widest_lanes: float  # float32 numbers that its arithmetic really takes at once
    cache_bytes: float
    cache_bytes_per_s: float
    shared_cache_bytes: float  # as much as a core has to itself where others run too
    shared_cache_bytes_per_s: float
    memory_bytes_per_s: float
    launch_s: float


_LAPTOP = _Processor(3e9, 16, 2e6, 6e10, 3e7, 2.4e10, 1.2e10, 1e-6)
# Processors that a campaign has met: caches and widths as their vendors say, rates as products with one row
# show them, which do nothing but read their weights (single operators of the dataset; a probe of our own).
# Frequencies and launches are relative to the first, as models that do little else take on two of them,
# whatever the runtime.
_SAPPHIRE_RAPIDS = _Processor(3e9, 16, 2e6, 5e10, 5e7, 2.3e10, 1.3e10, 1e-6)
_ZEN_5 = _Processor(4.6e9, 16, 1e6, 9e10, 2.2e7, 9e10, 3.3e10, 6.5e-7)
_ZEN_4 = _Processor(3.2e9, 8, 1e6, 6e10, 1.5e7, 5e10, 1.4e10, 1.15e-6)
_ZEN_3 = _Processor(2.6e9, 8, 5e5, 6e10, 1.6e7, 4.5e10, 1.7e10, 1.6e-6)

# MNN has no code for vectors of 512 bits in the builds that it ships, ncnn has some: read off what the same
# networks take on two processors. Both transform the weights of 3x3 convolutions for tiles of 4x4 results:
# 6x6 numbers in place of 3x3. The cycles are those of single layers, on three processors.
_HABITS = {
    # Integers as by dot products, where there are tiles of them too. Cycles are those of single layers, on
    # three processors.
    "onnxruntime": Habits(int8_speedup=3.0, scattered_cycles=10.0, byte_pool_cycles=(26.0, 4.6)),
    "mnn": Habits(widest_lanes=8, winograd_growth=4.0, slow_slopes=Slopes.UNRANKED),
    "ncnn": Habits(
        widest_lanes=12,
        regroup_cycles=320.0,
        winograd_growth=4.0,
        winograd_cycles=2.0,
        flat_deconv_cycles=2.0,
    ),
    # It multiplies matrices by MKL, which has vectors of 256 bits for AMD and does not fill them as it does
    # Intel's; in float16 one by one where the processor has no instructions for it, and at half the speed of
    # float32 where it has. A step of a recurrent layer is some calls of its own. Single layers, on six
    # processors.
    "torch": Habits(
        amd_product_lanes=6.5,
        half_mac_cycles=1.8,
        half_slowdown=2.0,
        half_aliasing=4.0,
        lstm_weight_cycles=2.3,
        step_launches=75.0,
        slow_slopes=Slopes.RANKED,
    ),
}
# From the processor to the accelerator, and of views, seconds. Called from Python, a kernel waits for the
# interpreter; a recorded graph has no views left.
_LAUNCHES_S = {("torch", "default"): (2e-5, 4e-6), ("torch", "cuda-graph"): (2.2e-6, 1e-7)}
_WITHOUT_BLOCKS = frozenset(("none", "basic", "extended"))  # ONNX Runtime's optimisations
SHORT_FLOAT_FLAGS = frozenset(("avx512_fp16", "fphp", "asimdhp"))


def machine_of(runtime: Runtime, hardware: Hardware) -> Machine:
    """Nominal rates for a runtime on a device."""
    if runtime.provider != "cpu":
        return _accelerator(runtime)
    lanes, int8_speedup = _vectors(set(hardware.isa_flags))
    threads = max(min(runtime.threads, hardware.logical_cores), 1)
    scale = 1.0 / (_UNSHARED + (1.0 - _UNSHARED) / threads)  # Amdahl's law
    core = _processor(hardware)
    habits = _HABITS.get(runtime.engine, Habits())
    int8_speedup = min(int8_speedup, habits.int8_speedup)
    if runtime.engine == "onnxruntime":
        habits = habits._replace(
            folds_constants=runtime.optimization != "none",
            has_largest_of_bytes_on_blocks=runtime.optimization not in _WITHOUT_BLOCKS,
        )
    if SHORT_FLOAT_FLAGS.isdisjoint(hardware.isa_flags):
        habits = habits._replace(half_slowdown=1.0)
    else:
        habits = habits._replace(half_mac_cycles=0.0)
    widest = min(lanes, core.widest_lanes, habits.widest_lanes)
    of_products = min(widest, habits.amd_product_lanes) if "AMD" in hardware.cpu_model else widest
    macs_per_s = 2.0 * core.frequency_hz * scale  # of one lane: two fused multiply-add pipes
    return Machine(
        macs_per_s=macs_per_s * widest,
        product_macs_per_s=macs_per_s * of_products,
        int8_speedup=int8_speedup,
        has_short_floats=False,
        lanes=lanes,
        work_per_s=0.5 * lanes * core.frequency_hz * scale,
        cycles_per_s=core.frequency_hz * scale,
        cache_bytes=core.cache_bytes * scale,
        cache_bytes_per_s=core.cache_bytes_per_s * scale,
        shared_cache_bytes=core.shared_cache_bytes,
        shared_cache_bytes_per_s=core.shared_cache_bytes_per_s * min(scale, 4.0),
        memory_bytes_per_s=core.memory_bytes_per_s * min(scale, 4.0),
        launch_s=core.launch_s if threads == 1 else core.launch_s + _HANDOVER_S,
        view_s=0.4 * core.launch_s,
        call_s=5.0 * core.launch_s,
        habits=habits,
    )


def unfolding(machine: Machine) -> Machine:
    """The same with an engine that has no code for convolutions but that of matrices: it writes out the
    window of every place (im2col), which is much where the image is large and few channels come of it.
    """
    return replace(machine, habits=machine.habits._replace(unfold_cycles=_UNFOLD_CYCLES))


def _accelerator(runtime: Runtime) -> Machine:
    launch_s, view_s = _LAUNCHES_S.get((runtime.engine, runtime.optimization), (6e-6, 1e-6))
    return Machine(
        macs_per_s=8e12,
        product_macs_per_s=8e12,
        int8_speedup=2.0,
        has_short_floats=True,
        lanes=32,
        work_per_s=4e11,
        cycles_per_s=4e11,
        cache_bytes=3e7,
        cache_bytes_per_s=2e12,
        shared_cache_bytes=3e7,
        shared_cache_bytes_per_s=2e12,
        memory_bytes_per_s=5e11,
        launch_s=launch_s,
        view_s=view_s,
        call_s=9e-5,  # with the copies to the accelerator and back
        habits=Habits(),
    )


def class_of(kernel: Kernel) -> KernelClass:
    """The class that a kernel's time belongs to."""
    family, precision = kernel.family, kernel.precision
    known = CLASS_BY_FAMILY.get(family)
    if known is not None:
        return known
    if precision in _LOW_BIT_PRECISIONS:
        return KernelClass.LOW_BIT
    if precision == "int8" or precision == "uint8":
        is_dynamic = kernel.anchor.full_kind in QUANTISED_ON_THE_WAY
        return KernelClass.DYNAMIC_INT8 if is_dynamic else KernelClass.INT8
    if family is _CONV:
        return KernelClass.DEPTHWISE if kernel.is_depthwise else KernelClass.CONV
    is_bound_by_weights = kernel.rows <= GEMV_ROWS and kernel.weight_bytes > 0
    return KernelClass.GEMV if is_bound_by_weights else KernelClass.GEMM


def _processor(hardware: Hardware) -> _Processor:
    flags = set(hardware.isa_flags)
    if "amx_int8" in flags or "avx512_fp16" in flags:  # tiles are not always shown to a virtual machine
        return _SAPPHIRE_RAPIDS
    if "AMD" in hardware.cpu_model and "avx512f" in flags:
        return _ZEN_5 if "avx_vnni" in flags else _ZEN_4
    if "EPYC" in hardware.cpu_model and "avx2" in flags and "avx512f" not in flags:
        return _ZEN_3
    return _LAPTOP


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
