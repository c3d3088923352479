"""The models of the dataset by their names: how each is built."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from predictor.families.registry import specimens
from predictor.reference_set import ReferenceModel, reference_candidates

Built = tuple[bytes, dict[str, tuple[int, ...]]]  # the ONNX bytes, and the sizes of the inputs


def model_builders() -> dict[str, Callable[[], Built]]:
    """Of the families, the single operators and the reference set, by name."""
    references: dict[str, Callable[[], Built]] = {
        one.name: partial(reference_built, one) for one in reference_candidates()
    }
    return references | {one.name: one.build for one in specimens()}


def reference_built(reference: ReferenceModel) -> Built:
    """A model of the reference set, as the others are given."""
    return reference.model, dict(reference.input_shapes)
