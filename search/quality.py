"""The seam of quality estimation: how good is the model of a genome?

Two users: `OnnxAccuracy` runs the exported file itself, so that what is reported is what is downloaded;
`TableQuality` looks values up, for spaces whose every point is known. Supernets and accuracy predictors
come in by the same method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search.errors import BuildFailed
from search.execution import ModelRunner
from search.genome import Genome
from search.space import BuiltModel


@dataclass(frozen=True, slots=True)
class Quality:
    """Accuracy as the search may see it, and on test data that it may not (None: there are none)."""

    accuracy: float
    test_accuracy: float | None = None


class QualityEstimator(Protocol):
    """Estimates how good a model is."""

    def estimate(self, genome: Genome, built: BuiltModel) -> Quality:
        """A pure function of its arguments. Raises `BuildFailed` where the model gives no valid output."""
        ...


# Of an input shape: samples as a model of that shape takes them, `(N, ...)` float32, with labels `(N,)`.
LabelledSamples = Callable[[tuple[int, ...]], tuple[NDArray[np.float32], NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class OnnxAccuracy:
    """Classification accuracy of the ONNX file as it is, on validation data and on test data apart."""

    runner: ModelRunner
    validation: LabelledSamples
    test: LabelledSamples

    def estimate(self, genome: Genome, built: BuiltModel) -> Quality:  # noqa: ARG002 - the file says it all
        """Raises `BuildFailed` if the model does not run."""
        return Quality(self._accuracy(built, self.validation), self._accuracy(built, self.test))

    def _accuracy(self, built: BuiltModel, data: LabelledSamples) -> float:
        [shape] = built.input_shapes.values()
        samples, labels = data(shape)
        return float(np.mean(self.runner.outputs(built, samples).argmax(axis=1) == labels))


@dataclass(frozen=True, slots=True)
class TableQuality:
    """Quality known beforehand, by the genome's digest."""

    table: Mapping[str, Quality]

    def estimate(self, genome: Genome, built: BuiltModel) -> Quality:  # noqa: ARG002 - the table knows without the model
        """Raises `BuildFailed` for a genome that the table lacks."""
        if genome.digest not in self.table:
            raise BuildFailed(f"the table has no quality for {genome.to_json()}")
        return self.table[genome.digest]
