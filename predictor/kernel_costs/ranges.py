"""What sizes of each kind of kernel were ever measured, so that a kernel far outside of them can be named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.kernel_costs.table import CALL_NAME, CLASSES, Amount, KernelTable
from predictor.kinds import KINDS, Family
from predictor.roofline import KernelClass

Floats = NDArray[np.float64]

SIZED = (Amount.MACS, Amount.BYTES_READ, Amount.BYTES_WRITTEN)  # per launch
_FACTOR = 4.0  # beyond what was measured, times or divided by this, is outside
_MARGIN = np.log(_FACTOR)
_FREE = CLASSES.index(KernelClass.LAUNCH)
# What starts other operators moves nothing itself, but entering and leaving it takes time.
CONTROL_NAMES = frozenset(name for name, kind in KINDS.items() if kind.family is Family.CONTROL)


@dataclass(frozen=True, slots=True)
class SeenKernels:
    """For each name of kernels the smallest and largest of `SIZED`: (2, len(SIZED)), log1p."""

    bounds: Mapping[str, Floats]

    @classmethod
    def of(cls, tables: Iterable[KernelTable]) -> SeenKernels:
        """Of all kernels in these tables."""
        bounds: dict[str, Floats] = {}
        for table in tables:
            for name, row in zip(table.names, _sizes(table), strict=True):
                known = bounds.get(name)
                both = np.stack([row, row]) if known is None else known
                bounds[name] = np.stack([np.minimum(both[0], row), np.maximum(both[1], row)])
        return cls(bounds)

    def joined(self, other: SeenKernels) -> SeenKernels:
        """What either has seen."""
        bounds = dict(self.bounds)
        for name, own in other.bounds.items():
            known = bounds.get(name, own)
            bounds[name] = np.stack([np.minimum(known[0], own[0]), np.maximum(known[1], own[1])])
        return SeenKernels(bounds)

    def strangeness(self, table: KernelTable) -> dict[str, Floats]:
        """By name the kernels (indices) that are outside: of a kind that was never measured (`NAME`), or of a
        size (`NAME, larger` or `NAME, smaller`). What costs nothing is never strange, unless it starts other
        operators.
        """
        numbers = {name: number for number, name in enumerate(dict.fromkeys(table.names))}
        most = np.full((len(numbers), len(SIZED)), -np.inf)
        for name, number in numbers.items():
            known = self.bounds.get(name)
            if known is not None:
                most[number] = known[1] + _MARGIN
        outside = (_sizes(table) > most[[numbers[name] for name in table.names]]).any(axis=1)
        is_kept = table.classes != _FREE
        if not CONTROL_NAMES.isdisjoint(numbers):
            is_kept |= np.array([name in CONTROL_NAMES for name in table.names])
        outside &= is_kept
        found: dict[str, list[int]] = {}
        for index in np.flatnonzero(outside).tolist():
            name = table.names[index]
            if name != CALL_NAME:
                found.setdefault(f"{name}, larger" if name in self.bounds else name, []).append(index)
        return {what: np.asarray(places) for what, places in found.items()}


def _sizes(table: KernelTable) -> Floats:
    """(K, len(SIZED)), log1p of amounts per launch."""
    launches = np.maximum(table.amounts[:, Amount.LAUNCHES], 1.0)
    sizes: Floats = np.log1p(table.amounts[:, SIZED] / launches[:, None])
    return sizes
