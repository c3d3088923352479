"""ModelGraph from ONNX bytes: costs by hand, published networks, traps of real files, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from predictor.errors import GraphCode, GraphRejected
from predictor.graph import ModelGraph
from predictor.reading import decoded
from predictor.reading.reader import read_graph, read_inputs, summarise
from tests.predictor.onnx_graphs import five_nodes, model_of, noise

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def graph_of(model: onnx.ModelProto, **shapes: tuple[int, ...]) -> ModelGraph:
    return read_graph(model.SerializeToString(), shapes)


def kinds_of(graph: ModelGraph) -> list[str]:
    return [op.full_kind for op in graph.operators]


def refusal_of(model: onnx.ModelProto | bytes, **shapes: tuple[int, ...]) -> GraphRejected:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(GraphRejected) as caught:
        read_graph(data, shapes)
    return caught.value


def test_a_five_node_graph_costs_what_it_costs_by_hand() -> None:
    graph = graph_of(five_nodes())
    costs = [(op.kind, op.macs, op.bytes_read, op.bytes_written, op.parameters) for op in graph.operators]
    assert costs == [
        # 4 x 8 x 8 outputs, each 2 x 3 x 3 products; reads 2 x 8 x 8 + 72 + 4 floats
        ("Conv", 256 * 18, 4 * (128 + 72 + 4), 4 * 256, 76),
        ("Relu", 0, 4 * 256, 4 * 256, 0),
        ("MaxPool", 0, 4 * 256, 4 * 64, 0),
        ("Flatten", 0, 0, 0, 0),
        ("Gemm", 640, 4 * (64 + 640 + 10), 4 * 10, 650),
    ]
    assert (graph.macs, graph.parameters, graph.weight_bytes) == (5248, 726, 2904)
    assert (graph.depth, graph.opset, graph.notes) == (5, 17, ())
    assert graph.tensors["p"].shape == (1, 4, 4, 4)
    assert graph.operators[0].attributes["pads"] == (1, 1, 1, 1)
    assert json.loads(json.dumps(summarise(graph)))["operators"]["Conv"] == 1


@pytest.mark.parametrize(
    ("file", "million_macs", "million_parameters"),
    [  # as torchvision and fvcore publish them
        ("light_resnet50", 4089, 25.6),
        ("light_vgg19", 19632, 143.7),
        ("light_squeezenet", 349, 1.24),  # SqueezeNet 1.1
        ("light_densenet121", 2834, 8.0),
        ("light_bvlc_alexnet", 655, 61.0),  # grouped
    ],
)
def test_known_networks_cost_what_is_published(
    file: str, million_macs: float, million_parameters: float
) -> None:
    graph = read_graph((LIGHT / f"{file}.onnx").read_bytes(), {})
    assert graph.macs / 1e6 == pytest.approx(million_macs, rel=0.02)
    assert graph.parameters / 1e6 == pytest.approx(million_parameters, rel=0.02)
    assert "ConstantOfShape" not in kinds_of(graph)  # its weights are made at load, not per inference


def test_every_shared_model_is_accepted(shared_models: Path) -> None:
    manifest = json.loads((shared_models / "manifest.json").read_text())
    for name, entry in manifest.items():
        graph = read_graph((shared_models / name).read_bytes(), entry["input_shapes"] or {})
        assert graph.operators, name
        assert all(size >= 0 for tensor in graph.tensors.values() for size in tensor.shape)
    listed = read_graph((shared_models / "ultraface_rfb320.onnx").read_bytes(), {})
    assert any("listed as inputs" in note for note in listed.notes)


def test_sizes_of_dynamic_axes_are_asked_for_by_name() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["batch", 3, None]}, ["y"])
    assert [spec.shape for spec in read_inputs(model.SerializeToString())] == [("batch", 3, None)]
    refusal = refusal_of(model)
    assert refusal.code is GraphCode.MISSING_INPUT_SIZES
    assert refusal.missing == ("x[batch]", "x[2]")
    assert graph_of(model, x=(2, 3, 5)).outputs[0].shape == (2, 3, 5)
    assert refusal_of(model, x=(2, 4, 5)).code is GraphCode.INPUTS_INVALID


def test_sizes_that_a_model_computes_are_followed() -> None:
    """Shape -> Gather -> Mul -> Div -> Concat -> Reshape, and a Range over a computed length."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["n"], axis=0),
        helper.make_node("Mul", ["n", "four"], ["m"]),
        helper.make_node("Div", ["m", "two"], ["h"]),
        helper.make_node("Concat", ["minus", "h"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["y"]),
        helper.make_node("Squeeze", ["h"], ["k"]),
        helper.make_node("Range", ["zero", "k", "step"], ["z"]),
    ]
    stored = {
        name: np.asarray([v], np.int64) for name, v in (("one", 1), ("four", 4), ("two", 2), ("minus", -1))
    }
    stored |= {"zero": np.asarray(0, np.int64), "step": np.asarray(3, np.int64)}
    model = model_of(nodes, {"x": ["b", "n"]}, ["y", "z"], stored=stored)
    graph = graph_of(model, x=(6, 5))
    assert [tensor.shape for tensor in graph.outputs] == [(3, 10), (4,)]
    assert "Shape" in kinds_of(graph)  # the sizes are free, so a runtime computes them each time
    fixed = model_of(nodes, {"x": [6, 5]}, ["y", "z"], stored=stored)
    assert kinds_of(graph_of(fixed)) == ["Reshape"]


