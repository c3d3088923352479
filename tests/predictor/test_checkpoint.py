"""Checkpoints: the same bytes for the same predictor, and a clear refusal of everything else."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from predictor.adapt import adapt
from predictor.checkpoint import Checkpoint
from predictor.errors import CheckpointRejected
from predictor.predict import Predictor
from tests.predictor.synthetic_target import SyntheticTarget, facts, reference_graphs


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return adapt(facts(), SyntheticTarget.drawn(np.random.default_rng(3)).observations())


def changed(data: bytes, **fields: object) -> bytes:
    """The file with other values in its provenance."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    provenance = json.loads(header["__metadata__"]["laptime"]) | fields
    header["__metadata__"]["laptime"] = json.dumps(provenance)
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + data[8 + length :]


def test_round_trip(checkpoint: Checkpoint) -> None:
    data = checkpoint.to_bytes()
    again = Checkpoint.from_bytes(data)
    assert again.to_bytes() == data
    assert again.provenance == checkpoint.provenance
    assert again.target_key == facts().key
    for _, graph in reference_graphs():
        assert Predictor(again).predict(graph) == Predictor(checkpoint).predict(graph)
    assert len(data) < 100_000


def test_another_feature_version_is_refused_with_the_remedy(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointRejected, match=r"feature_version 999.*adapt the target again"):
        Checkpoint.from_bytes(changed(checkpoint.to_bytes(), feature_version=999))
    with pytest.raises(CheckpointRejected, match="format_version"):
        Checkpoint.from_bytes(changed(checkpoint.to_bytes(), format_version=2))


def test_damaged_bytes_are_refused(checkpoint: Checkpoint) -> None:
    data = checkpoint.to_bytes()
    broken = [
        b"",
        b"PK\x03\x04",
        data[:100],
        data[:-8],
        data + b"\x00" * 8,
        changed(data, target=3),
        save({}, {}),
    ]
    broken.append(save({"weights": np.ones(2)}, {"laptime": "[]"}))
    (length,) = struct.unpack("<Q", data[:8])
    broken.append(data[: 8 + length] + b"\xff" * (len(data) - 8 - length))  # all numbers NaN
    for one in broken:
        with pytest.raises(CheckpointRejected):
            Checkpoint.from_bytes(one)


def test_mutated_bytes_never_raise_anything_else(checkpoint: Checkpoint) -> None:
    rng, seed = np.random.default_rng(0), checkpoint.to_bytes()
    refused = 0
    for _ in range(400):
        data = bytearray(seed)
        for at in rng.integers(0, 3000, size=3):
            data[at] = rng.integers(256)
        try:
            Checkpoint.from_bytes(bytes(data))
        except CheckpointRejected:
            refused += 1
    assert refused > 200
