"""Which sources a new target should be expected to resemble, before anything is measured on it.

The same runtime on another device, or with another number of threads, is the best witness; then the same
engine where it runs graphs in the same way (`predictor.kernel_costs.table.View`), then the same engine at
another level of optimisation. Of engines and providers that no source has, every source says as much.
Measurements decide (`predictor.few_shot`): this is where they start from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from devices.target import Runtime
from predictor.kernel_costs.table import view_of

SAME_RUNTIME = 1000.0
SAME_WAY = 100.0
SAME_ENGINE = 10.0
STRANGER = 1.0
NOMINAL = 2.0  # the nominal machine: no stranger's habits


def source_weights(
    runtime: Runtime, sources: Sequence[Runtime], pooled: Sequence[Runtime] = ()
) -> NDArray[np.float64]:
    """Of the sources, the nominal machine and pooled targets, in this order; they sum to one."""
    weights = [_resemblance(runtime, source) for source in sources]
    weights.append(NOMINAL)
    weights += [_resemblance(runtime, other) for other in pooled]
    together: NDArray[np.float64] = np.asarray(weights) / sum(weights)
    return together


def _resemblance(runtime: Runtime, source: Runtime) -> float:
    if (runtime.engine, runtime.provider) != (source.engine, source.provider):
        return STRANGER
    if (runtime.optimization, runtime.precision) == (source.optimization, source.precision):
        return SAME_RUNTIME
    return SAME_WAY if view_of(runtime) is view_of(source) else SAME_ENGINE