def test_weights_count_wherever_they_are_kept() -> None:
    """In an initializer, in a Constant, made by ConstantOfShape, or behind constant operators."""
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    tensor = helper.make_tensor("", TensorProto.FLOAT, [8, 4], noise(8, 4).ravel())
    fill = helper.make_tensor("", TensorProto.FLOAT, [1], [0.5])
    ways = [
        model_of([product], {"x": [2, 8]}, ["y"], stored={"w": noise(8, 4)}),
        model_of([helper.make_node("Constant", [], ["w"], value=tensor), product], {"x": [2, 8]}, ["y"]),
        model_of(
            [helper.make_node("ConstantOfShape", ["s"], ["w"], value=fill), product],
            {"x": [2, 8]},
            ["y"],
            stored={"s": np.asarray([8, 4], np.int64)},
        ),
        model_of(
            [helper.make_node("Transpose", ["v"], ["w"]), product],
            {"x": [2, 8]},
            ["y"],
            stored={"v": noise(4, 8)},
        ),
    ]
    graphs = [graph_of(model) for model in ways]
    assert {(g.macs, g.parameters, len(g.operators), g.digest) for g in graphs} == {
        (64, 32, 1, graphs[0].digest)
    }


def test_weights_listed_as_inputs_are_weights_and_worth_a_note() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    common = {"inputs": {"x": [1, 3, 8, 8]}, "outputs": ["y"], "stored": {"w": noise(4, 3, 3, 3)}}
    listed = model_of(nodes, **common, lists_weights=True)
    assert [spec.name for spec in read_inputs(listed.SerializeToString())] == ["x"]
    graph = graph_of(listed)
    assert "1 weights are also listed as inputs" in graph.notes[0]
    assert graph.parameters == 108
    old = model_of(nodes, **common, lists_weights=True, ir_version=3)  # where every file had to list them
    assert graph_of(old).notes == ()


