"""Latency queries: many models asked of many targets. What was measured wins over what is predicted.

The measurement that answers is a valid one of the highest level there is for this model, these sizes and this
target, and of those the newest. Any level answers: even a quick measurement is nearer to the truth than a
prediction, and its interval says how near.

A query that states what it needs (`service.latency.decision`) may call for measurements. Finding that out
reads only; the caller of `answer_query` then places the orders in one transaction (`fulfil`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from devices.measurement import Level
from service.db.session import Snapshot
from service.dependencies import Services
from service.errors import Invalid
from service.latency import findings, orders, repository
from service.latency.answers import Finding, answer_of, known_of, rankings_of
from service.latency.decision import Chance, Decided, Need, decide, shortfall
from service.latency.findings import AskedModel, LivePredictor, Measured, Predicted
from service.latency.orders import Order
from service.latency.outlook import NOBODY, Outlook, outlooks, usual_errors, vain_tries
from service.latency.repository import Place, TargetNow
from service.latency.schemas import (
    Answer,
    AnswerError,
    Decision,
    LatencyAnswers,
    LatencyQuery,
    Ranked,
    Source,
)
from service.security import Principal, Scope

MAX_ANSWERS = 10_000
MAX_ORDERS = 100  # of one query: whoever wants more asks again when these are measured


@dataclass(slots=True)
class Asked:
    """A query with what it names, and what is known of it."""

    query: LatencyQuery
    need: Need | None
    models: list[AskedModel]
    targets: list[TargetNow]
    measured: dict[Place, Measured]
    live: dict[str, LivePredictor | AnswerError]  # by target id; none where only measurements count
    predicted: dict[Place, Predicted | AnswerError] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[AskedModel, TargetNow]]:
        """As they are answered: models first."""
        return [(model, target) for model in self.models for target in self.targets]

    def is_answered(self, place: Place) -> bool:
        """Whether a measurement answers well enough, so that no prediction is needed."""
        known = known_of(self.measured.get(place), self.query.coverage)
        return known is not None and (self.need is None or shortfall(self.need, known) is None)

    def finding(self, place: Place, target: TargetNow, decided: Decided | None) -> Finding:
        """What answers: the measurement, unless the prediction is the one that is good enough."""
        measured, predicted = self.measured.get(place), self.predicted.get(place)
        is_outdone = decided is not None and decided.decision is Decision.PREDICTED
        if measured is not None and not is_outdone:
            return measured
        if predicted is not None:
            return predicted
        detail = f"no valid measurement of this model on target {target.key}; POST /v1/measurements makes one"
        return AnswerError(code="no_measurement", detail=detail)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a query is answered, and the measurements that it calls for."""

    answers: LatencyAnswers
    orders: tuple[Order, ...] = ()


def answer_query(services: Services, caller: Principal, query: LatencyQuery) -> Reply:
    """One answer per model and target, models first.

    Raises `NotFound`, and `Invalid` for sizes that are missing or wrong and for too many answers; what is
    wrong with one target or one graph is told in its answers.
    """
    with services.database.snapshot() as snapshot:
        asked = look_up(services, snapshot, caller.project_id, query)
    return reply_to(services, caller, asked)


def look_up(services: Services, snapshot: Snapshot, project_id: str, query: LatencyQuery) -> Asked:
    """All that is read of the database. Raises as `answer_query`."""
    models = findings.asked_models(snapshot, project_id, query.models)
    if query.targets == "all":
        targets = repository.ready_targets(snapshot.connection, project_id)
    else:
        targets = repository.targets_now(snapshot.connection, project_id, query.targets)
    if len(models) * len(targets) > MAX_ANSWERS:
        detail = f"{len(models)} models on {len(targets)} targets are more than {MAX_ANSWERS} answers"
        raise Invalid("query_too_large", f"{detail}: ask in parts")
    is_measured = query.source is not Source.PREDICTION
    asks = targets if query.source is not Source.MEASUREMENT else []
    return Asked(
        query,
        Need(query.max_relative_error, query.deadline_s, query.below_ms, query.coverage)
        if query.states_need
        else None,
        models,
        targets,
        findings.measured(snapshot, project_id, models, targets) if is_measured else {},
        {target.id: findings.live_predictor(services, snapshot, target) for target in asks},
    )


