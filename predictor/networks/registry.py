"""The published spaces by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from predictor.errors import GenomeRejected
from predictor.networks import fbnet, nb201, ofa_mbv3
from predictor.networks.genome_check import GenomeRow


class NetworkBuilder(Protocol):
    """A genome and a batch size to the bytes of an ONNX model."""

    def __call__(self, genome: GenomeRow, *, batch: int = 1) -> bytes:
        """Raises `GenomeRejected`."""
        ...


class InputShapes(Protocol):
    """A genome and a batch size to the shapes of the model's inputs."""

    def __call__(self, genome: GenomeRow, *, batch: int = 1) -> Mapping[str, tuple[int, ...]]:
        """Raises `GenomeRejected` where the sizes depend on the genome and it is none."""
        ...


@dataclass(frozen=True, slots=True)
class NetworkFamily:
    """One space: its genomes and the networks that they stand for.

    `options`: the values that each position of a genome may have. `check` gives a genome as Python integers,
    `canonical` the one that stands for all whose models are alike; both raise `GenomeRejected`. `macs`:
    multiply-accumulates for one image, without building the model.
    """

    name: str
    options: tuple[tuple[int, ...], ...]
    check: Callable[[GenomeRow], tuple[int, ...]]
    canonical: Callable[[GenomeRow], tuple[int, ...]]
    network: NetworkBuilder
    input_shapes: InputShapes
    macs: Callable[[GenomeRow], int]

    @property
    def genome_length(self) -> int:
        """Positions of a genome."""
        return len(self.options)


FAMILIES: Mapping[str, NetworkFamily] = {
    module.SPACE: NetworkFamily(
        name=module.SPACE,
        options=module.OPTIONS,
        check=module.check,
        canonical=module.canonical,
        network=module.network,
        input_shapes=module.input_shapes,
        macs=module.macs,
    )
    for module in (nb201, fbnet, ofa_mbv3)
}


def family_of(space: str) -> NetworkFamily:
    """The family of a space. Raises `GenomeRejected` for a name that none has."""
    if space not in FAMILIES:
        raise GenomeRejected(f"space must be one of {sorted(FAMILIES)}, got {space!r}")
    return FAMILIES[space]
