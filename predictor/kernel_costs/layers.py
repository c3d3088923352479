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
# Nodes that a runtime names after their own kind, perhaps with a number that grows in the file's order, and
# the kinds of operators that they stand for. OpenVINO's Multiply is a convolution that has taken in a batch
# normalisation.
_NAMED_BY_KIND = re.compile(r"^([A-Za-z]\w*?[A-Za-z]\w*?)(?:_token_\d+|_(\d+))?$")
_KINDS = {
    "Multiply": "Conv",
    "Gelu": "Gelu", "GPT2Gelu": "Gelu", "FastGelu": "Gelu", "BiasGelu": "Gelu",
    "LayerNormalization": "LayerNormalization", "SkipLayerNormalization": "LayerNormalization",
    "LSTMSequence": "LSTM", "GRUSequence": "GRU", "ConvolutionBackpropData": "ConvTranspose",
    "HardSigmoid": "HardSigmoid", "HardSwish": "HardSwish",
}  # fmt: skip
# What OpenVINO makes of an operator that quantises while running, under names of its own.
_QUANTISING = frozenset(
    (
        "ReduceMin", "ReduceMax", "Convert", "Multiply", "Subtract", "Divide", "Add", "Round", "Clamp",
        "Negative",
    )
)  # fmt: skip
_MOST_GAINED = 1.2  # by a profiled run that was faster than a timed one
_LEAST_LEFT = 0.2  # of a node without what the profiler takes
_LEAST_TOLD = 0.3  # of a layer's time: where less is left, the rest says nothing
_STARTED_BYTES = 4e3  # that are quantised in the time that starting to quantise takes
_ASKED_BYTES = 15e3  # that take as long to copy as asking for an output takes, whatever its size


def timed_kernels(
    kernels: Sequence[Kernel], profile: LayerProfile, median_ms: float, *, engine: str
) -> NDArray[np.float64]:
    """Milliseconds (K + 1,) of each kernel within a run of `median_ms`; NaN where no executed node is known
    to be that kernel, and for the call.
    """
    if engine == "ncnn":
        return _timed_by_output(kernels, profile, median_ms)
    alike = np.ones(len(profile.layers))
    return _timed_by_name(kernels, profile, _without_profiler(profile, median_ms, alike))


def _timed_by_output(
    kernels: Sequence[Kernel], profile: LayerProfile, median_ms: float
) -> NDArray[np.float64]:
    """Of ncnn, whose layers are timed by asking for their outputs, one after the other. Each is unpacked and
    copied for that, so the profiler takes of each layer by the bytes that it writes.
    """
    told = ncnn_layers_of(kernels, [layer.name for layer in profile.layers])
    copied = _ASKED_BYTES + _written_bytes(kernels, profile, told)
    own_ms = np.array(_without_profiler(profile, median_ms, copied))
    asked_ms = np.array([layer.median_ns for layer in profile.layers]) / _NS_PER_MS
    timed = np.full(len(kernels) + 1, np.nan)
    for home, places in told.items():
        left_ms = float(own_ms[list(places)].sum())
        if left_ms >= _LEAST_TOLD * float(asked_ms[list(places)].sum()):
            timed[home] = left_ms
    return timed


def _written_bytes(
    kernels: Sequence[Kernel], profile: LayerProfile, told: Mapping[int, tuple[int, ...]]
) -> NDArray[np.float64]:
    """Bytes of each layer's output (L,). One that is nobody's mostly passes on what the one before it
    wrote.
    """
    homes = {place: home for home, places in told.items() for place in places}
    written, last = np.zeros(len(profile.layers)), 0
    for place in range(len(written)):
        if place in homes:
            last = kernels[homes[place]].bytes_written
        written[place] = last
    return written


