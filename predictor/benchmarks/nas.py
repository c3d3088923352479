"""HELP's end-to-end table: of 500 NAS-Bench-201 candidates with known CIFAR-100 accuracy, return the most
accurate one that keeps a latency limit on a new device, after few measurements of it.

A method is adapted with `samples` measurements of candidates. The rest of the `budget` goes into
verification: the candidate with the largest expected gain in accuracy, its chance to keep the limit times
what it would add to the best one known to keep it, is measured, and the method is adapted again to all that
is known. The answer is the best measured candidate that keeps the limit. Every measurement counts, whatever
it was for.

A method with intervals has chances: its 90 % interval read as a normal distribution of log-latency. One
without is taken at its word. Where nothing is left to verify with, the most accurate candidate is returned
whose upper bound (or prediction, without intervals) keeps the limit; the latter is HELP's own rule.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.special import ndtr

from predictor.benchmarks.method import Adapted, Floats, Indices, Meter, Predicted, Selection, Trained
from predictor.benchmarks.tables import Candidates, LatencyTable

TASK = "help-nb201"  # whose source devices are learned from
LIMITS_MS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "titan_rtx_256": (18.0, 21.0, 25.0),
        "gold_6226": (8.0, 11.0, 14.0),
        "pixel2": (14.0, 18.0, 22.0),
        "eyeriss": (5.0, 7.0, 9.0),
        "fpga": (4.0, 5.0, 6.0),
    }
)
WORTH = 0.02  # points of accuracy that a measurement must promise, once there is an answer
_SDS_IN_INTERVAL = 2.0 * 1.6448536269514722  # of a normal distribution, in its central 90 %

Known = tuple[Indices, Floats]  # rows (K,) and their latencies in milliseconds


@dataclass(frozen=True, slots=True)
class Rules:
    """`samples` measurements to adapt, `budget` with verification; `budget` >= `samples`."""

    samples: int
    budget: int
    selection: Selection


@dataclass(frozen=True, slots=True)
class Choice:
    """What came of one search. `oracle`: the best accuracy, in per cent, of all candidates within the
    limit. `measured`: rows of the table, whatever they were measured for.
    """

    accuracy: float
    oracle: float
    latency_ms: float
    limit_ms: float
    measured: tuple[int, ...]

    @property
    def measurements(self) -> int:
        """What the search cost."""
        return len(self.measured)

    @property
    def is_kept(self) -> bool:
        """Whether the limit holds."""
        return self.latency_ms <= self.limit_ms


@dataclass(frozen=True, slots=True, eq=False)
class Arena:
    """A device that candidates are measured on. `latency_ms` (N,): of the whole table."""

    name: str
    candidates: Candidates
    reference: Indices
    latency_ms: Floats

    @classmethod
    def of(cls, table: LatencyTable, candidates: Candidates, device: str) -> Arena:
        """A device of a table."""
        return cls(device, candidates, table.reference, table.column(device))

    def meter(self, *, budget: int, selection: Selection, seed: int, known: Indices | None = None) -> Meter:
        """A meter over the candidates. What is `known` is drawn first, references last among it: methods that
        measure them anyway then draw the others.
        """
        if known is None:
            known = self.reference[:0]
        is_reference = np.isin(known, self.reference)
        return Meter(
            lambda row: float(self.latency_ms[row]),
            pool=self.candidates.rows,
            budget=budget,
            selection=selection,
            rng=np.random.default_rng([seed, zlib.crc32(self.name.encode())]),
            reference=self.reference,
            first=np.concatenate([known[~is_reference], known[is_reference]]),
        )


def search_device(trained: Trained, arena: Arena, *, rules: Rules, seed: int) -> list[Choice]:
    """One choice for each of the device's limits; the adaptation is theirs in common, but counts in each."""
    meter = arena.meter(budget=rules.samples, selection=rules.selection, seed=seed)
    adapted = trained.adapt(meter)
    known = meter.measured, meter.measure(meter.measured)
    return [
        _search(trained, arena, adapted, known, limit_ms=limit_ms, rules=rules, seed=seed)
        for limit_ms in LIMITS_MS[arena.name]
    ]


