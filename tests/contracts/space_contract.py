"""What every search space and builder must do. A new one inherits `SpaceContract` and supplies both."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from devices.model_ref import resolve_input_shapes
from predictor.reading.reader import read_inputs
from search.errors import RequestRejected
from search.genome import Genome
from search.space import Builder, SearchSpace, check_genome, random_genome

DRAWS = 200


class SpaceContract:
    """Inherit, and define `space` and `builder`."""

    def space(self) -> SearchSpace:
        """The space under test."""
        raise NotImplementedError

    def builder(self) -> Builder:
        """Its builder."""
        raise NotImplementedError

    def cheap_genome(self) -> Genome:
        """A genome that is quick to build."""
        space = self.space()
        return space.canonical(Genome.of({choice.name: choice.options[0] for choice in space.choices}))

    def draws(self) -> list[Genome]:
        """Random genomes, the same in every test."""
        rng = np.random.default_rng(0)
        return [random_genome(self.space(), rng) for _ in range(DRAWS)]

    def test_choices_have_distinct_names(self) -> None:
        names = [choice.name for choice in self.space().choices]
        assert names
        assert len(set(names)) == len(names)

    def test_random_genomes_belong_to_it_and_are_canonical(self) -> None:
        space = self.space()
        for genome in self.draws():
            check_genome(space, genome)
            assert space.canonical(genome) == genome

    def test_every_option_of_every_choice_is_drawn(self) -> None:
        drawn = {pair for genome in self.draws() for pair in genome.choices}
        assert drawn == {
            (choice.name, option) for choice in self.space().choices for option in choice.options
        }

    def test_refuses_genomes_of_another_space(self) -> None:
        first = self.space().choices[0]
        with pytest.raises(RequestRejected, match="no such choice"):
            check_genome(self.space(), Genome.of({"no such choice": 1}))
        with pytest.raises(RequestRejected, match=first.name):
            check_genome(
                self.space(), Genome.of(self.cheap_genome().as_dict() | {first.name: "no such option"})
            )

    def test_builds_the_same_executable_model_again(self) -> None:
        built = self.builder().build(self.cheap_genome(), seed=3)
        again = self.builder().build(self.cheap_genome(), seed=3)
        assert built.model == again.model
        onnx.checker.check_model(onnx.load_from_string(built.model), full_check=True)
        assert resolve_input_shapes(read_inputs(built.model), built.input_shapes) == built.input_shapes
