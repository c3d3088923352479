"""Training the cost network on whole-model latencies: no kernel is timed on its own, but single-operator
models are among the examples.

The loss is the robust error of log-latency (Huber). An output is a part that all sources share, plus one that
those of an engine share, plus its own. The two latter decay, the own ones more: a source with few
measurements is told by the others, by those of its engine first.

Every second member of an ensemble does not see what else is in a kernel's graph. What it is there for is real
(other weights want the caches too), but it also tells training's graphs apart; members that see it miss
unknown graphs alike, whatever chance had them begin with, and those that do not miss others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from predictor.kernel_costs.bins import Bins
from predictor.kernel_costs.features import COMPANY
from predictor.kernel_costs.muon import Muon
from predictor.kernel_costs.network import MOST, CostNetwork, Member
from predictor.kernel_costs.training_config import (
    TrainingConfig as TrainingConfig,  # training is where callers meet it
)

Floats = NDArray[np.float64]

_REPORTED = 500
_LEAST_MS = 1e-6
_LEAST_SPREAD = 1e-3
_LEAST_TIMED_MS = 0.004  # profiles count in whole microseconds


@dataclass(frozen=True, slots=True)
class ViewExamples:
    """The kernels of all graphs in one view, equal kernels of a graph together, and the sources that run
    graphs so.

    `features` (K, F), `graphs` (K,) the graph of each kernel, `sources` (s,) columns of the latencies,
    `nominal` and `timed` (K, s) milliseconds of all equal ones together; `timed`, of the kernels themselves,
    is NaN where no layer profile tells.
    """

    features: NDArray[np.float32]
    graphs: NDArray[np.int64]
    sources: NDArray[np.int64]
    nominal: Floats
    timed: Floats


@dataclass(frozen=True, slots=True)
class Examples:
    """G graphs on S sources. `latency_ms` (G, S), NaN where not measured; `weights` (G,), how much a graph
    counts; `engines` of the sources. Every graph has kernels in every view.
    """

    views: tuple[ViewExamples, ...]
    latency_ms: Floats
    weights: Floats
    engines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Inputs:
    """How a member sees features: with pieces of their ranges behind them, and all centred and scaled by
    `centre` and `spread` (F + B,).
    """

    bins: Bins
    centre: Tensor
    spread: Tensor

    @classmethod
    def of(cls, features: NDArray[np.float32], bins: Bins, unseen: Sequence[int]) -> _Inputs:
        """Features by their means and standard deviations over all kernels (K, F); `unseen` ones, and their
        pieces, say nothing.
        """
        centre, spread = features.mean(axis=0), features.std(axis=0)
        spread[spread < _LEAST_SPREAD] = 1.0  # what does not vary says nothing
        spread[list(unseen)] = np.inf
        of_pieces = np.where(np.isin(bins.fields, unseen), np.inf, 1.0)
        return cls(
            bins,
            torch.from_numpy(np.concatenate([centre, np.zeros(len(bins))]).astype(np.float32)),
            torch.from_numpy(np.concatenate([spread, of_pieces]).astype(np.float32)),
        )

    def seen(self, features: NDArray[np.float32]) -> Tensor:
        """(K, F + B) of (K, F)."""
        return (torch.from_numpy(self.bins.encoded(features)) - self.centre) / self.spread


class _Network(nn.Module):
    def __init__(self, inputs: int, hidden: int, engines: Sequence[str]) -> None:
        super().__init__()
        names = sorted(set(engines))
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.shared = nn.Linear(hidden, 1)
        self.engine = nn.Linear(hidden, len(names))
        self.own = nn.Linear(hidden, len(engines))
        self.places = [names.index(engine) for engine in engines]
        for last in (self.shared, self.engine, self.own):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def last(self) -> tuple[Tensor, Tensor]:
        """Weights (S, hidden) and biases (S,) of the last layer."""
        weight = self.shared.weight + self.engine.weight[self.places] + self.own.weight
        return weight, self.shared.bias + self.engine.bias[self.places] + self.own.bias

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.first(x))
        x = nn.functional.silu(self.second(x))
        return MOST * torch.tanh(nn.functional.linear(x, *self.last()) / MOST)


def train(
    examples: Examples, config: TrainingConfig, report: Callable[[str], None] = lambda _: None
) -> CostNetwork:
    """All members, one after the other. Deterministic for a seed and a number of threads."""
    features = np.concatenate([view.features for view in examples.views])
    bins = Bins.of(features, config.bins)
    members = []
    for number in range(config.members):
        inputs = _Inputs.of(features, bins, unseen=COMPANY if number % 2 else ())
        network = _train_one(examples, inputs, config, config.seed + number, report)
        members.append(_exported(network, inputs))
    return CostNetwork(tuple(members), bins)


def _train_one(
    examples: Examples, inputs: _Inputs, config: TrainingConfig, seed: int, report: Callable[[str], None]
) -> _Network:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = _Data.of(examples, inputs)
    network = _Network(len(inputs.centre), config.hidden, examples.engines)
    hidden = [network.first.weight, network.second.weight]
    adam = torch.optim.AdamW(_groups(network, config), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        adam, max_lr=config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    muon = Muon(hidden, decay=config.decay)
    running = 0.0
    for step in range(config.steps):
        chosen = rng.permutation(len(examples.latency_ms))[: config.batch]
        network.zero_grad()
        loss = data.loss(network, chosen, config)
        loss.backward()  # type: ignore[no-untyped-call]
        pace = float(schedule.get_last_lr()[0]) / config.learning_rate
        muon.step(pace * config.hidden_learning_rate)
        adam.step()
        schedule.step()
        running += float(loss.detach())
        if (step + 1) % _REPORTED == 0:
            report(f"member {seed}, step {step + 1}: mean error {running / _REPORTED:.4f}")
            running = 0.0
    return network


def _groups(network: _Network, config: TrainingConfig) -> list[dict[str, object]]:
    """What Muon does not take, with how much it decays."""
    rest = [network.first.bias, network.second.bias, *network.shared.parameters()]
    return [
        {"params": rest, "weight_decay": config.decay},
        {"params": list(network.engine.parameters()), "weight_decay": config.engine_decay},
        {"params": list(network.own.parameters()), "weight_decay": config.own_decay},
    ]


@dataclass(frozen=True, slots=True)
class _View:
    """Rows in the order of their graphs: those of graph g are `starts[g]` to `starts[g + 1]`."""

    features: Tensor
    nominal: Tensor
    log_timed: Tensor
    shares: Tensor  # of its graph's time, 0 where a kernel was not timed
    sources: Tensor
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, view: ViewExamples, latency_ms: Floats, inputs: _Inputs) -> _View:
        order = np.argsort(view.graphs, kind="stable")
        graphs, timed = len(latency_ms), view.timed[order]
        whole = latency_ms[view.graphs[order]][:, view.sources]  # (K, s)
        known = np.isfinite(timed) & np.isfinite(whole) & (timed > _LEAST_TIMED_MS)
        shares = np.where(known, np.minimum(timed / np.where(known, whole, 1.0), 1.0), 0.0)
        return cls(
            features=inputs.seen(view.features[order]),
            nominal=torch.from_numpy(view.nominal[order].astype(np.float32)),
            log_timed=torch.from_numpy(np.log(np.where(known, timed, 1.0)).astype(np.float32)),
            shares=torch.from_numpy(shares.astype(np.float32)),
            sources=torch.from_numpy(view.sources),
            starts=np.searchsorted(view.graphs[order], np.arange(graphs + 1)),
        )

    def rows(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Indices of the chosen graphs' rows, and the place of each row's graph among the chosen."""
        parts = [np.arange(self.starts[graph], self.starts[graph + 1]) for graph in chosen]
        places = np.repeat(np.arange(len(chosen)), [len(part) for part in parts])
        return torch.from_numpy(np.concatenate(parts)), torch.from_numpy(places)


