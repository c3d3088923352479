"""OpenVINO behind the Protocol: the contract, and what its errors mean."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from devices.errors import EngineUnavailable, FailureCode, ModelRejected, WorkFailed
from devices.target import Runtime

pytest.importorskip("openvino", reason="openvino is not installed")

from devices.engine import Engine
from devices.engines.faithful import find_fault, run_reference
from devices.engines.openvino import OpenVinoEngine, OpenVinoSession, failure_of_load, failure_of_run
from tests.contracts.engine_contract import EngineContract
from tests.devices import onnx_models

CPU = Runtime(engine="openvino", version="2026.4", provider="cpu", threads=1)


class TestOpenVinoEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return OpenVinoEngine()

    @pytest.fixture
    def model(self) -> bytes:
        return onnx_models.two_layers()


def test_native_precision_is_float32_even_where_the_processor_has_bfloat16() -> None:
    """x = 1 + 2^-10 is lost in bfloat16, which has 8 bits of mantissa."""
    session = OpenVinoEngine().load(onnx_models.two_layers(), CPU, {"x": (1, 8)})
    x = np.full((1, 8), 1 + 2**-10, np.float32)
    expected = np.maximum(x @ np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4), 0)
    np.testing.assert_allclose(next(iter(session.run({"x": x}).values())), expected, rtol=1e-5)


def test_what_the_first_run_took_is_in_no_layer() -> None:
    """It prepares weights and code, a hundred times what the layer takes afterwards."""
    engine = OpenVinoEngine()
    tensors = {"x": np.ones((1, 8), np.float32)}

    def together_ns(runs: int) -> int:
        """The least of five: a busy neighbour only ever adds. Nothing, where a fast processor needs less than
        the microsecond that OpenVINO counts in.
        """
        profiles = [engine.profile_layers(onnx_models.two_layers(), CPU, tensors, runs) for _ in range(5)]
        known = [sum(layer.median_ns for layer in profile.layers) for profile in profiles if profile]
        return min(known, default=0)

    assert together_ns(runs=4) <= 3 * max(together_ns(runs=100), 4_000)


def test_a_precision_that_it_cannot_convert_to_is_unavailable() -> None:
    with pytest.raises(EngineUnavailable, match="native, fp16, bf16"):
        OpenVinoEngine().load(onnx_models.two_layers(), CPU.model_copy(update={"precision": "int4"}), {})


@pytest.mark.parametrize("domain", ["", "com.example"])
def test_an_unknown_operator_is_named(domain: str) -> None:
    with pytest.raises(ModelRejected, match="Frobnicate") as caught:
        OpenVinoEngine().load(onnx_models.unknown_operator(domain), CPU, {"x": (1, 4)})
    assert caught.value.code is FailureCode.OPERATOR_UNSUPPORTED


def test_an_operator_that_it_cannot_convert_in_this_place_is_named() -> None:
    message = "Model wasn't fully converted.\nSummary:\n-- Conversion is failed for: Conv-16, ReduceMean-16\n"
    failure = failure_of_load(RuntimeError(message), "1.0")
    assert isinstance(failure, ModelRejected)
    assert failure.code is FailureCode.OPERATOR_UNSUPPORTED
    assert "'Conv-16, ReduceMean-16'" in str(failure)


@pytest.mark.parametrize("model", [b"", b"not protobuf at all"])
def test_what_is_no_model_is_invalid(model: bytes) -> None:
    with pytest.raises(ModelRejected) as caught:
        OpenVinoEngine().load(model, CPU, {})
    assert caught.value.code is FailureCode.MODEL_INVALID


@pytest.mark.parametrize("shapes", [{"x": (1, 5)}, {"z": (1, 4)}])
def test_sizes_that_do_not_fit_the_graph_are_refused(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ModelRejected) as caught:
        OpenVinoEngine().load(onnx_models.mismatched_sizes(), CPU, shapes)
    assert caught.value.code is FailureCode.INPUTS_INVALID


def test_text_is_refused() -> None:
    with pytest.raises(ModelRejected, match="string"):
        OpenVinoEngine().load(onnx_models.with_input(TensorProto.STRING), CPU, {})


def test_16_bit_activations_are_refused_where_it_computes_them_wrongly() -> None:
    """OpenVINO 2026.4 does; what is refused and what is wrong must be the same in any version."""
    model = onnx_models.quantised_to_16_bits()
    engine = OpenVinoEngine()
    reference = run_reference(model, {})
    assert reference.is_rounded
    graph, inputs = engine._read(model, CPU, {})
    unchecked = OpenVinoSession(inputs, engine._compile(graph, CPU, {}))
    fault = find_fault(reference.outputs, unchecked.run(reference.tensors), is_rounded=True)
    if fault is None:
        assert engine.load(model, CPU, {}).notes == ()
        return
    with pytest.raises(ModelRejected, match="signal-to-noise") as caught:
        engine.load(model, CPU, {})
    assert caught.value.code is FailureCode.CONVERSION_UNFAITHFUL


def test_another_model_than_was_given_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OpenVinoEngine()
    other = engine._read(onnx_models.two_layers(low=1.0), CPU, {"x": (1, 8)})
    monkeypatch.setattr(OpenVinoEngine, "_read", lambda *_: other)
    with pytest.raises(ModelRejected, match="'y' has a signal-to-noise ratio") as caught:
        engine.load(onnx_models.two_layers(), CPU, {"x": (1, 8)})
    assert caught.value.code is FailureCode.CONVERSION_UNFAITHFUL


def test_a_tensor_that_is_passed_on_keeps_the_name_of_the_file() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["y"]),
    ]
    session = OpenVinoEngine().load(onnx_models.file(nodes, [onnx_models.value("x", [1, 4])]), CPU, {})
    assert set(session.run({"x": np.ones((1, 4), np.float32)})) == {"y"}


def test_declared_axes_stay_dynamic_after_sizes_are_compiled_in() -> None:
    session = OpenVinoEngine().load(onnx_models.two_layers(), CPU, {"x": (2, 8)})
    assert session.inputs[0].shape == (None, 8)


def test_signals_arrive_after_engines_came_and_went() -> None:
    """The runtime changes the signal stack of the thread that loads it; it must never be one that is gone."""
    program = (
        "import os, signal; from devices.engines.openvino import OpenVinoEngine\n"
        "first = OpenVinoEngine(); second = OpenVinoEngine(); del first; del second\n"
        "signal.signal(signal.SIGINT, lambda *_: print('arrived'))\n"
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "arrived\n"), done.stderr


def test_want_of_memory_is_told_apart() -> None:
    for failure in (
        failure_of_load(RuntimeError("std::bad_alloc"), "1"),
        failure_of_run(RuntimeError("std::bad_alloc")),
    ):
        assert isinstance(failure, WorkFailed)
        assert failure.code is FailureCode.OUT_OF_MEMORY
