"""Our predictor as a row of the whole-graph table.

It is meta-trained on a split's sources as the shipped checkpoint is on all of them, but with two networks in
place of four, and smaller ones of fewer steps and fewer folds for the calibration, because every split trains
anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from predictor.adapt import Observation, adapt
from predictor.benchmarks.graph_arrays import ArrayCache
from predictor.benchmarks.graph_method import (
    AdaptedGraphs,
    GraphData,
    GraphMethod,
    GraphPredictions,
    LearnedGraphs,
    Support,
)
from predictor.benchmarks.graph_networks import RememberedNetworks
from predictor.benchmarks.options import default_work
from predictor.campaign.examples import MeasuredModels, Prepared, measured_model
from predictor.checkpoint import TargetFacts
from predictor.graph import ModelGraph
from predictor.kernel_costs.training import train
from predictor.kernel_costs.training_config import TrainingConfig
from predictor.meta_checkpoint import MetaCheckpoint
from predictor.meta_training import MetaConfig, Trainer, train_meta
from predictor.predict import Predictor

_CONFIG = MetaConfig(
    training=TrainingConfig(members=2),
    folds=2,
    calibration=TrainingConfig(members=2, steps=600, hidden=128),
)


def make(key: str, *, seed: int, cache: ArrayCache) -> GraphMethod:  # noqa: ARG001
    """The method by its key in the registry."""
    return PricedSources(key, trainer=RememberedNetworks(default_work("graph-bench-networks")))


@dataclass(frozen=True, slots=True)
class PricedSources:
    """A row of the table."""

    name: str
    config: MetaConfig = _CONFIG
    trainer: Trainer = train
    prepared: dict[str, Prepared] = field(default_factory=dict)  # by digest; splits share most graphs

    def learn(self, sources: GraphData) -> LearnedGraphs:
        """Meta-train on the sources, on one thread."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            meta = train_meta(
                self._measured(sources),
                self.config,
                dataset_sha256="",
                command="laptime-predictor graph-bench",
                trainer=self.trainer,
            )
        finally:
            torch.set_num_threads(before)
        return _Learned(meta)

    def _measured(self, data: GraphData) -> MeasuredModels:
        models = tuple(
            measured_model(
                self._prepared(graph),
                name=str(data.names[row]),
                family=str(data.families[row]),
                precision=str(data.precisions[row]),
                is_sweep=bool(data.is_sweep[row]),
                targets=data.targets,
                latency_ms=data.latency_ms[row],
                profiles=[data.profiles.get((str(data.names[row]), target.key)) for target in data.targets],
            )
            for row, graph in enumerate(data.graphs)
        )
        return MeasuredModels(models, data.targets, data.latency_ms)

    def _prepared(self, graph: ModelGraph) -> Prepared:
        known = self.prepared.get(graph.digest)
        if known is None:
            known = self.prepared[graph.digest] = Prepared.of(graph)
        return known


@dataclass(frozen=True, slots=True)
class _Learned:
    meta: MetaCheckpoint

    def adapt(self, target: TargetFacts, support: Support) -> AdaptedGraphs:
        observations = [
            Observation(
                target_key=target.key,
                runtime=target.runtime,
                hardware=target.hardware,
                graph=graph,
                median_ms=latency_ms,
                standard_error_ms=0.0,
            )
            for graph, latency_ms in support
        ]
        return _Adapted(Predictor(adapt(target, observations, meta=self.meta), self.meta))


@dataclass(frozen=True, slots=True)
class _Adapted:
    predictor: Predictor

    def predict(self, graphs: Sequence[ModelGraph]) -> GraphPredictions:
        said = self.predictor.predict_many(graphs)
        return GraphPredictions(
            median_ms=np.array([one.median_ms for one in said]),
            lower_ms=np.array([one.lower_ms for one in said]),
            upper_ms=np.array([one.upper_ms for one in said]),
            extrapolates=np.array([one.extrapolates for one in said]),
        )
