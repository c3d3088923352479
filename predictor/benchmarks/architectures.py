"""Architectures of a published space: their genomes, and the tallies of their graphs.

A tally costs a network's construction and parsing, some 15 milliseconds, so those of a whole table are made
once, on all cores, and kept in a file.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot.tally import TALLY_SHAPE, TALLY_VERSION, tally_kernels, tally_operators
from predictor.graph import ModelGraph
from predictor.networks import nb201
from predictor.networks.registry import FAMILIES
from predictor.reading.reader import read_graph

VIEWS = 2  # the operators that training code runs, and the kernels that a converter leaves
# Which form of a network each view is taken of. Most spaces have one form, and both views come from it.
_ONE_FORM: tuple[tuple[nb201.Form | None, list[int]], ...] = ((None, [0, 1]),)
_FORMS: Mapping[str, tuple[tuple[nb201.Form | None, list[int]], ...]] = {
    nb201.SPACE: ((nb201.Form.WRITTEN, [0]), (nb201.Form.NEEDED, [1]))
}
_COUNTS: tuple[Callable[[ModelGraph], NDArray[np.float64]], ...] = (tally_operators, tally_kernels)
_CHUNK = 250
log = logging.getLogger(__name__)
Genome = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Architectures:
    """`genomes` (N, G): one row each, in the space's own integer encoding (`predictor.networks`).

    `features` (N, VIEWS, *TALLY_SHAPE): the tallies of each network (`predictor.few_shot.tally`).
    """

    space: str
    genomes: NDArray[np.int64]
    features: NDArray[np.float64]


def architectures_of(space: str, genomes: NDArray[np.int64], cache_dir: Path) -> Architectures:
    """Genomes with the tallies of their graphs, read from `cache_dir` where they were made before."""
    digest = hashlib.sha256(np.ascontiguousarray(genomes, dtype=np.int64).tobytes()).hexdigest()[:16]
    file = cache_dir / f"tallies-{space}-{digest}-v{TALLY_VERSION}.npz"
    if file.is_file():
        with np.load(file, allow_pickle=False) as stored:
            return Architectures(space, genomes, stored["tallies"].astype(np.float64))
    log.warning("building and counting %d networks of %s, once: a few minutes", len(genomes), space)
    tallies = _tallies(space, [tuple(int(choice) for choice in genome) for genome in genomes])
    cache_dir.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.stem}.{os.getpid()}.npz")  # two processes may do this at once
    np.savez_compressed(partial, tallies=tallies)
    partial.replace(file)
    return Architectures(space, genomes, tallies.astype(np.float64))


def _tallies(space: str, genomes: Sequence[Genome]) -> NDArray[np.float32]:
    """(N, VIEWS, *TALLY_SHAPE), each distinct network counted once."""
    tallies = np.zeros((len(genomes), VIEWS, *TALLY_SHAPE), dtype=np.float32)
    for form, views in _FORMS.get(space, _ONE_FORM):
        keys = [_key(form, genome) for genome in genomes]
        distinct = sorted(set(keys))
        chunks = [
            (space, form, views, distinct[start : start + _CHUNK])
            for start in range(0, len(distinct), _CHUNK)
        ]
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as processes:
            counted = np.concatenate(list(processes.map(_count, chunks)))
        place = {key: index for index, key in enumerate(distinct)}
        tallies[:, views] = counted[[place[key] for key in keys]]
    return tallies


def _key(form: nb201.Form | None, genome: Genome) -> Genome:
    """A genome whose form has the same tally: which edge an operator stands on does not matter to how often
    it stands anywhere, and what is not needed does not matter to what is.
    """
    if form is None:
        return genome
    if form is nb201.Form.WRITTEN:
        return tuple(sorted(genome))
    needed = nb201.needed(genome)
    return tuple(operation if edge in needed else 0 for edge, operation in enumerate(genome))


def _count(chunk: tuple[str, nb201.Form | None, list[int], Sequence[Genome]]) -> NDArray[np.float32]:
    """(M, len(views), *TALLY_SHAPE)."""
    space, form, views, genomes = chunk
    family = FAMILIES[space]
    counted = np.zeros((len(genomes), len(views), *TALLY_SHAPE), dtype=np.float32)
    for index, genome in enumerate(genomes):
        model = family.network(genome) if form is None else nb201.network(genome, form=form)
        graph = read_graph(model, family.input_shapes(genome))
        counted[index] = [_COUNTS[view](graph) for view in views]
    return counted
