"""Every operator of the ONNX standard, by its own test cases: shapes as they come out, or a refusal."""

from __future__ import annotations

import re
import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import defs, numpy_helper
from onnx.backend.test.case import test_case
from onnx.backend.test.case.node import collect_testcases

from predictor.errors import GraphCode, GraphRejected
from predictor.kinds import KINDS
from predictor.reading.reader import read_graph
from predictor.reading.sequences import SEQUENCE_KINDS

# Of the standard, what has no known cost: text, pictures in files, and optional values.
WITHOUT_COST = {
    "ImageDecoder",
    "RegexFullMatch",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "TfIdfVectorizer",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "SequenceMap",  # a function: expanded by exporters
    "SequenceLength",
}


def test_the_whole_standard_has_a_known_cost() -> None:
    standard = {
        schema.name for schema in defs.get_all_schemas() if schema.domain == "" and not schema.deprecated
    }
    handled = set(KINDS) | SEQUENCE_KINDS | {"Constant", "SplitToSequence"}
    assert standard - handled == WITHOUT_COST


@pytest.fixture(scope="module")
def cases() -> list[test_case.TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators overflow on purpose
        return [case for case in collect_testcases(None) if case.model is not None and case.data_sets]


def _with_stored_integers(
    model: onnx.ModelProto, values: list[object]
) -> tuple[bytes, dict[str, tuple[int, ...]]]:
    """Axes, sizes and the like are inputs in these cases; real models store them."""
    stored, shapes = onnx.ModelProto(), {}
    stored.CopyFrom(model)
    del stored.graph.input[:]
    for index, (declared, value) in enumerate(zip(model.graph.input, values, strict=False)):
        if isinstance(value, onnx.TensorProto):
            stored.graph.input.append(declared)
            shapes[declared.name] = tuple(value.dims)
        elif not isinstance(value, np.ndarray):
            stored.graph.input.append(declared)
        elif index > 0 and value.dtype == np.int64 and value.size <= 64:
            stored.graph.initializer.append(numpy_helper.from_array(value, declared.name))
        else:
            stored.graph.input.append(declared)
            shapes[declared.name] = value.shape
    return stored.SerializeToString(), shapes


def test_shapes_are_those_that_really_come_out(cases: list[test_case.TestCase]) -> None:
    verdicts: Counter[str] = Counter()
    unsupported: list[str] = []
    for case in cases:
        inputs, outputs = case.data_sets[0]
        data, shapes = _with_stored_integers(case.model, list(inputs))
        try:
            graph = read_graph(data, shapes)
        except GraphRejected as refusal:
            verdicts[refusal.code.value] += 1
            unsupported += [str(refusal)] if refusal.code is GraphCode.OPERATOR_UNSUPPORTED else []
            continue
        verdicts["read"] += 1
        for tensor, value in zip(graph.outputs, outputs, strict=True):
            if isinstance(value, np.ndarray):
                is_bound = bool(graph.notes)
                sizes = zip(tensor.shape, value.shape, strict=True)
                assert all(said >= real if is_bound else said == real for said, real in sizes), case.name
        assert all(op.macs >= 0 and op.bytes_read >= 0 and op.bytes_written >= 0 for op in graph.operators)
    assert verdicts["read"] > 0.8 * sum(verdicts.values()), verdicts
    assert verdicts["malformed"] == verdicts["too_large"] == 0
    named = re.compile(r"operator \S+ \(|input '.*' is not a tensor|an output is a sequence")
    assert [message for message in unsupported if not named.search(message)] == []
