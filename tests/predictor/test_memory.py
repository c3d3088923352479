"""What is remembered of nodes and kernels that are alike is what is worked out without it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import pytest
from onnx import helper

from predictor.kernel_costs.pricing import Encoded, encode
from predictor.kernel_costs.table import View
from predictor.memory import Memory, forget
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_models
from tests.predictor.onnx_graphs import model_of, noise

SHAPE = [1, 16, 8, 8]


def encoded(model: bytes) -> Encoded:
    return encode(read_graph(model, {}), tuple(View))


def test_a_full_memory_starts_anew_and_all_are_emptied_at_once() -> None:
    memory = Memory[int, str](2)
    for number in range(3):
        assert memory.keep(number, str(number)) == str(number)
    assert memory == {2: "2"}
    forget()
    assert not memory


def test_reference_models_encode_as_in_a_process_that_has_just_begun() -> None:
    graphs = [read_graph(each.model, each.input_shapes) for each in reference_models()]
    for each, graph in zip(reference_models(), graphs, strict=True):
        again = encode(read_graph(each.model, each.input_shapes), tuple(View))
        forget()
        _assert_same(again, encode(read_graph(each.model, each.input_shapes), tuple(View)))
        _assert_same(again, encode(graph, tuple(View)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("Relu", "x", "a"), ("Mul", "a", "a", "y")], [("Relu", "x", "a"), ("Mul", "a", "x", "y")]),
        ([("Add", "x", "x", "y")], [("Add", "x", "z", "y")]),
        (
            [("Conv", "x", "w", "a"), ("Add", "a", "x", "y")],
            [("Conv", "x", "w", "a"), ("Add", "a", "a", "y")],
        ),
        ([("Sigmoid", "x", "a"), ("Mul", "x", "a", "y")], [("Sigmoid", "x", "a"), ("Mul", "z", "a", "y")]),
    ],
)
def test_kernels_that_differ_in_their_wiring_alone_are_told_apart(
    one: Sequence[Sequence[str]], other: Sequence[Sequence[str]]
) -> None:
    models = [_model(nodes) for nodes in (one, other)]
    forget()
    remembered = [encoded(model) for model in models]
    for model, known in zip(models, remembered, strict=True):
        forget()
        _assert_same(known, encoded(model))


def test_weights_that_a_caller_may_replace_are_told_apart() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1])]
    for lists in (False, True):
        forget()
        first = model_of(nodes, {"x": SHAPE}, ["y"], stored={"w": noise(16, 16, 1, 1)}, lists_weights=lists)
        known = encoded(first.SerializeToString())
        other = model_of(
            nodes, {"x": SHAPE}, ["y"], stored={"w": noise(16, 16, 1, 1)}, lists_weights=not lists
        )
        encoded(other.SerializeToString())
        _assert_same(known, encoded(first.SerializeToString()))


def _model(nodes: Sequence[Sequence[str]]) -> bytes:
    made: list[onnx.NodeProto] = [helper.make_node(kind, names[:-1], names[-1:]) for kind, *names in nodes]
    read = {name for _, *names in nodes for name in names}
    inputs = {name: SHAPE for name in ("x", "z") if name in read}
    stored = {"w": noise(16, 16, 1, 1)} if "w" in read else None
    return model_of(made, inputs, ["y"], stored=stored).SerializeToString()


def _assert_same(one: Encoded, other: Encoded) -> None:
    for view in View:
        assert one.features[view].tobytes() == other.features[view].tobytes()
        assert one.tables[view].amounts.tobytes() == other.tables[view].amounts.tobytes()
        assert one.tables[view].names == other.tables[view].names
