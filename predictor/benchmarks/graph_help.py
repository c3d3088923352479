"""Baseline: HELP (`predictor.help`) on graph features: meta-learned over source targets, adapted by two
gradient steps on the reference set, with a hardware embedding and its modulator.

Latencies of whole models range over a factor of a thousand, so labels are logarithms: of latency over the
nominal time, relative to the target's own reference models. An episode's query comes from what its target
has measured, mostly whole models. Everything else is HELP's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from predictor.benchmarks.graph_arrays import ArrayCache, class_times
from predictor.benchmarks.graph_help_features import GraphFeatures, described
from predictor.benchmarks.graph_method import (
    AdaptedGraphs,
    Floats,
    GraphData,
    GraphMethod,
    GraphPredictions,
    Indices,
    LearnedGraphs,
    Support,
)
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph
from predictor.help.config import HelpConfig
from predictor.help.episodes import Episode
from predictor.help.learner import Learner, adapted, initial_learner, noise
from predictor.help.meta_training import episode_loss
from predictor.help.network import Parameters, forward

_WHOLE_SHARE = 0.75  # of an episode's query
_CONFIG = HelpConfig(
    width=48, inner_rate=1e-2, outer_rate=5e-3, episodes=400, query=64, kl_weight=1e-4
)  # fmt: skip


def make(key: str, *, seed: int, cache: ArrayCache) -> GraphMethod:
    """The method by its key in the registry."""
    return HelpOnGraphs(key, seed, cache)


@dataclass(frozen=True, slots=True)
class HelpOnGraphs:
    """A row of the table."""

    name: str
    seed: int
    cache: ArrayCache
    config: HelpConfig = _CONFIG

    def learn(self, sources: GraphData) -> LearnedGraphs:
        """Meta-train over the source targets."""
        nominal = sources.targets[0]
        values = np.stack([described(self.cache.of(graph), nominal) for graph in sources.graphs])
        features = GraphFeatures.of(values, nominal)
        references = tuple(
            graph for graph, is_one in zip(sources.graphs, sources.is_reference, strict=True) if is_one
        )
        tasks = _Tasks(sources, self.cache, self.config)
        encoded = torch.as_tensor(features(values), dtype=torch.float32)
        generator = Generator().manual_seed(self.seed)
        learner = initial_learner(encoded, self.config, reference_count=len(references), generator=generator)
        _meta_train(learner, encoded, tasks, generator)
        return _Learned(self.cache, learner, features, references, self.seed)


class _Tasks:
    """Source targets as tasks. `labels` (T, N): NaN where not measured; `embedding` (T, R)."""

    def __init__(self, sources: GraphData, cache: ArrayCache, config: HelpConfig) -> None:
        nominal = [_log_nominal(cache, sources.graphs, target) for target in sources.targets]
        logs = np.log(sources.latency_ms.T) - np.stack(nominal)  # (T, N)
        self._references = np.flatnonzero(sources.is_reference)
        is_measured = np.isfinite(logs)
        kept = is_measured[:, self._references].any(axis=1)
        logs, is_measured = logs[kept], is_measured[kept]
        centre = np.nanmean(logs[:, self._references], axis=1, keepdims=True)
        self.labels = logs - centre
        self._embedding = np.nan_to_num(self.labels[:, self._references])
        self._measured = is_measured
        self._is_sweep = sources.is_sweep
        self._config = config

    def draw(self, generator: Generator) -> Episode:
        """Distinct targets; the support is the reference set, as for a new target."""
        config = self._config
        chosen = torch.randperm(len(self.labels), generator=generator)[: config.tasks].numpy()
        support = np.stack([self._support(task) for task in chosen])
        query = np.stack([self._query(task, generator) for task in chosen])
        rows = chosen[:, None]
        return Episode(
            support=torch.as_tensor(support),
            support_labels=torch.as_tensor(self.labels[rows, support], dtype=torch.float32),
            query=torch.as_tensor(query),
            query_labels=torch.as_tensor(self.labels[rows, query], dtype=torch.float32),
            embedding=torch.as_tensor(self._embedding[chosen], dtype=torch.float32),
        )

    def _support(self, task: int) -> Indices:
        measured = self._references[self._measured[task, self._references]]
        return np.resize(measured, self._config.support)  # again from the beginning where some are missing

    def _query(self, task: int, generator: Generator) -> Indices:
        parts = []
        whole = round(_WHOLE_SHARE * self._config.query)
        for is_sweep, count in ((False, whole), (True, self._config.query - whole)):
            pool = np.flatnonzero(self._measured[task] & (self._is_sweep == is_sweep))
            if not len(pool):
                pool = np.flatnonzero(self._measured[task])
            places = torch.randint(len(pool), (count,), generator=generator).numpy()
            parts.append(pool[places])
        return np.concatenate(parts)


def _meta_train(learner: Learner, encoded: Tensor, tasks: _Tasks, generator: Generator) -> None:
    """Adam with a falling rate on all meta-parameters, in place."""
    config = learner.config
    episodes = config.episodes or 0
    tensors = [tensor.requires_grad_() for tensor in learner.tensors().values()]
    adam = torch.optim.Adam(tensors, lr=config.outer_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(episodes, 1))
    for _ in range(episodes):
        episode = tasks.draw(generator)
        draws = noise(config, len(episode.support), generator)
        loss = episode_loss(learner, encoded, episode, draws=draws)
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tensors, 1.0)
        adam.step()
        schedule.step()


@dataclass(frozen=True, slots=True, eq=False)
class _Learned:
    """`references`: the graphs of the hardware embedding, in its order."""

    cache: ArrayCache
    learner: Learner
    features: GraphFeatures
    references: tuple[ModelGraph, ...]
    seed: int

    def adapt(self, target: TargetFacts, support: Support) -> AdaptedGraphs:
        """The inner steps on the support, once for each draw of z."""
        config = self.learner.config
        graphs = [graph for graph, _ in support]
        logs = np.log([latency_ms for _, latency_ms in support])
        labels = logs - _log_nominal(self.cache, graphs, target)
        centre = float(labels.mean())
        by_digest = {graph.digest: label - centre for graph, label in zip(graphs, labels, strict=True)}
        reference = [by_digest.get(graph.digest, 0.0) for graph in self.references]
        count = config.draws if self.learner.modulator else 1
        embedding = torch.tensor(reference, dtype=torch.float32).expand(count, -1)
        parameters, _ = adapted(
            self.learner,
            _encoded(self.cache, self.features, graphs).expand(count, -1, -1),
            torch.as_tensor(labels - centre, dtype=torch.float32).expand(count, -1),
            embedding=embedding,
            draws=noise(config, count, Generator().manual_seed(self.seed)),
            training=False,
        )
        final = {name: value.detach() for name, value in parameters.items()}
        return _Adapted(self, target, final, embedding, centre)


@dataclass(frozen=True, slots=True, eq=False)
class _Adapted:
    learned: _Learned
    target: TargetFacts
    parameters: Parameters
    embedding: Tensor
    centre: float

    def predict(self, graphs: Sequence[ModelGraph]) -> GraphPredictions:
        """The mean of all draws, as milliseconds."""
        learned = self.learned
        encoded = _encoded(learned.cache, learned.features, graphs).expand(len(self.embedding), -1, -1)
        with torch.no_grad():
            labels = forward(self.parameters, encoded, self.embedding).mean(dim=0).numpy()
        logs = labels.astype(np.float64) + self.centre + _log_nominal(learned.cache, graphs, self.target)
        return GraphPredictions(np.exp(logs))


def _log_nominal(cache: ArrayCache, graphs: Sequence[ModelGraph], target: TargetFacts) -> Floats:
    times = [class_times(cache.of(graph), target.runtime, target.hardware).sum() for graph in graphs]
    logs: Floats = np.log(times)
    return logs


def _encoded(cache: ArrayCache, features: GraphFeatures, graphs: Sequence[ModelGraph]) -> Tensor:
    values = np.stack([described(cache.of(graph), features.nominal) for graph in graphs])
    return torch.as_tensor(features(values), dtype=torch.float32)
