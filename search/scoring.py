"""Scoring: what is known of a genome before any device has seen it.

Build the model, predict its latency on the target, estimate its quality. One of the few places of this
floor that know the predictor: strategies never reach it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from predictor.errors import GraphRejected
from predictor.graph import ModelGraph
from predictor.predict import Prediction
from predictor.reading.reader import read_graph
from search.errors import BuildFailed, RequestRejected
from search.genome import Genome
from search.objectives import ACCURACY, LATENCY_MS, SIZE_BYTES
from search.quality import QualityEstimator
from search.space import Builder, SearchSpace


class LatencyPredictor(Protocol):
    """What scoring needs of `predictor.predict.Predictor`."""

    def predict(self, graph: ModelGraph, coverage: float = 0.9) -> Prediction:
        """The latency of a graph on the predictor's target."""
        ...


@dataclass(frozen=True, slots=True)
class ScoredGenome:
    """A genome's values for every objective that the scorer can tell, with the model they belong to."""

    objectives: dict[str, float]
    prediction: Prediction
    test_accuracy: float | None
    model: bytes
    input_shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Scorer:
    """Everything outside a search state that its trials depend on.

    `key` names it: the state remembers by whose scores it was built and refuses another. It must name the
    predictor's checkpoint (its SHA-256 or row id), since two checkpoints give two latencies. Without a
    `quality` there is no accuracy, and `no_quality` says why and what to do about it.
    """

    space: SearchSpace
    builder: Builder
    quality: QualityEstimator | None
    predictor: LatencyPredictor
    key: str
    no_quality: str = "nothing estimates it"

    def check(self, objectives: Sequence[str]) -> None:
        """Raises `RequestRejected` where an objective cannot be told."""
        if self.quality is None and ACCURACY in objectives:
            others = [name for name in objectives if name != ACCURACY]
            raise RequestRejected(
                f"there is no {ACCURACY!r} for space {self.space.name!r}, but the objectives are "
                f"{list(objectives)}: {self.no_quality}; or ask for {others or LATENCY_MS} alone"
            )

    def score(self, genome: Genome, *, seed: int) -> ScoredGenome:
        """A pure function of (scorer, genome, seed). Raises `BuildFailed` with a reason for people."""
        built = self.builder.build(genome, seed=seed)
        try:
            graph = read_graph(built.model, built.input_shapes)
            prediction = self.predictor.predict(graph)
        except GraphRejected as error:
            raise BuildFailed(f"the built model cannot be costed: {error}") from error
        size_bytes = len(built.model) if built.stores_all_weights else graph.weight_bytes
        objectives = {LATENCY_MS: prediction.median_ms, SIZE_BYTES: float(size_bytes)}
        test_accuracy = None
        if self.quality is not None:
            quality = self.quality.estimate(genome, built)
            objectives[ACCURACY], test_accuracy = quality.accuracy, quality.test_accuracy
        return ScoredGenome(objectives, prediction, test_accuracy, built.model, built.input_shapes)
