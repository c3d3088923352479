"""`laptime-predictor`, and the study behind `evaluate`, with measurements made up from a known target."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from devices.engines import registry
from devices.errors import FailureCode, WorkFailed
from devices.measurement import Conditions, Estimate, Level, Measurement, Verdict
from devices.profile import MeasurementRequest
from devices.target import Device
from predictor import __main__ as command
from predictor import evaluate_command, local_study
from predictor.description import describe
from predictor.errors import PredictorError
from predictor.local_study import Bench, MeasurementFile, run_study, subjects_in
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_models
from tests.predictor.campaign_files import row_of, write_rows
from tests.predictor.onnx_graphs import branching, five_nodes
from tests.predictor.synthetic_target import (
    HARDWARE,
    RUNTIME,
    SyntheticTarget,
    facts,
    ship_synthetic,
    synthetic_meta,
)


class MadeUpMachine:
    """Stands in for the sandbox: latencies of a synthetic target, counted."""

    def __init__(self) -> None:
        self.target = SyntheticTarget.drawn(np.random.default_rng(9))
        self.runs = 0
        self.fails: set[int] = set()

    def __call__(self, request: MeasurementRequest, model: bytes) -> Measurement:
        self.runs += 1
        if len(model) in self.fails:
            raise WorkFailed(FailureCode.OUT_OF_MEMORY, "made up")
        graph = read_graph(model, request.model.input_shapes)
        described = describe(graph, RUNTIME, HARDWARE, synthetic_meta())
        latency = float(self.target.latencies_ms([described])[0])
        now = Conditions(at_unix_s=0.0)
        return Measurement(
            agent_version="0",
            device_key=request.device_key,
            runtime=request.runtime,
            model=request.model,
            plan=request.plan,
            clock="made up",
            sandbox="none",
            cold_starts=(),
            rounds=(),
            before=now,
            after=now,
            estimate=Estimate(
                median_ms=latency,
                mad_ms=0.0,
                standard_error_ms=0.01 * latency,
                sample_count=10,
                round_count=1,
            ),
            verdict=Verdict(is_valid=True),
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> MadeUpMachine:
    made_up = MadeUpMachine()
    monkeypatch.setattr(local_study, "run_measurement", made_up)
    ship_synthetic(monkeypatch)
    return made_up


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "five.onnx").write_bytes(five_nodes().SerializeToString())
    (folder / "branching.onnx").write_bytes(branching().SerializeToString())
    (folder / "broken.onnx").write_bytes(b"no model")
    (folder / "manifest.json").write_text(json.dumps({"five.onnx": {"input_shapes": {"x": [1, 2, 8, 8]}}}))
    return folder


def bench(file: Path | None) -> Bench:
    device = Device(key="made-up", fingerprint="0" * 32, hardware=HARDWARE)
    return Bench(
        device=device, runtime=RUNTIME, level=Level.QUICK, file=MeasurementFile(file), report=lambda _: None
    )


def test_a_study_predicts_measures_and_goes_on_where_it_stopped(
    machine: MadeUpMachine, models: Path, tmp_path: Path
) -> None:
    file = tmp_path / "cache.jsonl"
    study = run_study(bench(file), subjects_in(models))
    assert machine.runs == 12
    assert [row.name for row in study.rows] == ["branching.onnx", "broken.onnx", "five.onnx"]
    assert study.rows[1].failure is not None
    assert study.rows[1].failure.startswith("malformed")
    assert study.summary is not None
    assert study.summary.sample_count == 2
    assert study.rows[2].error == pytest.approx(
        study.rows[2].prediction.median_ms / study.rows[2].measured_ms - 1  # type: ignore[union-attr,operator]
    )
    assert study.card.sample_count == 10
    with file.open("a") as lines:
        lines.write('{"cut off')
    assert run_study(bench(file), subjects_in(models)) == study
    assert machine.runs == 12  # all from the file


def test_a_model_that_cannot_be_measured_is_a_row(machine: MadeUpMachine, models: Path) -> None:
    machine.fails.add((models / "five.onnx").stat().st_size)
    row = run_study(bench(None), subjects_in(models)).rows[2]
    assert (row.measured_ms, row.error) == (None, None)
    assert row.prediction is not None
    assert "out_of_memory" in str(row.failure)


def test_folders_and_manifests_that_do_not_help(tmp_path: Path, models: Path) -> None:
    with pytest.raises(PredictorError, match=r"no \.onnx file"):
        subjects_in(tmp_path)
    (models / "manifest.json").write_text(json.dumps({"five.onnx": {"input_shapes": [1, 2]}}))
    with pytest.raises(PredictorError, match="input_shapes must map"):
        subjects_in(models)
    (models / "manifest.json").write_text("{")
    with pytest.raises(PredictorError, match="not JSON"):
        subjects_in(models)


def test_evaluate_prints_a_table_or_json(
    machine: MadeUpMachine, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate_command, "available_runtimes", lambda *_: (RUNTIME,))
    monkeypatch.setattr(
        evaluate_command,
        "read_device",
        lambda _: Device(key="made-up", fingerprint="0" * 32, hardware=HARDWARE),
    )
    assert command.main(["evaluate", "--models", str(models)]) == 0
    printed = capsys.readouterr()
    assert "target made-up/onnxruntime-1.32/cpu/t1" in printed.out
    assert "five.onnx" in printed.out
    assert "these models: 2 models" in printed.out
    assert "reference mixed-rows" in printed.err
    assert command.main(["evaluate", "--models", str(models), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["summary"]["sample_count"] == 2
    assert {row["name"] for row in document["models"]} == {"five.onnx", "branching.onnx", "broken.onnx"}
    assert command.main(["evaluate", "--models", str(models), "--runtime", "abacus"]) == 1
    assert "abacus" in capsys.readouterr().err


@pytest.fixture
def campaign(models: Path, tmp_path: Path) -> Path:
    """Of the reference set and two files, each measured twice, too low and too high."""
    target, made_up = facts("board/onnxruntime-1.32/cpu/t1"), SyntheticTarget.drawn(np.random.default_rng(9))
    files = [(one.name, *one.built()) for one in subjects_in(models) if one.name != "broken.onnx"]
    references = [(one.name, one.model, one.input_shapes) for one in reference_models()]
    rows = []
    for family, measured in (("reference", references), ("published", files)):
        for name, model, shapes in measured:
            graph = read_graph(model, shapes)
            median_ms = float(made_up.latencies_ms([describe(graph, RUNTIME, HARDWARE, synthetic_meta())])[0])
            rows += [
                row_of(name, graph, target, factor * median_ms, family=family, passed=passed)
                for passed, factor in enumerate((0.8, 1.25))
            ]
    lone = facts("lone/onnxruntime-1.32/cpu/t1")  # has run no reference model
    rows.append(row_of("five.onnx", read_graph(*files[1][1:]), lone, 1.0, family="published"))
    return write_rows(tmp_path / "campaign.parquet", rows)


def test_evaluate_compares_with_what_a_campaign_measured(
    campaign: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = tmp_path / "meta.safetensors"
    meta.write_bytes(synthetic_meta().to_bytes())
    asked = ["evaluate", "--campaign", str(campaign), "--meta", str(meta)]
    assert command.main([*asked, "--models", str(models), "--json"]) == 0
    (study,) = json.loads(capsys.readouterr().out)
    assert study["target"] == "board/onnxruntime-1.32/cpu/t1"
    assert study["accuracy_card"]["sample_count"] == 10
    assert [row["name"] for row in study["models"]] == ["branching.onnx", "five.onnx"]
    assert all(abs(row["error"]) < 0.3 for row in study["models"])
    assert command.main([*asked, "--models", str(models)]) == 0
    printed = capsys.readouterr()
    assert "board/onnxruntime-1.32/cpu/t1: 2 models" in printed.out
    assert "lone/onnxruntime-1.32/cpu/t1 is left out" in printed.err
    assert command.main(asked) == 1  # nobody said where the files are
    assert "need --models" in capsys.readouterr().err


def test_evaluate_says_which_options_do_not_go_together(
    campaign: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["evaluate"]) == 1
    assert "--models" in capsys.readouterr().err
    assert command.main(["evaluate", "--campaign", str(campaign), "--runtime", "openvino"]) == 1
    assert "nothing is measured" in capsys.readouterr().err
    assert command.main(["evaluate", "--models", str(models), "--meta", str(campaign)]) == 1
    assert "--campaign" in capsys.readouterr().err


def test_graph_prints_the_costed_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "five.onnx"
    file.write_bytes(five_nodes().SerializeToString())
    assert command.main(["graph", str(file), "--shape", "x=1x2x8x8"]) == 0
    printed = capsys.readouterr().out
    assert "Conv" in printed
    assert "4,608" in printed
    assert command.main(["graph", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [op["kind"] for op in document["graph"]] == ["Conv", "Relu", "MaxPool", "Flatten", "Gemm"]
    assert document["graph"][4]["shapes"]["m"] == [64, 10]
    assert command.main(["graph", str(file), "--shape", "x=1x2x9x9"]) == 1
    assert "fixed at 8" in capsys.readouterr().err
    assert command.main(["graph", str(tmp_path / "missing.onnx")]) == 1
    assert "missing.onnx" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["graph", str(file), "--shape", "x:1x2"])
    assert "NAME=1x3x224x224" in capsys.readouterr().err


def test_predicting_loads_no_torch() -> None:
    code = "import sys, predictor.predict, predictor.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_knows_the_engines_it_offers() -> None:
    assert set(evaluate_command.ENGINES) <= set(registry.ENGINES)
