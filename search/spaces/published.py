"""The published spaces (`predictor.networks`) as search spaces: their genomes with names for people.

`nb201`: a cell of NAS-Bench-201, an operation for each of its six edges. `fbnet`: FBNet, a block for each of
22 positions. `ofa`: Once-for-All's MobileNetV3, kernel size and expansion of 20 blocks, depths of five
stages, resolution. Names and meanings are those of the published tables, row for row.
"""

from __future__ import annotations

from dataclasses import dataclass

from predictor.networks import fbnet, nb201, ofa_mbv3
from predictor.networks.genome_check import GenomeRow
from predictor.networks.registry import FAMILIES, NetworkFamily
from search.genome import Genome
from search.space import Choice, check_genome


@dataclass(frozen=True, slots=True)
class PublishedSpace:
    """`choices` in the order of a row's positions. An option's place is that of its value in
    `NetworkFamily.options`.
    """

    family: NetworkFamily
    choices: tuple[Choice, ...]

    @property
    def name(self) -> str:
        """See `SearchSpace.name`."""
        return self.family.name

    def canonical(self, genome: Genome) -> Genome:
        """Genomes whose networks are alike: edges that lead nowhere, blocks beyond a stage's depth."""
        return self.genome(self.family.canonical(self.row(genome)))

    def row(self, genome: Genome) -> tuple[int, ...]:
        """The row of the published table. Raises `RequestRejected` for a genome of another space."""
        check_genome(self, genome)
        chosen = genome.as_dict()
        return tuple(
            values[choice.options.index(chosen[choice.name])]
            for choice, values in zip(self.choices, self.family.options, strict=True)
        )

    def genome(self, row: GenomeRow) -> Genome:
        """The genome of a row. Raises `predictor.errors.GenomeRejected` for one that is none."""
        return Genome.of(
            {
                choice.name: choice.options[values.index(value)]
                for choice, values, value in zip(
                    self.choices, self.family.options, self.family.check(row), strict=True
                )
            }
        )


def _nb201() -> PublishedSpace:
    names = [f"node{to}.from{source}" for to, source in nb201.EDGES]
    return PublishedSpace(FAMILIES[nb201.SPACE], tuple(Choice(name, nb201.OPERATIONS) for name in names))


def _fbnet() -> PublishedSpace:
    names = [f"block{position:02d}" for position in range(1, fbnet.POSITIONS + 1)]
    return PublishedSpace(FAMILIES[fbnet.SPACE], tuple(Choice(name, fbnet.OPERATIONS) for name in names))


def _ofa() -> PublishedSpace:
    stages = range(1, ofa_mbv3.STAGES + 1)
    blocks = [
        f"stage{stage}.block{block}" for stage in stages for block in range(1, ofa_mbv3.STAGE_BLOCKS + 1)
    ]
    return PublishedSpace(
        FAMILIES[ofa_mbv3.SPACE],
        (
            *(Choice(f"{block}.kernel", ofa_mbv3.KERNELS) for block in blocks),
            *(Choice(f"{block}.expansion", ofa_mbv3.EXPANSIONS) for block in blocks),
            *(Choice(f"stage{stage}.depth", ofa_mbv3.DEPTHS) for stage in stages),
            Choice("resolution", ofa_mbv3.RESOLUTIONS),
        ),
    )


NB201, FBNET, OFA = _nb201(), _fbnet(), _ofa()
