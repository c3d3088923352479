"""Networks that a benchmark has trained, kept by what they were trained on: a change of what stands on them
(the few-shot head, the intervals) is judged again without training them again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

from safetensors.numpy import load_file, save_file

from predictor.kernel_costs.network import LAYERS, CostNetwork, from_arrays, to_arrays
from predictor.kernel_costs.training import Examples, TrainingConfig, train
from predictor.kernel_costs.training_config import TRAINING_VERSION


@dataclass(frozen=True, slots=True)
class RememberedNetworks:
    """Trains, unless `folder` has the network of these examples and this configuration."""

    folder: Path

    def __call__(
        self, examples: Examples, config: TrainingConfig, report: Callable[[str], None] = lambda _: None
    ) -> CostNetwork:
        """As `predictor.kernel_costs.training.train`."""
        file = self.folder / f"{_digest(examples, config)}.safetensors"
        if file.is_file():
            return from_arrays(load_file(file), members=config.members, layers=LAYERS)
        network = train(examples, config, report)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        save_file(to_arrays(network), partial)
        partial.replace(file)
        return network


def _digest(examples: Examples, config: TrainingConfig) -> str:
    """Of everything that the training depends on."""
    digest = hashlib.sha256(repr((TRAINING_VERSION, examples.engines, *astuple(config))).encode())
    for array in (examples.latency_ms, examples.weights):
        digest.update(array.tobytes())
    for view in examples.views:
        for part in (view.features, view.graphs, view.sources, view.nominal, view.timed):
            digest.update(part.tobytes())
    return digest.hexdigest()