@pytest.mark.parametrize(("width", "is_said"), [(96, True), (32, False)])  # 9,216 and 1,024 weights
def test_weights_that_the_file_unpacks_itself_make_another_digest(width: int, *, is_said: bool) -> None:
    nodes = [
        helper.make_node("Cast", ["q"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    stored = {"q": np.ones((width, width), np.int8), "s": noise(1)}
    graph = graph_of(model_of(nodes, {"x": [1, width]}, ["y"], stored=stored))
    plain = graph_of(model_of(nodes[2:], {"x": [1, width]}, ["y"], stored={"w": noise(width, width)}))
    assert [op.kind for op in graph.operators] == [op.kind for op in plain.operators] == ["MatMul"]
    assert (bool(graph.unpacked), bool(plain.unpacked)) == (is_said, False)
    assert (graph.digest != plain.digest) is is_said


def _branch(name: str, size: int) -> onnx.GraphProto:
    node = helper.make_node("MatMul", ["x", f"w{size}"], [name])  # captures x and w from around it
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])


def test_the_costlier_branch_of_an_if_is_taken_and_said() -> None:
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=_branch("t", 4), else_branch=_branch("e", 6))]
    stored = {"w4": noise(3, 4), "w6": noise(3, 6)}
    free = graph_of(
        model_of(nodes, {"x": [2, 3], "c": []}, ["y"], stored=stored, dtypes={"c": TensorProto.BOOL})
    )
    assert (free.macs, kinds_of(free)) == (36, ["If", "MatMul"])
    assert "else_branch" in free.notes[0]
    known = graph_of(model_of(nodes, {"x": [2, 3]}, ["y"], stored={**stored, "c": np.asarray(True)}))
    assert (known.macs, kinds_of(known), known.notes) == (24, ["MatMul"], ())


def _loop_body() -> onnx.GraphProto:
    nodes = [
        helper.make_node("MatMul", ["v", "w"], ["u"]),
        helper.make_node("Identity", ["go"], ["on"]),
        helper.make_node("Relu", ["u"], ["scan"]),
    ]
    ins = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
    ]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("on", "u", "scan")]
    return helper.make_graph(nodes, "body", ins, outs)


def test_a_loop_counts_its_body_once_per_trip() -> None:
    nodes = [helper.make_node("Loop", ["n", "", "x"], ["last", "all"], body=_loop_body())]
    stored = {"w": noise(3, 3), "n": np.asarray(7, np.int64)}
    graph = graph_of(model_of(nodes, {"x": [2, 3]}, ["last", "all"], stored=stored))
    product = next(op for op in graph.operators if op.kind == "MatMul")
    assert (product.repeats, product.macs) == (7, 7 * 2 * 9)
    assert [tensor.shape for tensor in graph.outputs] == [(2, 3), (7, 2, 3)]
    assert graph.parameters == 9
    unknown = model_of(
        nodes, {"x": [2, 3], "n": []}, ["last"], stored={"w": noise(3, 3)}, dtypes={"n": TensorProto.INT64}
    )
    refusal = refusal_of(unknown)
    assert refusal.code is GraphCode.OPERATOR_UNSUPPORTED
    assert "Loop" in str(refusal)


def test_a_scan_counts_its_body_once_per_slice() -> None:
    nodes = [helper.make_node("Add", ["s", "e"], ["s2"]), helper.make_node("Relu", ["s2"], ["o"])]
    body = helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("s", "e")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("s2", "o")],
    )
    scan = helper.make_node("Scan", ["state", "x"], ["end", "y"], body=body, num_scan_inputs=1)
    graph = graph_of(model_of([scan], {"state": [4], "x": [9, 4]}, ["end", "y"]))
    assert [tensor.shape for tensor in graph.outputs] == [(4,), (9, 4)]
    assert {op.kind: op.repeats for op in graph.operators} == {"Add": 9, "Relu": 9, "Scan": 1}


def test_sequences_vanish_and_their_copies_remain() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x", "three"], ["s"], axis=1),
        helper.make_node("SequenceAt", ["s", "one"], ["a"]),
        helper.make_node("SequenceInsert", ["s", "a"], ["t"]),
        helper.make_node("ConcatFromSequence", ["t"], ["y"], axis=1),
    ]
    stored = {"three": np.asarray(3, np.int64), "one": np.asarray(1, np.int64)}
    graph = graph_of(model_of(nodes, {"x": [2, 8]}, ["y"], stored=stored))
    assert kinds_of(graph) == ["Split", "Concat"]
    assert graph.outputs[0].shape == (2, 11)  # 3 + 3 + 2, and the second one again


