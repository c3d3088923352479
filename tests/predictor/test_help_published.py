"""HELP on the published tables: its protocol, and the command that trains and scores."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictor.benchmarks import help_command, help_protocol
from predictor.benchmarks.architectures import Architectures
from predictor.benchmarks.errors import TaskRejected
from predictor.benchmarks.help_method import source_table
from predictor.benchmarks.help_protocol import published_spearman
from predictor.benchmarks.tables import load_table
from predictor.benchmarks.tasks import read_splits, source_of, task_of
from predictor.help.config import PUBLISHED
from predictor.help.meta_training import meta_train

DATA_VARIABLE = "LAPTIME_DATA"


@pytest.fixture
def tables() -> Path:
    """The folder of published tables, if this machine has it."""
    folder = Path(os.environ.get(DATA_VARIABLE, "")) / "data" / "nas-latency"
    if DATA_VARIABLE not in os.environ or not folder.is_dir():
        pytest.skip(f"{DATA_VARIABLE} names no folder with data/nas-latency/")
    return folder


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    help_command.add_commands(parser.add_subparsers(dest="command", required=True))
    parsed = parser.parse_args(["help", *arguments])
    return help_command.HANDLERS[parsed.command](parsed)


def test_a_small_network_quickly_ranks_an_unseen_gpu(tables: Path) -> None:
    table = load_table("ofa", tables)
    task = task_of(read_splits(tables)["help-ofa"], table)
    genomes = Architectures("ofa", table.genomes, np.zeros((len(table.genomes), 0)))
    source = source_table(source_of(task, table, genomes))
    assert source.latency_ms.shape == (5000, 9)
    config = replace(
        PUBLISHED, width=32, episodes=150, outer_rate=4e-3, query=100, tasks=4, validate_every=150
    )
    learner = meta_train(source, config, state=None, report=lambda _: None).learner
    found = published_spearman(learner, task, table, seeds=(0, 1))
    assert found.keys() == {"titan_rtx_64"}
    assert found["titan_rtx_64"].shape == (2,)
    assert found["titan_rtx_64"].min() > 0.9


def test_command_trains_once_and_scores_as_published(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = {"help-published": replace(PUBLISHED, episodes=3, width=8)}
    monkeypatch.setattr(help_protocol, "CONFIGS", quick)
    for action in ("train", "test"):
        assert (
            run(action, "--task", "help-ofa", "--data", str(tables), "--work", str(tmp_path), "--json") == 0
        )
    trained, tested = capsys.readouterr().out.splitlines()
    document = json.loads(tested)
    assert Path(document["checkpoint"]).is_file()
    assert json.loads(trained)["checkpoint"] == document["checkpoint"]
    assert document["spearman"].keys() == {"titan_rtx_64"}
    assert -1.0 <= document["mean"] <= 1.0
    assert document["seeds"] == 10


def test_tasks_that_help_did_not_publish_are_not_scored(tables: Path, tmp_path: Path) -> None:
    common = ("--data", str(tables), "--work", str(tmp_path))
    with pytest.raises(TaskRejected, match="no protocol for task F1"):
        run("test", "--task", "F1", *common)
    with pytest.raises(TaskRejected, match="'F9' is unknown"):
        run("train", "--task", "F9", *common)
