"""What the few-shot predictor knows of architectures, brought to scale by the source architectures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot.basis import Basis
from predictor.few_shot.config import FewShotConfig
from predictor.few_shot.surrogate import Inputs

Floats = NDArray[np.float64]
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True, slots=True)
class Counted:
    """What is known of N architectures: `tallies` (N, V, *TALLY_SHAPE), and `choices` (N, c), their choices
    in a search space as columns of zeros and ones (c = 0 for graphs of no space).
    """

    tallies: Floats
    choices: Floats

    def __len__(self) -> int:
        return len(self.tallies)

    def take(self, rows: NDArray[np.int64] | slice) -> Counted:
        """Some of them."""
        return Counted(self.tallies[rows], self.choices[rows])


@dataclass(frozen=True, slots=True)
class Scaling:
    """Centres and spreads of the source architectures. `linear_length`: root mean square length of a row of
    the basis's linear part, which is one in `inputs`.
    """

    basis: Basis
    linear_length: float
    choice_centre: Floats  # (c,)
    choice_spread: Floats  # (c,), infinite for what does not vary

    @classmethod
    def fit(cls, counted: Counted, config: FewShotConfig) -> Scaling:
        """From the source architectures."""
        basis = Basis.fit(counted.tallies, config)
        linear = basis.linear(counted.tallies)
        spread = counted.choices.std(axis=0)
        spread[spread < _LEAST_SPREAD] = np.inf
        return cls(
            basis=basis,
            linear_length=float(np.sqrt(max((linear**2).sum(axis=1).mean(), _LEAST_SPREAD))),
            choice_centre=counted.choices.mean(axis=0),
            choice_spread=spread,
        )

    def inputs(self, counted: Counted) -> Inputs:
        """What surrogates take, of N architectures."""
        choices = (counted.choices - self.choice_centre) / self.choice_spread
        return Inputs(
            linear=self.basis.linear(counted.tallies) / self.linear_length,
            shape=self.basis.shape(counted.tallies),
            choices=choices / np.sqrt(max(choices.shape[1], 1)),
        )
