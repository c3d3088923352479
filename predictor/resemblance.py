"""Which sources a new target should be expected to resemble, before anything is measured on it.

The same runtime on another device, or with another number of threads, is the best witness; then the same
engine where it runs graphs in the same way (`predictor.kernel_costs.table.View`), then the same engine at
another level of optimisation. Of engines and providers that no source has, every source says as much.
Measurements decide (`predictor.few_shot`): this is where they start from, and any source of the engine may
turn out to be the best witness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from devices.target import Runtime
from predictor.few_shot.whole_graphs import ALIKE, FOREIGN, UNLIKE, Expectation
from predictor.kernel_costs.table import view_of

SAME_RUNTIME = 1000.0
SAME_WAY = 100.0
SAME_ENGINE = 10.0
STRANGER = 1.0
NOMINAL = 2.0  # the nominal machine: no stranger's habits
_ABOVE_ALL = 1000.0  # of a single source, or of the nominal machine, that a target may resemble most
# How much speaks for one witness against all of them together by rank, and for a target unlike its sources.
_LOG_PRIORS = {SAME_RUNTIME: 1.0, SAME_WAY: 0.0, SAME_ENGINE: -1.0}
_UNLIKE_LOG_PRIOR = -1.0


def expectations(
    runtime: Runtime, sources: Sequence[Runtime], pooled: Sequence[Runtime] = ()
) -> tuple[Expectation, ...]:
    """What a target of this runtime may be like, over the sources, the nominal machine and pooled targets, in
    this order: as all of them by rank (`source_weights`) or as one source of its engine; unlike the sources
    in its classes of kernels; or nearest to the nominal machine.
    """
    ranked = source_weights(runtime, sources, pooled)
    others = (*sources, None, *pooled)
    found = [Expectation(ranked, ALIKE)]
    for place, other in enumerate(others):
        log_prior = None if other is None else _LOG_PRIORS.get(_resemblance(runtime, other))
        if log_prior is not None:
            found.append(Expectation(_mostly(place, len(others)), ALIKE, log_prior))
    nominal = _mostly(len(sources), len(others))
    for by_class in (UNLIKE, FOREIGN):
        found.append(Expectation(ranked, by_class, _UNLIKE_LOG_PRIOR))
        found.append(Expectation(nominal, by_class, _UNLIKE_LOG_PRIOR))
    return tuple(found)


def _mostly(place: int, count: int) -> NDArray[np.float64]:
    """(count,), nearly all of it in one place."""
    weights = np.full(count, 1.0 / (_ABOVE_ALL + count - 1))
    weights[place] *= _ABOVE_ALL
    return weights


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
