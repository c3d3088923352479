"""`bench` and `nas` from the command line, on made-up tables."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from predictor.benchmarks.command import HANDLERS, add_commands
from predictor.benchmarks.errors import BenchmarkRejected, TaskRejected
from tests.predictor.published_tables import nb201_table, write_tables

CHEAP = ("--methods", "ridge,mixture", "--seeds", "2", "--samples", "8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "nas-latency"
    folder.mkdir()
    write_tables(folder, nb201_table(rows=700))
    return tmp_path


def run(*arguments: str, data: Path) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(dest="command"))
    parsed = parser.parse_args([*arguments, "--data", str(data), "--work", str(data / "work")])
    return HANDLERS[parsed.command](parsed)


def test_a_published_task_makes_the_promised_object(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = data / "results.json"
    assert run("bench", "--task", "made-up", *CHEAP, "--json", "--output", str(output), data=data) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(output.read_text())
    assert set(document) == {"made-up"}
    assert list(document["made-up"]) == ["ridge", "mixture"]
    assert list(document["made-up"]["ridge"]) == ["fpga", "watch"]
    result = document["made-up"]["mixture"]["watch"]
    promised = {"spearman", "spearman_std", "mape", "acc10", "coverage90", "adapt_ms", "measurements"}
    assert promised <= set(result)
    assert result["measurements"] == 8
    assert result["scored"] >= 692
    assert 0.0 < result["spearman"] <= 1.0
    assert 0.0 <= result["coverage90"] <= 1.0


def test_a_split_of_ones_own_prints_a_table(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--space", "nb201", "--train", "phone,server", "--test", "watch", "--query", "all")
    assert run("bench", *arguments, "--source-samples", "90", *CHEAP, data=data) == 0
    printed = capsys.readouterr().out
    assert "nb201-custom: 2 source devices with 90 architectures; 8 measurements" in printed
    assert "random selection, 2 seeds; scored: 700 architectures" in printed
    for heading in ("Spearman", "MAPE, %", "coverage, %", "interval score"):
        assert heading in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "F9"), "task 'F9' is unknown; there are made-up, N1"),
        (("--task", ","), "task '' is unknown"),
        (("--task", "N1"), "unknown-tpu"),
        (("--task", "made-up", "--train", "phone"), "belong to --space"),
        (("--space", "nb201", "--train", "phone", "--test", "pager", "--query", "all"), "has no pager"),
        (("--space", "fbnet", "--train", "phone", "--test", "watch"), r"fbnet\.npz does not exist"),
        (("--task", "made-up", "--methods", "ridge,magic"), "magic is unknown"),
        (("--task", "made-up", "--samples", "2"), "--samples must be at least 3"),
        (("--task", "made-up", "--seeds", "0"), "--seeds must be at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_before_anything_is_trained(
    data: Path, arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(BenchmarkRejected, match=said):
        run("bench", *arguments, data=data)


def test_the_end_to_end_table_needs_a_budget_that_holds_its_samples(data: Path) -> None:
    with pytest.raises(TaskRejected, match="--budget 5 is less than --samples 8"):
        run("nas", *CHEAP, "--budget", "5", data=data)


def test_a_refusal_in_another_process_arrives_as_one(data: Path) -> None:
    with pytest.raises(BenchmarkRejected, match="ridge in nas: task 'help-nb201' is unknown"):
        run("nas", *CHEAP, data=data)
