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
from predictor import local_study
from predictor.description import describe
from predictor.errors import PredictorError
from predictor.local_study import Bench, MeasurementFile, run_study, subjects_in
from predictor.reading.reader import read_graph
from tests.predictor.onnx_graphs import branching, five_nodes
from tests.predictor.synthetic_target import (
    HARDWARE,
    RUNTIME,
    SyntheticTarget,
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
    monkeypatch.setattr(command, "available_runtimes", lambda *_: (RUNTIME,))
    monkeypatch.setattr(
        command, "read_device", lambda _: Device(key="made-up", fingerprint="0" * 32, hardware=HARDWARE)
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
    assert set(command.ENGINES) <= set(registry.ENGINES)
