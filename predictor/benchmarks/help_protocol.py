"""HELP's published figures, by HELP's published protocol. It reads far beyond ten measurements of a target.

For each target the support is drawn from the middle 80 % of its training architectures, and the support's
labels are scaled by the fastest and slowest of these: about 720 latencies on NAS-Bench-201, 3200 elsewhere,
that nobody would have measured. Ten references are measured besides ten support architectures. A row made
by this module reproduces the paper; it must not stand beside rows of `predictor.benchmarks.method` without
saying so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator

from predictor.benchmarks.architectures import Architectures
from predictor.benchmarks.help_method import Report, checkpoint_file, source_table, trained_learner
from predictor.benchmarks.method import Floats
from predictor.benchmarks.tables import LatencyTable
from predictor.benchmarks.tasks import Task, source_of
from predictor.help.config import CONFIGS
from predictor.help.encoding import encode
from predictor.help.learner import Learner
from predictor.help.meta_testing import whole_table_spearman

SEEDS = tuple(range(10))


def published_spearman(
    learner: Learner, task: Task, table: LatencyTable, *, seeds: Sequence[int] = SEEDS
) -> dict[str, Floats]:
    """Rank correlations by test device, one per seed (S,). A learner trained with `PUBLISHED` ranks by the
    last draw of z, as published; any other as its configuration says.
    """
    encoded = encode(table.space, table.genomes)
    found: dict[str, Floats] = {}
    for device in task.test:
        scores = [
            whole_table_spearman(
                learner,
                encoded,
                table.column(device),
                rows=task.pool,
                query=task.query,
                reference=table.reference,
                generator=Generator().manual_seed(seed),
            )
            for seed in seeds
        ]
        found[device] = np.asarray(scores)
    return found


def train_and_score(
    task: Task,
    table: LatencyTable,
    *,
    key: str,
    work: Path,
    report: Report,
    tested: bool,
    threads: int = 1,
) -> dict[str, object]:
    """Meta-train the configuration of that key, or read its checkpoint, and score it if `tested`: a JSON
    document. `work`: the folder that the benchmarks keep what they trained in.
    """
    torch.set_num_threads(threads)
    genomes_only = Architectures(table.space, table.genomes, np.zeros((len(table.genomes), 0)))
    source, folder = source_table(source_of(task, table, genomes_only)), work / "help"
    learner = trained_learner(source, CONFIGS[key], folder=folder, report=report)
    file = checkpoint_file(folder, source, CONFIGS[key])
    document: dict[str, object] = {"task": task.name, "method": key, "checkpoint": str(file)}
    if tested:
        found = published_spearman(learner, task, table)
        document["seeds"] = len(SEEDS)
        document["spearman"] = {device: float(scores.mean()) for device, scores in found.items()}
        document["mean"] = float(np.mean([scores.mean() for scores in found.values()]))
    return document
