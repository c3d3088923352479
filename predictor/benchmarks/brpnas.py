"""A graph convolutional network trained from scratch on the target's own measurements, after BRP-NAS.

Source: Dudziak et al., "BRP-NAS: Prediction-based NAS using GCNs", NeurIPS 2020, arXiv 2007.08668: four
graph convolutions over a cell with a global node, and a linear layer on the global node. The paper trains on
hundreds of measurements; with ten or twenty everything is done to overfit less: two convolutions, decay of
weights, stopping where measurements that were held out begin to suffer, and the mean of several such
networks. The linear layer reads the global node after every convolution: after the last one alone, averages
of averages are nearly the same for all architectures. Both were chosen on HELP's validation devices. The
network knows nothing of source devices. FBNet and OFA-MobileNetV3 are chains of blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from predictor.benchmarks.architectures import Architectures
from predictor.benchmarks.errors import BenchmarkRejected
from predictor.benchmarks.method import Indices, Meter, Predicted, Source
from predictor.help.encoding import cell_adjacency, encode
from predictor.networks import ofa_mbv3

_SEEDS = 2**31
_CHUNK = 1024  # architectures predicted at once
_FBNET_BLOCKS = 22
_LONGEST = 4.0  # predictions stay within this factor of what was measured

Parameters = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class BrpNasConfig:
    """Hyper-parameters. `members`: networks, each without its share of the measurements, which stop it."""

    width: int = 100
    layers: int = 2
    members: int = 5
    epochs: int = 150
    rate: float = 1e-2
    weight_decay: float = 1e-1
    fewest: int = 5  # measurements


@dataclass(frozen=True, slots=True)
class Graphs:
    """Architectures as graphs of one common structure: `nodes` (N, V, F), `adjacency` (V, V) with rows that
    sum to one: entry (receiver, sender). The last node receives from all.
    """

    nodes: Tensor
    adjacency: Tensor


def make(key: str, work: Path) -> BrpNas:  # noqa: ARG001
    """The method "brpnas"; it learns nothing that could be kept."""
    return BrpNas(BrpNasConfig())


@dataclass(frozen=True, slots=True)
class BrpNas:
    """A row of the table that source devices cannot help."""

    config: BrpNasConfig

    def train(self, source: Source) -> TrainedBrpNas:
        """Nothing is learned from source devices."""
        return TrainedBrpNas(self.config, graphs_of(source.architectures))


@dataclass(frozen=True, slots=True)
class TrainedBrpNas:
    """An untrained network, and the graphs that it will read."""

    config: BrpNasConfig
    graphs: Graphs

    def adapt(self, meter: Meter) -> AdaptedBrpNas:
        """Measure what `draw` gives, and train. Raises `BenchmarkRejected` for a budget below `fewest`."""
        if meter.budget < self.config.fewest:
            raise BenchmarkRejected(
                f"a budget of {meter.budget} measurements is less than the {self.config.fewest} that a "
                "network is trained on; raise the budget"
            )
        drawn = meter.draw(meter.budget)
        log_ms = np.log(meter.measure(drawn))
        centre, spread = float(log_ms.mean()), max(float(log_ms.std()), 1e-3)
        generator = Generator().manual_seed(int(meter.rng.integers(_SEEDS)))
        labels = torch.as_tensor((log_ms - centre) / spread, dtype=torch.float32)
        nodes = self.graphs.nodes[torch.as_tensor(drawn)]
        parameters = _fit(
            nodes, labels, adjacency=self.graphs.adjacency, config=self.config, generator=generator
        )
        limits = (log_ms.min() - math.log(_LONGEST), log_ms.max() + math.log(_LONGEST))
        return AdaptedBrpNas(parameters, self.graphs, centre=centre, spread=spread, limits=limits)


@dataclass(frozen=True, slots=True)
class AdaptedBrpNas:
    """Trained networks: scores are logarithms of milliseconds, less `centre`, over `spread`."""

    parameters: Parameters
    graphs: Graphs
    centre: float
    spread: float
    limits: tuple[float, float]

    def predict(self, indices: Indices) -> Predicted:
        """The networks' mean logarithm, as milliseconds."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(indices), _CHUNK):
                chunk = torch.as_tensor(indices[start : start + _CHUNK])
                scores = _forward(self.parameters, self.graphs.nodes[chunk], self.graphs.adjacency)  # (M, B)
                parts.append(scores.mean(dim=0).numpy().astype(np.float64))
        score = np.concatenate(parts)
        median_ms = np.exp(np.clip(self.centre + self.spread * score, *self.limits))
        return Predicted(median_ms=median_ms, score=score)


