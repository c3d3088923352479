"""A graph as counted work: how many kernels of which kind and size, and what they compute and move.

A tally is linear: it is a sum over kernels, so a device whose latency is a sum over kernels has a latency
linear in it, whatever each kind and size of kernel costs there. Two views are taken: the operators as the
file lists them (a framework that runs them one by one), and the kernels that a fusing runtime launches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from predictor.graph import ModelGraph, Operator
from predictor.kernels import kernels_of
from predictor.kinds import KINDS, Family

TALLY_VERSION = 2  # raise it when the same graph gets another tally


class Work(IntEnum):
    """Kinds of kernels that hardware treats alike."""

    CONV = 0
    POINTWISE = 1  # convolutions with a 1 x 1 kernel
    GROUPED = 2
    DEPTHWISE = 3
    PRODUCT = 4
    RECURRENT = 5
    INT8 = 6
    LOW_BIT = 7
    ELEMENTWISE = 8
    NORMALISE = 9
    POOL = 10
    MOVE = 11
    VIEW = 12


class Law(IntEnum):
    """What the time of a kernel may be in proportion to."""

    LAUNCHES = 0
    MACS = 1
    ACTIVATION_BYTES = 2
    WEIGHT_BYTES = 3


# Kernels are told apart by size, softly: a kernel between two octaves counts for both. Sizes are of all that
# a kernel moves, from 256 bytes to 256 MiB in steps of a factor four.
SIZE_OCTAVES = np.arange(8.0, 29.0, 2.0)
TALLY_SHAPE = (len(Work), len(Law), len(SIZE_OCTAVES))

_BY_FAMILY = {
    Family.RECURRENT: Work.RECURRENT,
    Family.ELEMENTWISE: Work.ELEMENTWISE,
    Family.CONVERT: Work.ELEMENTWISE,
    Family.NORMALISE: Work.NORMALISE,
    Family.REDUCE: Work.NORMALISE,
    Family.POOL: Work.POOL,
    Family.MOVE: Work.MOVE,
    Family.SEARCH: Work.MOVE,
    Family.VIEW: Work.VIEW,
    Family.CONTROL: Work.VIEW,
}


def tally_operators(graph: ModelGraph) -> NDArray[np.float64]:
    """Of the operators as listed, `TALLY_SHAPE`. All entries are finite and at least 0."""
    tally = np.zeros(TALLY_SHAPE)
    for op in graph.operators:
        weight_bytes = sum(
            graph.tensors[name].size_bytes for name in op.inputs if name and graph.tensors[name].is_weight
        )
        moved = op.bytes_read + op.bytes_written
        amounts = (op.repeats, op.macs, max(moved - weight_bytes, 0), weight_bytes)
        _add(tally, _work(graph, op), amounts, moved)
    return tally


def tally_kernels(graph: ModelGraph, *, fuses_chains: bool = False) -> NDArray[np.float64]:
    """Of the kernels that a fusing runtime launches, `TALLY_SHAPE`."""
    tally = np.zeros(TALLY_SHAPE)
    for kernel in kernels_of(graph, fuses_chains=fuses_chains):
        activation_bytes = max(kernel.bytes_moved - kernel.weight_bytes, 0)
        amounts = (kernel.launches, kernel.macs, activation_bytes, kernel.weight_bytes)
        _add(tally, _work(graph, kernel.anchor), amounts, kernel.bytes_moved)
    return tally


def _add(tally: NDArray[np.float64], work: Work, amounts: Sequence[float], moved_bytes: int) -> None:
    octave = math.log2(max(moved_bytes, 1))
    place = float(np.clip((octave - SIZE_OCTAVES[0]) / 2.0, 0.0, len(SIZE_OCTAVES) - 1.0))
    below = min(int(place), len(SIZE_OCTAVES) - 2)
    above = place - below
    for law, amount in enumerate(amounts):
        tally[work, law, below] += amount * (1.0 - above)
        tally[work, law, below + 1] += amount * above


def _work(graph: ModelGraph, op: Operator) -> Work:
    family = KINDS[op.full_kind].family
    if family not in (Family.CONV, Family.MATMUL):
        return _BY_FAMILY[family]
    if op.precision in ("int8", "uint8"):
        return Work.INT8
    if op.precision in ("int4", "uint4", "int2", "uint2"):
        return Work.LOW_BIT
    if family is Family.MATMUL:
        return Work.PRODUCT
    groups = op.attributes.get("group", 1)
    if isinstance(groups, int) and groups > 1:
        name = op.inputs[1] if len(op.inputs) > 1 else ""
        shape = graph.tensors[name].shape if name else ()
        return Work.DEPTHWISE if len(shape) > 1 and shape[1] == 1 else Work.GROUPED
    kernel = op.attributes.get("kernel_shape", ())
    is_point = isinstance(kernel, tuple) and bool(kernel) and all(size == 1 for size in kernel)
    return Work.POINTWISE if is_point else Work.CONV
