"""Checkpoint: a predictor adapted to one target, as bytes. safetensors for the arrays, JSON for the rest,
nothing executable.

Bytes of equal checkpoints are equal. A checkpoint says which version of the features it was made with, and
is refused by any other: the same weights on other features are another predictor.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from devices.target import Hardware, Runtime
from devices.vocabulary import Value
from predictor.errors import CheckpointRejected
from predictor.features import CLASSES, FEATURE_VERSION
from predictor.regression import Posterior

FORMAT_VERSION = 1
MAX_CHECKPOINT_BYTES = 16 << 20
_KEY = "laptime"


class TargetFacts(Value):
    """What a predictor must know about its target, beside measurements."""

    key: str
    runtime: Runtime
    hardware: Hardware


class Provenance(Value):
    """What a checkpoint was made from, and where it was never tried."""

    format_version: int = FORMAT_VERSION
    feature_version: int = FEATURE_VERSION
    target: TargetFacts
    trained_on: tuple[str, ...]  # names of the measured models
    pooled_targets: tuple[str, ...] = ()  # other targets whose measurements shaped the prior
    seen_kinds: tuple[str, ...]  # kinds of kernels that the target's own measurements contain
    shortest_ms: float = Field(gt=0, allow_inf_nan=False)  # of its own measurements
    longest_ms: float = Field(gt=0, allow_inf_nan=False)


@dataclass(frozen=True)
class Checkpoint:
    """A posterior over the factors of one target, with its provenance."""

    provenance: Provenance
    posterior: Posterior

    @property
    def target_key(self) -> str:
        """The target that this predicts for."""
        return self.provenance.target.key

    @property
    def feature_version(self) -> int:
        """The version of the features that this was fitted on."""
        return self.provenance.feature_version

    def to_bytes(self) -> bytes:
        """A safetensors file with the provenance in its header; the same bytes for the same checkpoint."""
        arrays = {
            "weights": self.posterior.weights,
            "means": self.posterior.means,
            "covariances": self.posterior.covariances,
            "noise": self.posterior.noise,
        }
        described = json.dumps(self.provenance.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {_KEY: described})

    @classmethod
    def from_bytes(cls, data: bytes) -> Checkpoint:
        """Read what `to_bytes` wrote. Raises `CheckpointRejected` for anything else, other feature
        versions included.
        """
        if len(data) > MAX_CHECKPOINT_BYTES:
            raise CheckpointRejected(
                f"the checkpoint has {len(data)} bytes, at most {MAX_CHECKPOINT_BYTES} are allowed"
            )
        described = _header(data)
        for field, expected in (("format_version", FORMAT_VERSION), ("feature_version", FEATURE_VERSION)):
            if described.get(field) != expected:
                raise CheckpointRejected(
                    f"the checkpoint has {field} {described.get(field)!r}, this version reads {expected}; "
                    "adapt the target again from its stored measurements"
                )
        try:
            arrays = load(data)
            posterior = Posterior(
                **{name: _array(arrays, name) for name in ("weights", "means", "covariances", "noise")}
            )
            if np.any(posterior.noise <= 0) or np.any(posterior.weights <= 0):
                raise ValueError("its weights and noise levels must be positive")
            provenance = Provenance.model_validate(described)
        except (SafetensorError, ValidationError, KeyError, ValueError) as error:
            raise CheckpointRejected(f"the checkpoint is damaged: {error}") from error
        _check_shapes(posterior)
        return cls(provenance, posterior)


def _header(data: bytes) -> Mapping[str, object]:
    """The JSON that `to_bytes` put into the header: 8 bytes of length, then JSON, as safetensors defines
    it.
    """
    try:
        (length,) = struct.unpack("<Q", data[:8])
        described = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointRejected("these bytes are not a checkpoint of this project") from error
    if not isinstance(described, dict):
        raise CheckpointRejected("these bytes are not a checkpoint of this project")
    return described


def _array(arrays: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.float64]:
    array = arrays[name].astype(np.float64)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds numbers that are not finite")
    return array


def _check_shapes(posterior: Posterior) -> None:
    (count,) = posterior.weights.shape if posterior.weights.ndim == 1 else (0,)
    parameters = posterior.means.shape[-1] if posterior.means.ndim == 2 else 0
    expected = ((count, parameters), (count, parameters, parameters), (count,))
    actual = (posterior.means.shape, posterior.covariances.shape, posterior.noise.shape)
    if not count or parameters < len(CLASSES) or actual != expected:
        raise CheckpointRejected(
            f"the checkpoint is damaged: its arrays have shapes {actual}, expected {expected}"
        )
