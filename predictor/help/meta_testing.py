"""A meta-learned predictor meets a device: adapt once per draw of z, score architectures."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Generator, Tensor

from predictor.help.labels import embedding_of, scale_of, trimmed
from predictor.help.learner import Learner, adapted, noise
from predictor.help.network import Parameters, forward, gathered

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_CHUNK = 1024  # architectures scored at once


class AdaptedLearner:
    """A learner after its inner steps on one device: one set of parameters for each draw of z."""

    def __init__(self, parameters: Parameters, embedding: Tensor, *, encoded: Tensor, scored: str) -> None:
        self._parameters = parameters
        self._embedding = embedding
        self._encoded = encoded
        self._scored = scored

    def scores(self, indices: Indices) -> Floats:
        """Of architectures (Q,): numbers on the scale of the support's labels, larger is slower."""
        tasks = len(self._embedding)
        parts = []
        with torch.no_grad():
            for start in range(0, len(indices), _CHUNK):
                chunk = torch.as_tensor(indices[start : start + _CHUNK])
                inputs = gathered(self._encoded, chunk.expand(tasks, -1))
                of_draws = forward(self._parameters, inputs, self._embedding)  # (T, B)
                parts.append(of_draws[-1] if self._scored == "last" else of_draws.mean(dim=0))
        return np.concatenate([part.numpy() for part in parts]).astype(np.float64)


def adapt_to_device(
    learner: Learner,
    encoded: Tensor,
    *,
    reference_ms: Floats,
    support: Indices,
    labels: Floats,
    generator: Generator,
) -> AdaptedLearner:
    """Adapt to a device with reference latencies (R,), and labels (S,) of its support set."""
    config = learner.config
    tasks = config.draws if learner.modulator else 1  # without z, every draw is the same
    embedding = torch.as_tensor(embedding_of(reference_ms), dtype=torch.float32).expand(tasks, -1)
    inputs = gathered(encoded, torch.as_tensor(support).expand(tasks, -1))
    wanted = torch.as_tensor(labels, dtype=torch.float32).expand(tasks, -1)
    parameters, _ = adapted(
        learner, inputs, wanted, embedding=embedding, draws=noise(config, tasks, generator), training=False
    )
    final = {name: value.detach() for name, value in parameters.items()}
    return AdaptedLearner(final, embedding, encoded=encoded, scored=config.scored)


def whole_table_spearman(
    learner: Learner,
    encoded: Tensor,
    latency_ms: Floats,
    *,
    rows: Indices,
    query: Indices,
    reference: Indices,
    generator: Generator,
) -> float:
    """Rank correlation on one device by the published protocol, which knows all its latencies (N,).

    The support is drawn from the device's trimmed training `rows`, its labels are scaled by all of those,
    and the middle 80 % of `query` are scored. For validation devices, and for reproducing published
    figures; a target's latencies are not known like this.
    """
    pool = trimmed(latency_ms, rows)
    drawn = torch.randperm(len(pool), generator=generator)[: learner.config.support].numpy()
    support = pool[drawn]
    model = adapt_to_device(
        learner,
        encoded,
        reference_ms=latency_ms[reference],
        support=support,
        labels=scale_of(latency_ms[pool]).labels(latency_ms[support]),
        generator=generator,
    )
    scored = trimmed(latency_ms, query)
    return rank_correlation(model.scores(scored), latency_ms[scored])


def rank_correlation(scores: Floats, latency_ms: Floats) -> float:
    """Spearman's; 0 where all scores are the same and rank nothing."""
    if np.ptp(scores) == 0.0:
        return 0.0
    return float(spearmanr(scores, latency_ms).statistic)
