"""Targets whose truth is known: class factors drawn from the prior, latencies made by the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from devices.target import Hardware, Runtime
from predictor.adapt import Observation, TargetFacts, physical_prior, regressors
from predictor.features import Described, describe
from predictor.graph import ModelGraph
from predictor.onnx_reader import read_graph
from predictor.reference_set import reference_models

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


def facts(key: str = "synthetic/onnxruntime-1.32/cpu/t1") -> TargetFacts:
    return TargetFacts(key=key, runtime=RUNTIME, hardware=HARDWARE)


@lru_cache(maxsize=1)
def reference_graphs() -> tuple[tuple[str, ModelGraph], ...]:
    """Names and graphs of the reference set."""
    return tuple((model.name, read_graph(model.model, model.input_shapes)) for model in reference_models())


@lru_cache(maxsize=1)
def reference_described() -> tuple[Described, ...]:
    return tuple(describe(graph, RUNTIME, HARDWARE) for _, graph in reference_graphs())


@dataclass(frozen=True)
class SyntheticTarget:
    """A target: theta (P,) and the noise that its latencies have around the model."""

    theta: NDArray[np.float64]
    noise: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> SyntheticTarget:
        """From the physical prior; the noise from what the regression expects of it."""
        prior = physical_prior()
        noise = float(np.clip(0.15 * np.exp(0.7 * rng.normal()), 0.03, 0.6))
        return cls(rng.multivariate_normal(prior.mean, prior.covariance), noise)

    def latencies_ms(
        self, described: Sequence[Described], rng: np.random.Generator | None = None
    ) -> NDArray[np.float64]:
        """(N,); without a generator, without noise."""
        x, z = regressors(np.stack([one.values for one in described]))
        classes = x.shape[1]
        y = np.log(x @ np.exp(self.theta[:classes])) + z @ self.theta[classes:]
        return np.exp(y if rng is None else y + self.noise * rng.normal(size=len(y)))

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


def mixtures(count: int, rng: np.random.Generator) -> list[Described]:
    """Models between the reference models: their nominal times added up in random proportions."""
    references = reference_described()
    values = np.stack([one.values for one in references])  # (10, F)
    mixed: list[Described] = []
    for _ in range(count):
        weights = rng.dirichlet(np.full(len(references), 0.5))
        one = np.log(weights @ np.exp(values) + 1e-9)
        mixed.append(Described(one, {}))
    return mixed
