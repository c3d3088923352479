"""The repeatability command: the same models every time, resumable, and sums that can be checked by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import repeatability
from benchmarks.repeatability import SUBJECTS, Record, Subject, build_model, read_records, run, summarise
from devices.agent.usual_speed import AtUsualSpeed
from devices.measurement import MeasurementPlan
from devices.target import Runtime

RUNTIME = Runtime(engine="onnxruntime", version="1.31", provider="cpu", threads=1)
TINY = Subject("tiny", depth=1, channels=2, size=4, bar_percent=5.0)
RECORD = Record(
    model="tiny", sha256="0" * 64, runtime=RUNTIME.key, level="standard", protocol_version=1, repetition=0,
    median_ms=10.0, observed_median_ms=10.0, cpu_median_ms=9.0, standard_error_ms=0.1, naive_median_ms=10.0,
    canary_ms=0.1, is_valid=True, reasons=(), took_s=1.0,
)  # fmt: skip


def test_models_are_the_same_bytes_for_the_same_seed() -> None:
    assert build_model(SUBJECTS[0], seed=0) == build_model(SUBJECTS[0], seed=0)
    assert build_model(SUBJECTS[0], seed=0) != build_model(SUBJECTS[0], seed=1)


def test_the_summary_by_hand() -> None:
    """Medians 9, 10, 11 vary by 10 %, naive ones 5, 10, 15 by 50 %; the stated error is 0.1 of each."""
    records = [
        replace(RECORD, median_ms=m, observed_median_ms=2 * m, naive_median_ms=n)
        for m, n in ((9, 5), (10, 10), (11, 15))
    ]
    row = summarise(TINY, records)
    assert (row["n"], row["mean_ms"], row["invalid"]) == (3, 10, 0)
    assert (row["cv_percent"], row["cv_naive_percent"]) == (pytest.approx(10), pytest.approx(50))
    assert row["cv_observed_percent"] == pytest.approx(10)
    assert row["meets_bar"] is False
    assert summarise(replace(TINY, bar_percent=10.1), records)["meets_bar"] is True


def test_a_second_run_goes_on_where_the_first_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, int]] = []

    def measure_once(
        subject: Subject,
        model: bytes,
        measure: AtUsualSpeed,
        *,
        runtime: Runtime,
        plan: MeasurementPlan,
        repetition: int,
    ) -> Record:
        measured.append((subject.name, repetition))
        return replace(
            RECORD, model=subject.name, sha256=repeatability.sha256_of(model), repetition=repetition
        )

    monkeypatch.setattr(repeatability, "measure_once", measure_once)
    output = tmp_path / "folder" / "results.jsonl"
    subjects = (TINY, replace(TINY, name="other", size=5))

    def names() -> list[tuple[str, int]]:
        options = {"runtime": RUNTIME, "plan": MeasurementPlan(), "seed": 0, "output": output}
        return [(r.model, r.repetition) for r in run(subjects, count=2, **options)]  # type: ignore[arg-type]

    in_turn = [("tiny", 0), ("other", 0), ("tiny", 1), ("other", 1)]
    assert names() == measured == in_turn
    whole = output.read_text().splitlines(keepends=True)
    output.write_text("".join(whole[:2]) + whole[2][:30])  # killed while the third line was written
    measured.clear()
    assert names() == in_turn
    assert measured == in_turn[2:]
    assert [r.repetition for r in read_records(output)] == [0, 0, 1, 1]


def test_records_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(asdict(replace(RECORD, reasons=("unstable: x",)))) + "\n")
    assert read_records(path) == [replace(RECORD, reasons=("unstable: x",))]
