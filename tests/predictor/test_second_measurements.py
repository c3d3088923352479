"""A measurement made again is judged as a prediction would be."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import second_measurements
from benchmarks.second_measurements import main, measured_twice, said_again
from predictor.benchmarks.graph_metrics import graph_scores, ratios_within
from predictor.campaign.dataset import Row
from tests.predictor.synthetic_target import HARDWARE, RUNTIME


def row(name: str, target: str, passed: int, median_ms: float, **others: object) -> Row:
    fields: dict[str, object] = {
        "family": "residual", "name": name, "precision": "fp32", "is_sweep": False, "graph_digest": "0" * 64,
        "target_key": target, "runtime": RUNTIME, "hardware": HARDWARE, "passed": passed,
        "median_ms": median_ms, "standard_error_ms": 0.0, "layers": None,
    }  # fmt: skip
    return Row(**(fields | others))  # type: ignore[arg-type]


ROWS = [
    row("net", "a/one", 1, 2.0), row("net", "a/one", 0, 1.0),
    row("net", "b/one", 0, 3.0), row("net", "b/one", 1, 4.0), row("net", "b/one", 2, 3.1),
    row("once", "a/one", 0, 1.0),
    row("net", "b/gpu", 0, 1.0, runtime=RUNTIME.model_copy(update={"provider": "cuda"})),
    row("net", "b/gpu", 1, 1.0, runtime=RUNTIME.model_copy(update={"provider": "cuda"})),
    row("add", "a/one", 0, 1.0, is_sweep=True), row("add", "a/one", 1, 1.0, is_sweep=True),
    row("some", "a/one", 0, 1.0, family="medley-rows", is_sweep=True),
    row("some", "a/one", 1, 1.0, family="medley-rows", is_sweep=True),
]  # fmt: skip


def test_the_first_pass_is_the_prediction_of_the_last() -> None:
    measured = measured_twice(ROWS)
    assert measured == {("net", "a/one"): [1.0, 2.0], ("net", "b/one"): [3.0, 4.0, 3.1]}
    said = said_again(measured)
    scores = graph_scores(said)
    assert scores is not None
    assert scores.mape == pytest.approx((0.5 + 0.1 / 3.1) / 2)
    assert (scores.within10, scores.coverage) == (0.5, None)
    assert ratios_within(said) == (1, 0.0)  # a third, then two thirds


def test_devices_are_printed_one_by_one_and_left_out_one_by_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(second_measurements, "read_dataset", lambda path: ROWS if path == Path("x") else [])
    assert main(["--dataset", "x"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a", "b", "all but a", "all but b", "all"]
    assert lines[-1].startswith("all: 2 pairs of 2 targets, median ")
    assert main(["--dataset", "y"]) == 0
    assert capsys.readouterr().out == "all: nothing was measured twice\n"
