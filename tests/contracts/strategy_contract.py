"""What every strategy must do. A new strategy's test inherits `StrategyContract` and says how it is made."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import numpy as np
import pytest

from search.errors import StateRejected
from search.genome import Genome
from search.space import check_genome
from search.strategy import Strategy, StrategyDump, StrategySettings
from search.trial import Trial, TrialState
from tests.search.tabulated import TabulatedSpace, objectives_of, small_space

OBJECTIVES = ("accuracy", "latency_ms", "size_bytes")
POPULATION = 6


def judged(genomes: Sequence[Genome], first_number: int) -> list[Trial]:
    """Trials as a loop would tell them: scored, every fifth failed, some beyond the limit."""
    trials = []
    for number, genome in enumerate(genomes, start=first_number):
        trial = Trial(number=number, genome=genome)
        if number % 5 == 4:
            trials.append(trial.model_copy(update={"state": TrialState.FAILED, "failure": "of its own"}))
            continue
        values = objectives_of(genome)
        update = {
            "state": TrialState.SCORED,
            "objectives": {name: values[name] for name in OBJECTIVES},
            "constraint_violation": max(0.0, values["latency_ms"] - 4.0),
        }
        trials.append(trial.model_copy(update=update))
    return trials


def through_json(dump: StrategyDump) -> StrategyDump:
    """As stored and read again."""
    return json.loads(json.dumps(dump, allow_nan=False))


class StrategyContract:
    """Inherit, and define `make`."""

    def make(self, settings: StrategySettings) -> Strategy:
        """A new strategy."""
        raise NotImplementedError

    def settings(self, *, seed: int = 0, space: TabulatedSpace | None = None) -> StrategySettings:
        """Of a space with 4096 combinations that build 1360 different models."""
        return StrategySettings(space or TabulatedSpace(), OBJECTIVES, POPULATION, seed)

    def run(self, strategy: Strategy, batches: int) -> list[Genome]:
        """All genomes of so many rounds of ask and tell."""
        genomes: list[Genome] = []
        for _ in range(batches):
            batch = strategy.ask(POPULATION)
            strategy.tell(judged(batch, len(genomes)))
            genomes += batch
        return genomes

    def test_proposals_are_new_canonical_genomes_of_the_space(self) -> None:
        settings = self.settings()
        genomes = self.run(self.make(settings), 8)
        assert len(genomes) == len(set(genomes)) == 8 * POPULATION
        for genome in genomes:
            check_genome(settings.space, genome)
            assert settings.space.canonical(genome) == genome

    def test_proposals_follow_from_the_seed_alone(self) -> None:
        random.seed(1)
        np.random.seed(1)
        states = random.getstate(), np.random.get_state()[1].tolist()
        first = self.run(self.make(self.settings(seed=3)), 4)
        assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # no global generator moved
        random.seed(2)
        np.random.seed(2)
        assert self.run(self.make(self.settings(seed=3)), 4) == first
        assert self.run(self.make(self.settings(seed=4)), 4) != first

    @pytest.mark.parametrize("boundary", range(6))
    def test_resumed_at_any_batch_boundary_it_goes_on_as_uninterrupted(self, boundary: int) -> None:
        whole = self.make(self.settings())
        expected = self.run(whole, 6)
        before = self.make(self.settings())
        genomes = self.run(before, boundary)
        after = self.make(self.settings())
        after.load(through_json(before.dump()))
        for _ in range(6 - boundary):
            batch = after.ask(POPULATION)
            after.tell(judged(batch, len(genomes)))
            genomes += batch
        assert genomes == expected
        assert through_json(after.dump()) == through_json(whole.dump())

    def test_resumed_between_ask_and_tell_it_goes_on_as_uninterrupted(self) -> None:
        whole, interrupted = self.make(self.settings()), self.make(self.settings())
        for strategy in (whole, interrupted):
            self.run(strategy, 2)
        pending = whole.ask(POPULATION)
        assert interrupted.ask(POPULATION) == pending
        resumed = self.make(self.settings())
        resumed.load(through_json(interrupted.dump()))
        for strategy in (whole, resumed):
            strategy.tell(judged(pending, 2 * POPULATION))
        assert self.run(resumed, 2) == self.run(whole, 2)

    def test_goes_on_when_every_trial_failed(self) -> None:
        strategy = self.make(self.settings())
        failed: set[Genome] = set()
        for _ in range(3):
            batch = strategy.ask(POPULATION)
            assert len(batch) == POPULATION
            assert not failed & set(batch)
            failed |= set(batch)
            strategy.tell(
                [Trial(number=i, genome=g, state=TrialState.FAILED, failure="x") for i, g in enumerate(batch)]
            )

    def test_uses_up_a_small_space_and_says_so(self) -> None:
        space = small_space()
        strategy = self.make(self.settings(space=space))
        seen: list[Genome] = []
        while batch := strategy.ask(4):
            seen += batch
            strategy.tell(judged(batch, len(seen) - len(batch)))
            assert len(seen) <= 9
        assert sorted(seen, key=Genome.to_json) == sorted(space.genomes(), key=Genome.to_json)
        assert strategy.ask(4) == []

    def test_never_proposes_what_it_was_only_told_of(self) -> None:
        space = small_space()
        strategy = self.make(self.settings(space=space))
        foreign = list(space.genomes())[:6]
        strategy.tell(judged(foreign, 0))
        proposed = strategy.ask(9)
        assert proposed
        assert not set(proposed) & set(foreign)

    def test_refuses_a_dump_that_is_not_its_own(self) -> None:
        with pytest.raises(StateRejected):
            self.make(self.settings()).load({"ask_count": "many"})
