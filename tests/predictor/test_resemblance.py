"""Before anything is measured, a new target is expected to run as its engine does elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from devices.target import Hardware, Runtime
from predictor.adapt import TargetFacts, adapt, describe_observation
from predictor.few_shot.target import AdaptedGraphs
from predictor.kernel_costs.pricing import NOMINAL_COUNT
from predictor.kernel_costs.table import CLASSES
from predictor.predict import Predictor
from predictor.resemblance import (
    UNKNOWN_PROCESSOR,
    expectations,
    is_twin,
    knows_engine,
    knows_short_floats,
    source_weights,
)
from tests.predictor.synthetic_target import (
    HARDWARE,
    KNOWN,
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
ELSEWHERE = HARDWARE.model_copy(update={"cpu_model": "another"})


def known(runtime: Runtime, hardware: Hardware = HARDWARE) -> TargetFacts:
    return TargetFacts(key="made/up", runtime=runtime, hardware=hardware)


def test_the_same_runtime_counts_most_then_the_same_way_then_the_same_engine() -> None:
    extended = RUNTIME.model_copy(update={"optimization": "extended"})
    weights = source_weights(known(PHONE), [known(extended), *KNOWN])
    assert weights.sum() == pytest.approx(1.0)
    same_way, same_runtime, same_engine, *others, nominal, unfolding = weights
    assert unfolding == 0.0
    assert same_runtime > same_way > same_engine > nominal > max(others) == min(others) > 0
    on_gpu = source_weights(known(PHONE.model_copy(update={"provider": "cuda"})), [known(extended), *KNOWN])
    assert len({*on_gpu[:-NOMINAL_COUNT]}) == 1  # other kernels altogether


def test_of_an_engine_that_nobody_knows_every_source_says_as_much() -> None:
    weights = source_weights(known(STRANGER), KNOWN, [known(PHONE)])
    assert len(weights) == len(SOURCES) + NOMINAL_COUNT + 1
    assert len({*weights[: len(SOURCES)], weights[-1]}) == 1


def test_a_pooled_target_of_the_engine_is_a_witness_too() -> None:
    *_, strange, same = source_weights(known(RUNTIME), KNOWN, [known(STRANGER), known(PHONE)])
    assert same == pytest.approx(1000 * strange)


def test_an_engine_is_known_from_any_machine_but_not_from_another_provider() -> None:
    assert knows_engine(known(PHONE, ELSEWHERE), KNOWN)
    assert not knows_engine(known(STRANGER), KNOWN)
    assert not knows_engine(known(PHONE.model_copy(update={"provider": "cuda"})), KNOWN)


def test_a_twin_is_the_same_runtime_on_such_a_processor() -> None:
    own = known(RUNTIME)
    assert is_twin(own, own.model_copy(update={"key": "another/one"}))
    assert not is_twin(own, known(PHONE))
    assert not is_twin(own, known(RUNTIME, ELSEWHERE))
    nameless = known(RUNTIME, HARDWARE.model_copy(update={"cpu_model": UNKNOWN_PROCESSOR}))
    assert not is_twin(nameless, nameless)


def test_float16_is_known_where_a_processor_like_it_was_measured_with_the_engine() -> None:
    short = HARDWARE.model_copy(update={"isa_flags": (*HARDWARE.isa_flags, "avx512_fp16")})
    gpu = RUNTIME.model_copy(update={"provider": "cuda"})
    assert knows_short_floats(known(RUNTIME), KNOWN)
    assert not knows_short_floats(known(RUNTIME, short), KNOWN)
    assert knows_short_floats(known(RUNTIME, short), [*KNOWN, known(PHONE, short)])
    assert not knows_short_floats(known(STRANGER), KNOWN)
    assert not knows_short_floats(known(gpu), KNOWN)
    assert knows_short_floats(known(gpu), [*KNOWN, known(gpu, short)])


def test_any_source_of_the_engine_may_be_the_best_witness() -> None:
    """A target of the first source's engine that runs as the second does, which the ranks do not expect."""
    found = expectations(known(RUNTIME), KNOWN, [known(STRANGER), known(PHONE)])
    assert all(one.weights.sum() == pytest.approx(1.0) for one in found)
    nominal = len(SOURCES)
    pooled = nominal + NOMINAL_COUNT + 1
    assert [int(one.weights.argmax()) for one in found[1:]] == [0, 1, pooled, 0, nominal, 0, nominal]
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
    np.testing.assert_allclose(said, [float(one.total_ms[1]) for one in others], rtol=0.03)


