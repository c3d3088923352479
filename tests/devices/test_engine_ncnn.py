"""ncnn behind the Protocol: the contract, and the refusal of what pnnx converts wrongly or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("ncnn", reason="ncnn is not installed")
pytest.importorskip("pnnx", reason="pnnx is not installed")

from devices.engine import Engine
from devices.engines import ncnn
from devices.engines.conversion import Conversion
from devices.engines.faithful import Reference
from devices.engines.ncnn import NcnnEngine, failure_of_conversion
from devices.engines.onnx_bytes import without_weights_among_inputs
from devices.errors import EngineUnavailable, FailureCode, ModelRejected, WorkFailed
from devices.target import Runtime
from tests.contracts.engine_contract import EngineContract
from tests.devices import onnx_models
from tests.devices.boxed import assert_works_in_the_box

CPU = Runtime(engine="ncnn", version="1.0", provider="cpu", threads=1)


class TestNcnnEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return NcnnEngine()

    @pytest.fixture
    def model(self) -> bytes:
        return onnx_models.two_layers()


def test_convolutions_compute_what_the_model_says() -> None:
    """Also from a file that lists its weights as inputs, which pnnx takes for inputs to be given."""
    for are_weights_inputs in (False, True):
        model = onnx_models.convolutions(are_weights_inputs=are_weights_inputs)
        session = NcnnEngine().load(model, CPU, {})
        assert session.run({"x": np.ones((1, 3, 32, 32), np.float32)})["y"].shape == (1, 16, 30, 30)


def test_a_conversion_that_changes_the_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ncnn.convert
    other = onnx_models.two_layers(low=1.0)

    def wrong(pnnx: Path, model: bytes, folder: Path, reference: Reference, library: str) -> None:
        real(pnnx, other, folder, reference, library)

    monkeypatch.setattr(ncnn, "convert", wrong)
    with pytest.raises(ModelRejected, match="'y' has a signal-to-noise ratio") as caught:
        NcnnEngine().load(onnx_models.two_layers(), CPU, {"x": (1, 8)})
    assert caught.value.code is FailureCode.CONVERSION_UNFAITHFUL


def test_an_operator_that_only_it_lacks_is_named() -> None:
    with pytest.raises(ModelRejected, match=r"operator.*(?i:isnan)") as caught:
        NcnnEngine().load(onnx_models.is_nan(), CPU, {})
    assert caught.value.code is FailureCode.OPERATOR_UNSUPPORTED


def test_an_input_without_axes_is_refused() -> None:
    with pytest.raises(ModelRejected, match="no input without axes, such as 'x'") as caught:
        NcnnEngine().load(onnx_models.with_input(onnx.TensorProto.FLOAT, ()), CPU, {})
    assert caught.value.code is FailureCode.OPERATOR_UNSUPPORTED


def test_without_its_converter_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncnn.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EngineUnavailable, match="--no-deps pnnx"):
        NcnnEngine()


def test_the_end_of_a_converter_is_understood() -> None:
    memory = failure_of_conversion(Conversion(-6, "std::bad_alloc"), (), "ncnn")
    assert isinstance(memory, WorkFailed)
    assert memory.code is FailureCode.OUT_OF_MEMORY
    named = failure_of_conversion(Conversion(0, ""), ("LSTM", "LSTM", "Pad"), "ncnn")
    assert "'LSTM, Pad'" in str(named)
    told = failure_of_conversion(Conversion(-11, "ort Run failed no kernel\nmore"), (), "ncnn")
    assert str(told).endswith("status -11): no kernel")


def test_only_weights_leave_the_list_of_inputs() -> None:
    old = onnx_models.convolutions(are_weights_inputs=True)
    new = onnx.load_model_from_string(without_weights_among_inputs(old))
    assert new == onnx.load_model_from_string(onnx_models.convolutions())
    untouched = onnx_models.two_layers()
    assert onnx.load_model_from_string(without_weights_among_inputs(untouched)) == (
        onnx.load_model_from_string(untouched)
    )


@pytest.mark.parametrize("data", [b"\x3a\xff", b"\x3a\x80", b"\x0b\x00"])
def test_bytes_that_are_no_fields_are_no_model(data: bytes) -> None:
    with pytest.raises(ModelRejected, match="no ONNX model"):
        without_weights_among_inputs(data)


def test_it_works_in_the_box() -> None:
    assert_works_in_the_box(CPU)