@dataclass(frozen=True, slots=True)
class _Data:
    views: Sequence[_View]
    log_ms: Tensor
    weights: Tensor

    @classmethod
    def of(cls, examples: Examples, inputs: _Inputs) -> _Data:
        measured = np.isfinite(examples.latency_ms)
        weights = measured * examples.weights[:, None]
        log_ms = np.log(np.where(measured, examples.latency_ms, 1.0))
        return cls(
            views=[_View.of(view, examples.latency_ms, inputs) for view in examples.views],
            log_ms=torch.from_numpy(log_ms.astype(np.float32)),
            weights=torch.from_numpy(weights.astype(np.float32)),
        )

    def loss(self, network: _Network, chosen: NDArray[np.int64], config: TrainingConfig) -> Tensor:
        """Of the chosen graphs: about the mean relative error of the whole, and of the timed kernels weighted
        by their time.
        """
        some = torch.from_numpy(chosen)
        log_ms, weights = self.log_ms[some], self.weights[some]
        total = torch.full(log_ms.shape, _LEAST_MS)  # (G, S)
        timed = torch.zeros(())
        for view in self.views:
            rows, places = view.rows(chosen)
            factors = network(view.features[rows])[:, view.sources]  # (K, s), logarithms
            nominal = view.nominal[rows]
            summed = torch.zeros(len(chosen), len(view.sources))
            summed = summed.index_add(0, places, nominal * torch.exp(factors))
            total = total.index_add(1, view.sources, summed)
            shares = view.shares[rows]
            log_kernel = torch.log(nominal + _LEAST_MS) + factors
            missed = nn.functional.huber_loss(
                log_kernel, view.log_timed[rows], reduction="none", delta=config.huber
            )
            # a kernel that is said to take far too long spoils the whole as one that takes long does
            said = torch.exp(log_kernel.detach() - log_ms[places][:, view.sources]).clamp(max=1.0)
            timed = timed + (torch.where(shares > 0, torch.maximum(shares, said), shares) * missed).sum()
        error = nn.functional.huber_loss(torch.log(total), log_ms, reduction="none", delta=config.huber)
        whole = (weights * error).sum() + config.layers * timed
        return whole / (weights.sum() * config.huber)


