"""Whole graphs for the few-shot head: latencies relative to what the sources would take.

Whole models range over a factor of a thousand, so the head works on ratios: t(g) / m(g), with m(g) a
weighted geometric mean of the sources' milliseconds, in which those count most that the target should
resemble. A ratio is linear, as a latency is, in what each source says
relative to m, as a whole and class by class: a new runtime may run convolutions as one source does and the
rest as another.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot.config import FewShotConfig
from predictor.few_shot.regressors import Regressors

Floats = NDArray[np.float64]

_LOG_CENTRE = 1.0  # of log milliseconds, and their spread: constants, so that no graph depends on another
_LOG_SPREAD = 2.0


@dataclass(frozen=True, slots=True)
class WholeGraphConfig:
    """Prior standard deviations of a new target's ratio: of its class factors, of its mixture of sources
    class by class; and the head's own configuration.
    """

    by_class: float = 0.2
    by_source_and_class: float = 0.25
    head: FewShotConfig = field(default_factory=lambda: FewShotConfig(sources=0.3))


@dataclass(frozen=True, slots=True)
class RelativeGraphs:
    """N graphs: `scale_ms` (N,) the weighted geometric mean m, `regressors` of ratios to it."""

    scale_ms: Floats
    regressors: Regressors


def relative_graphs(
    total_ms: Floats, class_ms: Floats, weights: Floats, config: WholeGraphConfig
) -> RelativeGraphs:
    """From S sources' milliseconds of N graphs: `total_ms` (N, S) and by class `class_ms` (N, S, C).
    `weights` (S,), which sum to one.
    """
    log_ms = np.log(total_ms)
    log_scale = log_ms @ weights
    scale = np.exp(log_scale)
    shares = weights @ (class_ms / total_ms[:, :, None])  # (N, C)
    relative = class_ms / scale[:, None, None]  # (N, S, C)
    apart = relative - (weights @ relative)[:, None, :]
    count, sources, _ = class_ms.shape
    linear = np.concatenate(
        [
            config.by_class * shares,
            config.by_source_and_class / np.sqrt(sources) * apart.reshape(count, -1),
        ],
        axis=1,
    )
    shape = np.concatenate([np.sqrt(shares), ((log_scale - _LOG_CENTRE) / _LOG_SPREAD)[:, None]], axis=1)
    regressors = Regressors.of(log_ms - log_scale[:, None], linear=linear, shape=shape, weights=weights)
    return RelativeGraphs(scale, regressors)
