"""What HELP meta-learns, and how it adapts to devices: two inner gradient steps on a support set
(Meta-SGD).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from predictor.help.config import HelpConfig
from predictor.help.modulator import distribution, divergence, initial_modulator, modulated, z_size
from predictor.help.network import Parameters, expanded, forward, initial_parameters

_PARTS = ("network", "rates", "modulator")


@dataclass(frozen=True, slots=True)
class Learner:
    """Meta-parameters without a task dimension. `rates` has a step size for each number of `network`, or
    nothing where the rate is fixed; `modulator` is empty where there is none.
    """

    config: HelpConfig
    network: Parameters
    rates: Parameters
    modulator: Parameters

    def tensors(self) -> Parameters:
        """All meta-parameters by `part/name`."""
        return {f"{part}/{name}": value for part in _PARTS for name, value in getattr(self, part).items()}

    @classmethod
    def from_tensors(cls, config: HelpConfig, tensors: Parameters) -> Learner:
        """What `tensors` returned, together again; other names are ignored."""
        parts: dict[str, Parameters] = {part: {} for part in _PARTS}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            if part in parts:
                parts[part][name] = value
        return cls(config, **parts)


def initial_learner(
    encoded: Tensor, config: HelpConfig, *, reference_count: int, generator: Generator
) -> Learner:
    """A learner before meta-training, for architectures as `encoding.encode` returns them."""
    network = initial_parameters(encoded, config, reference_count=reference_count, generator=generator)
    rates: Parameters = {}
    if config.learned_rates:
        rates = {name: torch.full_like(value, config.inner_rate) for name, value in network.items()}
    modulator: Parameters = {}
    if config.modulator:
        modulator = initial_modulator(config.width, reference_count=reference_count, generator=generator)
    return Learner(config, network, rates, modulator)


def noise(config: HelpConfig, tasks: int, generator: Generator) -> Tensor:
    """Standard normal numbers (T, Z) from which z is drawn; (T, 0) where there is no modulator."""
    return torch.randn((tasks, z_size(config.width) if config.modulator else 0), generator=generator)


def adapted(
    learner: Learner, support: Tensor, labels: Tensor, *, embedding: Tensor, draws: Tensor, training: bool
) -> tuple[Parameters, Tensor]:
    """Parameters (T, ...) of T devices after the inner steps, and KL(z || N(0, 1)) (T,), zeros without z.

    `support` as `network.gathered` returns it, `labels` (T, B), `embedding` (T, R), `draws` (T, Z) of
    `noise`. The result keeps its history where `training`, second derivatives included if the configuration
    wants them.
    """
    config = learner.config
    tasks = len(labels)
    parameters = expanded(learner.network, tasks)
    kl = torch.zeros(tasks)
    if learner.modulator:
        mean, deviation = distribution(learner.modulator, embedding)
        kl = divergence(mean, deviation)
        parameters = modulated(parameters, mean + deviation * draws, config.z_scale)
    rates = learner.rates
    if not training:
        parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        rates = {name: value.detach() for name, value in rates.items()}
    for _ in range(config.inner_steps):
        error = (forward(parameters, support, embedding) - labels).square().mean(dim=1).sum()
        gradients = torch.autograd.grad(
            error, list(parameters.values()), create_graph=training and config.second_order
        )
        parameters = {
            name: value - rates.get(name, config.inner_rate) * gradient
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
        }
    return parameters, kl
