"""`reference-set`, `adapt` and `predict`: a target that is known from files alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from devices.model_ref import sha256_of
from predictor import __main__ as command
from predictor.adapt import TargetFacts, adapt
from predictor.checkpoint import Checkpoint
from predictor.evaluate import accuracy_card
from predictor.local_study import subjects_in
from predictor.predict import Predictor
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_candidates
from tests.predictor.onnx_graphs import five_nodes
from tests.predictor.synthetic_target import HARDWARE, RUNTIME, SyntheticTarget, facts, ship_synthetic

KEY = facts().key
STATED = {"runtime": RUNTIME.model_dump(mode="json"), "hardware": HARDWARE.model_dump(mode="json")}
PHONE = "phone/abacus-1.2/beads/t2"  # a runtime that nobody here has an engine for


@pytest.fixture(autouse=True)
def _network(monkeypatch: pytest.MonkeyPatch) -> None:
    ship_synthetic(monkeypatch)


def measured(key: str = KEY, seed: int = 3, **more: object) -> list[dict[str, object]]:
    """Lines of a made-up target: the reference set, by name."""
    rng = np.random.default_rng(seed)
    observations = SyntheticTarget.drawn(rng).observations(rng, key)
    return [
        {
            "model": one.name,
            "target": key,
            "median_ms": one.median_ms,
            "standard_error_ms": one.standard_error_ms,
            **more,
        }
        for one in observations
    ]


def file_of(folder: Path, *lines: dict[str, object], name: str = "measured.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = command.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.fixture
def references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    folder = tmp_path / "new" / "references"
    assert run(capsys, "reference-set", "--out", folder)[0] == 0
    return folder


def test_the_reference_set_is_written_with_a_manifest(
    references: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((references / "manifest.json").read_text())
    for model in reference_candidates():
        content = (references / f"{model.name}.onnx").read_bytes()
        entry = manifest[f"{model.name}.onnx"]
        assert content == model.model
        assert (entry["sha256"], entry["why"]) == (sha256_of(content), model.why)
    shapes = {subject.name: subject.input_shapes for subject in subjects_in(references)}
    assert shapes == {f"{model.name}.onnx": model.input_shapes for model in reference_candidates()}
    assert run(capsys, "reference-set", "--out", references)[0] == 0  # again is no harm
    (references / "mixed-rows.onnx").write_bytes(b"somebody's own")
    status, _, said = run(capsys, "reference-set", "--out", references)
    assert status == 1
    assert "mixed-rows.onnx is another file; give --out a new folder" in said
    assert (references / "mixed-rows.onnx").read_bytes() == b"somebody's own"


def test_files_give_the_same_predictor_as_values(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By path, name and digest; the last target of the file and one of a pool file are sources."""
    lines = [line | STATED for line in measured()]
    lines[0]["model"] = "new/references/mixed-convs.onnx"
    lines[1]["model"] = sha256_of((references / "dense-convs.onnx").read_bytes())
    file = file_of(tmp_path, *lines, *[line | STATED for line in measured("b/e/cpu/t1", 4)])
    pool = file_of(tmp_path, *[line | STATED for line in measured("c/e/cpu/t1", 5)], name="pool.jsonl")
    checkpoint = tmp_path / "checkpoint.safetensors"
    status, out, said = run(
        capsys,
        "adapt",
        "--measurements",
        file,
        "--pool",
        pool,
        "--target",
        KEY,
        "--out",
        checkpoint,
        "--json",
    )
    assert (status, said) == (0, "")
    rng, others = np.random.default_rng(3), []
    own = SyntheticTarget.drawn(rng).observations(rng)
    for key, seed in (("b/e/cpu/t1", 4), ("c/e/cpu/t1", 5)):
        rng = np.random.default_rng(seed)
        others += SyntheticTarget.drawn(rng).observations(rng, key)
    target = TargetFacts(key=KEY, runtime=RUNTIME, hardware=HARDWARE)
    graph = read_graph(five_nodes().SerializeToString(), {})
    read = Predictor(Checkpoint.from_bytes(checkpoint.read_bytes()))
    assert read.predict(graph).median_ms == pytest.approx(
        Predictor(adapt(target, own, others)).predict(graph).median_ms, rel=1e-6
    )
    document = json.loads(out)
    card = accuracy_card(target, own, others)
    assert document["accuracy_card"]["mape"] == pytest.approx(card.mape, rel=1e-6)
    assert document["accuracy_card"]["pooled_targets"] == ["b/e/cpu/t1", "c/e/cpu/t1"]
    assert (document["measurements"], document["notes"]) == (10, [])
    assert document["checkpoint"]["sha256"] == sha256_of(checkpoint.read_bytes())