def test_a_size_that_depends_on_the_data_is_bounded_and_said() -> None:
    graph = graph_of(model_of([helper.make_node("NonZero", ["x"], ["y"])], {"x": [3, 4]}, ["y"]))
    assert graph.outputs[0].shape == (2, 12)
    assert "NonZero" in graph.notes[0]
    free = model_of(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        {"x": [3, 4], "s": [2]},
        ["y"],
        dtypes={"s": TensorProto.INT64},
    )
    assert "Reshape" in str(refusal_of(free))


def _contrib(kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, domain="com.microsoft", **attributes)


def test_contrib_operators_are_costed_as_what_they_compute() -> None:
    opsets = {"": 17, "com.microsoft": 1}
    packed = {"b": np.zeros((32, 4, 16), np.uint8), "s": noise(128)}
    four_bit = graph_of(
        model_of(
            [_contrib("MatMulNBits", ["x", "b", "s"], ["y"], K=128, N=32, bits=4, block_size=32)],
            {"x": [5, 128]},
            ["y"],
            stored=packed,
            opsets=opsets,
        )
    )
    assert (four_bit.outputs[0].shape, four_bit.macs) == ((5, 32), 5 * 128 * 32)
    assert four_bit.operators[0].precision == "int4"
    assert four_bit.operators[0].full_kind == "com.microsoft/MatMulNBits"

    stored = {"w": np.zeros((2, 6, 32), np.int8), "r": np.zeros((2, 8, 32), np.int8), "b": noise(2, 64)}
    scales = {name: noise(2) for name in ("ws", "rs")} | {name: np.zeros(2, np.int8) for name in ("wz", "rz")}
    lstm = graph_of(
        model_of(
            [
                _contrib(
                    "DynamicQuantizeLSTM",
                    ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"],
                    ["y", "h"],
                    hidden_size=8,
                    direction="bidirectional",
                )
            ],
            {"x": [10, 1, 6]},
            ["y", "h"],
            stored={**stored, **scales},
            opsets=opsets,
        )
    )
    assert [tensor.shape for tensor in lstm.outputs] == [(10, 2, 1, 8), (2, 1, 8)]
    assert (lstm.macs, lstm.operators[0].precision) == (10 * 2 * 32 * (6 + 8), "int8")

    attention = graph_of(
        model_of(
            [_contrib("Attention", ["x", "w", "b"], ["y"], num_heads=4)],
            {"x": [2, 7, 16]},
            ["y"],
            stored={"w": noise(16, 48), "b": noise(48)},
            opsets=opsets,
        )
    )
    assert attention.outputs[0].shape == (2, 7, 16)
    assert attention.macs == 2 * 7 * 16 * 48 + 2 * (2 * 7 * 7 * 16)


@pytest.mark.parametrize(
    ("node", "stored", "macs", "precision"),
    [
        (
            helper.make_node(
                "QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"], pads=[1, 1, 1, 1]
            ),
            {"w": np.zeros((4, 3, 3, 3), np.uint8), "s": np.float32(1.0), "z": np.uint8(0)},
            4 * 36 * 27,
            "int8",
        ),
        (
            helper.make_node("ConvInteger", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
            {"w": np.zeros((4, 3, 3, 3), np.uint8)},
            4 * 36 * 27,
            "int8",
        ),
        (
            helper.make_node("MatMulInteger", ["x", "w"], ["y"]),
            {"w": np.zeros((6, 5), np.int8)},
            3 * 6 * 6 * 5,
            "int8",
        ),
    ],
)
def test_integer_operators(
    node: onnx.NodeProto, stored: dict[str, np.generic], macs: int, precision: str
) -> None:
    arrays = {name: np.asarray(value) for name, value in stored.items()}
    model = model_of([node], {"x": [1, 3, 6, 6]}, ["y"], stored=arrays, dtypes={"x": TensorProto.UINT8})
    op = graph_of(model).operators[0]
    assert (op.macs, op.precision) == (macs, precision)


