"""Before anything is measured, a new target is expected to run as its engine does elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from devices.target import Runtime
from predictor.adapt import adapt
from predictor.predict import Predictor
from predictor.resemblance import expectations, source_weights
from tests.predictor.synthetic_target import (
    RUNTIME,
    SOURCES,
    SyntheticTarget,
    facts,
    mixtures,
    reference_described,
    synthetic_meta,
)

PHONE = RUNTIME.model_copy(update={"threads": 4})
STRANGER = Runtime(engine="abacus", version="1", provider="beads", threads=1)


def test_the_same_runtime_counts_most_then_the_same_way_then_the_same_engine() -> None:
    extended = RUNTIME.model_copy(update={"optimization": "extended"})
    weights = source_weights(PHONE, [extended, *SOURCES])
    assert weights.sum() == pytest.approx(1.0)
    same_way, same_runtime, same_engine, *others, nominal = weights
    assert same_runtime > same_way > same_engine > nominal > max(others) == min(others) > 0
    on_gpu = source_weights(PHONE.model_copy(update={"provider": "cuda"}), [extended, *SOURCES])
    assert len({*on_gpu[:-1]}) == 1  # other kernels altogether


def test_of_an_engine_that_nobody_knows_every_source_says_as_much() -> None:
    weights = source_weights(STRANGER, SOURCES, [PHONE])
    assert len(weights) == len(SOURCES) + 2
    assert len({*weights[: len(SOURCES)], weights[-1]}) == 1


def test_a_pooled_target_of_the_engine_is_a_witness_too() -> None:
    *_, strange, same = source_weights(RUNTIME, SOURCES, [STRANGER, PHONE])
    assert same == pytest.approx(1000 * strange)


def test_any_source_of_the_engine_may_be_the_best_witness() -> None:
    """A target of the first source's engine that runs as the second does, which the ranks do not expect."""
    found = expectations(RUNTIME, SOURCES, [STRANGER, PHONE])
    assert all(one.weights.sum() == pytest.approx(1.0) for one in found)
    nominal = len(SOURCES)
    assert [int(one.weights.argmax()) for one in found[1:]] == [0, 1, nominal + 2, 0, nominal, 0, nominal]
    assert len(expectations(STRANGER, SOURCES)) == 5
    meta = synthetic_meta()
    observations = [
        replace(observation, median_ms=float(about.total_ms[1]))
        for observation, about in zip(
            SyntheticTarget.drawn(np.random.default_rng(1)).observations(), reference_described(), strict=True
        )
    ]
    predictor = Predictor(adapt(facts(), observations, meta=meta), meta)
    others = mixtures(200, np.random.default_rng(2))
    said = np.array([one.median_ms for one in predictor.predict_described(others)])
    np.testing.assert_allclose(said, [float(one.total_ms[1]) for one in others], rtol=0.02)


def test_one_measurement_leaves_a_target_near_its_engine() -> None:
    """Of the first source's engine, a fifth slower than the source: so is every other model."""
    described = reference_described()
    observations = SyntheticTarget.drawn(np.random.default_rng(1)).observations()
    first = replace(observations[0], median_ms=1.2 * float(described[0].total_ms[0]))
    meta = synthetic_meta()
    said = Predictor(adapt(facts(), [first], meta=meta), meta).predict_described(described)
    ratios = [one.median_ms / float(about.total_ms[0]) for one, about in zip(said, described, strict=True)]
    assert np.median(ratios) == pytest.approx(1.2, rel=0.1)
