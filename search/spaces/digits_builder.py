"""Genomes of `digits-cnn` to executable models: train, calibrate, export, and check what was exported.

A model is a function of (genome, seed): the weights come from a generator that is seeded with both. Genomes
that differ in precision only are trained alike, so that int8 is compared with the very network it
quantises.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from devices.model_ref import sha256_of
from search.architecture import IMAGE, Architecture, Ranges, Weights
from search.errors import BuildFailed
from search.execution import ModelRunner
from search.export import export
from search.genome import Genome
from search.quant import sqnr_db
from search.space import BuiltModel
from search.spaces.digits_cnn import DigitsCnn, training_identity
from search.tasks import digits, training

MIN_SQNR_DB = 10.0  # below, a runtime computes something else than the file says: it is known to happen
CHECKED_IMAGES = 40
REMEMBERED_NETWORKS = 32  # at most 0.6 MB each


@dataclass(frozen=True, slots=True)
class DigitsBuilder:
    """Satisfies `search.space.Builder`."""

    space: DigitsCnn
    runner: ModelRunner

    def build(self, genome: Genome, *, seed: int) -> BuiltModel:
        """See `Builder.build`. 0.3 to 3 seconds on one core, less when only the precision is new."""
        architecture = self.space.architecture(genome)
        weights = _trained(self.space, training_identity(genome), seed)
        if not all(
            np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all() for layer in weights.values()
        ):
            raise BuildFailed("training diverged: weights are not finite")
        images = digits.load().training.at(architecture.resolution)
        ranges = training.calibrate(architecture, weights, images)
        built = BuiltModel(export(architecture, weights, ranges), {IMAGE: architecture.input_shape})
        self._check(built, architecture, weights, ranges)
        return built

    def _check(self, built: BuiltModel, architecture: Architecture, weights: Weights, ranges: Ranges) -> None:
        """Raises `BuildFailed` unless the runtime gives what the (quantised) network should give."""
        images = digits.load().training.at(architecture.resolution)[:CHECKED_IMAGES]
        expected = training.simulate(architecture, weights, ranges, images)
        agreement_db = sqnr_db(expected, self.runner.outputs(built, images))
        if not agreement_db >= MIN_SQNR_DB:  # also where it is no number
            raise BuildFailed(
                f"numeric check failed: {self.runner.runtime.key} agrees with the simulated network to "
                f"{agreement_db:.1f} dB only, {MIN_SQNR_DB:g} are needed"
            )


@lru_cache(maxsize=REMEMBERED_NETWORKS)
def _trained(space: DigitsCnn, genome: Genome, seed: int) -> Weights:
    architecture = space.architecture(genome)
    samples = digits.load().training
    own_seed = int(sha256_of(f"{seed}:{genome.to_json()}".encode())[:15], 16)
    return training.train(architecture, samples.at(architecture.resolution), samples.labels, seed=own_seed)
