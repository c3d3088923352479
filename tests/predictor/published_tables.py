"""Made-up latency tables of the published spaces, in memory and as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from predictor.benchmarks.architectures import VIEWS, Architectures
from predictor.benchmarks.tables import LatencyTable
from predictor.benchmarks.tasks import Query, Split, Task, task_of
from predictor.few_shot.tally import TALLY_SHAPE, Law

SOURCES = ("phone", "server", "laptop", "tablet")
TARGETS = ("fpga", "watch")
DEVICES = (*SOURCES, *TARGETS)
SPLIT = Split("made-up", "nb201", SOURCES, (), TARGETS, "all")


def nb201_table(rows: int = 240, seed: int = 5) -> LatencyTable:
    """Different cells, and devices to which every operation costs something of its own, with 2 % noise."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(5**6)[:rows]
    genomes = codes[:, None] // 5 ** np.arange(6) % 5  # (N, 6)
    costs = rng.gamma(2.0, 1.0, size=(5, len(DEVICES)))  # milliseconds of an operation anywhere
    latency = 3.0 + costs[genomes].sum(axis=1)  # (N, D)
    latency *= np.exp(0.02 * rng.standard_normal(latency.shape))
    return LatencyTable("nb201", genomes, DEVICES, latency, np.arange(10))


def made_up_task(table: LatencyTable, *, query: Query = "all", source_samples: int = 60) -> Task:
    """`SPLIT` on the table."""
    split = Split(SPLIT.name, SPLIT.space, SOURCES, (), TARGETS, query)
    return task_of(split, table, source_samples=source_samples)


def with_counts(table: LatencyTable) -> Architectures:
    """The table's architectures with how often each operation occurs as tallies: as many kinds of work, of
    one size, and no costs but their launches.
    """
    tallies = np.zeros((len(table.genomes), VIEWS, *TALLY_SHAPE))
    for operation in range(int(table.genomes.max()) + 1):
        count = (table.genomes == operation).sum(axis=1)
        tallies[:, :, operation, Law.LAUNCHES, 0] = count[:, None]
    return Architectures(table.space, table.genomes, tallies)


def write_tables(folder: Path, table: LatencyTable) -> None:
    """The table as `nb201.npz`, with half of its architectures as candidates, and a `splits.json`."""
    count = len(table.genomes)
    np.savez(
        folder / "nb201.npz",
        ops=table.genomes.astype(np.int8),
        devices=np.asarray(table.devices),
        latency_ms=table.latency_ms.astype(np.float32),
        help_ref_idx=table.reference,
        metad2a_idx=np.arange(count // 2),
        metad2a_cifar100_acc=np.linspace(50.0, 70.0, count // 2),
    )
    split = {"space": "nb201", "train": list(SOURCES), "test": [*TARGETS, "unknown-dsp"]}
    unreachable = {"space": "nb201", "train": ["phone", "unknown-tpu"], "test": ["fpga"]}
    document = {"help": {}, "nasflat": {"made-up": split, "N1": unreachable}}
    (folder / "splits.json").write_text(json.dumps(document))
