"""`graph-bench` from the command line, on a made-up dataset of models that are really built."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictor.benchmarks.errors import TableRejected, TaskRejected
from predictor.benchmarks.graph_command import HANDLERS, add_commands
from predictor.benchmarks.graph_data import load_graph_data, load_published
from predictor.benchmarks.graph_method import PUBLISHED, GraphData
from predictor.errors import PredictorError
from predictor.reference_set import reference_models
from tests.predictor.campaign_files import row_of, write_rows
from tests.predictor.graph_fleet import fleet

CHEAP = ("--methods", "graph-flops", "--folds", "1")


def rows_of(data: GraphData) -> list[dict[str, object]]:
    """Two passes of everything, a third slower and a third faster than the truth."""
    return [
        row_of(
            str(data.names[row]),
            data.graphs[row],
            target,
            float(data.latency_ms[row, column]) * factor,
            family=str(data.families[row]),
            precision=str(data.precisions[row]),
            is_sweep=bool(data.is_sweep[row]),
            passed=passed,
        )
        for row in range(len(data))
        for column, target in enumerate(data.targets)
        for passed, factor in enumerate((1.25, 0.8))
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("campaign") / "data.parquet", rows_of(fleet()))


def run(*arguments: str, dataset: Path, work: Path) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(dest="command"))
    parsed = parser.parse_args(["graph-bench", *arguments, "--dataset", str(dataset), "--work", str(work)])
    return HANDLERS[parsed.command](parsed)


def test_the_command_tells_and_goes_on(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results.json"
    arguments = (*CHEAP, "--leave-out", "engine", "--json", "--output", str(output))
    assert run(*arguments, dataset=dataset, work=tmp_path) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(output.read_text())
    assert document["data"]["targets"] == sorted(target.key for target in fleet().targets)
    scores = document["engine"]["graph-flops"]
    assert scores["overall"]["pairs"] == sum(one["pairs"] for one in scores["by_target"].values()) > 0
    finished = sorted(tmp_path.glob("*/graph-flops/engine--*--fold0.json"))
    assert len(finished) == 3
    stamps = [file.stat().st_mtime_ns for file in finished]
    assert run(*CHEAP, dataset=dataset, work=tmp_path) == 0
    assert [file.stat().st_mtime_ns for file in finished] == stamps
    assert "left out: one group at a time" in capsys.readouterr().out
    assert run(*CHEAP, "--again", "graph-flops", dataset=dataset, work=tmp_path) == 0
    assert [file.stat().st_mtime_ns for file in finished] != stamps


def test_passes_are_merged_and_stale_rows_dropped(tmp_path: Path) -> None:
    truth = fleet()
    few = truth.rows(np.arange(8))
    stale: dict[str, object] = {"graph_digest": "of another model"}
    spoilt = [row | stale if row["name"] == few.names[7] else row for row in rows_of(few)]
    heard: list[str] = []
    read = load_graph_data(write_rows(tmp_path / "few.parquet", spoilt), report=heard.append)
    assert sorted(read.names) == sorted(few.names[:7])
    assert any("8 of 64 rows are of models that are built differently now" in line for line in heard)
    order = [read.names.tolist().index(name) for name in few.names[:7]]
    keys = [target.key for target in read.targets]
    columns = [keys.index(target.key) for target in few.targets]
    np.testing.assert_allclose(read.latency_ms[np.ix_(order, columns)], few.latency_ms[:7])
    assert [read.graphs[row].digest for row in order] == [graph.digest for graph in few.graphs[:7]]
    assert len(read.again) == few.is_whole[:7].sum() * len(few.targets) > 0  # two passes of each
    with pytest.raises(TableRejected, match="no row of the dataset is of a model that can be built"):
        load_graph_data(write_rows(tmp_path / "none.parquet", spoilt[-8:]), report=heard.append)


def test_real_models_are_read_from_their_folder(tmp_path: Path) -> None:
    data = fleet()
    model = reference_models()[0]
    one = data.rows(data.names == model.name)
    named = [row | {"family": PUBLISHED, "name": "real.onnx"} for row in rows_of(one)]
    (tmp_path / "real.onnx").write_bytes(model.model)
    file = write_rows(tmp_path / "real.parquet", named)
    published = load_published(file, tmp_path, data=data, report=print)
    assert published.names.tolist() == ["real.onnx"]
    assert published.graphs[0].digest == one.graphs[0].digest
    assert published.is_whole.all()


def test_real_models_are_brought_to_the_speed_that_their_machine_had(tmp_path: Path) -> None:
    """Of the dataset's machine, by the reference models: here it was twice as fast the day they were
    measured.
    """
    data = fleet()
    model = reference_models()[0]
    today = replace(data, latency_ms=0.5 * data.latency_ms)
    references = rows_of(today.rows(data.is_reference))
    one = data.rows(data.names == model.name)
    named = [
        row | {"family": PUBLISHED, "name": "real.onnx"}
        for row in rows_of(today.rows(data.names == model.name))
    ]
    (tmp_path / "real.onnx").write_bytes(model.model)
    heard: list[str] = []
    published = load_published(
        write_rows(tmp_path / "real.parquet", [*references, *named]), tmp_path, data=data, report=heard.append
    )
    keys = [target.key for target in published.targets]
    columns = [keys.index(target.key) for target in one.targets]
    np.testing.assert_allclose(published.latency_ms[:, columns], one.latency_ms)
    assert any("2.000 times as long" in line for line in heard)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "magic"), "magic is unknown; there are laptime"),
        (("--leave-out", "family"), "family is unknown; there are group, target, device, engine"),
        (("--published", "x.parquet"), "--published and --models belong together"),
        (("--seeds", "0"), "--seeds must be at least 1"),
        (("--folds", "9"), "--folds must be 1 to 4"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_read(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(TaskRejected, match=said):
        run(*arguments, dataset=tmp_path / "missing.parquet", work=tmp_path)


def test_a_file_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_bytes(b"nothing")
    with pytest.raises(PredictorError, match="is not a dataset"):
        run(dataset=tmp_path / "data.parquet", work=tmp_path)
