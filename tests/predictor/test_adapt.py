"""Adaptation: closed form where it can be checked, honest intervals where the truth is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from predictor.adapt import OWN, SHARED, adapt, adapt_described, physical_prior, prior_from
from predictor.errors import AdaptationRejected, PredictorError
from predictor.evaluate import accuracy_card, card_of
from predictor.features import CLASSES, Described
from predictor.predict import Prediction, Predictor
from predictor.regression import Data, Gaussian, fit, moments, quantiles
from predictor.roofline import KernelClass
from tests.predictor.synthetic_target import (
    SyntheticTarget,
    facts,
    mixtures,
    reference_described,
    reference_graphs,
)


def test_with_one_class_the_posterior_is_the_textbook_one() -> None:
    """One class: log t = theta + log x, so the posterior at a noise level is that of a normal mean."""
    x = np.asarray([[2.0], [3.0], [5.0]])
    y = np.log(x[:, 0]) + np.asarray([0.5, 0.7, 0.6])
    data = Data(x=x, z=np.zeros((3, 0)), y=y, variance=np.full(3, 0.01))
    posterior = fit(data, Gaussian(np.asarray([0.1]), np.asarray([[0.25]])))
    for mean, covariance, noise in zip(posterior.means, posterior.covariances, posterior.noise, strict=True):
        precision = 1 / 0.25 + 3 / (0.01 + noise**2)
        expected = (0.1 / 0.25 + (0.5 + 0.7 + 0.6) / (0.01 + noise**2)) / precision
        assert mean[0] == pytest.approx(expected, rel=1e-6)
        assert covariance[0, 0] == pytest.approx(1 / precision, rel=1e-6)
    log_evidence = [
        stats.multivariate_normal.logpdf(
            y - np.log(x[:, 0]), np.full(3, 0.1), (0.01 + s**2) * np.eye(3) + 0.25
        )
        - 0.5 * ((np.log(s) - np.log(0.15)) / 0.7) ** 2
        for s in posterior.noise
    ]
    weights = np.exp(np.asarray(log_evidence) - max(log_evidence))
    np.testing.assert_allclose(posterior.weights, weights / weights.sum(), rtol=1e-5)


def test_two_classes_are_told_apart_although_the_model_is_not_linear() -> None:
    truth = np.log([0.4, 3.0])
    x = np.asarray([[1.0, 0.1], [0.1, 1.0], [5.0, 5.0], [2.0, 8.0]])
    y = np.log(x @ np.exp(truth))
    data = Data(x=x, z=np.zeros((4, 0)), y=y, variance=np.full(4, 1e-6))
    posterior = fit(data, Gaussian(np.zeros(2), np.eye(2)))
    np.testing.assert_allclose(posterior.means[0], truth, atol=0.01)


def test_quantiles_are_those_of_the_mixture() -> None:
    weights, means, deviations = np.asarray([0.3, 0.7]), np.asarray([[0.0, 1.0]]), np.asarray([[1.0, 0.2]])
    levels = np.asarray([0.05, 0.5, 0.95])
    found = quantiles(weights, means, deviations, levels)[0]
    below = [
        sum(w * stats.norm.cdf(q, m, s) for w, m, s in zip(weights, means[0], deviations[0], strict=True))
        for q in found
    ]
    np.testing.assert_allclose(below, levels, atol=1e-9)


def test_a_target_without_noise_is_recovered_from_ten_measurements() -> None:
    rng = np.random.default_rng(1)
    target = SyntheticTarget.drawn(rng)
    models = mixtures(50, rng)
    predictions = Predictor(adapt(facts(), target.observations())).predict_described(models)
    errors = np.asarray([one.median_ms for one in predictions]) / target.latencies_ms(models) - 1
    assert np.median(np.abs(errors)) < 0.05


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_hold_as_often_as_they_say(coverage: float) -> None:
    """Over many targets and new measurements of new models on them."""
    rng = np.random.default_rng(7)
    held, widths = [], []
    for _ in range(120):
        target = SyntheticTarget.drawn(rng)
        models = mixtures(12, rng)
        checkpoint = adapt_described(
            facts(), target.observations(rng), reference_described(), prior=(physical_prior(), ())
        )
        predictions = Predictor(checkpoint).predict_described(models, coverage)
        for prediction, latency in zip(predictions, target.latencies_ms(models, rng), strict=True):
            assert 0 < prediction.lower_ms <= prediction.median_ms <= prediction.upper_ms
            held.append(prediction.lower_ms <= latency <= prediction.upper_ms)
            widths.append(prediction.upper_ms / prediction.lower_ms)
    assert coverage - 0.05 <= np.mean(held) <= coverage + 0.05
    assert np.median(widths) < 4.0  # not by being uselessly wide: the prior alone spans a factor of ten


def test_adapting_is_deterministic_and_blind_to_order() -> None:
    observations = SyntheticTarget.drawn(np.random.default_rng(3)).observations(np.random.default_rng(4))
    data = adapt(facts(), observations).to_bytes()
    assert adapt(facts(), observations).to_bytes() == data
    graph = reference_graphs()[0][1]
    turned = Predictor(adapt(facts(), observations[::-1])).predict(graph)
    assert turned.median_ms == pytest.approx(
        Predictor(adapt(facts(), observations)).predict(graph).median_ms, rel=1e-6
    )


def test_more_measurements_narrow_the_interval() -> None:
    observations = SyntheticTarget.drawn(np.random.default_rng(3)).observations()
    graph = reference_graphs()[3][1]

    def width(count: int) -> float:
        one = Predictor(adapt(facts(), observations[:count])).predict(graph)
        return one.upper_ms / one.lower_ms

    assert width(1) > width(4) > width(10)


def test_other_targets_teach_what_they_have_in_common() -> None:
    """Targets that share a deviation: the prior moves there, and ever fewer own measurements are needed."""
    rng = np.random.default_rng(5)
    classes, size = len(CLASSES), len(physical_prior().mean)
    common = rng.multivariate_normal(np.zeros(size), SHARED.covariance)
    pool = []
    for number in range(8):
        theta = common + rng.multivariate_normal(np.zeros(size), OWN.covariance)
        pool += SyntheticTarget(theta, 0.05).observations(rng, key=f"other-{number}/x")
    prior, keys = prior_from(pool, facts().key)
    assert len(keys) == 8
    before, after = np.abs(common[:classes]).mean(), np.abs(prior.mean - common)[:classes].mean()
    assert after < 0.8 * before
    assert np.all(np.diag(prior.covariance) < np.diag(physical_prior().covariance))
    assert np.all(np.diag(prior.covariance) > np.diag(OWN.covariance) - 1e-9)
    own = prior_from(pool, "other-3/x")[1]
    assert "other-3/x" not in own  # a target never pools itself


def test_what_was_never_measured_is_named_and_widens_the_interval() -> None:
    observations = SyntheticTarget.drawn(np.random.default_rng(3)).observations()
    predictor = Predictor(adapt(facts(), observations))
    known = reference_described()[0]
    foreign = Described(known.values, {"Conv": 0.4, "com.acme/Warp": 0.6})
    usual, other = predictor.predict_described([known, foreign])
    assert not usual.extrapolates
    assert other.extrapolates
    assert "com.acme/Warp" in other.reasons[0]
    assert "60%" in other.reasons[0]
    assert other.upper_ms / other.lower_ms > 1.3 * usual.upper_ms / usual.lower_ms


def test_sizes_and_classes_outside_of_the_measurements_are_said() -> None:
    observations = SyntheticTarget.drawn(np.random.default_rng(3)).observations()
    predictor = Predictor(adapt(facts(), observations))
    large = reference_described()[0].values.copy()
    large[: len(CLASSES)] += np.log(100.0)
    low_bit = np.full_like(large, 0.0)
    low_bit[: len(CLASSES)] = np.log(1e-9)
    low_bit[CLASSES.index(KernelClass.LOW_BIT)] = np.log(5.0)
    by_size, by_class = predictor.predict_described([Described(large, {}), Described(low_bit, {})])
    assert any("outside of what was measured" in reason for reason in by_size.reasons)
    assert any("no measured model" in reason for reason in by_class.reasons)


def test_many_are_predicted_as_one_by_one() -> None:
    predictor = Predictor(adapt(facts(), SyntheticTarget.drawn(np.random.default_rng(3)).observations()))
    graphs = [graph for _, graph in reference_graphs()]
    together = predictor.predict_many(graphs)
    for one, graph in zip(together, graphs, strict=True):
        alone = predictor.predict(graph)
        assert alone.median_ms == pytest.approx(one.median_ms, rel=1e-9)
        assert alone.reasons == one.reasons
    assert predictor.predict_many([]) == ()
    with pytest.raises(PredictorError, match=r"1\.5"):
        predictor.predict(graphs[0], coverage=1.5)


def test_observations_that_cannot_be_are_refused() -> None:
    observations = SyntheticTarget.drawn(np.random.default_rng(3)).observations()
    with pytest.raises(AdaptationRejected, match="no measurement"):
        adapt(facts(), [])
    with pytest.raises(AdaptationRejected, match="other/x"):
        adapt(facts("other/x"), observations)
    for changed in ({"median_ms": 0.0}, {"median_ms": float("nan")}, {"standard_error_ms": -1.0}):
        with pytest.raises(AdaptationRejected, match="positive"):
            adapt(facts(), [dataclasses.replace(observations[0], **changed)])
        stranger = dataclasses.replace(observations[0], target_key="other/x", **changed)
        with pytest.raises(AdaptationRejected, match=r"other/x; .*positive"):
            adapt(facts(), observations, [stranger])


def test_the_card_of_hand_made_predictions() -> None:
    def one(median: float, lower: float, upper: float) -> Prediction:
        return Prediction(median, lower, upper, 0.9, extrapolates=False, reasons=())

    predictions = [one(1.05, 0.9, 1.2), one(2.0, 1.9, 2.1), one(6.0, 3.0, 12.0), one(4.0, 2.0, 8.0)]
    card = card_of(predictions, [1.0, 2.5, 4.0, 4.0], ["conv", "conv", "gemm", "gemm"])
    assert card.mape == pytest.approx((0.05 + 0.2 + 0.5 + 0.0) / 4)
    assert card.median_ape == pytest.approx(0.125)
    assert (card.within_10_percent, card.within_25_percent, card.coverage_90) == (0.5, 0.75, 0.75)
    assert card.mean_interval_width == pytest.approx((4 / 3 * 21 / 19 * 4 * 4) ** 0.25)
    assert card.by_family["gemm"].mape == pytest.approx(0.25)
    assert card.sample_count == 4


def test_the_accuracy_card_leaves_each_measurement_out() -> None:
    rng = np.random.default_rng(11)
    observations = SyntheticTarget.drawn(rng).observations(rng)
    card = accuracy_card(facts(), observations)
    assert card.sample_count == 10
    assert card.trained_on == tuple(sorted(observation.name for observation in observations))
    held_out = Predictor(adapt(facts(), observations[1:])).predict(observations[0].graph)
    first = abs(held_out.median_ms / observations[0].median_ms - 1)
    others = [
        abs(
            Predictor(adapt(facts(), [o for o in observations if o is not left]))
            .predict(left.graph)
            .median_ms
            / left.median_ms
            - 1
        )
        for left in observations[1:]
    ]
    assert card.mape == pytest.approx(np.mean([first, *others]), rel=1e-6)
    assert accuracy_card(facts(), observations[:2]).mape is None


def test_moments_agree_with_sampling() -> None:
    """The linearised predictive deviation against the model itself at draws of theta."""
    rng = np.random.default_rng(2)
    observations = SyntheticTarget.drawn(rng).observations(rng)
    posterior = adapt(facts(), observations).posterior
    x = np.exp(reference_described()[3].values[None, : len(CLASSES)])
    z = np.zeros((1, 2))
    means, variances = moments(posterior, x, z)
    best = int(np.argmax(posterior.weights))
    draws = rng.multivariate_normal(posterior.means[best], posterior.covariances[best], size=4000)
    sampled = np.log(np.exp(draws[:, : len(CLASSES)]) @ x[0])
    assert means[0, best] == pytest.approx(sampled.mean(), abs=0.03)
    assert np.sqrt(variances[0, best]) == pytest.approx(sampled.std(), rel=0.2)
