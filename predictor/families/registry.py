"""All models of all families, in a fixed order."""

from __future__ import annotations

from functools import lru_cache

from predictor.families import (
    attention,
    branching,
    byte_medleys,
    convnets,
    decoders,
    grid_medleys,
    heavy_medleys,
    image_medleys,
    images,
    long_medleys,
    mixing,
    moving_sweeps,
    oblong_medleys,
    product_sweeps,
    rare_medleys,
    round_medleys,
    row_medleys,
    sequences,
    signal_medleys,
    small_medleys,
    stack_medleys,
)
from predictor.families.family import Specimen

# Raised whenever a specimen's bytes change: latencies measured under another version are of other models.
FAMILY_VERSION = 1
_THEMES = (convnets, branching, images, attention, decoders, sequences, mixing)
_SWEEPS = (
    product_sweeps, moving_sweeps, image_medleys, row_medleys, rare_medleys, signal_medleys, grid_medleys,
    stack_medleys, byte_medleys, round_medleys, heavy_medleys, oblong_medleys, small_medleys, long_medleys,
)  # fmt: skip

__all__ = ["FAMILY_VERSION", "Specimen", "specimens"]


@lru_cache(maxsize=1)
def specimens() -> tuple[Specimen, ...]:
    """Whole models first, then sweeps; nothing is built."""
    whole = [each for theme in _THEMES for family in theme.FAMILIES for each in family.specimens()]
    swept = [each for theme in _SWEEPS for sweep in theme.SWEEPS for each in sweep.specimens()]
    return (*whole, *swept)
