"""Pieces of the range of a kernel's features, so that what the network says may bend anywhere along a size.

What a kernel costs changes by steps: where channels fill another vector, a cache is left, a library takes
another path. A layer of smooth units bends slowly along one input; along the pieces of one it bends at each
end of a piece (piecewise linear encoding, Gorishniy and others 2022, arXiv 2203.05556).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """B pieces: `fields` (B,), the feature that each is a piece of, and where it starts and how wide it is,
    `starts` and `widths` (B,).
    """

    fields: NDArray[np.int64]
    starts: Floats32
    widths: Floats32

    def __len__(self) -> int:
        return len(self.fields)

    @classmethod
    def none(cls) -> Bins:
        """No pieces."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32))

    @classmethod
    def of(cls, features: Floats32, count: int) -> Bins:
        """Of the features (K, F) of kernels: each that has more than `count` values in `count` pieces with as
        many kernels, or in fewer where values repeat. No pieces where `count` is 0.
        """
        if not count:
            return cls.none()
        fields, starts, widths = [], [], []
        for field in range(features.shape[1]):
            values = np.unique(features[:, field])
            if len(values) > count:
                ends = np.unique(np.quantile(features[:, field], np.linspace(0.0, 1.0, count + 1)))
                fields.append(np.full(len(ends) - 1, field))
                starts.append(ends[:-1])
                widths.append(np.diff(ends))
        if not fields:
            return cls.none()
        return cls(
            np.concatenate(fields).astype(np.int64),
            np.concatenate(starts).astype(np.float32),
            np.concatenate(widths).astype(np.float32),
        )

    def encoded(self, features: Floats32) -> Floats32:
        """The features (K, F), and behind them how far each has come through its pieces, from -1 before one
        to 1 behind it: (K, F + B).
        """
        if not len(self):
            return features
        through = features.take(self.fields, axis=1)
        through -= self.starts
        through /= self.widths
        np.clip(through, 0.0, 1.0, out=through)
        through *= 2.0
        through -= 1.0
        return np.concatenate([features, through], axis=1)
