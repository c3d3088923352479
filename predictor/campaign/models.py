"""The models of the dataset by their names: how each is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from predictor.errors import GraphRejected
from predictor.families.registry import specimens
from predictor.graph import ModelGraph
from predictor.reading.reader import read_graph
from predictor.reference_set import ReferenceModel, reference_candidates

Built = tuple[bytes, dict[str, tuple[int, ...]]]  # the ONNX bytes, and the sizes of the inputs
Builders = Mapping[str, Callable[[], Built]]  # by the names of models


def model_builders() -> dict[str, Callable[[], Built]]:
    """Of the families, the single operators and the reference set, by name."""
    references: dict[str, Callable[[], Built]] = {
        one.name: partial(reference_built, one) for one in reference_candidates()
    }
    return references | {one.name: one.build for one in specimens()}


def built_graph(name: str, builders: Builders, report: Callable[[str], None]) -> ModelGraph | None:
    """The graph that a name builds; None if nobody can build it, or it is refused, which is told."""
    if name not in builders:
        return None
    try:
        return read_graph(*builders[name]())
    except GraphRejected as error:
        report(f"{name} is left out: {error}")
        return None


def reference_built(reference: ReferenceModel) -> Built:
    """A model of the reference set, as the others are given."""
    return reference.model, dict(reference.input_shapes)
