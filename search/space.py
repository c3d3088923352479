"""The seams of what is searched: a `SearchSpace` names the choices, a `Builder` turns a genome into an
executable model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from search.errors import RequestRejected
from search.genome import Genome, Option


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision with its options, all of one type, each once."""

    name: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ValueError(f"choice {self.name!r} needs at least one option, each once, got {self.options}")
        if len({type(option) for option in self.options}) != 1:
            raise ValueError(f"choice {self.name!r} mixes types: {self.options}")


class SearchSpace(Protocol):
    """What can be chosen. Strategies see no more of the world than this."""

    @property
    def name(self) -> str:
        """What requests call it."""
        ...

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Every decision; a genome has an option for each."""
        ...

    def canonical(self, genome: Genome) -> Genome:
        """The one genome that stands for all that build the same model: choices without effect get their
        first option.

        Idempotent. A space without such choices returns the genome itself.
        """
        ...


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """An executable ONNX model with the complete shape of each input.

    `stores_all_weights` is False where the file holds a part of each large weight, to be repeated when it is
    loaded: such a file is much smaller than the network.
    """

    model: bytes
    input_shapes: Mapping[str, tuple[int, ...]]
    stores_all_weights: bool = True


class Builder(Protocol):
    """Genome to executable model. Where the weights come from (training, a supernet, a table) is the
    builder's matter.
    """

    def build(self, genome: Genome, *, seed: int) -> BuiltModel:
        """The model of a genome: a pure function of (genome, seed), the same in every process on one kind
        of machine.

        Raises `BuildFailed`, with a reason for people, where this genome has no valid model.
        """
        ...


def check_genome(space: SearchSpace, genome: Genome) -> None:
    """Raises `RequestRejected` naming the choice, unless the genome has exactly one known option for every
    choice.
    """
    chosen = genome.as_dict()
    options = {choice.name: choice.options for choice in space.choices}
    if set(chosen) != set(options):
        raise RequestRejected(
            f"space {space.name!r} has the choices {sorted(options)}, the genome {sorted(chosen)}"
        )
    for name, option in chosen.items():
        if option not in options[name]:
            raise RequestRejected(f"choice {name!r} must be one of {list(options[name])}, got {option!r}")


def random_genome(space: SearchSpace, rng: np.random.Generator) -> Genome:
    """Each option drawn alike, then made canonical."""
    drawn = {choice.name: choice.options[int(rng.integers(len(choice.options)))] for choice in space.choices}
    return space.canonical(Genome.of(drawn))
