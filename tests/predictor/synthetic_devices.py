"""A small world of FBNet architectures: random chains, and devices on which a block's latency depends on what
it does and where. Devices differ in how much each kind of block costs them.
"""

from __future__ import annotations

import numpy as np

from predictor.benchmarks.architectures import Architectures
from predictor.benchmarks.method import Floats, Source
from predictor.help.episodes import SourceTable

ARCHITECTURES = 600
MEASURED = 500  # by source devices: the first; the others are scored
REFERENCE = np.arange(3, 103, 10)
_COST = np.asarray([1.0, 0.9, 2.0, 3.5, 1.4, 1.2, 2.8, 5.0, 0.0])  # of FBNet's nine blocks
_LAUNCH = np.asarray([1.0] * 8 + [0.0])


def random_genomes(rng: np.random.Generator, count: int = ARCHITECTURES) -> np.ndarray:
    """Operations (count, 22)."""
    return rng.integers(0, 9, size=(count, 22))


def device_ms(genomes: np.ndarray, rng: np.random.Generator, share: float) -> Floats:
    """Latencies (N,) of a device that spends `share` of its time on launching blocks, and 1 % of noise."""
    width = np.linspace(1.0, 2.0, 22)
    cost = (1.0 - share) * (_COST[genomes] * width).sum(axis=1) + share * 3.0 * _LAUNCH[genomes].sum(axis=1)
    return np.asarray((5.0 + cost) * rng.uniform(0.2, 3.0) * rng.normal(1.0, 0.01, len(genomes)))


def synthetic_source(seed: int, *, devices: int = 4, validation: int = 1) -> Source:
    """Source devices that know the first 500 architectures, and validation devices that know all."""
    rng = np.random.default_rng(seed)
    genomes = random_genomes(rng)
    shares = rng.uniform(0.0, 0.9, size=devices + validation)
    latency = np.stack([device_ms(genomes, rng, share) for share in shares], axis=1)
    granted = latency[:, :devices].copy()
    granted[MEASURED:] = np.nan
    return Source(
        architectures=Architectures("fbnet", genomes, np.zeros((len(genomes), 1))),
        devices=tuple(f"source-{index}" for index in range(devices)),
        latency_ms=granted,
        validation_devices=tuple(f"validation-{index}" for index in range(validation)),
        validation_ms=latency[:, devices:],
        reference=REFERENCE,
        query=np.arange(MEASURED, ARCHITECTURES),
    )


def synthetic_table(seed: int, *, devices: int = 4, validation: int = 1) -> SourceTable:
    """The same as HELP's training reads it."""
    source = synthetic_source(seed, devices=devices, validation=validation)
    return SourceTable(
        space="fbnet",
        genomes=source.architectures.genomes,
        latency_ms=source.latency_ms,
        validation_ms=source.validation_ms,
        rows=source.measured,
        query=source.query,
        reference=source.reference,
    )
