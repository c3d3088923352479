"""Inner steps, the z modulator and label scales, worked by hand or against numerical derivatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from predictor.help.config import HELP, META_SGD, HelpConfig
from predictor.help.encoding import encode
from predictor.help.episodes import Episode
from predictor.help.labels import (
    embedding_of,
    milliseconds_from,
    scale_from_measured,
    scale_of,
    trimmed,
)
from predictor.help.learner import Learner, adapted, initial_learner, noise
from predictor.help.meta_testing import AdaptedLearner
from predictor.help.meta_training import episode_loss
from predictor.help.modulator import distribution, divergence, modulated
from predictor.help.network import expanded, gathered, initial_parameters

REFERENCES = 4


def double(learner: Learner) -> Learner:
    tensors = {name: value.double().requires_grad_() for name, value in learner.tensors().items()}
    return Learner.from_tensors(learner.config, tensors)


def small_world(config: HelpConfig, seed: int = 0) -> tuple[Learner, Tensor, Episode, Tensor]:
    """A learner in double precision, architectures, an episode of two devices, and noise."""
    generator = Generator().manual_seed(seed)
    genomes = np.random.default_rng(seed).integers(0, 9, size=(12, 22))
    encoded = encode("fbnet", genomes)
    learner = double(initial_learner(encoded, config, reference_count=REFERENCES, generator=generator))
    places = torch.stack([torch.randperm(12, generator=generator) for _ in range(2)])
    labels = torch.rand((2, 12), generator=generator, dtype=torch.float64)
    episode = Episode(
        support=places[:, :5],
        support_labels=labels[:, :5],
        query=places[:, 5:],
        query_labels=labels[:, 5:],
        embedding=torch.rand((2, REFERENCES), generator=generator, dtype=torch.float64),
    )
    return learner, encoded.double(), episode, noise(config, 2, generator).double()


def test_z_scales_a_heads_weights_by_input_and_shifts_its_biases() -> None:
    head = {
        f"{name}.{part}": torch.ones((1, 2, outputs) if part == "weight" else (1, outputs))
        for name, outputs in (("fc3", 2), ("fc4", 2), ("fc5", 1))
        for part in ("weight", "bias")
    }
    head["fc1.weight"] = torch.ones(1, 3, 1)
    z = torch.asarray([[10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 7.0, 8.0, 9.0]])
    changed = modulated(head, z, 0.01)
    assert changed["fc1.weight"] is head["fc1.weight"]
    torch.testing.assert_close(changed["fc3.weight"], torch.asarray([[[1.1, 1.1], [1.2, 1.2]]]))
    torch.testing.assert_close(changed["fc4.weight"], torch.asarray([[[1.3, 1.3], [1.4, 1.4]]]))
    torch.testing.assert_close(changed["fc5.weight"], torch.asarray([[[1.5], [1.6]]]))
    torch.testing.assert_close(changed["fc3.bias"], torch.full((1, 2), 1.07))
    torch.testing.assert_close(changed["fc5.bias"], torch.full((1, 1), 1.09))


def test_divergence_is_that_of_normal_distributions() -> None:
    mean, deviation = torch.asarray([[0.5, -1.0]]), torch.asarray([[2.0, 0.1]])
    given, standard = torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(given, standard).sum(dim=1)
    torch.testing.assert_close(divergence(mean, deviation), expected)
    assert divergence(torch.zeros(1, 3), torch.ones(1, 3)).item() == 0.0


def test_one_inner_step_on_a_device_is_gradient_descent_with_a_rate_per_parameter() -> None:
    config = replace(META_SGD, width=6, inner_steps=1)
    learner, encoded, episode, draws = small_world(config)
    learner.rates["fc5.bias"].data.fill_(0.25)
    parameters, kl = adapted(
        learner, gathered(encoded, episode.support), episode.support_labels,
        embedding=episode.embedding, draws=draws, training=False,
    )  # fmt: skip
    assert not kl.any()
    error = {}
    for task in range(
        2
    ):  # the bias of the last layer is the mean residual's: d mse / d b = 2 mean(score - label)
        rows = encoded[episode.support[task]]
        for name in ("fc1", "fc2", "fc3", "fc4"):
            rows = (rows @ learner.network[f"{name}.weight"] + learner.network[f"{name}.bias"]).relu()
        scores = (rows @ learner.network["fc5.weight"] + learner.network["fc5.bias"])[:, 0]
        error[task] = 2.0 * (scores - episode.support_labels[task]).mean()
        expected = learner.network["fc5.bias"] - 0.25 * error[task]
        torch.testing.assert_close(parameters["fc5.bias"][task], expected)
    assert not torch.isclose(error[0], error[1])


@pytest.mark.parametrize("config", [replace(HELP, width=6), replace(META_SGD, width=6)], ids=["help", "sgd"])
def test_meta_gradient_is_the_numerical_derivative_through_two_inner_steps(config: HelpConfig) -> None:
    learner, encoded, episode, draws = small_world(replace(config, inner_rate=0.3))
    loss = episode_loss(learner, encoded, episode, draws=draws)
    loss.backward()
    checked = ["network/fc1.weight", "network/fc3.weight", "network/fc5.bias", "rates/fc4.weight"]
    checked += ["modulator/z1.weight", "modulator/z2.bias"] if config.modulator else []
    for name in checked:
        tensor = learner.tensors()[name]
        assert tensor.grad is not None
        flat, place = tensor.data.view(-1), int(tensor.grad.abs().argmax())
        before, step = flat[place].item(), 1e-6
        values = []
        for moved in (before - step, before + step):
            flat[place] = moved
            values.append(episode_loss(learner, encoded, episode, draws=draws).item())
        flat[place] = before
        numerical = (values[1] - values[0]) / (2 * step)
        assert tensor.grad.view(-1)[place].item() == pytest.approx(numerical, rel=1e-4), name


def test_first_order_gradient_differs_from_second_order() -> None:
    gradients = []
    for second_order in (True, False):
        config = replace(META_SGD, width=6, inner_rate=0.3, second_order=second_order)
        learner, encoded, episode, draws = small_world(config)
        episode_loss(learner, encoded, episode, draws=draws).backward()
        gradients.append(learner.network["fc1.weight"].grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-2)


def test_devices_of_an_episode_do_not_touch_each_other() -> None:
    learner, encoded, episode, draws = small_world(replace(HELP, width=6, inner_rate=0.1))
    together, kl = adapted(
        learner, gathered(encoded, episode.support), episode.support_labels,
        embedding=episode.embedding, draws=draws, training=False,
    )  # fmt: skip
    for task in range(2):
        one = slice(task, task + 1)
        alone, own_kl = adapted(
            learner, gathered(encoded, episode.support[one]), episode.support_labels[one],
            embedding=episode.embedding[one], draws=draws[one], training=False,
        )  # fmt: skip
        torch.testing.assert_close(own_kl, kl[one])
        for name, value in alone.items():
            torch.testing.assert_close(value, together[name][one], msg=name)


def test_published_loss_counts_the_last_devices_divergence_for_all() -> None:
    losses = {}
    for kl_of in ("all", "last"):
        config = replace(HELP, width=6, kl_of=kl_of)
        learner, encoded, episode, draws = small_world(config)
        losses[kl_of] = episode_loss(learner, encoded, episode, draws=draws)
    kl = divergence(*distribution(learner.modulator, episode.embedding))
    expected = 0.1 * (kl.sum() - 2 * kl[-1])
    torch.testing.assert_close(losses["all"] - losses["last"], expected)
    assert expected.abs() > 1e-6


def test_published_score_is_the_last_draws_and_the_mended_one_the_means() -> None:
    encoded = encode("fbnet", np.zeros((3, 22), dtype=np.int64))
    network = initial_parameters(
        encoded, HELP, reference_count=REFERENCES, generator=Generator().manual_seed(0)
    )
    constant = {name: torch.zeros_like(value) for name, value in expanded(network, 2).items()}
    constant["fc5.bias"] = torch.asarray([[1.0], [4.0]])
    for scored, expected in (("mean", 2.5), ("last", 4.0)):
        model = AdaptedLearner(constant, torch.zeros(2, REFERENCES), encoded=encoded, scored=scored)
        assert model.scores(np.arange(3)).tolist() == [expected] * 3


def test_labels_are_scaled_by_the_middle_of_a_devices_latencies() -> None:
    latency_ms = np.asarray([5.0, 1.0, 100.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 2.0, 50.0])
    kept = trimmed(latency_ms, np.arange(10))
    assert latency_ms[kept].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]  # neither 1 nor 100
    scale = scale_of(latency_ms[kept])
    np.testing.assert_allclose(scale.labels(np.asarray([2.0, 9.0, 5.5, 16.0])), [0.05, 0.95, 0.5, 1.85])
    np.testing.assert_allclose(embedding_of(np.asarray([[4.0, 2.0, 3.0], [5.0, 5.0, 5.0]])),
                               [[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]])  # fmt: skip


def test_a_target_like_its_sources_gets_their_labels_from_measurements_alone() -> None:
    source = np.random.default_rng(0).uniform(0.0, 1.0, size=(1, 12))
    target_ms = 7.0 + 30.0 * source[0]
    np.testing.assert_allclose(scale_from_measured(target_ms, source).labels(target_ms), source[0])


def test_milliseconds_follow_the_measured_line_and_stay_positive() -> None:
    scores = np.asarray([0.1, 0.4, 0.9])
    line = milliseconds_from(scores, 3.0 + 20.0 * scores)
    np.testing.assert_allclose(line(np.asarray([0.0, 0.5])), [3.0, 13.0])
    assert line(np.asarray([-10.0]))[0] == 0.25 * 5.0  # a quarter of the shortest measurement
    falling = milliseconds_from(scores, 30.0 - 20.0 * scores)
    assert falling.slope_ms == 0.0
