"""The seam of search strategies: `ask` for genomes, `tell` what became of them, `dump` and `load` in
between.

A strategy is a value that moves on: everything it knows is in its dump, which is plain JSON. One that is
loaded from a dump goes on exactly as the one that was dumped; `tests/contracts/strategy_contract.py` holds
every strategy to that. Strategies see genomes and objective values, never a model, a predictor or a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from search.errors import RequestRejected
from search.genome import Genome
from search.objectives import check_objectives
from search.space import SearchSpace
from search.trial import Trial

StrategyDump = dict[str, JsonValue]


class Strategy(Protocol):
    """Proposes genomes, learns from trials."""

    def ask(self, n: int) -> list[Genome]:
        """Up to `n` canonical genomes, distinct and never proposed before.

        Fewer than `n`, possibly none, where bounded resampling finds no new one: the space is (nearly) used
        up.
        """
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """What became of genomes: scored or failed trials, failed ones included, in the order of their
        numbers.
        """
        ...

    def dump(self) -> StrategyDump:
        """Everything it knows, as plain JSON."""
        ...

    def load(self, dump: StrategyDump) -> None:
        """Go on from a dump of the same strategy with the same settings. Raises `StateRejected`."""
        ...


@dataclass(frozen=True, slots=True)
class StrategySettings:
    """What every strategy is made from. `population_size` is the size of a batch, and of a generation where
    there are any.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    population_size: int
    seed: int

    def __post_init__(self) -> None:
        check_objectives(self.objectives)
        if self.population_size < 2:
            raise RequestRejected(f"population_size must be at least 2, got {self.population_size}")
