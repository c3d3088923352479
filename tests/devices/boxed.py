"""A measurement in the box, as engines that convert models have it."""

from __future__ import annotations

from devices.measurement import Level, MeasurementPlan
from devices.model_ref import ModelRef, sha256_of
from devices.sandbox import MeasurementRequest, run_measurement
from devices.target import Runtime
from tests.devices import onnx_models


def assert_works_in_the_box(runtime: Runtime) -> None:
    """The converter may write files there, and whatever its memory took is no need of the model."""
    model = onnx_models.convolutions()
    request = MeasurementRequest(
        device_key="bench",
        runtime=runtime,
        model=ModelRef(sha256=sha256_of(model)),
        plan=MeasurementPlan(level=Level.QUICK),
    )
    measurement = run_measurement(request, model)
    assert measurement.estimate.median_ms > 0
    assert measurement.runtime == runtime
