"""`laptime-search run`: from a checkpoint to a folder with a front, killed and resumed in between."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from devices.target import Hardware, Runtime
from predictor.adapt import Observation, TargetFacts, adapt
from predictor.reading.reader import read_graph
from search import loop
from search.__main__ import main
from search.architecture import IMAGE, Architecture, LayerWeights
from search.export import export
from search.space import random_genome
from search.spaces.digits_cnn import DigitsCnn

HARDWARE = Hardware(
    cpu_model="test",
    architecture="x86_64",
    physical_cores=2,
    logical_cores=2,
    memory_bytes=8 << 30,
    isa_flags=("avx2", "fma"),
    operating_system="test",
)
RUNTIME = Runtime(engine="onnxruntime", version="1.32.0", provider="cpu", threads=1)
TRIALS = 5


def untrained(architecture: Architecture) -> bytes:
    rng = np.random.default_rng(0)
    weights = {
        c.name: LayerWeights(
            rng.standard_normal(
                (c.out_channels, c.in_channels // c.groups, c.kernel, c.kernel), dtype=np.float32
            ),
            np.zeros(c.out_channels, dtype=np.float32),
        )
        for c in architecture.convolutions
    }
    head = architecture.head
    shape = (head.out_features, head.in_features)
    weights[head.name] = LayerWeights(
        rng.standard_normal(shape, dtype=np.float32), np.zeros(shape[0], np.float32)
    )
    return export(architecture, weights, dict.fromkeys(architecture.activation_quants(), (0.0, 1.0)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a target whose latency is proportional to the arithmetic, with a constant."""
    space, rng = DigitsCnn(), np.random.default_rng(0)
    observations = []
    for _ in range(10):
        architecture = space.architecture(random_genome(space, rng))
        graph = read_graph(untrained(architecture), {IMAGE: architecture.input_shape})
        median_ms = 0.01 + graph.macs / 4e7
        observations.append(Observation("test", RUNTIME, HARDWARE, graph, median_ms, 0.01 * median_ms))
    path = tmp_path_factory.mktemp("checkpoint") / "predictor.bin"
    path.write_bytes(
        adapt(TargetFacts(key="test", runtime=RUNTIME, hardware=HARDWARE), observations).to_bytes()
    )
    return path


def arguments(checkpoint: Path, out: Path, *more: str) -> list[str]:
    return [
        "run",
        "--trials",
        str(TRIALS),
        "--population",
        "3",
        "--checkpoint",
        str(checkpoint),
        "--out",
        str(out),
        *more,
    ]


def test_killed_and_resumed_it_writes_what_an_uninterrupted_run_writes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments(checkpoint, tmp_path / "whole", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["trials"] == TRIALS
    assert report["latencies"] == "predicted"
    for member in report["front"]:
        model = (tmp_path / "whole" / member["file"]).read_bytes()
        onnx.checker.check_model(onnx.load_from_string(model))
        assert member["size_bytes"] == len(model)
        assert (
            member["predicted_lower_ms"] <= member["objectives"]["latency_ms"] <= member["predicted_upper_ms"]
        )
        assert 0 <= member["test_accuracy"] <= 1

    advance, calls = loop.advance, []

    def interrupted(*args: object, **kwargs: object) -> loop.Step:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return advance(*args, **kwargs)

    monkeypatch.setattr(loop, "advance", interrupted)
    assert main(arguments(checkpoint, tmp_path / "cut")) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(arguments(checkpoint, tmp_path / "cut")) == 0
    assert len(calls) == 4 + TRIALS - 3
    files = {
        path.relative_to(tmp_path / "whole"): path.read_bytes() for path in (tmp_path / "whole").rglob("*.*")
    }
    again = {
        path.relative_to(tmp_path / "cut"): path.read_bytes() for path in (tmp_path / "cut").rglob("*.*")
    }
    assert again == files

    assert main(arguments(checkpoint, tmp_path / "cut", "--seed", "1")) == 1
    assert "seed 0 (asked: 1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trials", "0"], "trial_count"),
        (["--max-latency-ms", "-1"], "max_latency_ms"),
        (["--objectives", "accuracy", "accuracy"], "distinct"),
        (["--checkpoint", "no such file"], "no such file"),
        (["--checkpoint", __file__], "checkpoint"),
    ],
)
def test_mistakes_are_named(
    more: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(checkpoint, tmp_path / "out", *more)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
