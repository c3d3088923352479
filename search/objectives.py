"""What a search can optimise, and in which direction.

All arithmetic on objectives (`search.pareto`) minimises: `minimised` turns values into that form by
flipping the sign of what is maximised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from search.errors import RequestRejected

ACCURACY = "accuracy"
LATENCY_MS = "latency_ms"
SIZE_BYTES = "size_bytes"


@dataclass(frozen=True, slots=True)
class Objective:
    """One quantity with its direction; `meaning` is for people."""

    name: str
    direction: Literal["maximize", "minimize"]
    meaning: str


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(ACCURACY, "maximize", "share of validation samples classified rightly, in [0, 1]"),
        Objective(LATENCY_MS, "minimize", "median latency on the target in milliseconds"),
        Objective(SIZE_BYTES, "minimize", "bytes of the ONNX file with all weights"),
    )
}


def check_objectives(names: Sequence[str]) -> None:
    """Raises `RequestRejected` unless there is at least one name, each known and given once."""
    if not names or len(set(names)) != len(names) or not set(names) <= set(OBJECTIVES):
        raise RequestRejected(f"objectives must be distinct names of {sorted(OBJECTIVES)}, got {list(names)}")


def minimised(values: Mapping[str, float], names: Sequence[str]) -> NDArray[np.float64]:
    """`(M,)`: the named objectives, each oriented so that less is better; NaN where a value is missing."""
    signs = [-1.0 if OBJECTIVES[name].direction == "maximize" else 1.0 for name in names]
    return np.array([sign * values.get(name, float("nan")) for sign, name in zip(signs, names, strict=True)])


def points_of(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> NDArray[np.float64]:
    """`(N, M)`: one minimised row for each mapping; `(0, M)` for none."""
    if not rows:
        return np.zeros((0, len(names)))
    return np.stack([minimised(row, names) for row in rows])
