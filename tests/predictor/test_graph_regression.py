"""The regression behind the baseline with a factor for each class of kernels, checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from predictor.benchmarks.graph_regression import Data, Gaussian, common_prior, fit, moments, quantiles


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


def test_moments_agree_with_sampling() -> None:
    """The linearised predictive deviation against the model itself at draws of theta."""
    rng = np.random.default_rng(2)
    measured = rng.lognormal(0.0, 1.5, (10, 6))
    theta = 0.7 * rng.normal(size=6)
    y = np.log(measured @ np.exp(theta)) + 0.05 * rng.normal(size=10)
    data = Data(x=measured, z=np.zeros((10, 0)), y=y, variance=np.full(10, 1e-4))
    posterior = fit(data, Gaussian(np.zeros(6), 0.3 * np.eye(6)))
    x, z = rng.lognormal(0.0, 1.5, (1, 6)), np.zeros((1, 0))
    means, variances = moments(posterior, x, z)
    best = int(np.argmax(posterior.weights))
    draws = rng.multivariate_normal(posterior.means[best], posterior.covariances[best], size=4000)
    sampled = np.log(np.exp(draws) @ x[0])
    assert means[0, best] == pytest.approx(sampled.mean(), abs=0.05)
    assert np.sqrt(variances[0, best]) == pytest.approx(sampled.std(), rel=0.2)


def test_other_groups_teach_what_they_have_in_common() -> None:
    """Groups that share a deviation: the prior moves there, as far as their own deviations allow."""
    rng = np.random.default_rng(5)
    own, shared = 0.04 * np.eye(3), Gaussian(np.zeros(3), np.eye(3))
    common = rng.normal(size=3)
    groups = []
    for _ in range(8):
        theta = rng.multivariate_normal(common, own)
        x = rng.lognormal(0.0, 1.5, (12, 3))
        y = np.log(x @ np.exp(theta)) + 0.03 * rng.normal(size=12)
        groups.append(Data(x=x, z=np.zeros((12, 0)), y=y, variance=np.full(12, 1e-4)))
    prior = common_prior(groups, shared, own)
    assert np.abs(prior.mean - common).max() < 0.3
    assert np.all(np.diag(prior.covariance) < 0.3 * np.diag(shared.covariance + own))
    assert np.all(np.diag(prior.covariance) > np.diag(own))
