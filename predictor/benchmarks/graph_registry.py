"""The methods that the graph benchmark compares, by key.

A module is loaded when its method is asked for: some need torch, which takes seconds to load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from predictor.benchmarks.errors import TaskRejected
from predictor.benchmarks.graph_arrays import ArrayCache
from predictor.benchmarks.graph_method import GraphMethod


@dataclass(frozen=True, slots=True)
class Registered:
    """`module` has a function `make(key, seed, cache)`: a GraphMethod. `is_random`: another seed gives other
    predictions.
    """

    module: str
    is_random: bool = False


GRAPH_METHODS: Mapping[str, Registered] = MappingProxyType(
    {
        "laptime": Registered("predictor.benchmarks.graph_laptime"),
        "graph-flops": Registered("predictor.benchmarks.graph_flops"),
        "graph-roofline": Registered("predictor.benchmarks.graph_roofline"),
        "graph-lut": Registered("predictor.benchmarks.graph_lut"),
        "graph-gnn": Registered("predictor.benchmarks.graph_gnn", is_random=True),
        "graph-help": Registered("predictor.benchmarks.graph_help", is_random=True),
    }
)


def check_graph_methods(keys: Sequence[str]) -> None:
    """Raises `TaskRejected` for an unknown key, or for none at all."""
    unknown = [key for key in keys if key not in GRAPH_METHODS]
    if unknown or not keys:
        raise TaskRejected(f"method {', '.join(unknown)} is unknown; there are {', '.join(GRAPH_METHODS)}")


def make_graph_methods(key: str, *, seeds: int, cache: ArrayCache) -> list[GraphMethod]:
    """A method, once for each seed if chance has a part in it."""
    registered = GRAPH_METHODS[key]
    count = seeds if registered.is_random else 1
    make = import_module(registered.module).make
    return [make(key if seed == 0 else f"{key}~{seed}", seed=seed, cache=cache) for seed in range(count)]
