"""How good predictions of whole graphs on left-out targets are: errors, intervals, ratios between targets,
and whether a lower precision is rightly called faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from predictor.benchmarks.graph_method import Flags, Floats, GraphData
from predictor.benchmarks.graph_run import TargetPredictions
from predictor.evaluate import FAR_OFF

RATIO_TOLERANCE = 0.15
UNDECIDED = (0.9, 1.1)  # true ratios between which a sign means nothing
BASE_PRECISION = "fp32"
SIGN_ENGINES = ("onnxruntime", "openvino")
# Precisions whose sign is judged; 4-bit weights only where a transformer decodes token by token.
SIGN_PRECISIONS = ("int8", "int8-dynamic", "w4")
_DECODING = frozenset(("decode",))


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """A method's predictions of models on left-out targets, with what was measured: all (G, T), NaN where
    nothing was asked. `extrapolates` is False where a method does not tell.
    """

    median_ms: Floats
    lower_ms: Floats
    upper_ms: Floats
    extrapolates: Flags
    measured_ms: Floats

    @property
    def is_asked(self) -> Flags:
        """(G, T)."""
        return np.isfinite(self.median_ms) & np.isfinite(self.measured_ms)

    @property
    def has_intervals(self) -> bool:
        """Whether every prediction has one."""
        asked = self.is_asked
        return bool(asked.any() and np.isfinite(self.lower_ms[asked]).all())

    @property
    def errors(self) -> Floats:
        """Relative and signed (G, T), NaN where nothing was asked."""
        relative: Floats = self.median_ms / self.measured_ms - 1.0
        return relative


@dataclass(frozen=True, slots=True)
class GraphScores:
    """Fractions, not per cent. `bias`: mean log(predicted / measured). `width`: mean log(upper / lower).
    `coverage` and `width` are None without intervals.
    """

    pairs: int
    median_ape: float
    mape: float
    within10: float
    within25: float
    bias: float
    coverage: float | None
    width: float | None


@dataclass(frozen=True, slots=True)
class SignTest:
    """Pairs of a model in a precision and in `fp32` on one target whose true ratio is decided; how many of
    the predicted ratios are on the right side of one.
    """

    pairs: int
    right: int


@dataclass(frozen=True, slots=True)
class FarOff:
    """A prediction off by more than a factor `FAR_OFF` that nobody was warned of."""

    name: str
    target_key: str
    predicted_ms: float
    measured_ms: float


def said_of(found: Sequence[TargetPredictions], data: GraphData) -> Said:
    """Predictions of all splits put together."""
    shape = data.latency_ms.shape
    median, lower, upper = (np.full(shape, np.nan) for _ in range(3))
    flags = np.zeros(shape, dtype=np.bool_)
    rows = {str(name): index for index, name in enumerate(data.names)}
    columns = {target.key: index for index, target in enumerate(data.targets)}
    for one in found:
        at = ([rows[name] for name in one.names], columns[one.target_key])
        median[at] = one.median_ms
        if one.lower_ms:
            lower[at], upper[at] = one.lower_ms, one.upper_ms
        if one.extrapolates:
            flags[at] = one.extrapolates
    return Said(median, lower, upper, flags, data.latency_ms)


def graph_scores(said: Said, chosen: NDArray[np.bool_] | None = None) -> GraphScores | None:
    """Over all pairs, or those `chosen` (G, T) of them; None where there are none."""
    asked = said.is_asked if chosen is None else said.is_asked & chosen
    if not asked.any():
        return None
    errors = np.abs(said.errors[asked])
    measured = said.measured_ms[asked]
    coverage = width = None
    if said.has_intervals:
        lower, upper = said.lower_ms[asked], said.upper_ms[asked]
        coverage = float(np.mean((lower <= measured) & (measured <= upper)))
        width = float(np.mean(np.log(upper / lower)))
    return GraphScores(
        pairs=len(errors),
        median_ape=float(np.median(errors)),
        mape=float(errors.mean()),
        within10=float(np.mean(errors <= 0.1)),
        within25=float(np.mean(errors <= 0.25)),
        bias=float(np.mean(np.log(said.median_ms[asked] / measured))),
        coverage=coverage,
        width=width,
    )


def ratios_within(said: Said) -> tuple[int, float]:
    """Pairs of targets for one model, and the share whose predicted ratio is within `RATIO_TOLERANCE` of the
    measured one. NaN without pairs.
    """
    off: list[Floats] = []
    asked = said.is_asked
    for first, second in combinations(range(asked.shape[1]), 2):
        both = asked[:, first] & asked[:, second]
        predicted = said.median_ms[both, first] / said.median_ms[both, second]
        measured = said.measured_ms[both, first] / said.measured_ms[both, second]
        off.append(np.abs(predicted / measured - 1.0))
    joined = np.concatenate(off) if off else np.zeros(0)
    return len(joined), float(np.mean(joined <= RATIO_TOLERANCE)) if len(joined) else float("nan")


def sign_tests(said: Said, data: GraphData) -> dict[str, SignTest]:
    """By precision, over ONNX Runtime's and OpenVINO's targets."""
    rows = {str(name): index for index, name in enumerate(data.names)}
    columns = [place for place, one in enumerate(data.targets) if one.runtime.engine in SIGN_ENGINES]
    asked = said.is_asked
    tests: dict[str, SignTest] = {}
    for precision in SIGN_PRECISIONS:
        pairs = right = 0
        for row in np.flatnonzero(data.precisions == precision):
            base = rows.get(f"{str(data.names[row]).rpartition('/')[0]}/{BASE_PRECISION}")
            if base is None or not _is_judged(data, int(row), precision):
                continue
            for column in columns:
                if not (asked[row, column] and asked[base, column]):
                    continue
                measured = said.measured_ms[row, column] / said.measured_ms[base, column]
                if UNDECIDED[0] <= measured <= UNDECIDED[1]:
                    continue
                predicted = said.median_ms[row, column] / said.median_ms[base, column]
                pairs += 1
                right += int((predicted < 1.0) == (measured < 1.0))
        tests[precision] = SignTest(pairs, right)
    return tests


def _is_judged(data: GraphData, row: int, precision: str) -> bool:
    return precision != "w4" or str(data.families[row]) in _DECODING


def far_off(said: Said, data: GraphData) -> list[FarOff]:
    """Predictions off by more than a factor `FAR_OFF` without the flag of extrapolation."""
    ratio = said.median_ms / said.measured_ms
    is_off = said.is_asked & ~said.extrapolates & ((ratio > FAR_OFF) | (ratio < 1.0 / FAR_OFF))
    return [
        FarOff(
            str(data.names[row]),
            data.targets[column].key,
            float(said.median_ms[row, column]),
            float(said.measured_ms[row, column]),
        )
        for row, column in np.argwhere(is_off)
    ]
