"""Every shared real model is measured through the box, or refused with an error that names the operator or
axis.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from devices.errors import FailureCode, MissingInputSizes, ModelRejected
from devices.measurement import Level, Measurement, MeasurementPlan
from devices.model_ref import ModelRef, sha256_of
from devices.sandbox import MeasurementRequest, run_measurement
from devices.target import Runtime

MANIFEST = Path(os.environ.get("LAPTIME_DATA", "")) / "models" / "manifest.json"
ENTRIES: dict[str, dict[str, object]] = json.loads(MANIFEST.read_text()) if MANIFEST.is_file() else {}
DISTURBED = "preempted"  # what else runs on the machine is no defect of ours, and the verdict tells of it
RUNTIME = Runtime(engine="onnxruntime", version="1.31", provider="cpu", threads=1)


def outcome(model: bytes, shapes: object) -> Measurement | ModelRejected:
    """The measurement at level quick, or the refusal; anything else is a failure of the test."""
    request = MeasurementRequest(
        device_key="bench",
        runtime=RUNTIME,
        model=ModelRef.model_validate({"sha256": sha256_of(model), "input_shapes": shapes or {}}),
        plan=MeasurementPlan(level=Level.QUICK),
    )
    try:
        return run_measurement(request, model)
    except ModelRejected as refusal:
        return refusal


@pytest.mark.parametrize("name", sorted(ENTRIES) or ["no models"])
def test_a_real_model_is_measured_or_refused_by_name(shared_models: Path, name: str) -> None:
    found = outcome((shared_models / name).read_bytes(), ENTRIES[name].get("input_shapes"))
    if isinstance(found, MissingInputSizes):
        assert found.missing
    elif isinstance(found, ModelRejected):
        assert found.code is FailureCode.OPERATOR_UNSUPPORTED, found
        assert "operator" in str(found)
    else:
        assert found.estimate.median_ms > 0
        assert found.estimate.sample_count >= 10
        broken = {reason.partition(":")[0] for reason in found.verdict.reasons}
        assert broken <= {DISTURBED}, found.verdict.reasons


def test_old_files_are_told_what_slows_them_down(shared_models: Path) -> None:
    """ultraface_rfb320 lists its weights as inputs; without them there it runs in half the time."""
    found = outcome((shared_models / "ultraface_rfb320.onnx").read_bytes(), None)
    assert isinstance(found, Measurement)
    assert any("listed as graph inputs" in note for note in found.notes)
