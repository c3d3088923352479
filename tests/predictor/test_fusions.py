"""Spelled-out patterns become the kernels that runtimes launch: by hand, and against ONNX Runtime's own
optimised graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import NodeProto
from onnx.helper import make_node as node

from predictor.graph import ModelGraph
from predictor.kernel_costs.table import Flag, View, table_of
from predictor.kernels import Kernel, kernels_of
from predictor.kinds import Family
from predictor.reading.reader import read_graph
from predictor.roofline import KernelClass, class_of
from tests.predictor.onnx_graphs import model_of, noise

SHAPE = (2, 8, 16)
NUMBERS = {
    "one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "half": 0.5, "eps": 1e-5, "root2": 1.4142135,
    "cubic": 0.044715, "rate": 0.7978846, "low": 0.0,
}  # fmt: skip
STORED = {
    **{name: np.asarray(value, np.float32) for name, value in NUMBERS.items()},
    "g": noise(16), "b": noise(16), "w": noise(16, 16), "mask": noise(1, 8, 16), "table": noise(2, 8, 16),
    "k": noise(16, 16, 1, 1),
}  # fmt: skip
VIEWS = {"Reshape", "ReorderInput", "ReorderOutput"}


def variance(x: str) -> list[NodeProto]:
    return [
        node("Pow", [x, "two"], ["square"]),
        node("ReduceMean", ["square"], ["variance"], axes=[-1]),
        node("Add", ["variance", "eps"], ["shifted"]),
        node("Sqrt", ["shifted"], ["root"]),
    ]


def layer_norm(x: str, y: str) -> list[NodeProto]:
    return [
        node("ReduceMean", [x], ["mean"], axes=[-1]),
        node("Sub", [x, "mean"], ["centred"]),
        *variance("centred"),
        node("Div", ["centred", "root"], ["normal"]),
        node("Mul", ["normal", "g"], ["scaled"]),
        node("Add", ["scaled", "b"], [y]),
    ]


RMS = [*variance("x"), node("Div", ["x", "root"], ["n"]), node("Mul", ["g", "n"], ["y"])]
RMS_INVERSE = [
    *variance("x"),
    node("Div", ["one", "root"], ["i"]),
    node("Mul", ["x", "i"], ["n"]),
    node("Mul", ["n", "g"], ["y"]),
]
RMS_RECIPROCAL = [
    *variance("x"),
    node("Reciprocal", ["root"], ["i"]),
    node("Mul", ["x", "i"], ["n"]),
    node("Mul", ["n", "g"], ["y"]),
]
ERF = [
    node("Div", ["x", "root2"], ["a"]),
    node("Erf", ["a"], ["e"]),
    node("Add", ["e", "one"], ["p"]),
]
GELU = [*ERF, node("Mul", ["x", "p"], ["q"]), node("Mul", ["q", "half"], ["y"])]
GELU_HALF_FIRST = [*ERF, node("Mul", ["x", "half"], ["h"]), node("Mul", ["h", "p"], ["y"])]
TANH_GELU = [
    node("Pow", ["x", "three"], ["c"]),
    node("Mul", ["c", "cubic"], ["d"]),
    node("Add", ["x", "d"], ["i"]),
    node("Mul", ["i", "rate"], ["j"]),
    node("Tanh", ["j"], ["t"]),
    node("Add", ["t", "one"], ["p"]),
    node("Mul", ["x", "half"], ["h"]),
    node("Mul", ["h", "p"], ["y"]),
]
SILU = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])]
HARD_SWISH = [
    node("Add", ["x", "three"], ["a"]),
    node("Clip", ["a", "low", "six"], ["c"]),
    node("Mul", ["x", "c"], ["m"]),
    node("Div", ["m", "six"], ["y"]),
]
MISH = [node("Softplus", ["x"], ["s"]), node("Tanh", ["s"], ["t"]), node("Mul", ["x", "t"], ["y"])]


def graph_of(
    nodes: Sequence[NodeProto], shapes: Mapping[str, Sequence[int]] | None = None, outputs: str = "y"
) -> tuple[onnx.ModelProto, ModelGraph]:
    inputs = shapes or {"x": SHAPE}
    read = {name for one in nodes for name in one.input}
    stored = {name: array for name, array in STORED.items() if name in read}
    model = model_of(nodes, inputs, outputs.split(), stored=stored)
    return model, read_graph(model.SerializeToString(), {})


def kernels(
    nodes: Sequence[NodeProto],
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    outputs: str = "y",
    fuses_chains: bool = False,
) -> list[Kernel]:
    return list(kernels_of(graph_of(nodes, shapes, outputs)[1], fuses_chains=fuses_chains))


@pytest.mark.parametrize("fuses_chains", [False, True])
@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        (layer_norm("x", "y"), "LayerNormalization"),
        (RMS, "SimplifiedLayerNormalization"),
        (RMS_INVERSE, "SimplifiedLayerNormalization"),
        (GELU, "Gelu"),
        (GELU_HALF_FIRST, "Gelu"),
        (TANH_GELU, "Gelu"),
        (SILU, "Swish"),
    ],
)
def test_a_spelled_out_operator_is_one_kernel(
    nodes: Sequence[NodeProto], kind: str, fuses_chains: bool
) -> None:
    (kernel,) = kernels(nodes, fuses_chains=fuses_chains)
    assert (kernel.anchor.kind, kernel.launches, len(kernel.members)) == (kind, 1, len(nodes))
    # x comes in once, y leaves; beside them only parameters
    elements = int(np.prod(SHAPE))
    assert kernel.bytes_written == 4 * elements
    assert kernel.bytes_read - kernel.weight_bytes == 4 * elements


def test_it_does_the_work_of_the_operator_that_it_spells() -> None:
    (spelled,) = kernels(layer_norm("x", "y"))
    (whole,) = kernels([node("LayerNormalization", ["x", "g", "b"], ["y"], axis=-1)])
    assert (spelled.work, spelled.scalar_cycles) == (whole.work, whole.scalar_cycles)
    assert class_of(spelled) is class_of(whole) is KernelClass.NORMALISE
    (gelu,) = kernels(GELU)
    assert gelu.work == 10 * np.prod(SHAPE)
    assert class_of(gelu) is KernelClass.ELEMENTWISE


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [(RMS_RECIPROCAL, "SimplifiedLayerNormalization"), (HARD_SWISH, "HardSwish"), (MISH, "Mish")],
)
def test_some_patterns_are_known_to_code_generators_only(nodes: Sequence[NodeProto], kind: str) -> None:
    (kernel,) = kernels(nodes, fuses_chains=True)
    assert (kernel.anchor.kind, len(kernel.members)) == (kind, len(nodes))
    assert len(kernels(nodes)) == len(nodes)


@pytest.mark.parametrize(("inner", "nodes"), [("p", GELU), ("s", SILU), ("centred", layer_norm("x", "y"))])
def test_what_is_needed_elsewhere_is_not_lost_in_a_kernel(inner: str, nodes: Sequence[NodeProto]) -> None:
    assert len(kernels(nodes, outputs=f"y {inner}")) == len(nodes)
    read_twice = [*nodes, node("Neg", [inner], ["z"])]
    kinds = {one.anchor.kind for one in kernels(read_twice, outputs="y z", fuses_chains=True)}
    assert not kinds & {"Gelu", "Swish", "LayerNormalization"}


def test_a_number_computed_at_run_time_is_no_pattern() -> None:
    model, graph = graph_of([node("Div", ["x", "s"], ["a"]), *GELU[1:]], {"x": SHAPE, "s": [1]})
    assert "Gelu" not in {one.anchor.kind for one in kernels_of(graph, fuses_chains=False)}
    assert model.graph.input[1].name == "s"


def test_a_residual_sum_joins_the_normalisation_of_rows() -> None:
    nodes = [node("Add", ["x", "z"], ["s"]), *layer_norm("s", "y")]
    (kernel,) = kernels(nodes, {"x": SHAPE, "z": SHAPE})
    assert kernel.family is Family.NORMALISE
    assert kernel.bytes_read - kernel.weight_bytes == 2 * 4 * np.prod(SHAPE)
    images = {"x": (2, 2, 8, 16), "z": (2, 2, 8, 16)}
    assert [one.anchor.kind for one in kernels(nodes, images)] == ["Add", "LayerNormalization"]
    assert len(kernels(nodes, {"x": SHAPE, "z": SHAPE}, outputs="y s")) == 2


@pytest.mark.parametrize(("other", "is_joined"), [("table", True), ("mask", False), ("b", False)])
def test_a_table_of_positions_joins_the_normalisation_as_a_residual_does(other: str, is_joined: bool) -> None:
    """Where it is as large as what it is added to."""
    _, graph = graph_of([node("Add", ["x", other], ["s"]), *layer_norm("s", "y")], {"x": SHAPE})
    assert (len(kernels_of(graph, fuses_chains=False)) == 1) is is_joined
    table = table_of(graph, View.FUSED)
    normalisation = table.names.index("LayerNormalization")
    assert table.flags[normalisation, Flag.ADDS_TENSOR] == is_joined  # its own formula has sums too


def dynamic(reads_twice: bool = False) -> list[NodeProto]:
    names = ("y", "z") if reads_twice else ("y",)
    nodes = [node("DynamicQuantizeLinear", ["x"], ["q", "s", "o"])]
    for name in names:
        nodes += [
            node("MatMulInteger", ["q", "w8", "o"], [f"i{name}"]),
            node("Cast", [f"i{name}"], [f"c{name}"], to=1),
            node("Mul", ["s", "half"], [f"s{name}"]),
            node("Mul", [f"c{name}", f"s{name}"], [f"m{name}"]),
            node("Add", [f"m{name}", "b"], [name]),
        ]
    return nodes


@pytest.mark.parametrize(("reads_twice", "kinds"), [
    (False, ["MatMulInteger"]),
    (True, ["DynamicQuantizeLinear", "MatMulInteger", "MatMulInteger"]),
])  # fmt: skip
def test_a_dynamically_quantised_product_is_one_kernel(reads_twice: bool, kinds: list[str]) -> None:
    stored: dict[str, NDArray[np.generic]] = {
        "w8": np.zeros((16, 16), np.int8),
        "half": STORED["half"],
        "b": STORED["b"],
    }
    model = model_of(dynamic(reads_twice), {"x": SHAPE}, ["y", "z"] if reads_twice else ["y"], stored=stored)
    found = kernels_of(read_graph(model.SerializeToString(), {}), fuses_chains=False)
    assert [one.anchor.kind for one in found] == kinds
    assert class_of(found[-1]) is KernelClass.DYNAMIC_INT8


IMAGE = {"x": (1, 16, 8, 8)}
PAIR = {"x": SHAPE, "z": SHAPE}
CONV = node("Conv", ["x", "k"], ["c"])
PRODUCT = node("MatMul", ["x", "w"], ["m"])
LIKE_ONNX_RUNTIME: dict[str, tuple[list[NodeProto], Mapping[str, Sequence[int]]]] = {
    "layer norm": (layer_norm("x", "y"), {"x": SHAPE}),
    "layer norm without scale": (
        [*layer_norm("x", "y")[:-2], node("Neg", ["normal"], ["y"])], {"x": SHAPE},
    ),
    "residual and layer norm": ([node("Add", ["x", "z"], ["s"]), *layer_norm("s", "y")], PAIR),
    "positions and layer norm": ([node("Add", ["x", "table"], ["s"]), *layer_norm("s", "y")], {"x": SHAPE}),
    "vector and layer norm": ([node("Add", ["x", "b"], ["s"]), *layer_norm("s", "y")], {"x": SHAPE}),
    "residual of images": (
        [node("Add", ["x", "z"], ["s"]), *layer_norm("s", "y")], {"x": (2, 2, 8, 16), "z": (2, 2, 8, 16)},
    ),
    "rms": (RMS, {"x": SHAPE}),
    "rms inverse": (RMS_INVERSE, {"x": SHAPE}),
    "rms reciprocal": (RMS_RECIPROCAL, {"x": SHAPE}),
    "gelu": (GELU, {"x": SHAPE}),
    "gelu, half first": (GELU_HALF_FIRST, {"x": SHAPE}),
    "silu": (SILU, {"x": SHAPE}),
    "hard swish": (HARD_SWISH, {"x": SHAPE}),
    "conv and silu": ([CONV, node("Sigmoid", ["c"], ["s"]), node("Mul", ["c", "s"], ["y"])], IMAGE),
    "conv and elu": ([CONV, node("Elu", ["c"], ["y"])], IMAGE),
    "conv and tanh": ([CONV, node("Tanh", ["c"], ["y"])], IMAGE),
    "conv and scale": ([CONV, node("Mul", ["c", "half"], ["y"])], IMAGE),
    "scaled product": ([PRODUCT, node("Mul", ["m", "half"], ["y"])], {"x": SHAPE}),
    "scaled operand": ([node("Div", ["x", "half"], ["d"]), node("MatMul", ["d", "w"], ["y"])], {"x": SHAPE}),
    "product and vector": ([PRODUCT, node("Mul", ["m", "b"], ["y"])], {"x": SHAPE}),
    "product and bias": ([PRODUCT, node("Add", ["m", "b"], ["y"])], {"x": SHAPE}),
    "product and mask": ([PRODUCT, node("Add", ["m", "mask"], ["y"])], {"x": SHAPE}),
    "product and curve": ([PRODUCT, node("Relu", ["m"], ["y"])], {"x": SHAPE}),
    "product, bias, curve": (
        [PRODUCT, node("Add", ["m", "b"], ["a"]), node("Relu", ["a"], ["y"])], {"x": (8, 16)},
    ),
    "product, bias, curve of rows": (
        [PRODUCT, node("Add", ["m", "b"], ["a"]), node("Relu", ["a"], ["y"])], {"x": SHAPE},
    ),
    "turned operand": (
        [node("Transpose", ["z"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["y"])], PAIR,
    ),
    "operand turned otherwise": (
        [node("Transpose", ["z"], ["t"], perm=[0, 2, 3, 1]), node("MatMul", ["x", "t"], ["y"])],
        {"x": (2, 4, 8, 16), "z": (2, 8, 4, 16)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIKE_ONNX_RUNTIME)
def test_onnx_runtime_launches_as_many(name: str, tmp_path: Path) -> None:
    """The graph that ONNX Runtime itself saves after its optimisations, layout changes left out."""
    model, graph = graph_of(*LIKE_ONNX_RUNTIME[name])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    theirs = [
        one.op_type for one in onnx.load(tmp_path / "optimised.onnx").graph.node if one.op_type not in VIEWS
    ]
    ours = [one.anchor.kind for one in kernels_of(graph, fuses_chains=False)]
    assert len(ours) == len(theirs), (ours, theirs)


def test_a_gate_runs_within_a_generated_convolution() -> None:
    nodes, shapes = LIKE_ONNX_RUNTIME["conv and silu"]
    (kernel,) = kernels(nodes, shapes, fuses_chains=True)
    assert (kernel.family, len(kernel.members)) == (Family.CONV, 3)
    assert (kernel.bytes_written, kernel.work) == (4 * 1024, 10 * 1024)


def test_padding_with_zeros_is_done_by_the_convolution() -> None:
    around = np.asarray([0, 0, 1, 1, 0, 0, 1, 1])
    for mode, count in (("constant", 1), ("reflect", 2)):
        nodes = [node("Pad", ["x", "around"], ["p"], mode=mode), node("Conv", ["p", "k"], ["y"])]
        model = model_of(nodes, IMAGE, ["y"], stored={"around": around, "k": STORED["k"]})
        graph = read_graph(model.SerializeToString(), {})
        found = kernels_of(graph, fuses_chains=False)
        assert (len(found), found[-1].family) == (count, Family.CONV)
        assert found[0].bytes_read - found[0].weight_bytes == 4 * 1024