@pytest.mark.parametrize("place", range(NOMINAL_COUNT))
def test_a_stranger_may_run_as_a_nominal_machine_does(place: int) -> None:
    """Twice as slow in all it does, by an engine that nobody knows."""
    meta = synthetic_meta()
    target = known(STRANGER.model_copy(update={"provider": "cpu"}))
    assert len(expectations(target, KNOWN)) == 1 + NOMINAL_COUNT
    observations = SyntheticTarget.drawn(np.random.default_rng(1)).observations()
    described = [describe_observation(one, target, meta) for one in observations]
    nominal = len(SOURCES) + place
    took = [
        replace(one, target_key=target.key, median_ms=2.0 * float(about.total_ms[nominal]))
        for one, about in zip(observations, described, strict=True)
    ]
    predictor = Predictor(adapt(target, took, meta=meta), meta)
    said = np.array([one.median_ms for one in predictor.predict_described(described)])
    np.testing.assert_allclose(said, [one.median_ms for one in took], rtol=0.1)
    others = mixtures(200, np.random.default_rng(2), described)
    said = np.array([one.median_ms for one in predictor.predict_described(others)])
    truth = np.array([2.0 * float(one.total_ms[nominal]) for one in others])
    assert np.median(np.abs(said / truth - 1.0)) < 0.05


def test_one_measurement_leaves_a_target_near_its_engine() -> None:
    """Of the first source's engine, a fifth slower than the source: so is every other model."""
    described = reference_described()
    observations = SyntheticTarget.drawn(np.random.default_rng(1)).observations()
    first = replace(observations[0], median_ms=1.2 * float(described[0].total_ms[0]))
    meta = synthetic_meta()
    said = Predictor(adapt(facts(), [first], meta=meta), meta).predict_described(described)
    ratios = [one.median_ms / float(about.total_ms[0]) for one, about in zip(said, described, strict=True)]
    assert np.median(ratios) == pytest.approx(1.2, rel=0.1)


def test_an_analogy_takes_what_the_machine_takes_longer_with_other_runtimes() -> None:
    """Here without optimisation and in another engine, there in all three: only the engine's own count."""
    plain, other = SOURCES[1], SOURCES[2]
    sources = [known(plain), known(other), *(known(one, ELSEWHERE) for one in (RUNTIME, plain, other))]
    target = known(RUNTIME)
    found = [one for one in expectations(target, sources) if one.weights.min() < 0]
    assert [one.weights.tolist() for one in found] == [[1.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0]]
    foreign = [one for one in expectations(target, [sources[1], *sources[2:]]) if one.weights.min() < 0]
    assert [one.weights.tolist() for one in foreign] == [[1.0, 1.0, 0.0, -1.0, 0.0, 0.0]]
    assert foreign[0].log_prior < found[0].log_prior
    pooled = [one for one in expectations(target, sources[2:], sources[:1]) if one.weights.min() < 0]
    assert [one.weights.tolist() for one in pooled] == [[1.0, -1.0, 0.0, 0.0, 0.0, 1.0]]


def test_nobody_knows_whether_unknown_processors_are_the_same() -> None:
    unknown = HARDWARE.model_copy(update={"cpu_model": UNKNOWN_PROCESSOR})
    sources = [known(SOURCES[1], unknown), *(known(one, ELSEWHERE) for one in SOURCES)]
    assert all(one.weights.min() >= 0 for one in expectations(known(RUNTIME, unknown), sources))


def test_an_analogy_finds_a_slower_machine() -> None:
    """Every model takes here, plain, three to five times what it takes there: so does the optimised runtime,
    which only one measurement has seen.
    """
    rng = np.random.default_rng(0)
    there, plain_there = rng.uniform(1.0, 9.0, 200), rng.uniform(2.0, 20.0, 200)
    slower = rng.uniform(3.0, 5.0, 200)
    nominal = np.full(200, 5.0)
    total_ms = np.stack([plain_there * slower, there, plain_there, nominal, nominal], axis=1)
    class_ms = np.zeros((*total_ms.shape, len(CLASSES)))
    class_ms[:, :, 0] = total_ms
    sources = [known(SOURCES[1]), known(RUNTIME, ELSEWHERE), known(SOURCES[1], ELSEWHERE)]
    truth = there * slower
    adapted = AdaptedGraphs.of(
        total_ms[:8], class_ms[:8], truth[:8], expectations=expectations(known(RUNTIME), sources)
    )
    said = adapted.estimate(total_ms, class_ms).median_ms
    assert np.median(np.abs(said[8:] / truth[8:] - 1.0)) < 0.02
