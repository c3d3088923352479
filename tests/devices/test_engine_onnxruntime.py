"""ONNX Runtime behind the Protocol: the contract, and what its errors mean."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from devices.engine import Engine
from devices.engines.onnxruntime import (
    OnnxRuntimeEngine,
    failure_of_load,
    failure_of_run,
    layer_profile,
    session_options,
    slug_of_provider,
)
from devices.errors import FailureCode, ModelRejected, WorkFailed
from devices.target import Runtime
from tests.contracts.engine_contract import EngineContract
from tests.devices import onnx_models

CPU = Runtime(engine="onnxruntime", version=ort.__version__, provider="cpu", threads=1)


class TestOnnxRuntimeEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return OnnxRuntimeEngine()

    @pytest.fixture
    def model(self) -> bytes:
        return onnx_models.two_layers()

    @pytest.fixture(autouse=True)
    def scratch(self, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(str(tmp_path))  # the profile is written into the working directory


def load(model: bytes) -> object:
    return OnnxRuntimeEngine().load(model, CPU, {})


def test_a_run_computes_what_the_model_says() -> None:
    session = OnnxRuntimeEngine().load(onnx_models.two_layers(), CPU, {})
    x = np.ones((1, 8), np.float32)
    expected = np.maximum(x @ np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4), 0)
    np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-5)


def test_remote_providers_are_not_offered() -> None:
    providers = {runtime.provider for runtime in OnnxRuntimeEngine().runtimes([1])}
    assert "cpu" in providers
    assert "azure" not in providers
    assert providers <= {slug_of_provider(name) for name in ort.get_available_providers()}


def test_the_runtime_decides_about_threads() -> None:
    options = session_options(CPU.model_copy(update={"threads": 3}))
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL


@pytest.mark.parametrize(
    ("model", "operator"),
    [
        (onnx_models.unknown_operator(), "Frobnicate"),
        (onnx_models.unknown_operator("com.example"), "com.example:Frobnicate"),
    ],
)
def test_an_unknown_operator_is_named(model: bytes, operator: str) -> None:
    with pytest.raises(ModelRejected, match=operator) as caught:
        load(model)
    assert caught.value.code is FailureCode.OPERATOR_UNSUPPORTED


@pytest.mark.parametrize("model", [b"", b"not protobuf at all", onnx_models.two_layers()[:-40]])
def test_what_is_no_model_is_invalid(model: bytes) -> None:
    with pytest.raises(ModelRejected) as caught:
        load(model)
    assert caught.value.code is FailureCode.MODEL_INVALID


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "weights.bin"])
def test_weights_in_other_files_are_refused(location: str) -> None:
    with pytest.raises(ModelRejected):
        load(onnx_models.external_data(location))


@pytest.mark.parametrize(
    ("kind", "word"), [(TensorProto.STRING, "string"), (TensorProto.BFLOAT16, "bfloat16")]
)
def test_types_without_a_typical_value_are_refused(kind: int, word: str) -> None:
    with pytest.raises(ModelRejected, match=word) as caught:
        load(onnx_models.with_input(kind))
    assert caught.value.code is FailureCode.INPUTS_INVALID


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.INT64, "int64"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.BOOL, "bool"),
    ],
)
def test_dtypes_and_axes_are_declared(kind: int, dtype: str) -> None:
    session = OnnxRuntimeEngine().load(onnx_models.with_input(kind, (1, "n", None)), CPU, {})
    (spec,) = session.inputs
    assert (spec.name, spec.dtype, spec.shape) == ("x", dtype, (1, "n", None))


def test_levels_of_optimisation_are_runtimes_that_compute_the_same() -> None:
    engine = OnnxRuntimeEngine()
    levels = ["default", "none", "basic", "extended"]
    runtimes = [r for r in engine.runtimes([1], levels) if r.provider == "cpu"]
    assert [r.optimization for r in runtimes] == levels
    chosen = [session_options(r).graph_optimization_level for r in runtimes]
    assert len(set(chosen)) == len(levels)
    x = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    outputs = [engine.load(onnx_models.convolutions(), r, {}).run({"x": x})["y"] for r in runtimes]
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], rtol=1e-4, atol=1e-4)


def test_sizes_that_do_not_fit_are_invalid_inputs() -> None:
    session = OnnxRuntimeEngine().load(onnx_models.mismatched_sizes(), CPU, {})
    with pytest.raises(WorkFailed, match="MatMul") as caught:
        session.run({"x": np.zeros((1, 5), np.float32)})
    assert caught.value.code is FailureCode.INPUTS_INVALID


@pytest.mark.parametrize(
    "message",
    ["std::bad_alloc", "bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 160"],
)
def test_want_of_memory_is_told_apart(message: str) -> None:
    for failure in (failure_of_load(RuntimeError(message)), failure_of_run(RuntimeError(message))):
        assert isinstance(failure, WorkFailed)
        assert failure.code is FailureCode.OUT_OF_MEMORY


def test_weights_listed_as_inputs_are_a_finding_and_no_inputs() -> None:
    old = OnnxRuntimeEngine().load(onnx_models.convolutions(are_weights_inputs=True), CPU, {})
    new = OnnxRuntimeEngine().load(onnx_models.convolutions(), CPU, {})
    assert [spec.name for spec in old.inputs] == [spec.name for spec in new.inputs] == ["x"]
    assert "5 weights are listed as graph inputs" in old.notes[0]
    assert new.notes == ()


def test_layer_times_are_medians_without_the_first_run() -> None:
    """Three runs of two nodes: the first is left out, so 20 and 30 us of `a`, 5 and 7 of `b`, of 40 and 60 in
    total.
    """

    def events(a: int, b: int, total: int) -> list[dict[str, object]]:
        node = {"cat": "Node", "args": {"op_name": "Conv", "provider": "CPUExecutionProvider"}}
        return [
            {**node, "name": "a_kernel_time", "dur": a},
            {**node, "name": "a_fence_before", "dur": 1},
            {**node, "name": "b_kernel_time", "dur": b},
            {"cat": "Session", "name": "model_run", "dur": total},
        ]

    profile = layer_profile([*events(900, 900, 9000), *events(20, 5, 40), *events(30, 7, 60)])
    assert profile is not None
    assert [(layer.name, layer.kind, layer.provider, layer.median_ns) for layer in profile.layers] == [
        ("a", "Conv", "cpu", 25_000),
        ("b", "Conv", "cpu", 6_000),
    ]
    assert profile.coverage == pytest.approx(31 / 50)
    assert layer_profile([]) is None
