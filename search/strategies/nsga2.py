"""NSGA-II (Deb et al. 2002, DOI 10.1109/4235.996017) by Optuna's sampler.

Optuna keeps state in three places: the trials of a study, attributes that the sampler writes on them (a
trial's generation), and two random generators. Here nothing is kept between two calls but plain values:
each `ask` rebuilds an in-memory study from the trials told so far, with the attributes as the sampler wrote
them, and seeds the sampler from (seed, number of the ask). So a loaded strategy cannot differ from an
uninterrupted one: both do the same.

A constraint is Optuna's constrained domination: any feasible trial beats any infeasible one, and of two
infeasible ones the one that violates less wins. Failed trials fill no place in a generation and have no
children.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import Field, JsonValue, ValidationError

from devices.vocabulary import Value
from search.errors import StateRejected
from search.genome import Genome
from search.objectives import OBJECTIVES
from search.strategies.proposals import ask_seed, draw_new
from search.strategy import StrategyDump, StrategySettings
from search.trial import Trial

MAX_CHILDREN = 30  # bred for one place before it is filled at random, else alike parents would go on for ever
CONSTRAINT = "latency_ms above the limit"

optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it announces every study on the error stream


class _Individual(Value):
    """A genome that was proposed. `attributes` are the sampler's, opaque to us. `values`: None until told,
    or if it failed.
    """

    genome: Genome
    attributes: dict[str, JsonValue] = Field(default_factory=dict)
    is_told: bool = False
    values: tuple[float, ...] | None = None
    violation: float = 0.0


class _Memory(Value):
    """All that the strategy knows, in the order of the proposals."""

    ask_count: int = 0
    individuals: tuple[_Individual, ...] = ()


class NsgaII:
    """Breeds generations of `population_size`; the first is random. Mutation 1/choices, crossover 0.9,
    swapping 0.5 (the defaults).
    """

    def __init__(self, settings: StrategySettings) -> None:
        self._settings = settings
        self._distributions: dict[str, BaseDistribution] = {
            choice.name: CategoricalDistribution(choice.options) for choice in settings.space.choices
        }
        self._memory = _Memory()

    def ask(self, n: int) -> list[Genome]:
        """See `Strategy.ask`. What breeding does not find within `MAX_CHILDREN` tries is drawn at random."""
        source = ask_seed(self._settings.seed, self._memory.ask_count)
        study = self._study(int(source.generate_state(1)[0]))
        rng = np.random.default_rng(source.spawn(1)[0])
        proposed = {individual.genome.digest for individual in self._memory.individuals}
        newcomers: list[_Individual] = []
        while len(newcomers) < n and (newcomer := self._propose(study, rng, proposed)) is not None:
            newcomers.append(newcomer)
            proposed.add(newcomer.genome.digest)
        self._memory = _Memory(
            ask_count=self._memory.ask_count + 1, individuals=(*self._memory.individuals, *newcomers)
        )
        return [newcomer.genome for newcomer in newcomers]

    def tell(self, trials: Sequence[Trial]) -> None:
        """See `Strategy.tell`. Genomes that were not asked for are avoided from now on, but not bred from."""
        told = {trial.genome: trial for trial in trials if trial.repeats is None}
        known = {individual.genome for individual in self._memory.individuals}
        strangers = tuple(_Individual(genome=genome) for genome in told if genome not in known)
        self._memory = self._memory.model_copy(
            update={
                "individuals": tuple(
                    self._tell_one(individual, told[individual.genome])
                    if individual.genome in told
                    else individual
                    for individual in (*self._memory.individuals, *strangers)
                )
            }
        )

    def dump(self) -> StrategyDump:
        """See `Strategy.dump`."""
        return self._memory.model_dump(mode="json")

    def load(self, dump: StrategyDump) -> None:
        """See `Strategy.load`."""
        try:
            self._memory = _Memory.model_validate(dump)
        except ValidationError as error:
            raise StateRejected(f"this is no dump of an NSGA-II search: {error}") from error

    def _tell_one(self, individual: _Individual, trial: Trial) -> _Individual:
        values = tuple(trial.objectives.get(name, float("nan")) for name in self._settings.objectives)
        is_usable = trial.is_scored and bool(np.isfinite(values).all())
        return individual.model_copy(
            update={
                "is_told": True,
                "values": values if is_usable else None,
                "violation": trial.constraint_violation,
            }
        )

    def _study(self, seed: int) -> optuna.Study:
        """A study as Optuna would have it after the trials told so far."""
        sampler = NSGAIISampler(population_size=self._settings.population_size, seed=seed)
        directions = [OBJECTIVES[name].direction for name in self._settings.objectives]
        study = optuna.create_study(directions=directions, sampler=sampler)
        told = [one for one in self._memory.individuals if one.is_told and one.attributes]
        study.add_trials([self._frozen(individual) for individual in told])
        self._select_parents(study, sampler)
        return study

    @staticmethod
    def _select_parents(study: optuna.Study, sampler: NSGAIISampler) -> None:
        """Oldest generation first: the sampler itself recurses, and after some hundred runs out of stack."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        newest = max((sampler.get_trial_generation(study, trial) for trial in complete), default=0)
        for generation in range(1, newest + 1):
            sampler.get_parent_population(study, generation)

    def _frozen(self, individual: _Individual) -> FrozenTrial:
        is_complete = individual.values is not None
        return create_trial(
            state=TrialState.COMPLETE if is_complete else TrialState.FAIL,
            params=individual.genome.as_dict(),
            distributions=self._distributions,
            values=individual.values,
            system_attrs=dict(individual.attributes),  # a copy: it is written to
            constraints={CONSTRAINT: individual.violation} if is_complete else None,
        )

    def _propose(
        self, study: optuna.Study, rng: np.random.Generator, proposed: set[str]
    ) -> _Individual | None:
        for _ in range(MAX_CHILDREN):
            child = study.ask(self._distributions)
            genome = self._settings.space.canonical(Genome.of(child.params))
            attributes = study.get_trials(deepcopy=False)[child.number].system_attrs
            if genome.digest not in proposed:
                break
            study.tell(child, state=TrialState.FAIL)
        else:
            drawn = draw_new(self._settings.space, rng, proposed)
            if drawn is None:
                return None
            genome = drawn
        return _Individual(genome=genome, attributes=dict(attributes))