def test_products_between_dequantised_operands_are_integer_products() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
        helper.make_node("MatMul", ["x", "v"], ["u"]),
    ]
    stored = {"w": np.zeros((8, 4), np.int8), "s": np.asarray(0.1, np.float32), "z": np.asarray(0, np.uint8)}
    graph = graph_of(model_of(nodes, {"x": [2, 8]}, ["y", "u"], stored=stored))
    assert [op.precision for op in graph.operators if op.kind == "MatMul"] == ["int8", "float32"]
    weights = [op for op in graph.operators if op.outputs == ("v",)]
    assert [op.bytes_read for op in weights] == [32 + 4]  # one byte a weight: dequantising is not folded away


def test_model_functions_are_expanded() -> None:
    doubled = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [helper.make_node("Twice", ["x"], ["h"], domain="own"), helper.make_node("Relu", ["h"], ["y"])]
    model = model_of(nodes, {"x": [4]}, ["y"], opsets={"": 17, "own": 1})
    model.functions.append(doubled)
    assert kinds_of(graph_of(model)) == ["Add", "Relu"]
    model.functions[0].node[0].CopyFrom(helper.make_node("Twice", ["a"], ["b"], domain="own"))
    assert refusal_of(model).code is GraphCode.MALFORMED


def test_functions_that_multiply_without_end_are_refused_before_they_are_expanded() -> None:
    model = model_of(
        [helper.make_node("F0", ["x"], ["y"], domain="own")], {"x": [4]}, ["y"], opsets={"": 17, "own": 1}
    )
    for level in range(12):
        kind, domain = (f"F{level + 1}", "own") if level < 11 else ("Relu", "")
        calls = [
            helper.make_node(kind, [f"t{i}" if i else "a"], [f"t{i + 1}" if i < 9 else "b"], domain=domain)
            for i in range(10)
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], calls, imports))
    assert refusal_of(model).code is GraphCode.TOO_LARGE


def test_what_cannot_be_costed_is_named() -> None:
    unknown = model_of(
        [helper.make_node("Frobnicate", ["x"], ["y"], domain="acme", name="the_one")],
        {"x": [4]},
        ["y"],
        opsets={"": 17, "acme": 1},
    )
    refusal = refusal_of(unknown)
    assert refusal.code is GraphCode.OPERATOR_UNSUPPORTED
    assert "acme/Frobnicate ('the_one')" in str(refusal)
    misfit = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 3]}, ["y"], stored={"w": noise(4, 5)}
    )
    refusal = refusal_of(misfit)
    assert refusal.code is GraphCode.INPUTS_INVALID
    assert "MatMul" in str(refusal)
    assert "float32[2, 3]" in str(refusal)


