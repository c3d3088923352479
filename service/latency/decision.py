"""Predict or measure: what to answer a query that states how good an answer must be and how long it may take.

A measurement that is good enough wins over a prediction that is, and either over measuring anew. Good enough
means, where the query has

- `max_relative_error`: half the interval's width is at most that share of the median;
- else `below_ms`: the interval lies on one side of the limit;
- neither: it is a measurement.

A prediction that extrapolates is never good enough: its interval was calibrated elsewhere. Pure functions of
values; who may measure, and how long that takes, is passed in (`Chance`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from devices.levels import RULES
from devices.measurement import Level
from service.latency.intervals import student_t
from service.latency.ranking import Fits, Latency, fits_below
from service.latency.schemas import Decision

LEVELS = (Level.QUICK, Level.STANDARD, Level.CERTIFIED)  # each is worth more than the one before
# Of a median's standard error, as a fraction of it, and the rounds behind it, where a target has no history.
# The first two are what the levels aim at; certified has no aim and many rounds.
_USUAL_ERROR = {Level.QUICK: 0.03, Level.STANDARD: 0.01, Level.CERTIFIED: 0.005}
_USUAL_ROUNDS = {
    level: RULES[level].rounds * RULES[level].processes for level in LEVELS
}  # a noisy machine adds processes, which narrows the interval
_UNBOUNDED_LEVELS = (Level.STANDARD, Level.QUICK)  # where no bound is asked: the usual one, or in a hurry
_PER_SAMPLE = 2.0  # warming up and loading, against the samples alone


@dataclass(frozen=True, slots=True)
class Need:
    """What the query states; at least one of the first two is not None."""

    max_relative_error: float | None
    deadline_s: float | None
    below_ms: float | None
    coverage: float


@dataclass(frozen=True, slots=True)
class Known:
    """An answer that is there. `level`: of a measurement; None for a prediction."""

    latency: Latency
    level: Level | None
    extrapolates: bool = False


@dataclass(frozen=True, slots=True)
class Chance:
    """What measuring would take. `obstacle`: why nothing can be measured for this caller, if so.

    `job_s` is the usual time of one job by level, `ahead_s` that of all jobs before it; `errors` are the
    standard errors that the target's measurements had of late, as a fraction of the median.
    """

    obstacle: str | None
    is_agent_alive: bool
    ahead_s: float
    job_s: Mapping[Level, float]
    errors: Mapping[Level, float]

    def expected_s(self, level: Level, median_ms: float | None) -> float:
        """Until the result of a job that is queued now."""
        samples_s = RULES[level].min_samples * (median_ms or 0.0) * 1e-3
        return self.ahead_s + max(self.job_s[level], _PER_SAMPLE * samples_s)


@dataclass(frozen=True, slots=True)
class Decided:
    """`level` is not None where a measurement is to be queued, at that level."""

    decision: Decision | None
    because: str
    level: Level | None = None
    expected_s: float | None = None


def decide(need: Need, measured: Known | None, predicted: Known | None, chance: Chance) -> Decided:
    """What to answer. `measured` and `predicted` are what there is; where both are None there is no answer
    yet.
    """
    lacks: list[str] = []
    for decision, known in ((Decision.MEASURED, measured), (Decision.PREDICTED, predicted)):
        if known is not None:
            lack = shortfall(need, known)
            if lack is None:
                return Decided(decision, _praise(need, known))
            lacks.append(lack)
    lack = "; ".join(lacks) or "there is neither a measurement nor a prediction"
    best = measured or predicted
    queued = _queued(need, best, lack, chance)
    if isinstance(queued, Decided):
        return queued
    here = None if best is None else Decision.MEASURED if best.level else Decision.PREDICTED
    return Decided(here, f"{lack}; nothing is queued: {queued}")


def shortfall(need: Need, known: Known) -> str | None:
    """Why an answer is not good enough; None if it is."""
    what = "the prediction" if known.level is None else f"the {known.level.value} measurement"
    error = known.latency.relative_error
    if known.extrapolates:
        return f"{what} extrapolates"
    if need.max_relative_error is not None:
        if error is None:
            return f"{what} has too few rounds for an interval"
        wanted = f"{need.max_relative_error:.1%} asked for"
        return f"{what} is within {error:.1%}, not the {wanted}" if error > need.max_relative_error else None
    if need.below_ms is not None:
        if fits_below(known.latency, need.below_ms) is Fits.UNCERTAIN:
            return f"{what} may be on either side of {need.below_ms:g} ms"
        return None
    return f"{what} is no measurement" if known.level is None else None


def levels_for(need: Need, measured: Known | None, errors: Mapping[Level, float]) -> Sequence[Level]:
    """Levels that are worth measuring at, the preferred one first: above the level that was not good enough,
    and able to meet the bound, by the errors that are usual here. Empty where none is.
    """
    floor = -1 if measured is None or measured.level is None else LEVELS.index(measured.level)
    if need.max_relative_error is None:
        return [level for level in _UNBOUNDED_LEVELS if LEVELS.index(level) > floor]
    return [
        level
        for level in LEVELS[floor + 1 :]
        if expected_error(level, need.coverage, errors) <= need.max_relative_error
    ]


def expected_error(level: Level, coverage: float, errors: Mapping[Level, float]) -> float:
    """Half the relative width that an interval is likely to have at this level."""
    return student_t(coverage, _USUAL_ROUNDS[level] - 1) * errors.get(level, _USUAL_ERROR[level])


def _praise(need: Need, known: Known) -> str:
    what = "a prediction" if known.level is None else f"a {known.level.value} measurement"
    error = known.latency.relative_error
    if need.max_relative_error is not None:
        return f"{what} is within {error:.1%}; {need.max_relative_error:.1%} was asked for"
    if need.below_ms is not None:
        side = "below" if fits_below(known.latency, need.below_ms) is Fits.YES else "above"
        return f"the interval of {what} lies {side} {need.below_ms:g} ms"
    return f"there is {what}"


def _queued(need: Need, best: Known | None, lack: str, chance: Chance) -> Decided | str:
    """The measurement to queue, or why there is none."""
    if chance.obstacle is not None:
        return chance.obstacle
    if need.deadline_s == 0:
        return "the answer is wanted now"
    levels = levels_for(need, best, chance.errors)
    if not levels:
        return "no level of measurement is likely to do better"
    median_ms = None if best is None else best.latency.median_ms
    if need.deadline_s is not None and not chance.is_agent_alive:
        return "no agent of the device is there to measure before the deadline"
    for level in levels:
        expected_s = chance.expected_s(level, median_ms)
        if need.deadline_s is None or expected_s <= need.deadline_s:
            if chance.is_agent_alive:
                when = f"done in about {expected_s:.0f} s"
                return Decided(Decision.QUEUED, f"{lack}; {_article(level)} is {when}", level, expected_s)
            when = "queued until an agent of the device is there"
            return Decided(Decision.QUEUED, f"{lack}; {_article(level)} is {when}", level)
    soonest_s = min(chance.expected_s(level, median_ms) for level in levels)
    return f"a measurement takes about {soonest_s:.0f} s, the deadline is {need.deadline_s:g} s"


def _article(level: Level) -> str:
    return f"a {level.value} measurement"
