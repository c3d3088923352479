"""HELP's outer loop: Adam on what the inner steps start from, one episode of source devices at a time.

A training can be killed and goes on where it last saved its state, with the same result as without the
interruption. Of the checkpoints, the one that ranks the validation devices best is kept; where there are
none, the last one, or the one that ranks source architectures best which were held out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from predictor.errors import CheckpointRejected
from predictor.help.config import HelpConfig
from predictor.help.episodes import Episode, Episodes, Indices, SourceTable
from predictor.help.learner import Learner, adapted, initial_learner, noise
from predictor.help.meta_testing import whole_table_spearman
from predictor.help.network import Parameters, forward, gathered
from predictor.help.store import config_of, read_tensors, write_tensors

Report = Callable[[str], None]

SAVE_EVERY = 100  # episodes
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # of Adam, per tensor


@dataclass(frozen=True, slots=True)
class Trained:
    """A meta-trained learner, the episode it is from, and its mean Spearman on the validation devices."""

    learner: Learner
    episode: int
    validation: float | None


def meta_train(
    table: SourceTable,
    config: HelpConfig,
    *,
    state: Path | None,
    report: Report,
    stop_after: int | None = None,
) -> Trained:
    """Meta-train, going on from the file `state` if it exists; it is written every 100 episodes and at the
    end.

    `stop_after`: give up after that many episodes in all, as if killed. Raises `CheckpointRejected` where
    `state` belongs to other data or another configuration.
    """
    training = _Training(table, config)
    if state is not None and state.exists():
        training.restore(state)
        report(f"going on after episode {training.episode} of {training.last}")
    last = training.last if stop_after is None else min(stop_after, training.last)
    while training.episode < last:
        loss = training.step()
        if training.episode % config.validate_every == 0 or training.episode == training.last:
            score = training.validate()
            told = "nothing validates" if score is None else f"validation {score:.4f}"
            report(f"episode {training.episode}/{training.last}: loss {loss:.5f}, {told}")
        if state is not None and (training.episode % SAVE_EVERY == 0 or training.episode == last):
            training.save(state)
    return training.outcome()


def episode_loss(learner: Learner, encoded: Tensor, episode: Episode, *, draws: Tensor) -> Tensor:
    """An episode's loss: mean squared error on the adapted devices' queries, and the weighted KL of z."""
    config = learner.config
    parameters, kl = adapted(
        learner,
        gathered(encoded, episode.support),
        episode.support_labels,
        embedding=episode.embedding,
        draws=draws,
        training=True,
    )
    scores = forward(parameters, gathered(encoded, episode.query), episode.embedding)
    counted = kl.sum() if config.kl_of == "all" else len(kl) * kl[-1]
    return (scores - episode.query_labels).square().mean() + config.kl_weight * counted


class _Training:
    """A training under way: everything that an interruption must not lose."""

    def __init__(self, table: SourceTable, config: HelpConfig) -> None:
        self._table = table
        self._config = config
        self.last = config.episodes_on(table.space)
        self._rows, self._held = _split(table, config)
        self._episodes = Episodes(replace(table, rows=self._rows), config)
        self._generator = Generator().manual_seed(config.seed)
        self._learner = initial_learner(
            self._episodes.encoded, config, reference_count=len(table.reference), generator=self._generator
        )
        self._adam = self._optimizer()
        self.episode = 0
        self._best: Parameters = {}
        self._best_episode = 0
        self._best_score: float | None = None

    def _optimizer(self) -> torch.optim.Adam:
        tensors = self._learner.tensors().values()
        return torch.optim.Adam([tensor.requires_grad_() for tensor in tensors], lr=self._config.outer_rate)

    def step(self) -> float:
        """One episode; its loss."""
        episode = self._episodes.draw(self._generator)
        draws = noise(self._config, len(episode.support), self._generator)
        loss = episode_loss(self._learner, self._episodes.encoded, episode, draws=draws)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._adam.step()
        self.episode += 1
        return float(loss.detach())

    def validate(self) -> float | None:
        """The mean Spearman on validation devices, or of source devices on what was held out, which may make
        this the best checkpoint so far; None without either.
        """
        devices, query = self._table.validation_ms.T, self._table.query
        if len(self._held):
            devices, query = self._table.latency_ms.T, self._held
        score = None
        if len(devices):
            # The same support sets and draws each time: checkpoints are compared, not luck. Apart from the
            # training's own generator, so that validating does not change what is trained.
            generator = Generator().manual_seed(self._config.seed)
            scores = [
                whole_table_spearman(
                    self._learner,
                    self._episodes.encoded,
                    latency,
                    rows=self._rows,
                    query=query,
                    reference=self._table.reference,
                    generator=generator,
                )
                for latency in devices
            ]
            score = sum(scores) / len(scores)
        if score is None or self._best_score is None or score > self._best_score:
            self._best = {name: value.detach().clone() for name, value in self._learner.tensors().items()}
            self._best_episode, self._best_score = self.episode, score
        return score

    def outcome(self) -> Trained:
        """The best checkpoint so far; the present one before the first validation."""
        if not self._best:
            self.validate()
        learner = Learner.from_tensors(self._config, self._best)
        return Trained(learner, self._best_episode, self._best_score)

    def save(self, file: Path) -> None:
        """Write everything needed to go on."""
        tensors = {f"now/{name}": value for name, value in self._learner.tensors().items()}
        tensors.update({f"best/{name}": value for name, value in self._best.items()})
        for name, tensor in self._learner.tensors().items():
            for moment in _MOMENTS:
                tensors[f"{moment}/{name}"] = self._adam.state[tensor][moment]
        tensors["generator"] = self._generator.get_state()
        facts = {
            "table": self._table.digest(),
            "config": self._config.described(),
            "episode": self.episode,
            "best_episode": self._best_episode,
            "best_score": self._best_score,
        }
        write_tensors(file, tensors, facts)

    def restore(self, file: Path) -> None:
        """Go on from what `save` wrote. Raises `CheckpointRejected` where it is of something else."""
        tensors, facts = read_tensors(file)
        if facts.get("table") != self._table.digest() or config_of(facts, file) != self._config:
            raise CheckpointRejected(
                f"{file} is of another table or configuration; name another file, or delete it to train anew"
            )
        self._learner = Learner.from_tensors(self._config, _under("now", tensors))
        self._best = _under("best", tensors)
        self._adam = self._optimizer()
        for name, tensor in self._learner.tensors().items():
            self._adam.state[tensor] = {moment: tensors[f"{moment}/{name}"] for moment in _MOMENTS}
        self._generator.set_state(tensors["generator"])
        self.episode, self._best_episode = int(str(facts["episode"])), int(str(facts["best_episode"]))
        best = facts["best_score"]
        self._best_score = None if best is None else float(str(best))


def _split(table: SourceTable, config: HelpConfig) -> tuple[Indices, Indices]:
    """The rows that episodes draw from, and those held out: none where validation devices choose."""
    if table.validation_ms.shape[1]:
        return table.rows, table.rows[:0]
    generator = np.random.default_rng(config.seed)
    held = generator.permutation(table.rows)[: round(config.held_out * len(table.rows))]
    return table.rows[~np.isin(table.rows, held)], np.sort(held)


def _under(part: str, tensors: Parameters) -> Parameters:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
