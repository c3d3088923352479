"""The search loop: ask, score, tell; then verify the front. A pure core that survives being killed
anywhere.

    state = start(request)
    while state.phase is Phase.PROPOSING:
        step = advance(state, scorer)      # store its state, its trials and its models together
        state = step.state
    ...measure candidates(state) on the device...
    state = finish(state, measurements).state

`SearchState` is immutable and complete: strategy, pending genomes and trials are in it, and `to_bytes` is
canonical JSON. `advance` is a function of (state, scorer) alone, so a search taken over from its last
stored state ends as one that was never interrupted, bit for bit, however finely its steps were cut. It
trains no genome twice: a repeated one gets the values of the first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from devices.measurement import Level
from devices.model_ref import Sha256, sha256_of
from devices.vocabulary import Value
from search import pareto
from search.errors import BuildFailed, StateRejected
from search.genome import Genome
from search.objectives import ACCURACY, LATENCY_MS, SIZE_BYTES, check_objectives, points_of
from search.scoring import ScoredGenome, Scorer
from search.space import SearchSpace
from search.spaces.registry import check_offered
from search.strategies.registry import STRATEGIES
from search.strategy import Strategy, StrategyDump, StrategySettings
from search.trial import Trial, TrialState
from search.verification import (
    VerificationSummary,
    VerifiedLatency,
    pick_spread,
    summarise,
    with_verification,
)

__all__ = [
    "Candidate", "Phase", "SearchRequest", "SearchState", "Step", "Trial", "VerificationSummary",
    "VerifiedLatency", "advance", "candidates", "finish", "predicted_front", "start", "verified_front",
]  # fmt: skip

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class SearchRequest(Value):
    """What to search. Everything that decides about the outcome, apart from the scorer, is here."""

    space: Name = "digits-cnn"
    strategy: Name = "nsga2"
    trial_count: int = Field(default=24, ge=1, le=2000)
    population_size: int = Field(default=8, ge=2, le=200)
    seed: int = Field(default=0, ge=0, lt=2**32)
    verify_count: int = Field(default=5, ge=1, le=100)
    verify_level: Level = Level.STANDARD
    objectives: tuple[Name, ...] = (ACCURACY, LATENCY_MS, SIZE_BYTES)
    max_latency_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {sorted(STRATEGIES)}, got {self.strategy!r}")
        check_objectives(self.objectives)
        check_offered(self.space, self.objectives)
        return self


class Phase(StrEnum):
    """Where a search stands: genomes are still proposed, the front is to be measured, or all is done."""

    PROPOSING = "proposing"
    VERIFYING = "verifying"
    DONE = "done"


class SearchState(Value):
    """Everything a search knows. `pending` wait for their score; trials from `told_count` on are untold."""

    format_version: Literal[1] = 1
    request: SearchRequest
    phase: Phase = Phase.PROPOSING
    scorer_key: str | None = None  # of the first scorer used: no other may go on
    strategy: StrategyDump | None = None
    pending: tuple[Genome, ...] = ()
    told_count: int = 0
    trials: tuple[Trial, ...] = ()
    is_exhausted: bool = False  # the strategy found no new genome before the budget was spent
    summary: VerificationSummary | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal states, and only they, have equal bytes."""
        document = self.model_dump(mode="json")
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> SearchState:
        """Raises `StateRejected` for bytes that are no state of this version."""
        try:
            return cls.model_validate_json(data)
        except ValueError as error:
            raise StateRejected(
                f"these {len(data)} bytes are no search state of format 1: {error}"
            ) from error

    @property
    def progress(self) -> float:
        """Share of the trial budget that is spent, in [0, 1]; verification not counted."""
        return 1.0 if self.phase is not Phase.PROPOSING else len(self.trials) / self.request.trial_count