def _timed_by_name(
    kernels: Sequence[Kernel], profile: LayerProfile, measured_ms: Sequence[float]
) -> NDArray[np.float64]:
    """NaN where no executed node bears the name of a member, or is known by its kind."""
    homes = {op.name: index for index, kernel in enumerate(kernels) for op in kernel.members if op.name}
    timed = np.full(len(kernels) + 1, np.nan)
    nameless: dict[str, list[tuple[int, float]]] = {}
    quantising_ms = 0.0
    for layer, own_ms in zip(profile.layers, measured_ms, strict=True):
        home = _home_of(layer.name, homes)
        if home is None and (between := _BETWEEN.match(layer.name)):
            home = _home_of(between[1], homes)
        if home is not None:
            before = 0.0 if np.isnan(timed[home]) else timed[home]
            timed[home] = before + own_ms
        elif match := _NAMED_BY_KIND.match(layer.name):
            if match[1] in _KINDS:
                nameless.setdefault(_KINDS[match[1]], []).append((int(match[2] or 0), own_ms))
            if match[1] in _QUANTISING:
                quantising_ms += own_ms
    for kind, found in nameless.items():
        _add_nameless(timed, kernels, kind, found)
    _add_quantising(timed, kernels, quantising_ms)
    return timed


def _add_quantising(timed: NDArray[np.float64], kernels: Sequence[Kernel], own_ms: float) -> None:
    """What quantises while running is several nodes with names of their own. Their time is told apart by
    what each of those kernels reads.
    """
    places = [place for place, one in enumerate(kernels) if one.anchor.kind == "DynamicQuantizeLinear"]
    if own_ms and places:
        read = np.array([_STARTED_BYTES + kernels[place].bytes_read for place in places])
        timed[places] = np.nan_to_num(timed[places]) + own_ms * read / read.sum()


def _add_nameless(
    timed: NDArray[np.float64], kernels: Sequence[Kernel], kind: str, found: Sequence[tuple[int, float]]
) -> None:
    """Nodes that are named by their kind, with the numbers in their names and their milliseconds, are those
    kernels of the kind that have no node of their own, or all convolutions with a normalisation, in the order
    of the numbers, or of running where they have none, if there are as many.
    """
    places = [
        place
        for place, one in enumerate(kernels)
        if kind == "Conv" or np.isnan(timed[place])
        for _ in range(_nodes_of(one, kind))
    ]
    if len(places) == len(found):
        times = [own_ms for _, own_ms in sorted(found, key=lambda one: one[0])]
        timed[places] = np.nan_to_num(timed[places])
        np.add.at(timed, places, times)


def _nodes_of(kernel: Kernel, kind: str) -> int:
    """How many nodes named by this kind stand for a kernel: one for each direction of a recurrent layer."""
    anchor = kernel.anchor
    if anchor.kind not in (kind, f"Skip{kind}", f"DynamicQuantize{kind}"):
        return 0
    if kind == "Conv":
        return int("BatchNormalization" in [op.kind for op in kernel.members])
    return 2 if anchor.attributes.get("direction") == "bidirectional" else 1


def _home_of(name: str, homes: Mapping[str, int]) -> int | None:
    """The kernel of the operator whose name this is, once what was put around it is taken off."""
    while name not in homes and (shorter := _ADDED.sub("", name)) != name:
        name = shorter
    return homes.get(name)


def _without_profiler(profile: LayerProfile, median_ms: float, weights: NDArray[np.float64]) -> list[float]:
    """Milliseconds of each executed node in a run that is not profiled. What the nodes take longer than the
    timed run is taken off by their `weights` (L,): how the profiler's time falls on them. It takes as much
    again between two of them, and that is none of the run's; only a profiled run that was shorter as a whole
    was faster.
    """
    layers_ms = [layer.median_ns / _NS_PER_MS for layer in profile.layers]
    covered_ms = sum(layers_ms)
    if covered_ms <= median_ms:
        total_ms = covered_ms / max(profile.coverage, 1e-6)
        faster = min(max(median_ms / max(total_ms, 1e-9), 1.0), _MOST_GAINED)
        return [faster * own_ms for own_ms in layers_ms]
    taken_ms = (covered_ms - median_ms) * (weights / weights.sum())
    left_ms = [
        max(own_ms - taken, _LEAST_LEFT * own_ms)
        for own_ms, taken in zip(layers_ms, taken_ms.tolist(), strict=True)
    ]
    scale = median_ms / sum(left_ms)
    return [scale * own_ms for own_ms in left_ms]
