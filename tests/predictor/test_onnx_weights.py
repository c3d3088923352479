"""Cutting weights out of a file changes nothing that is said of it."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import helper

from predictor.errors import GraphCode, GraphRejected
from predictor.reading import reader
from predictor.reading.reader import read_graph
from predictor.reading.weights import Weightless, without_weights
from tests.predictor.onnx_graphs import model_of, noise

SIZES = {"x": (1, 256)}


def _two_products() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        helper.make_node("Add", ["h", "bias"], ["b"]),
        helper.make_node("MatMul", ["b", "second"], ["y"]),
    ]
    stored = {"first": noise(256, 256), "bias": noise(256), "second": noise(256, 64)}
    return model_of(nodes, {"x": ["n", 256]}, ["y"], stored=stored)


def _cut(model: onnx.ModelProto) -> Weightless:
    found = without_weights(model.SerializeToString())
    assert found is not None
    return found


def test_large_weights_are_cut_out_and_all_else_stays() -> None:
    model = _two_products()
    found = _cut(model)
    assert found.cut_bytes == {0: 4 * 256 * 256, 2: 4 * 256 * 64}
    for place in found.cut_bytes:
        model.graph.initializer[place].ClearField("raw_data")
    assert onnx.ModelProto.FromString(found.model) == model


def test_the_graph_is_that_of_the_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _two_products().SerializeToString()
    cut = read_graph(model, SIZES)
    monkeypatch.setattr(reader, "without_weights", lambda _: None)
    whole = read_graph(model, SIZES)
    assert cut == whole
    assert cut.digest == whole.digest


def test_little_is_not_worth_cutting() -> None:
    small = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, 8]}, ["y"], stored={"w": noise(8, 8)}
    )
    assert without_weights(small.SerializeToString()) is None
    texts = _two_products()
    texts.doc_string = "x" * (1 << 20)
    assert without_weights(texts.SerializeToString()) is None


def test_odd_files_are_looked_at_as_they_are() -> None:
    model = _two_products()
    whole = model.SerializeToString()
    twice = whole + b"\x3a\x00"  # another graph, which protobuf joins to the first
    assert without_weights(twice) is None
    assert without_weights(whole[:-9]) is None
    many = whole + b"\x32\x00" * (1 << 15)
    assert without_weights(many) is None
    model.functions.add(name="f", domain="d")
    assert without_weights(model.SerializeToString()) is None


@pytest.mark.parametrize("rows", [255, 257])
def test_weights_that_their_shape_denies_are_refused_as_ever(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _two_products()
    model.graph.initializer[2].dims[:] = [rows, 64]
    refusals = []
    for cuts in (without_weights, lambda _: None):
        monkeypatch.setattr(reader, "without_weights", cuts)
        with pytest.raises(GraphRejected) as refused:
            read_graph(model.SerializeToString(), SIZES)
        refusals.append((refused.value.code, str(refused.value)))
    assert refusals[0] == refusals[1]
    assert refusals[0][0] in (GraphCode.MALFORMED, GraphCode.INPUTS_INVALID)


def test_a_small_tensor_with_too_much_data_is_refused_as_ever() -> None:
    model = _two_products()
    model.graph.initializer[1].dims[:] = [1]
    model.graph.initializer[1].raw_data = bytes(1 << 17)
    assert set(_cut(model).cut_bytes) == {0, 1, 2}
    with pytest.raises(GraphRejected, match="does not hold what its shape says"):
        read_graph(model.SerializeToString(), SIZES)


def test_damaged_files_say_what_they_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _two_products().SerializeToString()
    generator = random.Random(5)
    frame = [at for at in range(len(model)) if at < 200 or at > len(model) - 200] + [
        at for at in range(len(model)) if model[at : at + 4] in (b"bias", b"seco")
    ]
    for _ in range(300):
        damaged = bytearray(model)
        at = generator.choice(frame) + generator.randrange(-12, 12)
        damaged[at % len(model)] = generator.randrange(256)
        said = []
        for cuts in (without_weights, lambda _: None):
            monkeypatch.setattr(reader, "without_weights", cuts)
            said.append(_outcome(bytes(damaged)))
        assert said[0] == said[1]


def _outcome(model: bytes) -> str:
    try:
        return read_graph(model, SIZES).digest
    except GraphRejected as refused:
        return str(refused)


def test_numbers_are_jumped_over() -> None:
    """A weight with all its values in a list stays."""
    model = _two_products()
    values = np.arange(1 << 14, dtype=np.float32).tolist()
    model.graph.initializer.insert(0, helper.make_tensor("l", onnx.TensorProto.FLOAT, [1 << 14], values))
    assert set(_cut(model).cut_bytes) == {1, 3}
