"""Which sources a new target should be expected to resemble, before anything is measured on it.

The same runtime on another device, or with another number of threads, is the best witness; then the same
engine where it runs graphs in the same way (`predictor.kernel_costs.table.View`), then the same engine at
another level of optimisation. Of engines and providers that no source has, every source says as much.
Measurements decide (`predictor.few_shot`): this is where they start from, and any source of the engine may
turn out to be the best witness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from devices.target import Runtime
from predictor.few_shot.whole_graphs import ALIKE, FOREIGN, UNLIKE, Expectation
from predictor.kernel_costs.table import view_of


class _Witness(NamedTuple):
    """What a source has to say of a target: its weight among all, and, if it may also be the one that tells
    most, how much speaks for that against all of them together.
    """

    weight: float
    log_prior: float | None = None


_SAME_RUNTIME = _Witness(1000.0, 1.0)
_SAME_WAY = _Witness(100.0, 0.0)
_SAME_ENGINE = _Witness(10.0, -1.0)
_STRANGER = _Witness(1.0)
_NOMINAL = _Witness(2.0)  # the nominal machine: no stranger's habits
_ABOVE_ALL = 1000.0  # of a single witness
_UNLIKE_LOG_PRIOR = -1.0  # for a target unlike its sources


def expectations(
    runtime: Runtime, sources: Sequence[Runtime], pooled: Sequence[Runtime] = ()
) -> tuple[Expectation, ...]:
    """What a target of this runtime may be like, over the sources, the nominal machine and pooled targets, in
    this order: as all of them by rank (`source_weights`) or as one source of its engine; unlike the sources
    in its classes of kernels; or nearest to the nominal machine.
    """
    witnesses = _witnesses(runtime, sources, pooled)
    ranked = source_weights(runtime, sources, pooled)
    found = [Expectation(ranked, ALIKE)]
    for place, witness in enumerate(witnesses):
        if witness.log_prior is not None:
            found.append(Expectation(_mostly(place, len(witnesses)), ALIKE, witness.log_prior))
    nominal = _mostly(len(sources), len(witnesses))
    for by_class in (UNLIKE, FOREIGN):
        found.append(Expectation(ranked, by_class, _UNLIKE_LOG_PRIOR))
        found.append(Expectation(nominal, by_class, _UNLIKE_LOG_PRIOR))
    return tuple(found)


def source_weights(
    runtime: Runtime, sources: Sequence[Runtime], pooled: Sequence[Runtime] = ()
) -> NDArray[np.float64]:
    """Of the sources, the nominal machine and pooled targets, in this order; they sum to one."""
    weights = [witness.weight for witness in _witnesses(runtime, sources, pooled)]
    together: NDArray[np.float64] = np.asarray(weights) / sum(weights)
    return together


def _witnesses(runtime: Runtime, sources: Sequence[Runtime], pooled: Sequence[Runtime]) -> list[_Witness]:
    known = [_witness(runtime, source) for source in sources]
    return [*known, _NOMINAL, *(_witness(runtime, other) for other in pooled)]


def _witness(runtime: Runtime, source: Runtime) -> _Witness:
    if (runtime.engine, runtime.provider) != (source.engine, source.provider):
        return _STRANGER
    if (runtime.optimization, runtime.precision) == (source.optimization, source.precision):
        return _SAME_RUNTIME
    return _SAME_WAY if view_of(runtime) is view_of(source) else _SAME_ENGINE


def _mostly(place: int, count: int) -> NDArray[np.float64]:
    """(count,), nearly all of it in one place."""
    weights = np.full(count, 1.0 / (_ABOVE_ALL + count - 1))
    weights[place] *= _ABOVE_ALL
    return weights