def test_files_that_are_no_model_are_malformed() -> None:
    data = five_nodes().SerializeToString()
    assert refusal_of(b"").code is GraphCode.MALFORMED
    assert refusal_of(b"\x00" * 100).code is GraphCode.MALFORMED
    assert refusal_of(data[: len(data) // 2]).code is GraphCode.MALFORMED
    cycle = model_of(
        [
            helper.make_node("Add", ["x", "b"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["b"], name="second"),
        ],
        {"x": [4]},
        ["b"],
    )
    refusal = refusal_of(cycle)
    assert refusal.code is GraphCode.MALFORMED
    assert "cycle" in str(refusal)
    assert "first" in str(refusal) or "second" in str(refusal)
    dangling = model_of([helper.make_node("Relu", ["nowhere"], ["y"])], {"x": [4]}, ["y"])
    assert "nowhere" in str(refusal_of(dangling))
    twice = model_of([helper.make_node("Relu", ["x"], ["y"])] * 2, {"x": [4]}, ["y"])
    assert "written twice" in str(refusal_of(twice))
    short = five_nodes()
    short.graph.initializer[0].raw_data = b"\x00" * 8
    assert refusal_of(short).code is GraphCode.MALFORMED


def test_external_data_is_refused() -> None:
    model = five_nodes()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    refusal = refusal_of(model)
    assert refusal.code is GraphCode.EXTERNAL_DATA
    assert "'w'" in str(refusal)


def test_bounds_are_stated_with_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    relu = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n"]}, ["y"])
    refusal = refusal_of(relu, x=(1 << 29,))
    assert refusal.code is GraphCode.TOO_LARGE
    assert str(4 << 29) in str(refusal)
    blown = model_of(
        [helper.make_node("Expand", ["x", "s"], ["y"])],
        {"x": [1]},
        ["y"],
        stored={"s": np.asarray([1 << 40], np.int64)},
    )
    refusal = refusal_of(blown)
    assert refusal.code is GraphCode.TOO_LARGE
    assert str(4 << 40) in str(refusal)
    monkeypatch.setattr(decoded, "MAX_NODES", 4)
    assert refusal_of(five_nodes()).code is GraphCode.TOO_LARGE


def test_deep_nesting_is_refused() -> None:
    graph = _branch("t", 4)
    for level in range(decoded.MAX_NESTING + 2):
        outer = helper.make_node("If", ["c"], [f"o{level}"], then_branch=graph, else_branch=_branch("e", 4))
        result = helper.make_tensor_value_info(f"o{level}", TensorProto.FLOAT, None)
        graph = helper.make_graph([outer], f"g{level}", [], [result])
    model = model_of(
        list(graph.node), {"x": [2, 3], "c": []}, [graph.output[0].name], stored={"w4": noise(3, 4)},
        dtypes={"c": TensorProto.BOOL},
    )  # fmt: skip
    assert refusal_of(model).code is GraphCode.TOO_LARGE


def test_operators_that_reach_no_output_do_not_count() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Exp", ["x"], ["unused"])]
    assert kinds_of(graph_of(model_of(nodes, {"x": [4]}, ["y"]))) == ["Relu"]


def test_an_einsum_counts_one_product_per_combination_of_indices() -> None:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="bhid,bhjd->bhij")
    model = model_of([node], {"x": [2, 3, 4, 5], "w": [2, 3, 6, 5]}, ["y"])
    assert graph_of(model).macs == math.prod((2, 3, 4, 6, 5))
    dots = helper.make_node("Einsum", ["x", "w"], ["y"], equation="...i,ij->...j")
    assert graph_of(model_of([dots], {"x": [2, 3, 4], "w": [4, 5]}, ["y"])).macs == 2 * 3 * 4 * 5


def test_nodes_that_are_asked_about_once_are_told_apart_by_all_that_decides() -> None:
    """Nodes that are alike are asked about once: attributes count with their type, constants by value."""

    def transposed(perm: list[int]) -> onnx.ModelProto:
        return model_of([helper.make_node("Transpose", ["x"], ["y"], perm=perm)], {"x": [2, 3, 4]}, ["y"])

    def tiled(repeats: list[int]) -> onnx.ModelProto:
        stored = {"r": np.asarray(repeats, dtype=np.int64)}
        return model_of([helper.make_node("Tile", ["x", "r"], ["y"])], {"x": [2, 3]}, ["y"], stored=stored)

    for _ in range(2):
        assert graph_of(transposed([2, 0, 1])).outputs[0].shape == (4, 2, 3)
        assert graph_of(transposed([0, 2, 1])).outputs[0].shape == (2, 4, 3)
        assert graph_of(tiled([1, 5])).outputs[0].shape == (2, 15)
        assert graph_of(tiled([2, 1])).outputs[0].shape == (4, 3)
    wrong = model_of([helper.make_node("Flatten", ["x"], ["y"], axis=1.0)], {"x": [2, 3, 4]}, ["y"])
    right = model_of([helper.make_node("Flatten", ["x"], ["y"], axis=1)], {"x": [2, 3, 4]}, ["y"])
    before = refusal_of(wrong)
    assert graph_of(right).outputs[0].shape == (2, 12)
    assert str(refusal_of(wrong)) == str(before)
