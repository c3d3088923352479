"""Medleys in the sizes that people choose: the others' blocks with channels, lengths and sides that are
powers of two, or 5, 6 or 7 times one. Places in memory that lie a power of two apart share the sets of a
cache, so what moves numbers takes longer there; and rows of such sizes leave no vector half filled.
"""

from __future__ import annotations

from collections.abc import Callable

from predictor.families.grid_medleys import grid_medley
from predictor.families.image_medleys import image_medley
from predictor.families.row_medleys import row_medley, step_medley, stream_medley
from predictor.families.signal_medleys import signal_medley
from predictor.families.stack_medleys import carried_stack, dense_stack
from predictor.families.sweeps import Design, Point, Sweep


def _round(name: str, count: int, propose: Callable[[Design], Point], precisions: str) -> Sweep:
    return Sweep(f"medley-round-{name}", count, propose, precisions, least_opset=14, is_round=True)


SWEEPS = (
    _round("images", 110, image_medley, "ffqfhffqfh"),
    _round("rows", 130, row_medley, "fdfqhfdwfh"),
    _round("steps", 80, step_medley, "fdfwfhwfqf"),
    _round("streams", 50, stream_medley, "fwfdf"),
    _round("grids", 50, grid_medley, "fdfhqfdf"),
    _round("signals", 40, signal_medley, "ffqfhf"),
    _round("dense-stacks", 40, dense_stack, "fdfqfw"),
    _round("carried-stacks", 20, carried_stack, "fdf"),
)
