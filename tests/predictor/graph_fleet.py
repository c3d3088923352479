"""A made-up fleet for the graph benchmark: small real graphs, latencies from a law with a target's own
factors.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from devices.target import Hardware, Runtime
from predictor.benchmarks.graph_arrays import ArrayCache, class_times
from predictor.benchmarks.graph_method import REFERENCE, GraphData
from predictor.checkpoint import TargetFacts
from predictor.families.registry import specimens
from predictor.graph import ModelGraph
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_models

FAMILIES = ("tiny", "plain", "mixer", "decode")
_EACH = 6
_SWEEPS = ("sweep-conv", "sweep-gemm", "sweep-norm")
_MOST_REFERENCES = 6
HARDWARE = Hardware(
    cpu_model="made up",
    architecture="x86_64",
    physical_cores=4,
    logical_cores=4,
    memory_bytes=1 << 33,
    isa_flags=("avx", "avx2", "fma"),
    operating_system="Linux",
)


def runtime(engine: str, *, threads: int = 1) -> Runtime:
    """An engine at its defaults."""
    return Runtime(engine=engine, version="1.0", provider="cpu", threads=threads)


TARGETS = tuple(
    TargetFacts(key=f"box/{one.key}", runtime=one, hardware=HARDWARE)
    for one in (
        runtime("onnxruntime"),
        runtime("onnxruntime", threads=2),
        runtime("ncnn"),
        runtime("openvino"),
    )
)


@lru_cache(maxsize=1)
def cache() -> ArrayCache:
    """Shared by all tests of a process."""
    return ArrayCache()


@lru_cache(maxsize=1)
def fleet(seed: int = 0) -> GraphData:
    """Some models of four families, sweeps and most of the reference set on four targets of three engines."""
    whole = [one for family in FAMILIES for one in _first(family, _EACH)]
    swept = [one for sweep in _SWEEPS for one in _first(sweep, _EACH)]
    references = [(one.name, REFERENCE, "mixed", False, one.model, one.input_shapes)
                  for one in reference_models()[:_MOST_REFERENCES]]  # fmt: skip
    rows = references + [
        (one.name, one.family, one.precision, one.is_sweep, *one.build()) for one in (*whole, *swept)
    ]
    graphs = tuple(read_graph(model, dict(shapes)) for *_, model, shapes in rows)
    return GraphData(
        names=np.array([row[0] for row in rows]),
        families=np.array([row[1] for row in rows]),
        precisions=np.array([row[2] for row in rows]),
        is_sweep=np.array([row[3] for row in rows]),
        graphs=graphs,
        targets=TARGETS,
        latency_ms=_latencies(graphs, seed),
    )


def _first(family: str, count: int):  # type: ignore[no-untyped-def]  # of specimens
    return [one for one in specimens() if one.family == family][:count]


def _latencies(
    graphs: tuple[ModelGraph, ...], seed: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(G, T): nominal times by class, each with a factor of the target, and 3 % of noise."""
    rng = np.random.default_rng(seed)
    latency_ms = np.empty((len(graphs), len(TARGETS)))
    for column, target in enumerate(TARGETS):
        machine = (target.runtime, target.hardware)
        times = np.stack([class_times(cache().of(graph), *machine) for graph in graphs])
        factors = np.exp(rng.normal(0.2 * column, 0.25, times.shape[1]))
        latency_ms[:, column] = times @ factors * np.exp(rng.normal(0.0, 0.03, len(graphs)))
    return latency_ms
