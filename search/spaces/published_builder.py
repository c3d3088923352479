"""Genomes of the published spaces to executable models.

Nothing is trained here: the weights are random numbers, the same for every seed. The models are for measuring
and predicting latency; what they compute means nothing, and a published accuracy is that of the trained
network.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.genome import Genome
from search.space import BuiltModel
from search.spaces.published import PublishedSpace


@dataclass(frozen=True, slots=True)
class PublishedBuilder:
    """Satisfies `search.space.Builder`."""

    space: PublishedSpace

    def build(self, genome: Genome, *, seed: int) -> BuiltModel:  # noqa: ARG002 - nothing is drawn
        """See `Builder.build`. A few milliseconds; every genome has a model."""
        row = self.space.row(genome)
        family = self.space.family
        return BuiltModel(family.network(row), family.input_shapes(row), stores_all_weights=False)
