"""Handwritten digits (UCI optical recognition, test part; shipped with scikit-learn): 1797 images of 8 x 8,
ten classes.

Training, validation and test images are split once and for all, each class in its proportion. Searches see
training and validation images; test images only say, in the end, how good the found networks are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SPLIT_SEED = 0  # not the search's: accuracies of all searches are over the same images
TRAINING_COUNT = 1077
VALIDATION_COUNT = 360
SIDE = 8
TOP_LEVEL = 16.0  # pixels count set dots in 4 x 4 blocks


@dataclass(frozen=True, slots=True)
class Samples:
    """Images `(N, 8, 8)` float32 in [0, 1] with labels `(N,)` int64."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def at(self, resolution: int) -> NDArray[np.float32]:
        """The images as a network gets them: `(N, 1, resolution, resolution)`; see `resampling`."""
        matrix = resampling(resolution)
        return np.ascontiguousarray((matrix @ self.images @ matrix.T)[:, None])

    def for_input(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Images and labels for a model with an input of shape `(B, 1, R, R)`."""
        return self.at(shape[-1]), self.labels


@dataclass(frozen=True, slots=True)
class Digits:
    """The three parts of the data."""

    training: Samples
    validation: Samples
    test: Samples


@cache
def load() -> Digits:
    """The data, split: 1077 for training, 360 for validation, 360 for testing. The same on every machine."""
    bunch = load_digits()
    images = (bunch.images / TOP_LEVEL).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    training, rest = train_test_split(
        np.arange(len(labels)), train_size=TRAINING_COUNT, stratify=labels, random_state=SPLIT_SEED
    )
    validation, test = train_test_split(
        rest, train_size=VALIDATION_COUNT, stratify=labels[rest], random_state=SPLIT_SEED
    )
    return Digits(*(Samples(images[part], labels[part]) for part in (training, validation, test)))


def resampling(resolution: int) -> NDArray[np.float32]:
    """`(resolution, 8)`: rows of weights that sum to 1. Smaller: means of blocks; larger: linear between
    pixel centres.
    """
    if resolution <= SIDE:
        if SIDE % resolution:
            raise ValueError(f"resolution must divide {SIDE} or be larger, got {resolution}")
        return np.repeat(np.eye(resolution, dtype=np.float32), SIDE // resolution, axis=1) * (
            resolution / SIDE
        )
    centres = (np.arange(resolution) + 0.5) * SIDE / resolution - 0.5
    distance = np.abs(np.clip(centres, 0, SIDE - 1)[:, None] - np.arange(SIDE)[None, :])
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)
