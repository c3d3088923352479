"""Genomes of published spaces: rows of integers, as the published tables hold them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predictor.errors import GenomeRejected

GenomeRow = Sequence[int] | NDArray[np.integer]  # (G,)


def checked(genome: GenomeRow, *, space: str, options: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The genome as Python integers. `options`: the values that each position may have.

    Raises `GenomeRejected` naming the length, or the first position with its value and what it may be.
    """
    if len(genome) != len(options):
        raise GenomeRejected(f"a genome of {space!r} has {len(options)} positions, got {len(genome)}")
    for position, (value, allowed) in enumerate(zip(genome, options, strict=True)):
        if value not in allowed:
            raise GenomeRejected(
                f"position {position} of a genome of {space!r} must be one of {list(allowed)}, got {value}"
            )
    return tuple(int(value) for value in genome)
