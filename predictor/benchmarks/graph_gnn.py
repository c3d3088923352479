"""Baseline: a graph network over operators, trained from scratch on the target's own measurements alone.

Operators exchange messages along the edges of the graph, both ways (as in NNLQP, Liu et al., ICPP 2022, DOI
10.1145/3545008.3545051, which trains on thousands of models). With ten, everything is done to overfit
less: an operator's cost is a launch, a time per multiply-accumulate and a time per byte, which the network
multiplies by a bounded factor; weights decay; several networks vote. A graph takes the sum over its
operators, and logarithms are compared. Nothing is known of source targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor

from predictor.benchmarks.graph_arrays import ArrayCache, GraphArrays
from predictor.benchmarks.graph_method import (
    AdaptedGraphs,
    GraphData,
    GraphMethod,
    GraphPredictions,
    LearnedGraphs,
    Support,
)
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph
from predictor.kernel_costs.table import Amount, View

Parameters = dict[str, Tensor]
_CHUNK = 100  # graphs at once
_START = (-6.5, -9.5, -9.0)  # logarithms: ms per launch, per thousand MACs, per thousand bytes: a laptop core


@dataclass(frozen=True, slots=True)
class GnnConfig:
    """Hyper-parameters. `reach`: the largest logarithm of a factor on an operator's cost."""

    width: int = 32
    layers: int = 2
    members: int = 5
    epochs: int = 150
    rate: float = 5e-3
    cost_rate: float = 5e-2  # of the three constants
    weight_decay: float = 1e-1
    reach: float = 2.0


def make(key: str, *, seed: int, cache: ArrayCache) -> GraphMethod:
    """The method by its key in the registry."""
    return GraphNetworks(key, seed, cache)


@dataclass(frozen=True, slots=True)
class GraphNetworks:
    """A row of the table. A target's networks are trained once: no split changes what it measures."""

    name: str
    seed: int
    cache: ArrayCache
    config: GnnConfig = GnnConfig()
    _trained: dict[tuple[object, ...], AdaptedGraphs] = field(default_factory=dict)

    def learn(self, sources: GraphData) -> LearnedGraphs:  # noqa: ARG002
        """Nothing is learned from source targets."""
        return self

    def adapt(self, target: TargetFacts, support: Support) -> AdaptedGraphs:  # noqa: ARG002
        """Train on what was measured."""
        measured = tuple((graph.digest, latency_ms) for graph, latency_ms in support)
        if measured not in self._trained:
            self._trained[measured] = self._train(support)
        return self._trained[measured]

    def _train(self, support: Support) -> AdaptedGraphs:
        batch = batch_of([self.cache.of(graph) for graph, _ in support])
        labels = torch.tensor([math.log(latency_ms) for _, latency_ms in support], dtype=torch.float32)
        generator = Generator().manual_seed(self.seed)
        members = [_fit(batch, labels, self.config, generator) for _ in range(self.config.members)]
        return _Adapted(self.cache, tuple(members), self.config)


@dataclass(frozen=True, slots=True, eq=False)
class _Adapted:
    cache: ArrayCache
    members: tuple[Parameters, ...]
    config: GnnConfig

    def predict(self, graphs: Sequence[ModelGraph]) -> GraphPredictions:
        """The networks' mean logarithm, as milliseconds."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(graphs), _CHUNK):
                batch = batch_of([self.cache.of(graph) for graph in graphs[start : start + _CHUNK]])
                said = torch.stack([_forward(member, batch, self.config) for member in self.members])
                parts.append(said.mean(dim=0).numpy().astype(np.float64))
        return GraphPredictions(np.exp(np.concatenate(parts)))


@dataclass(frozen=True, slots=True)
class Batch:
    """Several graphs as one: `nodes` (V, F), `amounts` (V, 3) launches, thousand MACs and thousand bytes,
    `owner` (V,) the graph of each node, `sender` and `receiver` (E,).
    """

    nodes: Tensor
    amounts: Tensor
    owner: Tensor
    sender: Tensor
    receiver: Tensor
    graphs: int


def batch_of(arrays: Sequence[GraphArrays]) -> Batch:
    """Graphs side by side, their operators numbered through."""
    counts = [len(one.nodes) for one in arrays]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    edges = np.concatenate([one.edges + start for one, start in zip(arrays, starts, strict=True)])
    listed = [one.tables[View.LISTED].amounts[:-1] for one in arrays]
    amounts = np.concatenate(listed)
    moved = amounts[:, Amount.BYTES_READ] + amounts[:, Amount.BYTES_WRITTEN]
    columns = [amounts[:, Amount.LAUNCHES], amounts[:, Amount.MACS] / 1e3, moved / 1e3]
    return Batch(
        nodes=torch.as_tensor(np.concatenate([one.nodes for one in arrays]), dtype=torch.float32),
        amounts=torch.as_tensor(np.stack(columns, axis=1), dtype=torch.float32),
        owner=torch.as_tensor(np.repeat(np.arange(len(arrays)), counts)),
        sender=torch.as_tensor(edges[:, 0]),
        receiver=torch.as_tensor(edges[:, 1]),
        graphs=len(arrays),
    )


def _fit(batch: Batch, labels: Tensor, config: GnnConfig, generator: Generator) -> Parameters:
    parameters = _initial(batch.nodes.shape[1], config, generator)
    weights = [value for name, value in parameters.items() if name != "costs"]
    adam = torch.optim.AdamW(
        [
            {"params": weights, "lr": config.rate, "weight_decay": config.weight_decay},
            {"params": [parameters["costs"]], "lr": config.cost_rate, "weight_decay": 0.0},
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, config.epochs)
    for _ in range(config.epochs):
        loss = (_forward(parameters, batch, config) - labels).abs().mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step()
    return {name: value.detach() for name, value in parameters.items()}


def _initial(inputs: int, config: GnnConfig, generator: Generator) -> Parameters:
    parameters: Parameters = {"costs": torch.tensor(_START)}
    size = inputs
    for layer in range(config.layers):
        for name in ("own", "before", "behind"):
            bound = 1.0 / math.sqrt(3.0 * size)
            drawn = torch.rand((size, config.width), generator=generator)
            parameters[f"{name}{layer}"] = (2.0 * drawn - 1.0) * bound
        size = config.width
    parameters["factor"] = torch.zeros((size, 1))
    return {name: value.requires_grad_() for name, value in parameters.items()}


def _forward(parameters: Parameters, batch: Batch, config: GnnConfig) -> Tensor:
    """Log milliseconds (G,)."""
    hidden = batch.nodes
    for layer in range(config.layers):
        before = _mean(hidden, batch.sender, batch.receiver)
        behind = _mean(hidden, batch.receiver, batch.sender)
        hidden = torch.nn.functional.silu(
            hidden @ parameters[f"own{layer}"]
            + before @ parameters[f"before{layer}"]
            + behind @ parameters[f"behind{layer}"]
        )  # (V, W)
    factor = config.reach * torch.tanh((hidden @ parameters["factor"])[:, 0] / config.reach)
    cost = (batch.amounts @ parameters["costs"].exp()) * factor.exp()  # (V,)
    total = torch.full((batch.graphs,), 1e-6).index_add(0, batch.owner, cost)
    return total.log()


def _mean(hidden: Tensor, giver: Tensor, taker: Tensor) -> Tensor:
    """What each node hears from its neighbours on one side (V, F); zeros where it has none."""
    heard = torch.zeros_like(hidden).index_add(0, taker, hidden[giver])
    count = torch.zeros(len(hidden)).index_add(0, taker, torch.ones(len(taker)))
    return heard / count.clamp(min=1.0)[:, None]
