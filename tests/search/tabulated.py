"""A space whose every value is a formula, so that its whole front is known, with models and predictions to
go with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from predictor.graph import ModelGraph
from predictor.predict import Prediction
from search.errors import BuildFailed
from search.genome import Genome, Option
from search.quality import Quality, TableQuality
from search.scoring import Scorer
from search.space import BuiltModel, Choice

DEPTHS = (1, 2, 3, 4)
LEVELS = (0, 1, 2, 3)
GAINS = (0.05, 0.12, 0.02, 0.2, 0.09)  # of accuracy at the highest level, by choice
COSTS = (1.1, 0.7, 0.4, 0.9, 0.2)  # of latency per level, by choice


@dataclass(frozen=True)
class TabulatedSpace:
    """`depth` says how many of the five levels count; the others have no effect."""

    depths: tuple[Option, ...] = DEPTHS
    levels: tuple[Option, ...] = LEVELS

    @property
    def name(self) -> str:
        return "tabulated"

    @property
    def choices(self) -> tuple[Choice, ...]:
        return (Choice("depth", self.depths), *(Choice(f"level{i}", self.levels) for i in range(len(GAINS))))

    def canonical(self, genome: Genome) -> Genome:
        chosen = genome.as_dict()
        unused = {f"level{i}" for i in range(int(chosen["depth"]) + 1, len(GAINS))}
        return Genome.of(
            {name: self.levels[0] if name in unused else option for name, option in chosen.items()}
        )

    def genomes(self) -> Iterator[Genome]:
        """Every distinct genome once."""
        options = [choice.options for choice in self.choices]
        names = [choice.name for choice in self.choices]
        yield from dict.fromkeys(
            self.canonical(Genome.of(dict(zip(names, row, strict=True)))) for row in product(*options)
        )


def small_space() -> TabulatedSpace:
    """Nine genomes: two places with three levels each."""
    return TabulatedSpace(depths=(1,), levels=(0, 1, 2))


def objectives_of(genome: Genome) -> dict[str, float]:
    """More levels: more accurate with diminishing returns, and slower; early levels pay least for what they
    cost.
    """
    chosen = genome.as_dict()
    used = range(int(chosen["depth"]) + 1)
    levels = [int(chosen[f"level{i}"]) for i in used]
    accuracy = 0.5 + sum(GAINS[i] * math.sqrt(level / 3) for i, level in zip(used, levels, strict=True))
    latency_ms = 0.1 * len(levels) + sum(COSTS[i] * level for i, level in zip(used, levels, strict=True))
    return {"accuracy": accuracy, "latency_ms": latency_ms, "size_bytes": 100.0 * (1 + sum(levels))}


@dataclass(frozen=True)
class TinyBuilder:
    """One `MatMul` whose size says how slow the genome is; genomes with `level0` 3 fail."""

    def build(self, genome: Genome, *, seed: int) -> BuiltModel:
        if genome.as_dict()["level0"] == 3:
            raise BuildFailed("level0 must not be 3")
        columns = round(100 * objectives_of(genome)["latency_ms"])
        rng = np.random.default_rng([seed, int(genome.digest[:8], 16)])
        weight = numpy_helper.from_array(rng.standard_normal((2, columns)).astype(np.float32), "w")
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, columns))],
            [weight],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return BuiltModel(model.SerializeToString(deterministic=True), {"x": (1, 2)})


@dataclass
class CountingPredictor:
    """Predicts in proportion to the multiply-accumulates, and counts how often it is asked."""

    calls: int = 0

    def predict(self, graph: ModelGraph, coverage: float = 0.9) -> Prediction:
        self.calls += 1
        median_ms = graph.macs / 200
        return Prediction(
            median_ms=median_ms,
            lower_ms=0.9 * median_ms,
            upper_ms=1.2 * median_ms,
            coverage=coverage,
            extrapolates=False,
            reasons=(),
        )


def tabulated_scorer(space: TabulatedSpace | None = None, *, key: str = "table") -> Scorer:
    """A scorer that takes no time."""
    space = space or TabulatedSpace()
    table = {g.digest: Quality(objectives_of(g)["accuracy"], test_accuracy=0.5) for g in space.genomes()}
    return Scorer(space, TinyBuilder(), TableQuality(table), CountingPredictor(), key)
