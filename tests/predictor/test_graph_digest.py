"""The digest sees structure, shapes, dtypes and attributes; no weights, no names, no order."""

from __future__ import annotations

import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from predictor.reading.reader import read_graph
from tests.predictor.onnx_graphs import branching, five_nodes, model_of


def digest_of(model: onnx.ModelProto, **shapes: tuple[int, ...]) -> str:
    return read_graph(model.SerializeToString(), shapes).digest


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(7)), st.text("abcxyz", min_size=1, max_size=5), st.integers(0, 1000))
def test_names_order_and_weights_do_not_matter(order: list[int], rename: str, seed: int) -> None:
    """Any order at all: the reader sorts the nodes itself."""
    assert digest_of(branching(order, rename, seed)) == digest_of(branching())


def test_attributes_shapes_dtypes_and_wiring_matter() -> None:
    def pooled(kernel: int, batch: int = 1, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
        pads = [kernel // 2] * 4
        node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[kernel, kernel], pads=pads)
        return model_of([node], {"x": [batch, 2, 8, 8]}, ["y"], dtypes={"x": dtype})

    different = [
        pooled(3),
        pooled(5),
        pooled(3, batch=2),
        pooled(3, dtype=TensorProto.FLOAT16),
        five_nodes(),
        branching(),
    ]
    swapped = branching()
    swapped.graph.node[4].input[0] = "b"  # pools another tensor of the same shape
    different.append(swapped)
    assert len({digest_of(model) for model in different}) == len(different)


def test_axes_passed_as_tensors_count_by_value() -> None:
    def reduced(axis: int) -> onnx.ModelProto:
        node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
        model = model_of([node], {"x": [4, 4, 4]}, ["y"])
        model.graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [1], [axis]))
        return model

    assert digest_of(reduced(1)) != digest_of(reduced(2))


def test_one_shared_operator_differs_from_two_equal_ones() -> None:
    add = helper.make_node("Add", ["a", "b"], ["y"])
    twins = [helper.make_node("Exp", ["x"], ["a"]), helper.make_node("Exp", ["x"], ["b"]), add]
    shared = [helper.make_node("Exp", ["x"], ["a"]), helper.make_node("Add", ["a", "a"], ["y"])]
    assert digest_of(model_of(twins, {"x": [4]}, ["y"])) != digest_of(model_of(shared, {"x": [4]}, ["y"]))


def test_dynamic_and_fixed_declarations_of_the_same_sizes_are_one_graph() -> None:
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    free = model_of(relu, {"x": ["batch", 4]}, ["y"])
    assert digest_of(free, x=(3, 4)) == digest_of(model_of(relu, {"x": [3, 4]}, ["y"]))
    assert digest_of(free, x=(3, 4)) != digest_of(free, x=(2, 4))
