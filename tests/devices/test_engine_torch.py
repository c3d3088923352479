"""PyTorch behind the Protocol: the contract, each operator against ONNX Runtime, what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from onnx import TensorProto, helper

pytest.importorskip("torch", reason="torch is not installed")

import torch

from devices.engine import Engine
from devices.engines import torch_graph
from devices.engines.faithful import find_fault, run_reference
from devices.engines.torch import TorchEngine, TorchSession, failure_of_run
from devices.errors import EngineUnavailable, FailureCode, ModelRejected
from devices.target import Runtime
from tests.contracts.engine_contract import EngineContract
from tests.devices import onnx_models
from tests.devices.onnx_models import value, weight

CPU = Runtime(engine="torch", version="2.13", provider="cpu", threads=1)
IMAGE = (1, 4, 9, 8)


class TestTorchEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return TorchEngine()

    @pytest.fixture
    def model(self) -> bytes:
        return onnx_models.two_layers()


def load(model: bytes) -> TorchSession:
    return TorchEngine().load(model, CPU, {})


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def one_operator(
    kind: str,
    constants: Sequence[np.ndarray | None] = (),
    *,
    shape: Sequence[int] = IMAGE,
    opset: int = 18,
    outputs: int = 1,
    y_type: int = TensorProto.FLOAT,
    **attributes: object,
) -> bytes:
    """x of `shape`, minus a half, into one operator with constant further inputs; its first output is y."""
    names = ["" if array is None else f"c{index}" for index, array in enumerate(constants)]
    nodes = [
        helper.make_node("Sub", ["x", "half"], ["h"]),
        helper.make_node(kind, ["h", *names], ["y", *(f"o{n}" for n in range(1, outputs))], **attributes),
    ]
    weights = [weight(name, array) for name, array in zip(names, constants, strict=True) if array is not None]
    weights.append(weight("half", np.array(0.5, np.float32)))
    output = value("y", None, y_type)
    return onnx_models.file(nodes, [value("x", shape)], weights=weights, opset=opset, output=output)


RECURRENT = {"shape": (5, 2, 3), "hidden_size": 4}
OPERATORS: Mapping[str, bytes] = {
    "Conv, asymmetric pads": one_operator("Conv", [noise(6, 4, 3, 3), noise(6)], pads=[1, 0, 2, 1]),
    "Conv, groups and SAME_UPPER": one_operator(
        "Conv", [noise(8, 1, 3, 3)], group=4, strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "Conv, one axis, dilated": one_operator("Conv", [noise(2, 4, 3)], shape=(1, 4, 20), dilations=[2]),
    "ConvTranspose": one_operator(
        "ConvTranspose", [noise(4, 3, 3, 3)], strides=[2, 2], pads=[1, 1, 0, 0], output_padding=[1, 0]
    ),
    "MaxPool, wide pads": one_operator("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[2, 2, 2, 2]),
    "MaxPool, rounded up": one_operator("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "AveragePool, pads not counted": one_operator("AveragePool", kernel_shape=[3, 3], pads=[0, 0, 1, 1]),
    "AveragePool, pads counted": one_operator(
        "AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "GlobalAveragePool": one_operator("GlobalAveragePool"),
    "GlobalMaxPool": one_operator("GlobalMaxPool"),
    "BatchNormalization": one_operator("BatchNormalization", [noise(4), noise(4), noise(4), ones(4)]),
    "InstanceNormalization": one_operator("InstanceNormalization", [noise(4), noise(4)]),
    "LayerNormalization": one_operator("LayerNormalization", [noise(9, 8), noise(9, 8)], axis=-2),
    "LRN": one_operator("LRN", size=3, alpha=0.1),
    "Gemm, turned and scaled": one_operator(
        "Gemm", [noise(6, 5), noise(4, 5)], shape=(6, 4), transA=1, alpha=0.5, beta=2.0
    ),
    "Gemm, as a linear layer": one_operator("Gemm", [noise(5, 4), noise(5)], shape=(2, 4), transB=1),
    "MatMul": one_operator("MatMul", [noise(8, 3)]),
    "Einsum": one_operator("Einsum", [noise(8, 3)], equation="nchw,wk->nchk"),
    "LSTM": one_operator("LSTM", [noise(1, 16, 3), noise(1, 16, 4), noise(1, 32)], **RECURRENT),
    "LSTM, both ways, from a state": one_operator(
        "LSTM",
        [noise(2, 16, 3), noise(2, 16, 4), None, None, noise(2, 2, 4), noise(2, 2, 4)],
        direction="bidirectional",
        **RECURRENT,
    ),
    "GRU, backwards": one_operator(
        "GRU",
        [noise(1, 12, 3), noise(1, 12, 4), noise(1, 24)],
        linear_before_reset=1,
        direction="reverse",
        **RECURRENT,
    ),
    "RNN": one_operator("RNN", [noise(1, 4, 3), noise(1, 4, 4)], **RECURRENT),
    "Softmax, old": one_operator("Softmax", opset=11, axis=1),
    "LogSoftmax": one_operator("LogSoftmax", axis=1),
    "Clip": one_operator("Clip", [None, np.array(0.25, np.float32)]),
    "Clip, old": one_operator("Clip", opset=10, min=-0.1, max=0.2),
    "PRelu": one_operator("PRelu", [noise(4, 1, 1)]),
    "LeakyRelu": one_operator("LeakyRelu", alpha=0.3),
    "Elu": one_operator("Elu", alpha=0.7),
    "HardSigmoid": one_operator("HardSigmoid"),
    "HardSwish": one_operator("HardSwish"),
    "Gelu": one_operator("Gelu", opset=20, approximate="tanh"),
    "Erf": one_operator("Erf"),
    "Pow": one_operator("Pow", [np.array(2.0, np.float32)]),
    "Mod": one_operator("Mod", [np.array(0.3, np.float32)], fmod=1),
    "ReduceMean, old": one_operator("ReduceMean", opset=11, axes=[2, 3], keepdims=0),
    "ReduceL2": one_operator("ReduceL2", [integers(1)]),
    "ReduceProd": one_operator("ReduceProd", [integers(2, 3)], keepdims=0),
    "ReduceLogSumExp": one_operator("ReduceLogSumExp", [integers(-1)]),
    "ArgMax": one_operator("ArgMax", y_type=TensorProto.INT64, axis=1),
    "Reshape": one_operator("Reshape", [integers(0, 2, -1)]),
    "Flatten": one_operator("Flatten", axis=2),
    "Squeeze": one_operator("Squeeze", [integers(0)]),
    "Unsqueeze": one_operator("Unsqueeze", [integers(0, -1)]),
    "Transpose": one_operator("Transpose", perm=[0, 2, 3, 1]),
    "Split": one_operator("Split", [integers(1, 3)], axis=1, outputs=2),
    "Slice, backwards": one_operator("Slice", [integers(7), integers(0), integers(2), integers(-2)]),
    "Slice, old": one_operator("Slice", opset=9, starts=[1, -3], ends=[9, 1000], axes=[2, 3]),
    "Gather, one": one_operator("Gather", [np.array(-1, np.int64)], axis=1),
    "Gather, several": one_operator("Gather", [integers(2, 0, -1)], axis=2),
    "GatherElements": one_operator("GatherElements", [np.zeros((1, 4, 1, 8), np.int64)], axis=2),
    "GatherND": one_operator("GatherND", [np.array([[0, 1], [0, 3]], np.int64)]),
    "ScatterND": one_operator("ScatterND", [np.array([[0, 2]], np.int64), noise(1, 9, 8)]),
    "Expand": one_operator("Expand", [integers(3, 1, 1, 1)]),
    "Tile": one_operator("Tile", [integers(1, 2, 1, 1)]),
    "Pad": one_operator("Pad", [integers(0, 0, 1, 2, 0, 0, 0, -1), np.array(0.5, np.float32)]),
    "Pad, reflected": one_operator("Pad", [integers(0, 0, 1, 2, 0, 0, 0, 1)], mode="reflect"),
    "DepthToSpace": one_operator("DepthToSpace", blocksize=2),
    "DepthToSpace, CRD": one_operator("DepthToSpace", blocksize=2, mode="CRD"),
    "SpaceToDepth": one_operator("SpaceToDepth", shape=(1, 4, 6, 8), blocksize=2),
    "Resize, nearest": one_operator(
        "Resize",
        [None, np.array([1, 1, 2, 2], np.float32)],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "Resize, linear": one_operator("Resize", [None, None, integers(1, 4, 18, 5)], mode="linear"),
    "Upsample": one_operator("Upsample", [np.array([1, 1, 2, 3], np.float32)], opset=9, mode="nearest"),
    "TopK": one_operator("TopK", [integers(3)], axis=1, outputs=2),
    "CumSum": one_operator("CumSum", [np.array(2, np.int64)]),
    "Trilu": one_operator("Trilu", [np.array(1, np.int64)], upper=0),
}


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_an_operator_computes_what_onnx_runtime_computes(name: str) -> None:
    """`load` compares: it refuses other numbers."""
    session = load(OPERATORS[name])
    assert session.notes == ()
    assert session.program.steps[-1].kind == name.partition(",")[0]


# What half precision orders otherwise, of noise; and what PyTorch computes in half precision on GPUs only.
UNLIKE_IN_HALF = ("ArgMax", "TopK", "LRN")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name", sorted(name for name in OPERATORS if name.partition(",")[0] not in UNLIKE_IN_HALF)
)
def test_half_precision_computes_the_same_but_for_rounding(name: str, dtype: torch.dtype) -> None:
    """What is given and what comes back are float32, what is computed in between is half."""
    model = OPERATORS[name]
    reference = run_reference(model, {}, precision="bf16")
    examples = {key: torch.from_numpy(value.copy()) for key, value in reference.tensors.items()}
    program = torch_graph.read_program(model, examples, torch.device("cpu"), dtype)
    found = program(*examples.values())
    outputs = dict(zip(reference.outputs, (value.numpy() for value in found), strict=True))
    assert find_fault(reference.outputs, outputs, is_rounded=True) is None
    assert outputs["y"].dtype == reference.outputs["y"].dtype
    assert program.steps[0].kind == "Cast"


def test_half_precision_converts_casts_and_leaves_scales_of_sizes() -> None:
    """x (float32) -> Cast to double -> Cast to float -> Resize by a scale that half precision cannot hold."""
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["d"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Resize", ["f", "", "scales"], ["y"], mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]  # fmt: skip
    scales = weight("scales", np.array([1, 1, 4 / 3, 4 / 3], np.float32))
    model = onnx_models.file(nodes, [value("x", [1, 1, 30, 30])], weights=[scales])
    given = torch.rand(1, 1, 30, 30)
    program = torch_graph.read_program(model, {"x": given}, torch.device("cpu"), torch.bfloat16)
    (found,) = program(given)
    assert (found.shape, found.dtype) == (torch.Size([1, 1, 40, 40]), torch.float32)
    assert [step.kind for step in program.steps] == ["Cast", "Cast", "Cast", "Resize", "Cast"]


def test_a_gpu_is_offered_in_each_precision_and_as_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    engine = TorchEngine()
    keys = [runtime.key.partition("/")[2] for runtime in engine.runtimes([2, 1])]
    assert keys == ["cpu/t2", "cpu/t1", "cuda/t2", "cuda/t2/fp16", "cuda/t2/bf16"]
    recorded = engine.runtimes([1], ["cuda-graph"])
    assert [runtime.key.partition("/")[2] for runtime in recorded] == [
        "cuda/t1/opt-cuda-graph", "cuda/t1/fp16/opt-cuda-graph", "cuda/t1/bf16/opt-cuda-graph"
    ]  # fmt: skip


@pytest.mark.parametrize("changes", [{"precision": "fp16"}, {"optimization": "cuda-graph"}])
def test_the_processor_is_offered_as_it_is(changes: Mapping[str, str]) -> None:
    with pytest.raises(EngineUnavailable, match=f"has no .* '{next(iter(changes.values()))}' here"):
        TorchEngine().load(onnx_models.two_layers(), CPU.model_copy(update=dict(changes)), {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch reports")
@pytest.mark.parametrize("optimization", ["default", "cuda-graph"])
@pytest.mark.parametrize("precision", ["native", "fp16", "bf16"])
def test_a_gpu_computes_what_onnx_runtime_computes(precision: str, optimization: str) -> None:
    gpu = CPU.model_copy(update={"provider": "cuda", "precision": precision, "optimization": optimization})
    for name in sorted(OPERATORS):
        assert TorchEngine().load(OPERATORS[name], gpu, {}).notes == ()


def test_what_depends_on_sizes_alone_is_not_computed_in_a_run() -> None:
    """x -> Shape -> Gather -> Concat -> Reshape, as exporters write `x.reshape(len(x), -1)`, times weights
    made by ConstantOfShape, in the branch of a condition that is known.
    """
    branch = helper.make_graph(
        [helper.make_node("Mul", ["r", "filled"], ["z"])], "then", [], [value("z", None)]
    )
    other = helper.make_graph([helper.make_node("Neg", ["r"], ["n"])], "else", [], [value("n", None)])
    filled = helper.make_tensor("v", TensorProto.FLOAT, [1], [3.0])
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n0"], axis=0),
        helper.make_node("Unsqueeze", ["n0", "zeros"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["r"]),
        helper.make_node("ConstantOfShape", ["n1"], ["filled"], value=filled),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=other),
    ]
    weights = [weight("zero", np.array(0, np.int64)), weight("zeros", integers(0))]
    weights += [weight("rest", integers(-1)), weight("yes", np.array([True]))]
    session = load(onnx_models.file(nodes, [value("x", [1, 2, 3])], weights=weights))
    assert [step.kind for step in session.program.steps] == ["Reshape", "Mul"]
    found = session.run({"x": np.ones((1, 2, 3), np.float32)})["y"]
    np.testing.assert_array_equal(found, np.full((1, 6), 3, np.float32))


def test_no_step_keeps_what_later_steps_do_not_read() -> None:
    session = TorchEngine().load(onnx_models.two_layers(), CPU, {"x": (1, 8)})
    assert [step.kind for step in session.program.steps] == ["MatMul", "Relu"]
    product, activation = session.program.steps
    assert set(product.released) == set(session.program.inputs)
    assert activation.released == product.results


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            one_operator("QuantizeLinear", [np.array(0.1, np.float32)], y_type=TensorProto.UINT8),
            "'QuantizeLinear'",
        ),
        (one_operator("MaxPool", kernel_shape=[2, 2], outputs=2), "'MaxPool'.*places of the maxima"),
        (one_operator("LSTM", [noise(1, 16, 3), noise(1, 16, 4)], clip=1.0, **RECURRENT), "clipped"),
        (one_operator("Unique", outputs=1), "'Unique'"),
    ],
)
def test_what_it_does_not_run_is_named(model: bytes, words: str) -> None:
    with pytest.raises(ModelRejected, match=words) as caught:
        load(model)
    assert caught.value.code is FailureCode.OPERATOR_UNSUPPORTED


def test_sizes_that_depend_on_values_are_refused() -> None:
    """A mask is made of ones, so the reference runs; other values would give another size."""
    nodes = [
        helper.make_node("Cast", ["mask"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Expand", ["x", "sizes"], ["y"]),
    ]
    model = onnx_models.file(nodes, [value("x", [1]), value("mask", [1], TensorProto.INT32)])
    with pytest.raises(ModelRejected, match=r"'Expand'.*its input 1 depends on what the model is given"):
        load(model)


def test_a_conversion_that_changes_the_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**torch_graph.OPERATORS, "Relu": lambda _: torch.neg}
    monkeypatch.setattr(torch_graph, "OPERATORS", wrong)
    with pytest.raises(ModelRejected, match="'y' has a signal-to-noise ratio") as caught:
        TorchEngine().load(onnx_models.two_layers(), CPU, {"x": (1, 8)})
    assert caught.value.code is FailureCode.CONVERSION_UNFAITHFUL


def test_the_runtime_decides_about_threads() -> None:
    before = torch.get_num_threads()
    try:
        TorchEngine().load(onnx_models.two_layers(), CPU.model_copy(update={"threads": 2}), {"x": (1, 8)})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_want_of_memory_is_told_apart() -> None:
    message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 64000000000 bytes"
    assert failure_of_run(RuntimeError(message)).code is FailureCode.OUT_OF_MEMORY
    assert failure_of_run(RuntimeError("shapes do not match")).code is FailureCode.INPUTS_INVALID


@pytest.mark.parametrize("model", [b"", b"not protobuf at all"])
def test_what_is_no_model_is_invalid(model: bytes) -> None:
    with pytest.raises(ModelRejected) as caught:
        load(model)
    assert caught.value.code is FailureCode.MODEL_INVALID
