"""Tallies of a table's networks: counted once each, kept in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from predictor.benchmarks import architectures
from predictor.benchmarks.architectures import VIEWS, architectures_of
from predictor.few_shot.tally import TALLY_SHAPE, Law, Work, tally_kernels, tally_operators
from predictor.networks import nb201
from predictor.reading.reader import read_graph

CELLS = np.asarray([(3, 0, 0, 2, 0, 0), (2, 0, 0, 3, 0, 0), (1, 4, 3, 2, 0, 3), (3, 3, 3, 3, 3, 3)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the cells' tallies lie."""
    place = tmp_path_factory.mktemp("tallies")
    architectures_of("nb201", CELLS, place)
    return place


def test_each_view_is_that_of_its_form(folder: Path) -> None:
    tallies = architectures_of("nb201", CELLS, folder).features
    assert tallies.shape == (len(CELLS), VIEWS, *TALLY_SHAPE)
    for cell, (written, needed) in zip(CELLS, tallies, strict=True):
        shapes = nb201.input_shapes(cell)
        graphs = [
            read_graph(nb201.network(cell, form=form), shapes)
            for form in (nb201.Form.WRITTEN, nb201.Form.NEEDED)
        ]
        assert np.allclose(written, tally_operators(graphs[0]), rtol=1e-6)
        assert np.allclose(needed, tally_kernels(graphs[1]), rtol=1e-6)


def test_what_nobody_needs_is_written_and_not_needed(folder: Path) -> None:
    # The first two cells have the same operations; one needs its 1x1 convolution, the other its 3x3.
    tallies = architectures_of("nb201", CELLS, folder).features
    first, second = tallies[0], tallies[1]
    assert np.array_equal(first[0], second[0])
    macs = tallies[:, :, :, Law.MACS].sum(axis=-1)  # (N, V, W)
    assert macs[0, 1, Work.CONV] < macs[1, 1, Work.CONV]
    assert macs[0, 1, Work.POINTWISE] > macs[1, 1, Work.POINTWISE]


def test_a_second_reading_counts_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = architectures_of("nb201", CELLS, folder)
    monkeypatch.setattr(architectures, "_tallies", None)  # calling it would fail
    after = architectures_of("nb201", CELLS, folder)
    assert np.array_equal(before.features, after.features)
