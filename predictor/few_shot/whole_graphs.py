"""Whole graphs for the few-shot head: latencies relative to what the sources would take.

Whole models range over a factor of a thousand, so the head works on ratios: t(g) / m(g), with m(g) a
weighted geometric mean of the sources' milliseconds, in which those count most that the target should
resemble. A ratio is linear in the shares that classes of kernels have of m: a target has a factor for each
class. Which sources it resembles is left to the expectations (`predictor.few_shot.target`), but for quantised
classes, which it may run as any source does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot.config import FewShotConfig
from predictor.few_shot.regressors import Regressors
from predictor.kernel_costs.table import CLASSES
from predictor.roofline import QUANTISED_CLASSES, KernelClass

Floats = NDArray[np.float64]

HEAD_VERSION = 7  # raise it when the same measurements give other predictions: intervals are calibrated anew
HEAD = FewShotConfig(
    sources=0.0, smooth=0.2, smooth_length=3.0, amplitudes=(0.125, 0.25, 0.5, 1.0), noise=(0.05, 0.1, 0.2)
)
# Of targets whose engine nobody knows: factors that classes of kernels have explain most.
STRANGER_HEAD = replace(HEAD, smooth=0.02)
_LOG_CENTRE = 1.0  # of log milliseconds, and their spread: constants, so that no graph depends on another
_LOG_SPREAD = 2.0


def _by_class(*, common: float, quantised: float, launch: float) -> Floats:
    """(C,). Quantised kernels are where runtimes differ most: one has instructions for them, another unpacks
    them into floats. Launches take microseconds in one and tens of them in another.
    """
    deviations = dict.fromkeys(CLASSES, common) | dict.fromkeys(QUANTISED_CLASSES, quantised)
    return np.array([(deviations | {KernelClass.LAUNCH: launch})[kind] for kind in CLASSES])


# Prior standard deviations of a target's factors for classes of kernels, (C,), where it is expected to run as
# its engine does elsewhere, and where it may be unlike anything.
ALIKE = _by_class(common=0.1, quantised=0.4, launch=0.3)
UNLIKE = _by_class(common=0.1, quantised=0.4, launch=2.0)
FOREIGN = _by_class(common=0.4, quantised=1.0, launch=3.0)
_QUANTISED = [CLASSES.index(kind) for kind in QUANTISED_CLASSES]
_MIXTURE = 0.3  # prior standard deviation of a source's weight in those, times the root of their number


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a target may be like: `weights` (S,), together one, of the sources that it should resemble (an
    analogy has negative ones too: what the target takes, times what one takes longer than another), and
    `by_class` (C,), the prior standard deviations of its own factors. `log_prior`: how much speaks for it
    before anything is measured. `head`: how the rest is learned.
    """

    weights: Floats
    by_class: Floats
    log_prior: float = 0.0
    head: FewShotConfig = HEAD


@dataclass(frozen=True, slots=True)
class RelativeGraphs:
    """N graphs: `scale_ms` (N,) the weighted geometric mean m, `regressors` of ratios to it."""

    scale_ms: Floats
    regressors: Regressors


def relative_graphs(total_ms: Floats, class_ms: Floats, expected: Expectation) -> RelativeGraphs:
    """From S sources' milliseconds of N graphs: `total_ms` (N, S) and by class `class_ms` (N, S, C)."""
    weights = expected.weights
    log_ms = np.log(total_ms)
    log_scale = log_ms @ weights
    scale = np.exp(log_scale)
    shares = np.maximum(weights @ (class_ms / total_ms[:, :, None]), 0.0)  # (N, C)
    shares /= shares.sum(axis=1, keepdims=True)
    positive = np.maximum(weights, 0.0)
    positive /= positive.sum()
    relative = class_ms[:, :, _QUANTISED] / scale[:, None, None]  # (N, S, Q)
    apart = (relative - (positive @ relative)[:, None, :]) * (_MIXTURE / np.sqrt(len(weights)))
    linear = np.concatenate([expected.by_class * shares, apart.reshape(len(scale), -1)], axis=1)
    shape = np.concatenate([np.sqrt(shares), ((log_scale - _LOG_CENTRE) / _LOG_SPREAD)[:, None]], axis=1)
    regressors = Regressors.of(log_ms - log_scale[:, None], linear=linear, shape=shape, weights=positive)
    return RelativeGraphs(scale, regressors)
