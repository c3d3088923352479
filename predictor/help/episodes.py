"""Source devices as tasks: which architectures an episode draws from each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from predictor.errors import PredictorError
from predictor.help.config import HelpConfig
from predictor.help.encoding import Genomes, encode
from predictor.help.labels import embedding_of, scale_of, trimmed

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SourceTable:
    """What is meta-learned from: N architectures with latencies on D source devices.

    `latency_ms` (N, D) and `validation_ms` (N, V), V may be 0: NaN where not measured. `rows`:
    architectures from which episodes draw; `query`: those on which validation devices are scored;
    `reference` (R,): those of the hardware embedding. Source devices need latencies at `rows` and
    `reference`, validation devices at `query` too.
    """

    space: str
    genomes: Genomes
    latency_ms: Floats
    validation_ms: Floats
    rows: Indices
    query: Indices
    reference: Indices

    def __post_init__(self) -> None:
        needed = np.concatenate([self.rows, self.reference])
        scored = np.concatenate([needed, self.query])
        for name, values in (("source", self.latency_ms[needed]), ("validation", self.validation_ms[scored])):
            missing = int(np.isnan(values).sum())
            if missing:
                raise PredictorError(
                    f"{missing} latencies of {name} devices are missing at architectures that HELP needs; "
                    "give them, or name only architectures that were measured"
                )

    def digest(self) -> str:
        """SHA-256 of all of it, in hexadecimal."""
        digest = hashlib.sha256(self.space.encode())
        for name in ("genomes", "latency_ms", "validation_ms", "rows", "query", "reference"):
            array: NDArray[np.generic] = np.ascontiguousarray(getattr(self, name))
            digest.update(json.dumps([name, array.shape, array.dtype.str]).encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Episode:
    """T devices, with S support and Q query architectures each: indices (T, S) and (T, Q), labels of the same
    shapes, embeddings (T, R).
    """

    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor
    embedding: Tensor


class Episodes:
    """Draws episodes from a table. `encoded`: all its architectures (N, ...); `labels`: of source devices
    (D, N).
    """

    def __init__(self, table: SourceTable, config: HelpConfig) -> None:
        self.encoded = encode(table.space, table.genomes)
        self._config = config
        devices = table.latency_ms.T  # (D, N)
        pools = [trimmed(latency, table.rows) for latency in devices]
        if len(pools[0]) <= config.support:
            raise PredictorError(
                f"{len(table.rows)} architectures per source device leave {len(pools[0])} after trimming; "
                f"episodes need more than the {config.support} of a support set"
            )
        labels = [scale_of(ms[pool]).labels(ms) for ms, pool in zip(devices, pools, strict=True)]
        self._pools = torch.as_tensor(np.stack(pools))  # (D, P)
        self.labels = np.stack(labels)  # (D, N), NaN where a device was not measured
        self._labels = torch.as_tensor(self.labels, dtype=torch.float32)
        self._embedding = torch.as_tensor(embedding_of(devices[:, table.reference]), dtype=torch.float32)

    def draw(self, generator: Generator) -> Episode:
        """The next episode: distinct devices, distinct architectures on each."""
        config = self._config
        count, pool = self._pools.shape
        devices = torch.randperm(count, generator=generator)[: config.tasks]
        taken = min(pool, config.support + config.query)
        places = torch.stack([torch.randperm(pool, generator=generator)[:taken] for _ in devices])
        chosen = self._pools[devices].gather(1, places)  # (T, S + Q)
        labels = self._labels[devices].gather(1, chosen)
        size = config.support
        return Episode(
            support=chosen[:, :size],
            support_labels=labels[:, :size],
            query=chosen[:, size:],
            query_labels=labels[:, size:],
            embedding=self._embedding[devices],
        )
