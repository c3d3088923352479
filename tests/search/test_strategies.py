"""Strategies: the contract, and evolution against chance where the front is known."""

from __future__ import annotations

import numpy as np

from search import pareto
from search.genome import Genome
from search.objectives import points_of
from search.strategies.nsga2 import NsgaII
from search.strategies.random import RandomSearch
from search.strategies.registry import STRATEGIES
from search.strategy import Strategy, StrategySettings
from search.trial import Trial, TrialState
from tests.contracts.strategy_contract import StrategyContract
from tests.search.tabulated import TabulatedSpace, objectives_of

NAMES = ("accuracy", "latency_ms")
REFERENCE = (-0.5, 12.0)  # of minimised points: no accuracy beyond the least, slower than the slowest
BUDGET, POPULATION = 160, 8
SEEDS = range(7)


class TestRandomSearch(StrategyContract):
    def make(self, settings: StrategySettings) -> Strategy:
        return RandomSearch(settings)


class TestNsgaII(StrategyContract):
    def make(self, settings: StrategySettings) -> Strategy:
        return NsgaII(settings)


def scored(number: int, genome: Genome, *, limit_ms: float = np.inf) -> Trial:
    values = objectives_of(genome)
    return Trial(
        number=number,
        genome=genome,
        state=TrialState.SCORED,
        objectives={name: values[name] for name in NAMES},
        constraint_violation=max(0.0, values["latency_ms"] - limit_ms),
    )


def search(name: str, seed: int, *, limit_ms: float = np.inf) -> list[Trial]:
    strategy = STRATEGIES[name](StrategySettings(TabulatedSpace(), NAMES, POPULATION, seed))
    trials: list[Trial] = []
    while len(trials) < BUDGET:
        batch = [
            scored(len(trials) + i, g, limit_ms=limit_ms) for i, g in enumerate(strategy.ask(POPULATION))
        ]
        strategy.tell(batch)
        trials += batch
    return trials


def volume(trials: list[Trial]) -> float:
    return pareto.hypervolume(points_of([trial.objectives for trial in trials], NAMES), REFERENCE)


def test_evolution_beats_chance_at_equal_budget() -> None:
    everything = points_of([objectives_of(genome) for genome in TabulatedSpace().genomes()], NAMES)
    best = pareto.hypervolume(everything, REFERENCE)
    evolved = np.array([volume(search("nsga2", seed)) for seed in SEEDS]) / best
    drawn = np.array([volume(search("random", seed)) for seed in SEEDS]) / best
    assert (evolved <= 1).all()
    assert (evolved > drawn).all()
    assert np.median(evolved) > 0.95  # of the known front's
    assert np.median(1 - evolved) < 0.5 * np.median(1 - drawn)


def test_evolution_seeks_the_feasible_side() -> None:
    def feasible_share(trials: list[Trial]) -> float:
        return float(np.mean([trial.is_feasible for trial in trials[BUDGET // 2 :]]))

    evolved = [feasible_share(search("nsga2", seed, limit_ms=3.0)) for seed in SEEDS]
    drawn = [feasible_share(search("random", seed, limit_ms=3.0)) for seed in SEEDS]
    assert np.median(evolved) > 2 * np.median(drawn)
    assert min(evolved) > max(drawn)


def test_generations_follow_each_other_without_gaps_or_global_state() -> None:
    strategy = NsgaII(StrategySettings(TabulatedSpace(), NAMES, POPULATION, seed=0))
    for batch_number in range(4):
        batch = strategy.ask(POPULATION)
        strategy.tell([scored(batch_number * POPULATION + i, genome) for i, genome in enumerate(batch)])
    individuals = strategy.dump()["individuals"]
    generations = [next(iter(individual["attributes"].values())) for individual in individuals]
    assert generations == [number for number in range(4) for _ in range(POPULATION)]


def test_hundreds_of_generations_do_not_exhaust_the_stack() -> None:
    settings = StrategySettings(TabulatedSpace(), NAMES, 2, seed=0)
    strategy = NsgaII(settings)
    strategy.tell([scored(i, genome) for i, genome in enumerate(settings.space.genomes())])
    dump = strategy.dump()
    key = "NSGAIISampler:generation"
    assert [i["attributes"] for i in dump["individuals"][:1]] == [{}]
    probe = NsgaII(settings)
    probe.ask(1)
    assert list(probe.dump()["individuals"][0]["attributes"]) == [key]
    for number, individual in enumerate(dump["individuals"]):
        individual["attributes"] = {key: number // 2}
    aged = NsgaII(settings)
    aged.load(dump | {"individuals": dump["individuals"][:900]})
    assert len(aged.ask(2)) == 2