def test_a_runtime_without_an_engine_goes_all_the_way(
    references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = measured(PHONE)
    for line in lines:
        latency_ns = round(float(str(line.pop("median_ms"))) * 1e6)
        line.pop("standard_error_ms")
        line["samples_ns"] = [latency_ns, round(latency_ns * 0.99), round(latency_ns * 1.01)]
    own, checkpoint = file_of(tmp_path, *lines), tmp_path / "phone.safetensors"
    pool = file_of(tmp_path, *measured(PHONE), name="pool.jsonl")
    status, out, said = run(capsys, "adapt", "--measurements", own, "--pool", pool, "--out", checkpoint)
    assert status == 0
    assert "runtime abacus 1.2 on cpu, 2 threads" in out
    assert "10 models, mean error" in out
    assert "adapted in" in out
    assert "10 measurements of phone/abacus-1.2/beads/t2 itself are in the pool and not used" in said
    assert "nothing is known of phone/abacus-1.2/beads/t2's processor" in said
    facts_file = tmp_path / "hardware.json"
    facts_file.write_text(json.dumps({"cpu_model": "Cortex-A76", "architecture": "aarch64"}))
    status, out, said = run(
        capsys, "adapt", "--measurements", own, "--out", checkpoint, "--hardware", facts_file
    )
    assert (status, said) == (0, "")
    assert "hardware Cortex-A76, aarch64, 2 cores, no vector instructions" in out
    status, out, _ = run(
        capsys, "predict", "--checkpoint", checkpoint, "--json", *sorted(references.glob("*.onnx"))
    )
    assert status == 0
    rows = {Path(row["model"]).stem: row["prediction"] for row in json.loads(out)["models"]}
    for line in lines:
        row = rows[str(line["model"])]
        assert 0 < row["lower_ms"] <= row["median_ms"] <= row["upper_ms"]
    inside = [
        row["lower_ms"] * 1e6 <= line["samples_ns"][0] <= row["upper_ms"] * 1e6  # type: ignore[index]
        for line in lines
        for row in [rows[str(line["model"])]]
    ]
    assert sum(inside) >= 8  # of what it learned from


@pytest.fixture
def checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    file = file_of(tmp_path, *[line | STATED for line in measured()])
    path = tmp_path / "checkpoint.safetensors"
    assert run(capsys, "adapt", "--measurements", file, "--out", path)[0] == 0
    return path


def dynamic_model() -> bytes:
    model = five_nodes()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return bytes(model.SerializeToString())


def test_a_refused_model_leaves_the_others_answered(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [tmp_path / name for name in ("dynamic.onnx", "broken.onnx", "missing.onnx", "five.onnx")]
    models[0].write_bytes(dynamic_model())
    models[1].write_bytes(b"no model")
    models[3].write_bytes(five_nodes().SerializeToString())
    arguments = ["predict", "--checkpoint", checkpoint, *models]
    status, out, _ = run(capsys, *arguments, "--json")
    assert status == 1
    rows = json.loads(out)["models"]
    codes = [None if row["refusal"] is None else row["refusal"]["code"] for row in rows]
    assert codes == ["missing_input_sizes", "malformed", "unreadable", None]
    assert [row["prediction"] is None for row in rows] == [True, True, True, False]
    status, out, _ = run(capsys, *arguments)
    assert status == 1
    assert "refused: missing_input_sizes: the model has dynamic axes" in out
    assert f"target {KEY}" in out


def test_sizes_come_from_the_command_or_a_manifest(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "dynamic.onnx"
    model.write_bytes(dynamic_model())
    expected = {
        n: Predictor(Checkpoint.from_bytes(checkpoint.read_bytes())).predict(
            read_graph(dynamic_model(), {"x": (n, 2, 8, 8)}), 0.5
        )
        for n in (1, 2, 64)
    }
    elsewhere = tmp_path / "sizes.json"
    elsewhere.write_text(json.dumps({"dynamic.onnx": {"input_shapes": {"x": [1, 2, 8, 8]}}}))
    (tmp_path / "manifest.json").write_text(
        json.dumps({"dynamic.onnx": {"input_shapes": {"x": [2, 2, 8, 8]}}})
    )
    for n, more in ((2, []), (1, ["--manifest", elsewhere]), (64, ["--shape", "x=64x2x8x8"])):
        status, out, _ = run(
            capsys, "predict", "--checkpoint", checkpoint, model, "--coverage", "0.5", "--json", *more
        )
        assert status == 0
        row = json.loads(out)["models"][0]["prediction"]
        assert (row["median_ms"], row["upper_ms"], row["coverage"]) == pytest.approx(
            (expected[n].median_ms, expected[n].upper_ms, 0.5)
        )
    assert expected[64].median_ms > expected[1].median_ms


def test_layers_explain_the_total(
    checkpoint: Path, references: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "--checkpoint", checkpoint, references / "mixed-rows.onnx", "--layers"]
    status, out, _ = run(capsys, *arguments, "--json")
    assert status == 0
    row = json.loads(out)["models"][0]
    layers = row["layers"]
    assert sum(layer["ms"] for layer in layers) == pytest.approx(row["prediction"]["median_ms"])
    assert all(layer["ms"] >= 0 for layer in layers)
    assert {"MatMul", "Softmax", "call"} <= {layer["kind"] for layer in layers}
    assert ["matmul_3225", "add_3227"] in [layer["operators"] for layer in layers]  # its bias in one kernel
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert len(out.splitlines()) == 4 + len(layers)
    assert layers[0]["name"] in out


def test_what_cannot_be_done_is_said_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    two = file_of(tmp_path, *measured(), *measured("b/e"), name="two.jsonl")
    bad = file_of(tmp_path, {"model": "mixed-rows"}, name="bad.jsonl")
    listed = file_of(tmp_path, name="list.json")
    listed.write_text("[1]")
    adapting = ["adapt", "--out", out, "--measurements"]
    for arguments, said in (
        ([*adapting, two], f"2 targets: b/e, {KEY}; choose one with --target"),
        ([*adapting, two, "--target", "c"], "no measurement of target 'c'"),
        ([*adapting, two, bad], "bad.jsonl, line 1: target is missing"),
        ([*adapting, tmp_path / "none.jsonl"], "none.jsonl"),
        ([*adapting, two, "--target", KEY, "--hardware", listed], "must hold a JSON object"),
        ([*adapting, two, "--target", KEY, "--models", bad], "is not a folder"),
        (["predict", "--checkpoint", two, two], "two.jsonl: these bytes are not a checkpoint"),
        (["predict", "--checkpoint", checkpoint, two, "--coverage", 1], "between 0 and 1, got 1.0"),
        (["predict", "--checkpoint", checkpoint, two, "--manifest", "nowhere"], "nowhere is not there"),
    ):
        status, _, err = run(capsys, *arguments)
        assert status == 1
        assert said in err
    assert not out.exists()
