"""What sources took for the reference set puts right what the network says of them, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from predictor.adapt import Observation, adapt
from predictor.errors import CheckpointRejected
from predictor.known_references import KnownReferences
from predictor.meta_checkpoint import MetaCheckpoint
from predictor.predict import Predictor
from tests.predictor.synthetic_target import (
    KNOWN,
    SyntheticTarget,
    facts,
    mixtures,
    reference_graphs,
    synthetic_meta,
)

NAN = float("nan")


def test_a_source_that_did_not_run_a_model_is_off_as_the_others_are() -> None:
    known = KnownReferences.of(
        ["a", "b"], np.array([[2.0, NAN, 8.0], [NAN, NAN, NAN]]), np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    )
    assert set(known.log_ratios) == {"a"}
    total_ms, class_ms = known.corrected("a", np.ones(4), np.ones((4, 2)))
    np.testing.assert_allclose(total_ms, [2.0, 4.0, 8.0, 1.0], rtol=1e-6)  # the nominal machine stays
    np.testing.assert_allclose(class_ms, np.stack([total_ms, total_ms], axis=1), rtol=1e-6)
    total_ms, class_ms = known.corrected("b", np.ones(4), np.ones((4, 2)))
    assert total_ms.tolist() == [1.0] * 4
    assert class_ms.tolist() == [[1.0] * 2] * 4


def test_a_source_that_is_left_out_has_no_say() -> None:
    known = KnownReferences.of(["a", "b"], np.array([[2.0, NAN, 8.0], [NAN, 3.0, NAN]]), np.ones((2, 3)))
    fewer = known.of_sources([0, 2])
    assert set(fewer.log_ratios) == {"a"}
    total_ms, _ = fewer.corrected("a", np.ones(3), np.ones((3, 2)))
    np.testing.assert_allclose(total_ms, [2.0, 8.0, 1.0], rtol=1e-6)


def test_what_the_network_misses_of_the_references_is_no_habit_of_a_target() -> None:
    """Every source took twice or half of what the network says of each reference model; so does the target,
    which otherwise is a mixture of them.
    """
    rng = np.random.default_rng(5)
    plain = synthetic_meta()
    digests = [graph.digest for _, graph in reference_graphs()]
    missed = rng.choice([0.5, 2.0], size=len(digests))
    known = KnownReferences.of(
        digests, np.repeat(missed[:, None], len(KNOWN), axis=1), np.ones((10, len(KNOWN)))
    )
    meta = replace(
        plain, facts=plain.facts.model_copy(update={"references": tuple(sorted(digests))}), references=known
    )
    target, models = SyntheticTarget.drawn(rng), mixtures(50, rng)
    measured = [
        replace(one, median_ms=one.median_ms * float(factor))
        for one, factor in zip(target.observations(), missed, strict=True)
    ]

    def error(meta: MetaCheckpoint, observations: list[Observation]) -> float:
        predictor = Predictor(adapt(facts(), observations, meta=meta), meta)
        said = np.array([one.median_ms for one in predictor.predict_described(models)])
        return float(np.median(np.abs(said / target.latencies_ms(models) - 1)))

    assert error(meta, measured) < 0.05
    assert error(plain, measured) > 3 * error(meta, measured)
    again = MetaCheckpoint.from_bytes(meta.to_bytes())
    assert again.to_bytes() == meta.to_bytes()
    assert error(again, measured) == error(meta, measured)


@pytest.mark.parametrize("ratios", [[[NAN] * 4], [[11.0, 0.0, 0.0, 0.0]]])
def test_ratios_that_no_measurement_gives_are_refused(ratios: list[list[float]]) -> None:
    plain = synthetic_meta()
    damaged = replace(
        plain,
        facts=plain.facts.model_copy(update={"references": ("a",)}),
        references=KnownReferences({"a": np.array(ratios[0], np.float32)}),
    )
    with pytest.raises(CheckpointRejected, match="ratios of references"):
        MetaCheckpoint.from_bytes(damaged.to_bytes())
