"""A graph as numbers: what decides about its latency on a kind of runtime, in physical units, log-scaled
and versioned.

The first features are the nominal milliseconds of each class of kernels (`predictor.roofline`): the
physical prior that adaptation corrects by one factor per class. The rest describe the graph itself. Sizes
are logarithms with a floor, so that nothing is minus infinity: `exp(feature) - floor` gives the size back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.target import Hardware, Runtime
from predictor.graph import ModelGraph
from predictor.kernels import Kernel, kernels_of
from predictor.kinds import Family
from predictor.roofline import KernelClass, class_of, machine_of, times_ms

FEATURE_VERSION = 2  # raise it when the same graph gets other numbers: older checkpoints are then refused

CLASSES: tuple[KernelClass, ...] = tuple(KernelClass)
_TIME_FLOOR_MS = 1e-9
_SAME_KERNEL = {
    "Gemm": "MatMul", "com.microsoft/FusedGemm": "MatMul", "com.microsoft/FusedMatMul": "MatMul",
    "com.microsoft/FusedConv": "Conv", "QLinearConv": "Conv", "QLinearMatMul": "MatMul",
}  # fmt: skip
_FUSES_CHAINS = frozenset(("openvino", "tensorrt"))

_DESCRIPTIONS = (
    "log_nominal_ms",
    "log_kernels",
    "log_operators",
    "log_depth",
    "log_macs_conv",
    "log_macs_depthwise",
    "log_macs_matmul",
    "log_macs_recurrent",
    "log_macs_float",
    "log_macs_int8",
    "log_macs_low_bit",
    "log_weight_bytes",
    "log_activation_bytes",
    "log_working_set_bytes",
    "log_moves",
    "cache_pressure",
)
FEATURE_NAMES: tuple[str, ...] = (*(f"log_ms_{kind.value}" for kind in CLASSES), *_DESCRIPTIONS)


@dataclass(frozen=True, slots=True)
class Described:
    """The features of one graph. `values` (F,) in the order of `FEATURE_NAMES`; `shares`: of the nominal
    time, by kind of kernel.
    """

    values: NDArray[np.float64]
    shares: Mapping[str, float]

    @property
    def family(self) -> str:
        """The class of kernels that the graph spends most of its nominal time in."""
        return CLASSES[int(np.argmax(self.values[: len(CLASSES)]))].value


def features_of(graph: ModelGraph, runtime: Runtime, hardware: Hardware) -> NDArray[np.float64]:
    """Features (F,), in the order of `FEATURE_NAMES`; all finite."""
    return describe(graph, runtime, hardware).values


def describe(graph: ModelGraph, runtime: Runtime, hardware: Hardware) -> Described:
    """Features, and the share that each kind of kernel has in the nominal time."""
    machine = machine_of(runtime, hardware)
    kernels = kernels_of(graph, fuses_chains=runtime.engine in _FUSES_CHAINS)
    by_class = defaultdict(float, {KernelClass.CALL: 1e3 * machine.call_s})
    by_kind: defaultdict[str, float] = defaultdict(float)
    for kernel in kernels:
        times = times_ms(kernel, machine)
        for kind, time_ms in times.items():
            by_class[kind] += time_ms
        by_kind[_kind_of(kernel)] += sum(times.values()) - times[KernelClass.LAUNCH]
    total = max(sum(by_class.values()), _TIME_FLOOR_MS)
    values = [float(np.log(by_class[kind] + _TIME_FLOOR_MS)) for kind in CLASSES]
    values += _described(graph, kernels, total_ms=total, cache_bytes=machine.cache_bytes)
    shares = {kind: time / total for kind, time in by_kind.items() if time > 0}
    return Described(np.asarray(values, dtype=np.float64), shares)


def class_times_ms(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nominal milliseconds by class (..., C) from features (..., F)."""
    return np.exp(values[..., : len(CLASSES)])


def _kind_of(kernel: Kernel) -> str:
    """What a kernel counts as when asking whether a target ever ran the like: `Conv (int8)`, `Softmax`."""
    name = _SAME_KERNEL.get(kernel.anchor.full_kind, kernel.anchor.full_kind)
    if class_of(kernel) is KernelClass.DEPTHWISE:
        return f"{name} (depthwise)"
    if kernel.family in (Family.CONV, Family.MATMUL, Family.RECURRENT) and kernel.precision != "float32":
        return f"{name} ({kernel.precision})"
    return name


def _described(
    graph: ModelGraph, kernels: Sequence[Kernel], *, total_ms: float, cache_bytes: float
) -> list[float]:
    macs: Counter[str] = Counter()
    for kernel in kernels:
        macs[_product_name(kernel)] += kernel.macs
        macs[_precision_name(kernel.precision)] += kernel.macs
    launched = [kernel for kernel in kernels if kernel.family not in (Family.VIEW, Family.CONTROL)]
    working_set = max((kernel.bytes_moved / max(kernel.launches, 1) for kernel in kernels), default=0.0)
    moves = sum(kernel.launches for kernel in kernels if kernel.family is Family.MOVE)
    sizes = [
        sum(kernel.launches for kernel in launched),
        sum(op.repeats for op in graph.operators),
        graph.depth,
        *(macs[name] for name in ("conv", "depthwise", "matmul", "recurrent", "float", "int8", "low_bit")),
        graph.weight_bytes,
        sum(kernel.bytes_written for kernel in kernels),
        working_set,
        moves,
    ]
    pressure = np.log1p((graph.weight_bytes + working_set) / cache_bytes)
    return [float(np.log(total_ms)), *(float(np.log1p(float(size))) for size in sizes), float(pressure)]


def _product_name(kernel: Kernel) -> str:
    if kernel.is_depthwise:
        return "depthwise"
    return {Family.CONV: "conv", Family.RECURRENT: "recurrent"}.get(kernel.family, "matmul")


def _precision_name(precision: str) -> str:
    if precision in ("int8", "uint8"):
        return "int8"
    return "low_bit" if precision in ("int4", "uint4", "int2", "uint2") else "float"