@dataclass(frozen=True, slots=True)
class Step:
    """The next state, the trials that are new or changed (to upsert), and new models by SHA-256."""

    state: SearchState
    new_trials: tuple[Trial, ...]
    models: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member of the predicted front that is to be measured."""

    trial_number: int
    model_sha256: Sha256
    input_shapes: Mapping[str, tuple[int, ...]]


def start(request: SearchRequest) -> SearchState:
    """The state before the first trial."""
    return SearchState(request=request)


def advance(state: SearchState, scorer: Scorer, *, max_trials: int | None = None) -> Step:
    """Score up to `max_trials` genomes; None: the rest of the batch of `population_size`.

    How finely a search is cut changes nothing but how much a kill loses. When the last trial is scored, or
    no new genome is found, the phase becomes `verifying`. Raises `StateRejected` in another phase, or with
    another scorer than before, and `RequestRejected` where the scorer cannot tell an objective.
    """
    _check_scorer(state, scorer)
    if max_trials is not None and max_trials < 1:
        raise ValueError(f"max_trials must be at least 1, got {max_trials}")
    if not state.pending:
        state = _ask(state, scorer.space)
    taken = state.pending[:max_trials]
    trials, models = _score_all(state, scorer, taken)
    state = state.model_copy(
        update={
            "scorer_key": scorer.key,
            "trials": (*state.trials, *trials),
            "pending": state.pending[len(taken) :],
        }
    )
    if not state.pending:
        state = _tell(state, scorer.space)
    marked = _mark_predicted_front(state.trials)
    new_trials = _changed(state.trials, marked, at_least=trials)
    return Step(state.model_copy(update={"trials": marked}), new_trials, models)


def predicted_front(state: SearchState) -> tuple[Trial, ...]:
    """Feasible, scored trials that no other dominates by predicted latency; a repeated genome counts once."""
    return tuple(trial for trial in state.trials if trial.on_predicted_front)


def verified_front(state: SearchState) -> tuple[Trial, ...]:
    """Verified trials that no other verified trial dominates by measured latency."""
    return tuple(trial for trial in state.trials if trial.on_verified_front)


def candidates(state: SearchState) -> tuple[Candidate, ...]:
    """What to measure: the predicted front, thinned to `verify_count` members spread along it."""
    members = predicted_front(state)
    points = points_of([trial.objectives for trial in members], state.request.objectives)
    picked = [members[i] for i in pick_spread(points, state.request.verify_count)]
    return tuple(
        Candidate(trial.number, trial.model_sha256, trial.input_shapes)
        for trial in picked
        if trial.model_sha256 is not None
    )


def finish(state: SearchState, verified: Mapping[int, VerifiedLatency | None]) -> Step:
    """Merge the measurements of the candidates, by trial number.

    A trial whose measurement is None, invalid or left out is not verified, and says why. Raises
    `StateRejected` unless the state is `verifying`, or for a measurement of a trial that is no candidate.
    """
    if state.phase is not Phase.VERIFYING:
        raise StateRejected(
            f"only a search in phase 'verifying' can be finished, this one is {state.phase.value!r}"
        )
    numbers = {candidate.trial_number for candidate in candidates(state)}
    if not set(verified) <= numbers:
        raise StateRejected(
            f"trials {sorted(set(verified) - numbers)} are no candidates; those are {sorted(numbers)}"
        )
    merged = tuple(
        with_verification(trial, verified.get(trial.number)) if trial.number in numbers else trial
        for trial in state.trials
    )
    marked = _mark_verified_front(merged, state.request)
    summary = summarise([marked[number] for number in sorted(numbers)], verified, state.request.objectives)
    done = state.model_copy(update={"trials": marked, "phase": Phase.DONE, "summary": summary})
    return Step(done, _changed(state.trials, marked, at_least=()))


def _check_scorer(state: SearchState, scorer: Scorer) -> None:
    if state.phase is not Phase.PROPOSING:
        raise StateRejected(
            f"only a search in phase 'proposing' can advance, this one is {state.phase.value!r}"
        )
    if scorer.space.name != state.request.space:
        raise StateRejected(
            f"the search is over {state.request.space!r}, the scorer's space is {scorer.space.name!r}"
        )
    if state.scorer_key not in (None, scorer.key):
        raise StateRejected(
            f"the search was scored by {state.scorer_key!r} so far, this scorer is {scorer.key!r}: scores "
            "of two must not be mixed; use the same predictor checkpoint, or start another search"
        )
    scorer.check(state.request.objectives)


def _strategy(state: SearchState, space: SearchSpace) -> Strategy:
    request = state.request
    settings = StrategySettings(space, request.objectives, request.population_size, request.seed)
    strategy = STRATEGIES[request.strategy](settings)
    if state.strategy is not None:
        strategy.load(state.strategy)
    return strategy


def _ask(state: SearchState, space: SearchSpace) -> SearchState:
    strategy = _strategy(state, space)
    wanted = min(state.request.population_size, state.request.trial_count - len(state.trials))
    pending = tuple(strategy.ask(wanted))
    return state.model_copy(
        update={"pending": pending, "strategy": strategy.dump(), "is_exhausted": not pending}
    )


def _tell(state: SearchState, space: SearchSpace) -> SearchState:
    """The batch is complete: the strategy learns of all of it at once, however finely it was cut."""
    strategy = _strategy(state, space)
    strategy.tell(state.trials[state.told_count :])
    is_over = state.is_exhausted or len(state.trials) >= state.request.trial_count
    return state.model_copy(
        update={
            "strategy": strategy.dump(),
            "told_count": len(state.trials),
            "phase": Phase.VERIFYING if is_over else Phase.PROPOSING,
        }
    )


def _score_all(
    state: SearchState, scorer: Scorer, genomes: Sequence[Genome]
) -> tuple[tuple[Trial, ...], dict[str, bytes]]:
    first = {trial.genome: trial for trial in state.trials if trial.repeats is None}
    models: dict[str, bytes] = {}
    trials: list[Trial] = []
    for number, genome in enumerate(genomes, start=len(state.trials)):
        if genome in first:
            trial = _repeat(first[genome], number)
        else:
            trial = first[genome] = _score(state.request, scorer, genome, number, models)
        trials.append(trial)
    return tuple(trials), models


def _score(
    request: SearchRequest, scorer: Scorer, genome: Genome, number: int, models: dict[str, bytes]
) -> Trial:
    trial = Trial(number=number, genome=genome)
    try:
        scored = scorer.score(genome, seed=request.seed)
    except BuildFailed as error:
        return trial.model_copy(update={"state": TrialState.FAILED, "failure": str(error)})
    bounds = {"lower_ms": scored.prediction.lower_ms, "upper_ms": scored.prediction.upper_ms}
    unusable = {name: v for name, v in (scored.objectives | bounds).items() if not math.isfinite(v)}
    if unusable:
        failure = f"values that are not finite: {unusable}"
        return trial.model_copy(update={"state": TrialState.FAILED, "failure": failure})
    sha256 = sha256_of(scored.model)
    models[sha256] = scored.model
    return trial.model_copy(update=_scores(request, scored) | {"model_sha256": sha256})


def _scores(request: SearchRequest, scored: ScoredGenome) -> dict[str, object]:
    prediction = scored.prediction
    limit = request.max_latency_ms
    return {
        "state": TrialState.SCORED,
        "objectives": {name: float(scored.objectives[name]) for name in request.objectives},
        "constraint_violation": 0.0 if limit is None else max(0.0, prediction.median_ms - limit),
        "predicted_ms": float(prediction.median_ms),
        "predicted_lower_ms": float(prediction.lower_ms),
        "predicted_upper_ms": float(prediction.upper_ms),
        "extrapolates": bool(prediction.extrapolates),
        "accuracy": scored.objectives.get(ACCURACY),
        "test_accuracy": scored.test_accuracy,
        "input_shapes": dict(scored.input_shapes),
        "size_bytes": round(scored.objectives[SIZE_BYTES]),
    }


def _repeat(earlier: Trial, number: int) -> Trial:
    return earlier.model_copy(
        update={"number": number, "repeats": earlier.number, "on_predicted_front": False}
    )


def _mark_predicted_front(trials: tuple[Trial, ...]) -> tuple[Trial, ...]:
    eligible = [trial for trial in trials if trial.is_feasible and trial.repeats is None]
    members = _front_numbers(eligible, [trial.objectives for trial in eligible])
    return tuple(_flagged(trial, "on_predicted_front", trial.number in members) for trial in trials)


def _mark_verified_front(trials: tuple[Trial, ...], request: SearchRequest) -> tuple[Trial, ...]:
    limit = float("inf") if request.max_latency_ms is None else request.max_latency_ms
    eligible = [trial for trial in trials if trial.verified_ms is not None and trial.verified_ms <= limit]
    members = _front_numbers(eligible, [trial.verified_objectives for trial in eligible])
    return tuple(_flagged(trial, "on_verified_front", trial.number in members) for trial in trials)


def _front_numbers(trials: Sequence[Trial], rows: Sequence[Mapping[str, float]]) -> set[int]:
    if not trials:
        return set()
    return {trials[i].number for i in pareto.front(points_of(rows, tuple(rows[0])))}


def _flagged(trial: Trial, flag: Literal["on_predicted_front", "on_verified_front"], value: bool) -> Trial:
    return trial if getattr(trial, flag) == value else trial.model_copy(update={flag: value})


def _changed(
    before: Iterable[Trial], after: Sequence[Trial], *, at_least: Sequence[Trial]
) -> tuple[Trial, ...]:
    """Trials of `after` that differ from `before`, or are new in it by being among `at_least`."""
    fresh = {trial.number for trial in at_least}
    old = {trial.number: trial for trial in before}
    return tuple(trial for trial in after if trial.number in fresh or trial != old[trial.number])
