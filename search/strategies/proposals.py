"""What strategies share: which genomes were proposed already, randomness for one ask, and a bounded draw of
a new genome.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from search.genome import Genome
from search.space import SearchSpace, random_genome

MAX_DRAWS = 200  # of one new genome; of a space with one genome left in 40 they miss it once in 150 times


def ask_seed(seed: int, ask_number: int) -> np.random.SeedSequence:
    """Randomness of one ask: from the search's seed and the ask's number, so that no state need be kept."""
    return np.random.SeedSequence(entropy=seed, spawn_key=(ask_number,))


def draw_new(space: SearchSpace, rng: np.random.Generator, proposed: Collection[str]) -> Genome | None:
    """A random genome whose digest is not among the proposed; None after `MAX_DRAWS` draws without one."""
    for _ in range(MAX_DRAWS):
        genome = random_genome(space, rng)
        if genome.digest not in proposed:
            return genome
    return None
