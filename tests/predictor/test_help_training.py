"""Meta-training: it learns, it goes on after an interruption, and its files are checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from predictor.errors import CheckpointRejected, PredictorError
from predictor.help.config import HELP, HelpConfig
from predictor.help.encoding import encode
from predictor.help.meta_testing import whole_table_spearman
from predictor.help.meta_training import Trained, meta_train
from predictor.help.store import read_learner, write_learner
from tests.predictor.synthetic_devices import ARCHITECTURES, MEASURED, device_ms, synthetic_table

QUICK = replace(HELP, width=16, episodes=40, tasks=3, query=30, validate_every=10, outer_rate=1e-3)


def train(config: HelpConfig, state: Path | None = None, stop_after: int | None = None) -> Trained:
    return meta_train(synthetic_table(0), config, state=state, report=lambda _: None, stop_after=stop_after)


def test_interrupted_training_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = train(QUICK)
    state = tmp_path / "state"
    for stop_after in (7, 23):  # not where it validates
        train(QUICK, state, stop_after)
    lines: list[str] = []
    resumed = meta_train(synthetic_table(0), QUICK, state=state, report=lines.append)
    assert lines[0] == "going on after episode 23 of 40"
    assert (resumed.episode, resumed.validation) == (whole.episode, whole.validation)
    for name, value in whole.learner.tensors().items():
        assert torch.equal(value, resumed.learner.tensors()[name]), name


def test_state_of_another_training_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    train(QUICK, state, 2)
    with pytest.raises(CheckpointRejected, match="another table or configuration"):
        train(replace(QUICK, inner_rate=0.5), state)
    state.write_bytes(b"no tensors")
    with pytest.raises(CheckpointRejected, match="delete it to train anew"):
        train(QUICK, state)


def test_training_ranks_an_unseen_device() -> None:
    table = synthetic_table(0)
    config = replace(QUICK, episodes=120, query=100, outer_rate=3e-3)
    learner = meta_train(table, config, state=None, report=lambda _: None).learner
    unseen = device_ms(table.genomes, np.random.default_rng(99), 0.3)
    untrained = meta_train(table, replace(config, episodes=0), state=None, report=lambda _: None).learner
    encoded = encode("fbnet", table.genomes)
    found = [
        whole_table_spearman(
            one, encoded, unseen, rows=np.arange(MEASURED), query=np.arange(MEASURED, ARCHITECTURES),
            reference=table.reference, generator=Generator().manual_seed(0),
        )
        for one in (untrained, learner)
    ]  # fmt: skip
    assert found[1] > max(0.7, found[0])


def test_last_checkpoint_is_kept_without_validation_devices() -> None:
    table = synthetic_table(0, validation=0)
    trained = meta_train(table, QUICK, state=None, report=lambda _: None)
    assert (trained.episode, trained.validation) == (40, None)


def test_without_validation_devices_held_out_architectures_choose() -> None:
    table = synthetic_table(0, validation=0)
    lines: list[str] = []
    config = replace(QUICK, held_out=0.2, outer_rate=2e-2)
    trained = meta_train(table, config, state=None, report=lines.append)
    scores = {int(line.split()[1].split("/")[0]): float(line.split()[-1]) for line in lines}
    assert len(scores) == 4
    assert trained.validation == pytest.approx(max(scores.values()), abs=1e-4)
    assert scores[trained.episode] == max(scores.values())


def test_best_validated_checkpoint_is_kept() -> None:
    lines: list[str] = []
    config = replace(QUICK, outer_rate=2e-2, episodes=60)  # too fast: later checkpoints are worse
    trained = meta_train(synthetic_table(0), config, state=None, report=lines.append)
    scores = {int(line.split()[1].split("/")[0]): float(line.split()[-1]) for line in lines}
    assert trained.episode != 60
    assert scores[trained.episode] == max(scores.values())


def test_checkpoint_survives_its_file(tmp_path: Path) -> None:
    learner = train(replace(QUICK, episodes=1)).learner
    write_learner(tmp_path / "one", learner, {"episode": 1})
    read, facts = read_learner(tmp_path / "one")
    assert read.config == learner.config
    assert facts["episode"] == 1
    assert {k: v.tolist() for k, v in read.tensors().items()} == {
        k: v.tolist() for k, v in learner.tensors().items()
    }


def test_missing_latencies_are_named_before_training() -> None:
    table = synthetic_table(0)
    with pytest.raises(PredictorError, match="latencies of source devices are missing"):
        replace(table, rows=np.arange(ARCHITECTURES))