def reply_to(services: Services, caller: Principal, asked: Asked) -> Reply:
    """The answers to what was looked up. Reads graphs that are new to the process: not for the event loop,
    nor for a transaction.
    """
    query = asked.query
    for target in asked.targets:
        live = asked.live.get(target.id)
        if live is not None:
            wanted = [model for model in asked.models if not asked.is_answered(model.on(target))]
            asked.predicted |= findings.predicted(services, target, live, wanted, query.coverage)
    decisions = _decisions(services, caller, asked)
    answers = [
        answer_of(
            model,
            target,
            asked.finding(model.on(target), target, decided),
            coverage=query.coverage,
            below_ms=query.below_ms,
            decided=decided,
        )
        for (model, target), decided in zip(asked.pairs, decisions, strict=True)
    ]
    wanted_jobs = [
        Order(index, model, target.id, decided.level)
        for index, ((model, target), decided) in enumerate(zip(asked.pairs, decisions, strict=True))
        if decided is not None and decided.level is not None
    ]
    return Reply(_with_rankings(query, answers, len(asked.targets)), tuple(wanted_jobs))


def fulfil(session: Session, project_id: str, reply: Reply) -> LatencyAnswers:
    """Queue what the answers call for, and name the jobs in them."""
    placed = orders.place(session, project_id, reply.orders)
    for index, job_id in placed.items():
        reply.answers.answers[index].job_id = job_id
    return reply.answers


def _decisions(services: Services, caller: Principal, asked: Asked) -> Sequence[Decided | None]:
    """What to do about each answer, in their order; None where the query states no need."""
    need = asked.need
    if need is None:
        return [None] * len(asked.models) * len(asked.targets)
    chances = _Chances(services, caller, asked)
    decisions: dict[Place, Decided] = {}
    for model, target in asked.pairs:
        place = model.on(target)
        if place not in decisions:
            measured = known_of(asked.measured.get(place), need.coverage)
            predicted = known_of(asked.predicted.get(place), need.coverage)
            decided = decide(need, measured, predicted, chances.of(target, place))
            chances.note(target, decided)
            decisions[place] = decided
    return [decisions[model.on(target)] for model, target in asked.pairs]


class _Chances:
    """What measuring on each target would take, with what this query is about to queue."""

    def __init__(self, services: Services, caller: Principal, asked: Asked) -> None:
        self._may_measure = Scope.MEASURE in caller.scopes
        self._is_of_predictions = asked.query.source is Source.PREDICTION
        self._outlooks: dict[str, Outlook] = {}
        self._errors: dict[str, dict[Level, float]] = {}
        self._vain: dict[Place, str] = {}
        self._queued_s: defaultdict[str, float] = defaultdict(float)
        self._queued = 0
        is_open = any(not asked.is_answered(model.on(target)) for model, target in asked.pairs)
        if is_open and self._may_measure and not self._is_of_predictions and asked.query.deadline_s != 0:
            silent_after_s = services.settings.silent_after_s
            with services.database.read() as session:
                devices = {target.device_id for target in asked.targets}
                self._outlooks = outlooks(session, devices, silent_after_s=silent_after_s)
                self._vain = vain_tries(session, {target.id for target in asked.targets})
                self._errors = {target.id: usual_errors(session, target.id) for target in asked.targets}

    def of(self, target: TargetNow, place: Place) -> Chance:
        """Now, after what was noted."""
        outlook = self._outlooks.get(target.device_id, NOBODY)
        return Chance(
            obstacle=self._obstacle(target, place),
            is_agent_alive=outlook.is_agent_alive,
            ahead_s=outlook.ahead_s + self._queued_s[target.device_id],
            job_s=outlook.job_s,
            errors=self._errors.get(target.id, {}),
        )

    def note(self, target: TargetNow, decided: Decided) -> None:
        """A decision that was taken: what it queues comes before what is decided next."""
        if decided.level is not None:
            outlook = self._outlooks.get(target.device_id, NOBODY)
            self._queued_s[target.device_id] += outlook.job_s[decided.level]
            self._queued += 1

    def _obstacle(self, target: TargetNow, place: Place) -> str | None:
        if self._is_of_predictions:
            return "the query asks for predictions"
        if not self._may_measure:
            return f"the API key lacks the scope {Scope.MEASURE.value!r}"
        if target.state == "retired":
            return f"target {target.key} is retired"
        if place in self._vain:
            return f"measuring it came to nothing a short while ago ({self._vain[place]})"
        if self._queued >= MAX_ORDERS:
            return f"one query queues {MAX_ORDERS} measurements at most"
        return None


def _with_rankings(query: LatencyQuery, answers: list[Answer], target_count: int) -> LatencyAnswers:
    of = query.rank or (Ranked.TARGETS if query.below_ms is not None else None)
    if of is None:
        return LatencyAnswers.model_construct(answers=answers)
    rankings = rankings_of(answers, of=of, target_count=target_count)
    return LatencyAnswers.model_construct(answers=answers, rankings=rankings)
