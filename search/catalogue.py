"""Spaces with all that scores their genomes, by name. Imports what trains, so only workers use it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from devices.target import Hardware
from predictor.benchmarks.errors import TableRejected
from predictor.benchmarks.tables import data_folder
from search.errors import RequestRejected
from search.execution import cpu_runner
from search.quality import OnnxAccuracy, TableQuality
from search.scoring import LatencyPredictor, Scorer
from search.spaces import digits_cnn, nb201_accuracy
from search.spaces.digits_builder import DigitsBuilder
from search.spaces.published import FBNET, NB201, OFA, PublishedSpace
from search.spaces.published_builder import PublishedBuilder
from search.tasks import digits


def scorer_for(space: str, *, hardware: Hardware, predictor: LatencyPredictor, predictor_key: str) -> Scorer:
    """The scorer of a space for one target: its hardware, and a predictor of its latency.

    `predictor_key` names the predictor's checkpoint for good (SHA-256 or row id). Raises `RequestRejected`
    for an unknown space, and `EngineUnavailable` where models cannot be run to judge them.
    """
    if space not in _SCORERS:
        raise RequestRejected(f"space must be one of {sorted(_SCORERS)}, got {space!r}")
    return _SCORERS[space](hardware, predictor, predictor_key)


def _digits_cnn(hardware: Hardware, predictor: LatencyPredictor, predictor_key: str) -> Scorer:
    space = digits_cnn.DigitsCnn.for_hardware(hardware)
    runner, data = cpu_runner(), digits.load()
    return Scorer(
        space=space,
        builder=DigitsBuilder(space, runner),
        quality=OnnxAccuracy(runner, data.validation.for_input, data.test.for_input),
        predictor=predictor,
        key=f"{space.name}/w{space.weight_bits}/{predictor_key}",
    )


def _nb201(_: Hardware, predictor: LatencyPredictor, predictor_key: str) -> Scorer:
    """With the published accuracies where a folder of tables is named (`LAPTIME_DATA`)."""
    try:
        quality, missing = _nb201_accuracy(data_folder(None)), ""
    except (TableRejected, RequestRejected) as error:
        quality, missing = None, f"its accuracies come from a published table, and {error}"
    return Scorer(
        space=NB201,
        builder=PublishedBuilder(NB201),
        quality=quality,
        predictor=predictor,
        key=f"{NB201.name}/{'latency' if quality is None else nb201_accuracy.DATA_SET}/{predictor_key}",
        no_quality=missing,
    )


@lru_cache(maxsize=1)
def _nb201_accuracy(folder: Path) -> TableQuality:
    return nb201_accuracy.load(folder)


def _latency_only(space: PublishedSpace) -> Callable[[Hardware, LatencyPredictor, str], Scorer]:
    def scorer(_: Hardware, predictor: LatencyPredictor, predictor_key: str) -> Scorer:
        return Scorer(
            space=space,
            builder=PublishedBuilder(space),
            quality=None,
            predictor=predictor,
            key=f"{space.name}/latency/{predictor_key}",
            no_quality="no table of its accuracies is published and nothing is trained",
        )

    return scorer


_SCORERS: dict[str, Callable[[Hardware, LatencyPredictor, str], Scorer]] = {
    digits_cnn.NAME: _digits_cnn,
    NB201.name: _nb201,
    FBNET.name: _latency_only(FBNET),
    OFA.name: _latency_only(OFA),
}
