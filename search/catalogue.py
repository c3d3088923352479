"""Spaces with all that scores their genomes, by name. Imports what trains, so only workers use it."""

from __future__ import annotations

from collections.abc import Callable

from devices.target import Hardware
from search.errors import RequestRejected
from search.execution import cpu_runner
from search.quality import OnnxAccuracy
from search.scoring import LatencyPredictor, Scorer
from search.spaces import digits_cnn
from search.spaces.digits_builder import DigitsBuilder
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


_SCORERS: dict[str, Callable[[Hardware, LatencyPredictor, str], Scorer]] = {digits_cnn.NAME: _digits_cnn}
