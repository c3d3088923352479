"""Sizes of inputs: never guessed, always named when missing, checked against what the model declares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import FailureCode, MissingInputSizes, ModelRejected
from devices.model_ref import InputSpec, resolve_input_shapes

IMAGE = InputSpec(name="image", dtype="float32", shape=("batch", 3, None, 224))
IDS = InputSpec(name="ids", dtype="int64", shape=("batch", "length"))
RATE = InputSpec(name="sr", dtype="int64", shape=())
FIXED = InputSpec(name="fixed", dtype="float32", shape=(1, 8))


def test_fixed_inputs_need_no_sizes() -> None:
    assert resolve_input_shapes([FIXED, RATE], {}) == {"fixed": (1, 8), "sr": ()}


def test_a_named_axis_given_once_is_known_everywhere() -> None:
    other = InputSpec(name="mask", dtype="int64", shape=("batch", "length"))
    assert resolve_input_shapes([IDS, other], {"ids": [2, 16]}) == {"ids": (2, 16), "mask": (2, 16)}


def test_every_missing_axis_is_named_with_an_example() -> None:
    with pytest.raises(MissingInputSizes) as caught:
        resolve_input_shapes([IMAGE, IDS, FIXED], {})
    assert caught.value.missing == ("image[batch]", "image[2]", "ids[batch]", "ids[length]")
    assert caught.value.example == {"image": (1, 3, 1, 224), "ids": (1, 1)}
    assert 'for example {"image": [1, 3, 1, 224], "ids": [1, 1]}' in str(caught.value)
    assert caught.value.code is FailureCode.INPUTS_INVALID


def test_an_example_has_the_sizes_that_are_known() -> None:
    with pytest.raises(MissingInputSizes) as caught:
        resolve_input_shapes([IMAGE, IDS, FIXED], {"image": [4, 3, 32, 224]})
    assert (caught.value.missing, caught.value.example) == (("ids[length]",), {"ids": (4, 1)})
    known = {"image": [4, 3, 32, 224], **caught.value.example}
    assert resolve_input_shapes([IMAGE, IDS, FIXED], known)["ids"] == (4, 1)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"imagee": [1, 3, 4, 224]}, "no input is named 'imagee'"),
        ({"image": [1, 3, 224]}, "has 4 axes"),
        ({"image": [1, 4, 4, 224]}, "axis 1 is fixed at 3, got 4"),
        ({"image": [0, 3, 4, 224]}, "axis 0 must be at least 1, got 0"),
        ({"image": [1, 3, 4, 224], "ids": [2, 16]}, "axis 'batch' has two sizes: 1 and 2"),
    ],
)
def test_a_mistake_is_refused_with_its_value(shapes: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ModelRejected, match=message):
        resolve_input_shapes([IMAGE, IDS], shapes)


@pytest.mark.parametrize("spelling", [-1, 0, "", "?", None])
def test_exporters_spell_an_unnamed_axis_in_many_ways(spelling: int | str | None) -> None:
    spec = InputSpec.declared("x", "float32", [spelling, 3, "n"])
    assert spec.shape == (None, 3, "n")
    assert spec.is_dynamic


def test_two_unnamed_axes_may_differ() -> None:
    spec = InputSpec.declared("x", "float32", ["?", 3, "?", "?"])
    assert resolve_input_shapes([spec], {"x": [1, 3, 48, 192]}) == {"x": (1, 3, 48, 192)}


@given(st.lists(st.integers(1, 64), min_size=1, max_size=5), st.data())
def test_what_is_given_for_every_axis_is_what_is_resolved(sizes: list[int], data: st.DataObject) -> None:
    declared = [data.draw(st.sampled_from([size, None, f"axis{i}"])) for i, size in enumerate(sizes)]
    spec = InputSpec(name="x", dtype="float32", shape=tuple(declared))
    assert resolve_input_shapes([spec], {"x": sizes}) == {"x": tuple(sizes)}
