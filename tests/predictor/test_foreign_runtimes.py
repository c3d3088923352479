"""Runtimes without an engine are measured model by model, and told by the reference models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import foreign_runtimes
from benchmarks.foreign_runtimes import RUNTIMES, main, measure, timed, told
from predictor.reference_set import reference_models
from tests.predictor.onnx_graphs import five_nodes

SECONDS = 0.01


def test_a_model_is_timed_run_by_run(tmp_path: Path) -> None:
    model = reference_models()[3]
    path = tmp_path / "model.onnx"
    path.write_bytes(model.model)
    samples = timed(RUNTIMES["onnx-reference"], path, model.input_shapes, SECONDS)
    assert len(samples) >= 5
    assert min(samples) > 0


def test_references_tell_what_models_take_and_nothing_is_measured_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tuple(reference_models()[place] for place in (0, 3))
    monkeypatch.setattr(foreign_runtimes, "reference_candidates", lambda: few)
    models, out = tmp_path / "models", tmp_path / "out"
    models.mkdir()
    (models / "five.onnx").write_bytes(five_nodes().SerializeToString())
    (models / "broken.onnx").write_bytes(b"no model")
    assert main([
        "--models", str(models), "--out", str(out), "--runtime", "onnx-reference", "--seconds", str(SECONDS),
        "--passes", "2",
    ]) == 0  # fmt: skip
    assert "onnx-reference: 1 models, mean error" in capsys.readouterr().out
    file, refused = out / "onnx-reference.jsonl", out / "onnx-reference.refused.jsonl"
    measured = [json.loads(line) for line in file.read_text().splitlines()]
    names = [line["name"] for line in measured]
    assert names == 2 * [*(model.name for model in few), "five"]
    assert measured[0]["target"].endswith("/cpu/t1")
    assert [json.loads(line)["name"] for line in refused.read_text().splitlines()] == ["broken"]
    before = file.read_bytes(), refused.read_bytes()
    assert measure("onnx-reference", models, out, SECONDS, 1) == file
    assert (file.read_bytes(), refused.read_bytes()) == before
    (said,) = told(file, models)
    assert said.name == "five"
    assert said.ratio > 0