def _exported(network: _Network, inputs: _Inputs) -> Member:
    """Weights as inference takes them, the standardisation of features within the first layer."""
    first = network.first.weight / inputs.spread
    layers = [
        (first, network.first.bias - first @ inputs.centre),
        (network.second.weight, network.second.bias),
        network.last(),
    ]
    return Member(
        weights=tuple(weight.detach().numpy().T.copy() for weight, _ in layers),
        biases=tuple(bias.detach().numpy().copy() for _, bias in layers),
    )


def view_examples(
    encoded: Sequence[tuple[NDArray[np.float32], Floats, Floats]], sources: Sequence[int]
) -> ViewExamples:
    """From each graph's features (K, F), nominal and timed milliseconds (K, s): equal kernels of a graph
    become one. Of equal kernels, those that were timed stand for the others.
    """
    features, nominal, timed, graphs = [], [], [], []
    for graph, (rows, nominal_ms, timed_ms) in enumerate(encoded):
        distinct, places = np.unique(rows, axis=0, return_inverse=True)
        count = len(distinct)
        summed = np.zeros((count, nominal_ms.shape[1]))
        np.add.at(summed, places.ravel(), nominal_ms)
        known, sums, equal = np.zeros_like(summed), np.zeros_like(summed), np.zeros_like(summed)
        np.add.at(known, places.ravel(), np.isfinite(timed_ms))
        np.add.at(sums, places.ravel(), np.nan_to_num(timed_ms))
        np.add.at(equal, places.ravel(), 1.0)
        features.append(distinct)
        nominal.append(summed)
        timed.append(np.where(known > 0, sums * equal / np.maximum(known, 1.0), np.nan))
        graphs.append(np.full(count, graph))
    return ViewExamples(
        features=np.concatenate(features),
        graphs=np.concatenate(graphs),
        sources=np.asarray(sources, dtype=np.int64),
        nominal=np.concatenate(nominal),
        timed=np.concatenate(timed),
    )
