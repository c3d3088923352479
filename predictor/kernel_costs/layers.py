"""From a runtime's layer profile to the kernels of a graph: which kernel each executed node belongs to.

Runtimes name what they run after one of the operators that it came from, with something before or behind
("relu_7_nchwc", "fused conv_6"). Nodes that belong to no operator (reordered layouts) stay with nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from devices.measurement import LayerProfile
from predictor.kernel_costs.ncnn_layers import ncnn_layers_of
from predictor.kernels import Kernel

_NS_PER_MS = 1e6
# What runtimes put around the name of the operator that a node came from: ONNX Runtime its fusions and
# layouts, OpenVINO its layouts (`image_abcd_acdb_conv_6`) and its low-precision transformations.
_ADDED = re.compile(
    r"^fused |^InsertedPrecisionFreeCast_|^.+_a?[b-f]+a?[b-f]*_a[b-f]+_|_nchwc$|_token_\d+$|/\w+Fusion/?$"
    r"|_quant$|/WithoutBiases$|/DequantizationMultiply$|/fq_\w+$"
)
# OpenVINO's conversions of layout or type between two nodes (`matmulinteger_385_f32_abc_i32_acb_cast_386`).
_BETWEEN = re.compile(r"^(.+?)(?:_(?:[fiu]\d+|a[b-f]+)){2,4}_(.+)$")
# Nodes that a runtime names after their own kind, and the kinds of operators that they stand for.
_NAMED_BY_KIND = re.compile(r"^([A-Za-z]\w*?[A-Za-z]\w*?)(?:_token)?(?:_\d+)?$")
_KINDS = {
    "Gelu": "Gelu", "GPT2Gelu": "Gelu", "FastGelu": "Gelu", "BiasGelu": "Gelu",
    "LayerNormalization": "LayerNormalization", "SkipLayerNormalization": "LayerNormalization",
    "LSTMSequence": "LSTM", "GRUSequence": "GRU", "ConvolutionBackpropData": "ConvTranspose",
    "HardSigmoid": "HardSigmoid", "HardSwish": "HardSwish",
}  # fmt: skip
_MOST_GAINED = 1.2  # by a profiled run that was faster than a timed one
_LEAST_LEFT = 0.2  # of a node without what the profiler takes


def timed_kernels(
    kernels: Sequence[Kernel], profile: LayerProfile, median_ms: float, *, engine: str
) -> NDArray[np.float64]:
    """Milliseconds (K + 1,) of each kernel within a run of `median_ms`; NaN where no executed node is known
    to be that kernel, and for the call.
    """
    measured_ms = _without_profiler(profile, median_ms)
    if engine == "ncnn":
        timed = np.full(len(kernels) + 1, np.nan)
        for home, places in ncnn_layers_of(kernels, [layer.name for layer in profile.layers]).items():
            timed[home] = sum(measured_ms[place] for place in places)
        return timed
    return _timed_by_name(kernels, profile, measured_ms)


def _timed_by_name(
    kernels: Sequence[Kernel], profile: LayerProfile, measured_ms: Sequence[float]
) -> NDArray[np.float64]:
    """NaN where no executed node bears the name of a member. Nodes that are named by their kind are those
    kernels of the kind that have no node of their own, in the order of running, if there are as many.
    """
    homes = {op.name: index for index, kernel in enumerate(kernels) for op in kernel.members if op.name}
    timed = np.full(len(kernels) + 1, np.nan)
    nameless: dict[str, list[float]] = {}
    for layer, own_ms in zip(profile.layers, measured_ms, strict=True):
        home = _home_of(layer.name, homes)
        if home is None and (between := _BETWEEN.match(layer.name)):
            home = _home_of(between[1], homes)
        if home is not None:
            before = 0.0 if np.isnan(timed[home]) else timed[home]
            timed[home] = before + own_ms
        elif (match := _NAMED_BY_KIND.match(layer.name)) and match[1] in _KINDS:
            nameless.setdefault(_KINDS[match[1]], []).append(own_ms)
    for kind, times in nameless.items():
        places = [
            place
            for place, one in enumerate(kernels)
            if one.anchor.kind in (kind, f"Skip{kind}") and np.isnan(timed[place])
        ]
        if len(places) == len(times):
            timed[places] = times
    return timed


def _home_of(name: str, homes: Mapping[str, int]) -> int | None:
    """The kernel of the operator whose name this is, once what was put around it is taken off."""
    while name not in homes and (shorter := _ADDED.sub("", name)) != name:
        name = shorter
    return homes.get(name)


def _without_profiler(profile: LayerProfile, median_ms: float) -> list[float]:
    """Milliseconds of each executed node in a run that is not profiled. A profiler takes about the same for
    every node and as much between two of them. So what the nodes take longer than the timed run is taken off
    all alike, and what is between them is none of the run's; only a profiled run that was shorter as a whole
    was faster.
    """
    layers_ms = [layer.median_ns / _NS_PER_MS for layer in profile.layers]
    covered_ms = sum(layers_ms)
    if covered_ms <= median_ms:
        total_ms = covered_ms / max(profile.coverage, 1e-6)
        faster = min(max(median_ms / max(total_ms, 1e-9), 1.0), _MOST_GAINED)
        return [faster * own_ms for own_ms in layers_ms]
    each_ms = (covered_ms - median_ms) / len(layers_ms)
    left_ms = [max(own_ms - each_ms, _LEAST_LEFT * own_ms) for own_ms in layers_ms]
    scale = median_ms / sum(left_ms)
    return [scale * own_ms for own_ms in left_ms]
