"""Checkpoint: a predictor adapted to one target, as bytes. safetensors for the arrays, JSON for the rest,
nothing executable.

It holds what adapting starts from, the target's measured models as the sources would run them, and not its
outcome: the closed form is solved again when a predictor is made, in about two milliseconds. Bytes of equal
checkpoints are equal. A checkpoint says which meta-learned checkpoint and which version of the features it
was made with, and is refused with any other: the same numbers would mean another predictor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from devices.target import Hardware, Runtime
from devices.vocabulary import Value
from predictor.checkpoint_header import header_text, read_header
from predictor.errors import CheckpointRejected
from predictor.kernel_costs.features import FEATURE_VERSION
from predictor.kernel_costs.table import CLASSES

FORMAT_VERSION = 4
MAX_CHECKPOINT_BYTES = 16 << 20
_KEY = "laptime"
LEAST_MS, MOST_MS = 1e-9, 1e12  # what is beyond is no latency, and its squares would overflow
_REMEDY = "adapt the target again from its stored measurements"
_ARRAYS = ("total_ms", "class_ms", "latency_ms")

Floats = NDArray[np.float64]


class TargetFacts(Value):
    """What a predictor must know about its target, beside measurements."""

    key: str
    runtime: Runtime
    hardware: Hardware


class Provenance(Value):
    """What a checkpoint was made from, and where it was never tried."""

    format_version: int = FORMAT_VERSION
    feature_version: int = FEATURE_VERSION
    meta_sha256: str  # of the meta-learned checkpoint that it stands on
    target: TargetFacts
    trained_on: tuple[str, ...]  # names of the measured models
    pooled: tuple[TargetFacts, ...] = ()  # other targets that serve as sources
    seen_kinds: tuple[str, ...]  # kinds of kernels that the target's own measurements contain
    shortest_ms: float = Field(gt=0, allow_inf_nan=False)  # of its own measurements
    longest_ms: float = Field(gt=0, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Support:
    """n measured models of one target: the sources' milliseconds `total_ms` (n, S) and by class of kernels
    `class_ms` (n, S, C), and what was measured, `latency_ms` (n,). All positive but `class_ms`, which may be
    0.
    """

    total_ms: Floats
    class_ms: Floats
    latency_ms: Floats


@dataclass(frozen=True)
class Checkpoint:
    """The target's own measurements, those of the pooled targets, and their provenance."""

    provenance: Provenance
    support: Support
    pooled: tuple[Support, ...] = ()

    @property
    def target_key(self) -> str:
        """The target that this predicts for."""
        return self.provenance.target.key

    @property
    def feature_version(self) -> int:
        """The version of the features that this was made with."""
        return self.provenance.feature_version

    def to_bytes(self) -> bytes:
        """A safetensors file with the provenance in its header; the same bytes for the same checkpoint."""
        arrays: dict[str, Floats] = {}
        for prefix, support in zip(_prefixes(len(self.pooled)), (self.support, *self.pooled), strict=True):
            arrays |= {prefix + name: np.ascontiguousarray(getattr(support, name)) for name in _ARRAYS}
        return save(arrays, {_KEY: header_text(self.provenance)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Read what `to_bytes` wrote. Raises `CheckpointRejected` for anything else, other feature versions
        included.
        """
        described = read_header(
            data,
            _KEY,
            most_bytes=MAX_CHECKPOINT_BYTES,
            versions={"format_version": FORMAT_VERSION},
            name="the checkpoint",
            remedy=_REMEDY,
        )
        try:
            provenance = Provenance.model_validate(described)
            arrays = load(data)
            supports = [_support(arrays, prefix) for prefix in _prefixes(len(provenance.pooled))]
        except (SafetensorError, ValidationError, KeyError, ValueError) as error:
            raise CheckpointRejected(f"the checkpoint is damaged: {error}") from error
        if len({support.total_ms.shape[1] for support in supports}) > 1:
            raise CheckpointRejected(
                "the checkpoint is damaged: its targets were priced by different sources"
            )
        return cls(provenance, supports[0], tuple(supports[1:]))


def _prefixes(pooled: int) -> list[str]:
    return ["", *(f"pooled{number}." for number in range(pooled))]


def _support(arrays: Mapping[str, NDArray[np.generic]], prefix: str) -> Support:
    total, by_class, latency = (arrays[prefix + name].astype(np.float64) for name in _ARRAYS)
    count, sources = total.shape
    expected = ((count, sources), (count, sources, len(CLASSES)), (count,))
    actual = (total.shape, by_class.shape, latency.shape)
    if not count or not sources or actual != expected:
        raise ValueError(f"its arrays have shapes {actual}, expected {expected}")
    for name, array, least in (
        ("total_ms", total, LEAST_MS),
        ("class_ms", by_class, 0.0),
        ("latency_ms", latency, LEAST_MS),
    ):
        if not np.all((array >= least) & (array <= MOST_MS)):
            raise ValueError(f"{name} holds numbers outside of {least:g} to {MOST_MS:g}")
    return Support(total, by_class, latency)
