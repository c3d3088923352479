"""What the few-shot predictor knows of architectures, brought to scale by the source architectures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.few_shot.basis import Basis, spread_of
from predictor.few_shot.config import FewShotConfig
from predictor.few_shot.regressors import Regressors
from predictor.few_shot.surrogate import Inputs

Floats = NDArray[np.float64]
_LEAST_SQUARE = 1e-9


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
        linear, _ = basis.regressors(counted.tallies)
        return cls(
            basis=basis,
            linear_length=float(np.sqrt(max((linear**2).sum(axis=1).mean(), _LEAST_SQUARE))),
            choice_centre=counted.choices.mean(axis=0),
            choice_spread=spread_of(counted.choices),
        )

    def inputs(self, counted: Counted) -> Inputs:
        """What surrogates take, of N architectures."""
        choices = (counted.choices - self.choice_centre) / self.choice_spread
        linear, shape = self.basis.regressors(counted.tallies)
        return Inputs(
            linear=linear / self.linear_length,
            shape=shape,
            choices=choices / np.sqrt(max(choices.shape[1], 1)),
        )

    def regressors(self, inputs: Inputs, log_relative: Floats) -> Regressors:
        """What adapting takes, from the same inputs and the source devices' log-latencies (N, D), each
        relative to its mean.
        """
        return Regressors.of(log_relative, linear=inputs.linear * self.linear_length, shape=inputs.shape)