def graphs_of(architectures: Architectures) -> Graphs:
    """A cell of NAS-Bench-201 with operations on nodes; of other spaces the chain of blocks."""
    space, genomes = architectures.space, architectures.genomes
    encoded = encode(space, genomes)
    if space == "nb201":
        return Graphs(encoded, _averaging(cell_adjacency()))
    if space == "fbnet":
        blocks = encoded.reshape(len(genomes), _FBNET_BLOCKS, -1)
        return _chain(blocks)
    one_hot = encoded[:, : 6 * ofa_mbv3.BLOCKS].reshape(len(genomes), 2, ofa_mbv3.BLOCKS, 3)
    resolution = torch.as_tensor(genomes[:, -1:] / 224.0 - 0.8, dtype=torch.float32)  # about -0.2 .. 0.2
    of_image = (5.0 * resolution)[:, None].expand(-1, ofa_mbv3.BLOCKS, -1)
    return _chain(torch.cat([one_hot[:, 0], one_hot[:, 1], of_image], dim=-1))


def _chain(blocks: Tensor) -> Graphs:
    """Blocks (N, V, F) one after another, with their place in the chain, and a global node."""
    count, length, _ = blocks.shape
    place = torch.linspace(-1.0, 1.0, length)[None, :, None].expand(count, -1, -1)
    nodes = torch.cat([blocks, place], dim=-1)
    nodes = torch.cat([nodes, torch.zeros_like(nodes[:, :1])], dim=1)  # (N, V + 1, F + 1)
    adjacency = torch.eye(length + 1) + torch.diag(torch.ones(length), -1) + torch.diag(torch.ones(length), 1)
    adjacency[:-1, -1] = 0.0
    adjacency[-1] = 1.0
    return Graphs(nodes, _averaging(adjacency))


def _averaging(adjacency: Tensor) -> Tensor:
    return adjacency / adjacency.sum(dim=1, keepdim=True)


def _initial(inputs: int, config: BrpNasConfig, generator: Generator) -> Parameters:
    sizes = [*pairwise([inputs, *[config.width] * config.layers]), (config.layers * config.width, 1)]
    parameters: Parameters = {}
    for index, (rows, columns) in enumerate(sizes):
        weight = torch.randn((config.members, rows, columns), generator=generator) * math.sqrt(2.0 / rows)
        parameters[f"weight{index}"] = weight.requires_grad_()
        parameters[f"bias{index}"] = torch.zeros((config.members, 1, columns)).requires_grad_()
    return parameters


def _forward(parameters: Parameters, nodes: Tensor, adjacency: Tensor) -> Tensor:
    """Scores (M, B) of M members for graphs (B, V, F)."""
    members = len(parameters["weight0"])
    count, length, _ = nodes.shape
    hidden = nodes.transpose(0, 1).reshape(1, length, -1).expand(members, -1, -1)  # (M, V, B * F)
    layers = len(parameters) // 2 - 1
    readouts = []
    for index in range(layers):
        rows = torch.matmul(adjacency, hidden).reshape(members, length * count, -1)  # (M, V * B, F)
        rows = torch.baddbmm(parameters[f"bias{index}"], rows, parameters[f"weight{index}"])
        hidden = torch.relu(rows).reshape(members, length, -1)
        readouts.append(hidden[:, -1].reshape(members, count, -1))  # (M, B, L)
    joined = torch.cat(readouts, dim=-1)  # (M, B, layers * L)
    return torch.baddbmm(parameters[f"bias{layers}"], joined, parameters[f"weight{layers}"])[..., 0]


def _fit(
    nodes: Tensor, labels: Tensor, *, adjacency: Tensor, config: BrpNasConfig, generator: Generator
) -> Parameters:
    """Members (M, ...), each as it was when it predicted its held-out measurements best."""
    count = len(labels)
    folds = torch.randperm(count, generator=generator) % config.members
    held = folds[None, :] == torch.arange(config.members)[:, None]  # (M, B)
    parameters = _initial(nodes.shape[-1], config, generator)
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.rate, weight_decay=config.weight_decay)
    best = {name: value.detach().clone() for name, value in parameters.items()}
    lowest = torch.full((config.members,), math.inf)
    for _ in range(config.epochs):
        errors = (_forward(parameters, nodes, adjacency) - labels).square()  # (M, B)
        of_held = _mean_where(errors.detach(), held)
        better = of_held < lowest
        lowest = torch.where(better, of_held, lowest)
        for name, value in parameters.items():
            best[name][better] = value.detach()[better]
        loss = _mean_where(errors, ~held).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return best


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(dim=1) / mask.sum(dim=1)
