"""Random search: every option alike, no genome twice. The baseline that every other strategy must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import ValidationError

from devices.vocabulary import Value
from search.errors import StateRejected
from search.genome import Genome
from search.strategies.proposals import ask_seed, draw_new
from search.strategy import StrategyDump, StrategySettings
from search.trial import Trial


class _Memory(Value):
    """All that the strategy knows."""

    ask_count: int = 0
    proposed: tuple[str, ...] = ()  # digests


class RandomSearch:
    """Draws uniformly over the options, rejecting genomes proposed before."""

    def __init__(self, settings: StrategySettings) -> None:
        self._settings = settings
        self._memory = _Memory()

    def ask(self, n: int) -> list[Genome]:
        """See `Strategy.ask`."""
        rng = np.random.default_rng(ask_seed(self._settings.seed, self._memory.ask_count))
        proposed = dict.fromkeys(self._memory.proposed)
        genomes: list[Genome] = []
        while len(genomes) < n and (genome := draw_new(self._settings.space, rng, proposed)) is not None:
            genomes.append(genome)
            proposed[genome.digest] = None
        self._memory = _Memory(ask_count=self._memory.ask_count + 1, proposed=tuple(proposed))
        return genomes

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learns nothing, but never proposes what was tried elsewhere."""
        digests = dict.fromkeys((*self._memory.proposed, *(trial.genome.digest for trial in trials)))
        self._memory = self._memory.model_copy(update={"proposed": tuple(digests)})

    def dump(self) -> StrategyDump:
        """See `Strategy.dump`."""
        return self._memory.model_dump(mode="json")

    def load(self, dump: StrategyDump) -> None:
        """See `Strategy.load`."""
        try:
            self._memory = _Memory.model_validate(dump)
        except ValidationError as error:
            raise StateRejected(f"this is no dump of a random search: {error}") from error