def _search(
    trained: Trained,
    arena: Arena,
    adapted: Adapted,
    known: Known,
    *,
    limit_ms: float,
    rules: Rules,
    seed: int,
) -> Choice:
    """Verify until the budget is spent or nothing is worth it, and answer."""
    rows, accuracy = arena.candidates.rows, arena.candidates.accuracy
    while len(known[0]) < rules.budget:
        predicted = adapted.predict(rows)
        position = next_candidate(predicted, accuracy, _measured_ms(rows, known), limit_ms=limit_ms)
        if position is None:
            break
        extended = np.append(known[0], rows[position])
        meter = arena.meter(budget=len(extended), selection="random", seed=seed, known=extended)
        known = extended, meter.measure(extended)
        adapted = trained.adapt(meter)
    position = answer(
        adapted.predict(rows), accuracy, _measured_ms(rows, known),
        limit_ms=limit_ms, is_verified=rules.budget > rules.samples,
    )  # fmt: skip
    latency_ms = arena.latency_ms[rows]  # from here on the truth: it judges the answer
    return Choice(
        accuracy=float(accuracy[position]),
        oracle=float(accuracy[latency_ms <= limit_ms].max()),
        latency_ms=float(latency_ms[position]),
        limit_ms=limit_ms,
        measured=tuple(known[0].tolist()),
    )


def _measured_ms(rows: Indices, known: Known) -> Floats:
    """Of the candidates (C,): NaN where nobody measured."""
    by_row = dict(zip(known[0].tolist(), known[1].tolist(), strict=True))
    return np.asarray([by_row.get(row, np.nan) for row in rows.tolist()])


def chances(predicted: Predicted, limit_ms: float) -> Floats:
    """The probability (C,) that each latency is within the limit; 0 or 1 for a method without intervals."""
    if predicted.lower_ms is None or predicted.upper_ms is None:
        return (predicted.median_ms <= limit_ms).astype(np.float64)
    deviation = np.log(predicted.upper_ms / predicted.lower_ms) / _SDS_IN_INTERVAL
    chance: Floats = ndtr(np.log(limit_ms / predicted.median_ms) / np.maximum(deviation, 1e-9))
    return chance


def next_candidate(
    predicted: Predicted, accuracy: Floats, measured_ms: Floats, *, limit_ms: float
) -> int | None:
    """Position of the candidate to measure next, or None if none promises `WORTH`.

    As long as no candidate is known to keep the limit, the gain is the whole accuracy, which makes the first
    choice a safe one.
    """
    is_open = np.isnan(measured_ms)
    keeps = measured_ms <= limit_ms  # NaN does not
    best = float(accuracy[keeps].max()) if keeps.any() else 0.0
    gain = np.where(is_open, chances(predicted, limit_ms) * np.maximum(accuracy - best, 0.0), 0.0)
    position = int(np.argmax(gain))
    if gain[position] >= WORTH:
        return position
    if keeps.any() or not is_open.any():
        return None
    return int(np.argmin(np.where(is_open, predicted.median_ms, np.inf)))  # hopeless: try the fastest


def answer(
    predicted: Predicted, accuracy: Floats, measured_ms: Floats, *, limit_ms: float, is_verified: bool
) -> int:
    """Position of the candidate to return: the most accurate one known to keep the limit, or, if the answer
    need not be verified or none is known, expected to; if none is, the one most likely to.
    """
    keeps = measured_ms <= limit_ms
    bound = predicted.median_ms if predicted.upper_ms is None else predicted.upper_ms
    if not (is_verified and keeps.any()):
        keeps = keeps | (np.isnan(measured_ms) & (bound <= limit_ms))
    if keeps.any():
        return int(np.argmax(np.where(keeps, accuracy, -np.inf)))
    return int(np.argmin(bound))
