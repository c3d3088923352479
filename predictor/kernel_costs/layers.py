"""From a runtime's layer profile to the kernels of a graph: which kernel each executed node belongs to.

Runtimes name what they run after one of the operators that it came from, with something before or behind
("relu_7_nchwc", "fused conv_6"). Nodes that belong to no operator (reordered layouts) stay with nobody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from devices.measurement import LayerProfile
from predictor.kernels import Kernel

_NS_PER_MS = 1e6
_ADDED = re.compile(r"^fused |_nchwc$|_token_\d+$|/\w+Fusion/?$|_quant$")
_USUAL_SCALE = (0.5, 1.2)  # a profiled run is slower than a timed one, and some of it is the profiler's


def timed_kernels(kernels: Sequence[Kernel], profile: LayerProfile, median_ms: float) -> NDArray[np.float64]:
    """Milliseconds (K + 1,) of each kernel within a run of `median_ms`; NaN where no executed node bears the
    name of a member, and for the call.
    """
    homes = {op.name: index for index, kernel in enumerate(kernels) for op in kernel.members if op.name}
    timed = np.full(len(kernels) + 1, np.nan)
    total_ns = sum(layer.median_ns for layer in profile.layers) / max(profile.coverage, 1e-6)
    scale = float(np.clip(median_ms * _NS_PER_MS / max(total_ns, 1.0), *_USUAL_SCALE))
    for layer in profile.layers:
        name = layer.name
        while name not in homes and (shorter := _ADDED.sub("", name)) != name:
            name = shorter
        if name in homes:
            home = homes[name]
            before = 0.0 if np.isnan(timed[home]) else timed[home]
            timed[home] = before + scale * layer.median_ns / _NS_PER_MS
    return timed
