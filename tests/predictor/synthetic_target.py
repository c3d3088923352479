"""A made-up meta-learned checkpoint, and targets whose truth is known: mixtures of its sources with factors
of their own for each class of kernels, drawn from what adapting expects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from devices.target import Hardware, Runtime
from predictor import adapt, evaluate, predict
from predictor.adapt import Observation, TargetFacts
from predictor.description import Described, describe
from predictor.few_shot.whole_graphs import HEAD, RelativeGraphs, relative_graphs
from predictor.graph import ModelGraph
from predictor.kernel_costs.features import FEATURE_COUNT
from predictor.kernel_costs.network import CostNetwork, Member
from predictor.kernel_costs.ranges import SeenKernels
from predictor.kernel_costs.table import View, table_of
from predictor.known_references import KnownReferences
from predictor.meta_checkpoint import MetaCheckpoint, MetaFacts, Source, Widenings
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_models
from predictor.resemblance import expectations

HARDWARE = Hardware(
    cpu_model="synthetic",
    architecture="x86_64",
    physical_cores=4,
    logical_cores=4,
    memory_bytes=1 << 34,
    isa_flags=("avx", "avx2", "fma"),
    operating_system="Linux",
)
RUNTIME = Runtime(engine="onnxruntime", version="1.32.0", provider="cpu", threads=1)
SOURCES = (
    RUNTIME,
    RUNTIME.model_copy(update={"optimization": "none"}),
    Runtime(engine="openvino", version="2026.4", provider="cpu", threads=1),
    Runtime(engine="mnn", version="3.6", provider="cpu", threads=1),
)
KNOWN = tuple(Source(target_key=f"synthetic/{one.key}", runtime=one, hardware=HARDWARE) for one in SOURCES)
HIDDEN = 12
SPREAD = 0.3  # of the sources' logarithms, about
AMPLITUDE = 0.3  # of the prior: wider ones make negative latencies
LEAST_RATIO = 0.2
EXACT = 1.645  # deviations that hold 90 % of a normal distribution


def facts(key: str = "synthetic/onnxruntime-1.32/cpu/t1") -> TargetFacts:
    return TargetFacts(key=key, runtime=RUNTIME, hardware=HARDWARE)


@lru_cache(maxsize=1)
def reference_graphs() -> tuple[tuple[str, ModelGraph], ...]:
    """Names and graphs of the reference set."""
    return tuple((model.name, read_graph(model.model, model.input_shapes)) for model in reference_models())


def synthetic_network(seed: int = 0, sources: int = len(SOURCES), members: int = 1) -> CostNetwork:
    """Random weights; sources differ by some ten per cent, kernel by kernel."""
    rng = np.random.default_rng(seed)
    sizes = (FEATURE_COUNT, HIDDEN, HIDDEN, sources)

    def layers() -> Member:
        weights = [rng.normal(size=shape) / np.sqrt(shape[0] / 4) for shape in pairwise(sizes)]
        weights[-1] *= SPREAD
        biases = tuple(np.zeros(size, np.float32) for size in sizes[1:])
        return Member(tuple(weight.astype(np.float32) for weight in weights), biases)

    return CostNetwork(tuple(layers() for _ in range(members)))


@lru_cache(maxsize=2)
def synthetic_meta(seed: int = 0) -> MetaCheckpoint:
    """It has seen the reference set; its intervals are not widened."""
    seen = SeenKernels.of([table_of(graph, View.FUSED) for _, graph in reference_graphs()])
    described = MetaFacts(
        sources=KNOWN,
        members=1,
        seen_names=tuple(sorted(seen.bounds)),
        widenings=Widenings(of_known_engines=EXACT, of_strangers=EXACT),
        dataset_sha256="0" * 64,
        command="made up",
        model_count=len(reference_graphs()),
        measurement_count=len(SOURCES) * len(reference_graphs()),
    )
    return MetaCheckpoint(described, synthetic_network(seed), seen, KnownReferences({}))


@lru_cache(maxsize=1)
def reference_described() -> tuple[Described, ...]:
    return tuple(describe(graph, RUNTIME, HARDWARE, synthetic_meta()) for _, graph in reference_graphs())


@dataclass(frozen=True)
class SyntheticTarget:
    """A target: its speed relative to the sources' mean, the weights of sources (S,) and of what is linear in
    classes (C + S C,), and the relative noise of its latencies.
    """

    speed: float
    mixture: NDArray[np.float64]
    linear: NDArray[np.float64]
    noise: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> SyntheticTarget:
        """From the prior of the few-shot head, what is not linear left out."""
        regressors = _relative(reference_described()).regressors
        sources, width = regressors.sources.shape[1], regressors.linear.shape[1]
        return cls(
            speed=float(np.exp(rng.normal())),
            mixture=AMPLITUDE * np.sqrt(HEAD.sources / sources) * rng.normal(size=sources),
            linear=AMPLITUDE * rng.normal(size=width),
            noise=float(rng.choice(HEAD.noise)),
        )

    def latencies_ms(
        self, described: Sequence[Described], rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """(N,), of descriptions by `synthetic_meta`; without a generator, without noise."""
        relative = _relative(described)
        regressors = relative.regressors
        ratio = 1.0 + regressors.sources @ self.mixture + regressors.linear @ self.linear
        ratio = np.maximum(ratio, LEAST_RATIO)
        if rng is not None:
            ratio = ratio * np.maximum(1.0 + self.noise * rng.normal(size=len(ratio)), LEAST_RATIO)
        exact: NDArray[np.float64] = self.speed * relative.scale_ms * ratio
        return exact

    def observations(
        self, rng: np.random.Generator | None = None, key: str = facts().key
    ) -> list[Observation]:
        """Of the reference set."""
        latencies = self.latencies_ms(reference_described(), rng)
        return [
            Observation(
                target_key=key,
                runtime=RUNTIME,
                hardware=HARDWARE,
                graph=graph,
                median_ms=float(latency),
                standard_error_ms=0.01 * float(latency),
                name=name,
            )
            for (name, graph), latency in zip(reference_graphs(), latencies, strict=True)
        ]


def mixtures(
    count: int, rng: np.random.Generator, references: Sequence[Described] | None = None
) -> list[Described]:
    """Models between the reference models: their times added up in random proportions."""
    references = references or reference_described()
    total_ms = np.stack([one.total_ms for one in references])  # (10, S)
    class_ms = np.stack([one.class_ms for one in references])  # (10, S, C)
    mixed: list[Described] = []
    for _ in range(count):
        weights = rng.dirichlet(np.full(len(references), 0.5))
        mixed.append(Described(weights @ total_ms, np.tensordot(weights, class_ms, axes=1), {}, {}))
    return mixed


def _relative(described: Sequence[Described]) -> RelativeGraphs:
    return relative_graphs(
        np.stack([one.total_ms for one in described]),
        np.stack([one.class_ms for one in described]),
        expectations(facts(), KNOWN)[0],
    )


def ship_synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands and studies then stand on `synthetic_meta`, not on the checkpoint that ships."""
    for module in (adapt, evaluate, predict):
        monkeypatch.setattr(module, "shipped", synthetic_meta)
