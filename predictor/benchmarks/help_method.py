"""HELP, MAML and Meta-SGD as rows of the benchmarks, with measurements of the target counted one by one.

HELP measures the ten references and embeds the target by them. What is left of the budget is drawn and
becomes the support: with 20 measurements 10 references and 10 drawn (as published), with 10 the references
are the support as well. MAML and Meta-SGD have no embedding and draw everything. Unlike the published
protocol, nothing else of the target is known: labels are scaled, and scores become milliseconds, by what
was measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Generator

from predictor.benchmarks.errors import BenchmarkRejected
from predictor.benchmarks.method import Floats, Indices, Meter, Predicted, Source
from predictor.help.config import CONFIGS, HelpConfig
from predictor.help.episodes import Episodes, SourceTable
from predictor.help.labels import Milliseconds, milliseconds_from, scale_from_measured
from predictor.help.learner import Learner
from predictor.help.meta_testing import AdaptedLearner, adapt_to_device
from predictor.help.meta_training import meta_train
from predictor.help.store import read_learner, write_learner
from predictor.terminal import say

Report = Callable[[str], None]

_FEWEST_SHARED = 8  # measured architectures that source devices know too, for scaling labels by them
_FEWEST = 2  # measurements: a scale has two ends
_SEEDS = 2**31


def make(key: str, work: Path) -> HelpMethod:
    """The method "help", "maml" or "metasgd"; checkpoints lie in `work`/help."""
    return HelpMethod(CONFIGS[key], folder=work / "help", report=say)


def source_table(source: Source) -> SourceTable:
    """The source devices as HELP meta-learns from them: episodes draw from everything they have measured."""
    return SourceTable(
        space=source.architectures.space,
        genomes=source.architectures.genomes,
        latency_ms=source.latency_ms,
        validation_ms=source.validation_ms,
        rows=source.measured,
        query=source.query,
        reference=source.reference,
    )


def checkpoint_file(folder: Path, table: SourceTable, config: HelpConfig) -> Path:
    """Where the learner of that table and configuration lies; nothing but the two decides."""
    described = {**config.described(), "episodes": config.episodes_on(table.space)}
    del described["label_scale"]  # of tests only
    if table.validation_ms.shape[1] or not config.held_out:
        del described["held_out"]  # is not used
    digest = hashlib.sha256(f"{table.digest()} {json.dumps(described, sort_keys=True)}".encode()).hexdigest()
    return folder / f"{table.space}-{digest[:20]}.safetensors"


def trained_learner(table: SourceTable, config: HelpConfig, *, folder: Path, report: Report) -> Learner:
    """The learner from its checkpoint, or meta-trained now; an interrupted training goes on."""
    file = checkpoint_file(folder, table, config)
    if file.exists():
        return read_learner(file)[0]
    folder.mkdir(parents=True, exist_ok=True)
    state = file.with_suffix(".state")
    trained = meta_train(table, config, state=state, report=report)
    write_learner(file, trained.learner, {"episode": trained.episode, "validation": trained.validation})
    state.unlink(missing_ok=True)  # another process may have finished the same training
    return trained.learner


@dataclass(frozen=True, slots=True)
class HelpMethod:
    """A row of the table. `folder`: for checkpoints, by digest of what they were trained on."""

    config: HelpConfig
    folder: Path
    report: Report

    def __post_init__(self) -> None:
        if self.config.label_scale != "measured":
            raise BenchmarkRejected(
                'a target\'s labels can be scaled by what was measured only; use label_scale="measured", or '
                "predictor.benchmarks.help_protocol, which reads the whole table"
            )

    def train(self, source: Source) -> TrainedHelp:
        """Meta-train on the source devices, or read the checkpoint of the same training."""
        table = source_table(source)
        learner = trained_learner(table, self.config, folder=self.folder, report=self.report)
        return TrainedHelp(learner, table, Episodes(table, self.config))


@dataclass(frozen=True, slots=True)
class TrainedHelp:
    """A meta-learned predictor, and the labels of the source devices that scale those of a target."""

    learner: Learner
    table: SourceTable
    episodes: Episodes

    def adapt(self, meter: Meter) -> AdaptedHelp:
        """Measure references and support, and take the inner steps.

        Raises `BenchmarkRejected` for a budget that the references alone exceed.
        """
        config, reference = self.learner.config, self.table.reference
        if not config.embedding:
            reference = reference[:0]
        fewest = max(len(reference), _FEWEST)
        if meter.budget < fewest:
            raise BenchmarkRejected(
                f"a budget of {meter.budget} measurements is less than the {fewest} that this method begins "
                "with; raise the budget"
            )
        drawn = meter.draw(meter.budget - len(reference))
        measured = np.unique(np.concatenate([reference, drawn]))
        measured_ms = meter.measure(measured)
        support = drawn if len(drawn) >= config.support else measured
        scale = scale_from_measured(*self._comparable(measured, measured_ms))
        model = adapt_to_device(
            self.learner,
            self.episodes.encoded,
            reference_ms=measured_ms[np.searchsorted(measured, reference)],
            support=support,
            labels=scale.labels(measured_ms[np.searchsorted(measured, support)]),
            generator=Generator().manual_seed(int(meter.rng.integers(_SEEDS))),
        )
        return AdaptedHelp(model, milliseconds_from(model.scores(measured), measured_ms))

    def _comparable(self, measured: Indices, measured_ms: Floats) -> tuple[Floats, Floats]:
        """Measurements (M,) and labels of source devices (D, K) whose mean and spread should agree: of the
        same architectures; where source devices know too few of those, of all that they know.
        """
        labels = self.episodes.labels
        shared = np.isfinite(labels[:, measured]).all(axis=0)
        if shared.sum() < _FEWEST_SHARED:
            return measured_ms, labels[:, self.table.rows]
        return measured_ms[shared], labels[:, measured[shared]]


@dataclass(frozen=True, slots=True)
class AdaptedHelp:
    """A predictor of one target."""

    model: AdaptedLearner
    milliseconds: Milliseconds

    def predict(self, indices: Indices) -> Predicted:
        """Latencies; ranked by the score, which the milliseconds follow on a line."""
        scores = self.model.scores(indices)
        return Predicted(median_ms=self.milliseconds(scores), score=scores)
