"""How the cost network is trained; apart from the training itself, which loads torch."""

from __future__ import annotations

from dataclasses import dataclass

TRAINING_VERSION = 5  # raise it when the same examples train another network


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How the network is trained; chosen on families and targets that were left out of training."""

    hidden: int = 256
    bins: int = 12  # pieces of the range of each feature
    members: int = 4
    steps: int = 1000
    batch: int = 64  # graphs a step
    learning_rate: float = 3e-3
    hidden_learning_rate: float = 0.02  # of the hidden layers' matrices, by Muon
    decay: float = 0.3
    engine_decay: float = 0.5
    own_decay: float = 1.0
    huber: float = 0.1  # of a log-latency: beyond, errors count linearly
    layers: float = 1.0  # what a graph's timed kernels together count, relative to the graph
    seed: int = 0
