"""Baseline: multiply-accumulates. They rank architectures on every device alike.

Of NAS-Bench-201 all six edges of a cell count, also those that do not reach its output: the published
latencies are of networks that run them, and follow this count much better.

Milliseconds are a time around the network plus a time per multiply-accumulate, neither negative, with the
least squared relative error on the measured samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from predictor.benchmarks.linear import SHORTEST_SHARE, half_width
from predictor.benchmarks.method import Adapted, Floats, Indices, Meter, Method, Predicted, Source, Trained
from predictor.networks.registry import family_of


@dataclass(frozen=True, slots=True, eq=False)
class MacsLine:
    """Milliseconds are `line` (2,): a constant, and so much per giga-MAC, but at least `shortest_ms`. `half`:
    of the interval, in logarithms.
    """

    gmacs: Floats
    line: Floats
    shortest_ms: float
    half: float

    def predict(self, indices: Indices) -> Predicted:
        """Ranked by multiply-accumulates; milliseconds with 90 % intervals."""
        gmacs = self.gmacs[indices]
        median = np.maximum(_columns(gmacs) @ self.line, self.shortest_ms)
        factor = np.exp(self.half)
        return Predicted(median, median / factor, median * factor, score=gmacs)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedFlops:
    """Giga-MACs of all architectures (N,)."""

    gmacs: Floats

    def adapt(self, meter: Meter) -> Adapted:
        """Measure what the meter draws, and fit the line."""
        rows = meter.draw(meter.budget)
        gmacs, latency = self.gmacs[rows], meter.measure(rows)
        others = [np.arange(len(rows)) != row for row in range(len(rows))]
        shortest_ms = SHORTEST_SHARE * float(latency.min())
        left_out = [
            max(float(_columns(gmacs[[row]])[0] @ _line(gmacs[kept], latency[kept])), shortest_ms)
            for row, kept in enumerate(others)
        ]
        residuals = np.log(latency / left_out)
        return MacsLine(self.gmacs, _line(gmacs, latency), shortest_ms, half_width(residuals))


class FlopsMethod:
    """Learns nothing from source devices."""

    def train(self, source: Source) -> Trained:
        """Multiply-accumulates of the space's architectures."""
        space, genomes = source.architectures.space, source.architectures.genomes
        macs = family_of(space).macs
        counts = _all_edges(genomes) if space == "nb201" else [macs(genome) for genome in genomes.tolist()]
        return TrainedFlops(np.asarray(counts) / 1e9)


def _all_edges(genomes: Indices) -> Indices:
    """Multiply-accumulates of NAS-Bench-201 networks (N,), from those with one edge alone."""
    operations = range(1, 5)  # 0 is no operation
    alone = [family_of("nb201").macs((0, 0, 0, operation, 0, 0)) for operation in operations]
    skipped = alone[0]  # a skip connection multiplies nothing: this is what is around the cells
    each = np.asarray([0, *(count - skipped for count in alone)], dtype=np.int64)
    counts: Indices = skipped + each[genomes].sum(axis=1)
    return counts


def _columns(gmacs: Floats) -> Floats:
    return np.stack([np.ones(len(gmacs)), gmacs], axis=1)  # (n, 2)


def _line(gmacs: Floats, latency_ms: Floats) -> Floats:
    """Constant and slope."""
    line: Floats = nnls(_columns(gmacs) / latency_ms[:, None], np.ones(len(gmacs)))[0]
    return line


def make(key: str, work: Path) -> Method:  # noqa: ARG001
    """The method by its key in the registry."""
    return FlopsMethod()
