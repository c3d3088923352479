"""Genome: a point of a search space, as names with the options chosen for them.

A genome is flat on purpose: strategies need no more than names and options, and a mixed-precision space
adds choices such as `block1.weight_bits` without a change here. What the choices mean (layers,
`QuantConfig`) is decoded by the space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from devices.model_ref import sha256_of

Option = int | float | str


@dataclass(frozen=True, slots=True)
class Genome:
    """Choices in ascending order of their names, each name once; build one with `Genome.of`."""

    choices: tuple[tuple[str, Option], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.choices]
        if names != sorted(set(names)):
            raise ValueError(f"choices must be sorted by name and distinct, got {names}; use Genome.of")

    @classmethod
    def of(cls, choices: Mapping[str, Option]) -> Genome:
        """From names and options in any order."""
        return cls(tuple(sorted(choices.items())))

    def as_dict(self) -> dict[str, Option]:
        """The choices by name."""
        return dict(self.choices)

    def to_json(self) -> str:
        """Canonical JSON: equal genomes, and only they, have equal text."""
        return json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: what the genome is known by."""
        return sha256_of(self.to_json().encode())
