"""MNN behind the Protocol: the contract, and the refusal of what it converts wrongly or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("MNN", reason="MNN is not installed")

from devices.engine import Engine
from devices.engines import mnn
from devices.engines.conversion import Conversion
from devices.engines.mnn import MnnEngine, failure_of_conversion
from devices.errors import EngineUnavailable, FailureCode, ModelRejected, WorkFailed
from devices.target import Runtime
from tests.contracts.engine_contract import EngineContract
from tests.devices import onnx_models
from tests.devices.boxed import assert_works_in_the_box

CPU = Runtime(engine="mnn", version="3.6", provider="cpu", threads=1)


class TestMnnEngine(EngineContract):
    tells_layers = False

    @pytest.fixture
    def engine(self) -> Engine:
        return MnnEngine()

    @pytest.fixture
    def model(self) -> bytes:
        return onnx_models.two_layers()


def test_convolutions_compute_what_the_model_says_for_each_batch() -> None:
    session = MnnEngine().load(onnx_models.convolutions(), CPU, {})
    assert session.notes == ()
    assert session.run({"x": np.ones((1, 3, 32, 32), np.float32)})["y"].shape == (1, 16, 30, 30)
    pair = MnnEngine().load(onnx_models.two_layers(), CPU, {"x": (2, 8)})
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    expected = np.maximum(x @ np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4), 0)
    np.testing.assert_allclose(pair.run({"x": x})["y"], expected, rtol=1e-5)


def test_native_precision_is_float32_even_where_the_processor_has_less() -> None:
    """x = 1 + 2^-10 is lost in bfloat16, and sums of it in float16."""
    session = MnnEngine().load(onnx_models.two_layers(), CPU, {"x": (1, 8)})
    x = np.full((1, 8), 1 + 2**-10, np.float32)
    expected = np.maximum(x @ np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4), 0)
    np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-5)
    with pytest.raises(EngineUnavailable, match="native"):
        MnnEngine().load(
            onnx_models.two_layers(), CPU.model_copy(update={"precision": "fp16"}), {"x": (1, 8)}
        )


def test_a_conversion_that_changes_the_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = mnn.convert
    other = onnx_models.two_layers(low=1.0)

    def wrong(model: bytes, folder: Path, library: str) -> Path:
        return real(other, folder, library)

    monkeypatch.setattr(mnn, "convert", wrong)
    with pytest.raises(ModelRejected, match="'y' has a signal-to-noise ratio") as caught:
        MnnEngine().load(onnx_models.two_layers(), CPU, {"x": (1, 8)})
    assert caught.value.code is FailureCode.CONVERSION_UNFAITHFUL


def test_an_operator_that_only_it_lacks_is_named() -> None:
    with pytest.raises(ModelRejected, match="IsNaN") as caught:
        MnnEngine().load(onnx_models.is_nan(), CPU, {})
    assert caught.value.code is FailureCode.OPERATOR_UNSUPPORTED


@pytest.mark.parametrize("model", [b"", b"not protobuf at all"])
def test_what_is_no_model_is_invalid(model: bytes) -> None:
    with pytest.raises(ModelRejected) as caught:
        MnnEngine().load(model, CPU, {})
    assert caught.value.code is FailureCode.MODEL_INVALID


def test_weights_in_other_files_are_refused_before_the_converter_could_read_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mnn, "convert", lambda *_: pytest.fail("the converter was called"))
    with pytest.raises(ModelRejected):
        MnnEngine().load(onnx_models.external_data("/etc/passwd"), CPU, {})


def test_the_end_of_a_converter_is_understood() -> None:
    memory = failure_of_conversion(Conversion(-6, "terminate called: std::bad_alloc"), "MNN")
    assert isinstance(memory, WorkFailed)
    assert memory.code is FailureCode.OUT_OF_MEMORY
    crash = failure_of_conversion(Conversion(-11, ""), "MNN")
    assert "status -11" in str(crash)
    assert "printed nothing" in str(crash)


def test_it_works_in_the_box() -> None:
    assert_works_in_the_box(CPU)
