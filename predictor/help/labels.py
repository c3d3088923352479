"""Between milliseconds and the numbers that HELP's network learns.

A device's labels are its latencies, min-max scaled to [0.05, 0.95] by its training architectures without the
slowest and the fastest tenth. A new target has no such index: its scale is estimated from what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LOWEST_LABEL, HIGHEST_LABEL = 0.05, 0.95
TRIMMED = 0.1  # share of a device's architectures that is dropped at each end
NEGLIGIBLE_SHARE = 0.1  # of the median: shorter measurements do not bend the line even more
SHORTEST_SHARE = 0.25  # no prediction is shorter than this share of the shortest measurement


@dataclass(frozen=True, slots=True)
class LabelScale:
    """The latencies of one device that become 0.05 and 0.95."""

    low_ms: float
    high_ms: float

    def labels(self, latency_ms: Floats) -> Floats:
        """Labels of latencies, of any shape; beyond [0.05, 0.95] outside of the scale's own range."""
        share = (latency_ms - self.low_ms) / (self.high_ms - self.low_ms)
        return LOWEST_LABEL + (HIGHEST_LABEL - LOWEST_LABEL) * share


def trimmed(latency_ms: Floats, rows: Indices) -> Indices:
    """Of `rows`, those between the device's fastest and slowest tenth, ordered by latency. latency_ms:
    (N,).
    """
    count = len(rows)
    order = np.argsort(latency_ms[rows], kind="stable")
    return rows[order[int(count * TRIMMED) : int(count * (1.0 - TRIMMED))]]


def scale_of(latency_ms: Floats) -> LabelScale:
    """The scale whose ends are the smallest and largest of these latencies."""
    low_ms, high_ms = float(latency_ms.min()), float(latency_ms.max())
    return LabelScale(low_ms, high_ms if high_ms > low_ms else low_ms + max(abs(low_ms), 1.0) * 1e-6)


def scale_from_measured(measured_ms: Floats, source_labels: Floats) -> LabelScale:
    """The scale of a target, from M measurements and labels (D, K) on D source devices, of the same
    architectures or of others alike: with it, the target's labels have the mean and the spread of the
    source devices' on average.
    """
    spread_ms = float(measured_ms.std())
    spread = float(source_labels.std(axis=1).mean())
    per_label = max(spread_ms, 1e-6 * float(measured_ms.mean())) / max(spread, 1e-6)
    zero_ms = float(measured_ms.mean()) - per_label * float(source_labels.mean())
    return LabelScale(zero_ms + LOWEST_LABEL * per_label, zero_ms + HIGHEST_LABEL * per_label)


def embedding_of(reference_ms: Floats) -> Floats:
    """The hardware embedding: reference latencies (..., R) min-max scaled to [0, 1] per device."""
    if reference_ms.shape[-1] == 0:  # MAML and Meta-SGD measure none
        return reference_ms
    low = reference_ms.min(axis=-1, keepdims=True)
    span = reference_ms.max(axis=-1, keepdims=True) - low
    return np.asarray((reference_ms - low) / np.where(span > 0, span, 1.0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Milliseconds:
    """Scores to milliseconds: a straight line, and the shortest answer it may give."""

    offset_ms: float
    slope_ms: float
    shortest_ms: float

    def __call__(self, scores: Floats) -> Floats:
        """Latencies in milliseconds, positive."""
        return np.maximum(self.offset_ms + self.slope_ms * scores, self.shortest_ms)


def milliseconds_from(scores: Floats, measured_ms: Floats) -> Milliseconds:
    """The line with the least squared relative error over the measured architectures, never falling.

    Where higher scores do not mean longer latencies, the line is flat at the value of least relative error.
    """
    weights = 1.0 / np.maximum(measured_ms, NEGLIGIBLE_SHARE * np.median(measured_ms)) ** 2
    mean_score = np.average(scores, weights=weights)
    mean_ms = np.average(measured_ms, weights=weights)
    variance = np.average((scores - mean_score) ** 2, weights=weights)
    covariance = np.average((scores - mean_score) * (measured_ms - mean_ms), weights=weights)
    slope = max(float(covariance / variance), 0.0) if variance > 0 else 0.0
    shortest_ms = SHORTEST_SHARE * float(measured_ms.min())
    return Milliseconds(float(mean_ms - slope * mean_score), slope, shortest_ms)
