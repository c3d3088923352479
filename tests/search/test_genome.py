"""Genomes: canonical text, identity, and the space contract's checks on them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.genome import Genome
from search.space import Choice

CHOICES = st.dictionaries(
    st.text(min_size=1, max_size=4),
    st.one_of(st.integers(-5, 5), st.floats(-2, 2).map(lambda x: x + 0.0), st.text(max_size=3)),
    min_size=1,
    max_size=4,
)


@given(CHOICES, CHOICES)
def test_equal_genomes_and_only_they_have_equal_text(a: dict, b: dict) -> None:
    one, other = Genome.of(a), Genome.of(b)
    same_types = {k: type(v) for k, v in a.items()} == {k: type(v) for k, v in b.items()}
    assert (one.to_json() == other.to_json()) == (one == other and same_types)
    assert (one.digest == other.digest) == (one.to_json() == other.to_json())
    assert Genome.of(json.loads(one.to_json())) == one


def test_order_of_choices_does_not_matter() -> None:
    assert Genome.of({"b": 1, "a": "x"}) == Genome.of({"a": "x", "b": 1})
    assert Genome.of({"b": 1, "a": "x"}).to_json() == '{"a":"x","b":1}'


def test_unsorted_or_repeated_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="sorted"):
        Genome((("b", 1), ("a", 1)))
    with pytest.raises(ValueError, match="distinct"):
        Genome((("a", 1), ("a", 2)))


@pytest.mark.parametrize("options", [(), (1, 1), (1, "1"), (1, 1.5)])
def test_choices_without_clear_options_are_refused(options: tuple) -> None:
    with pytest.raises(ValueError, match="width"):
        Choice("width", options)
