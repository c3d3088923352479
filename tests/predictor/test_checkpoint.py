"""Checkpoints: the same bytes for the same predictor, and a clear refusal of everything else."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load, save

from predictor.adapt import adapt
from predictor.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint
from predictor.errors import CheckpointRejected
from predictor.meta_checkpoint import MAX_META_BYTES, MetaCheckpoint
from predictor.predict import Predictor
from tests.predictor.synthetic_target import SyntheticTarget, facts, reference_graphs, synthetic_meta

META = synthetic_meta()


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """With one pooled target."""
    rng = np.random.default_rng(3)
    pool = SyntheticTarget.drawn(rng).observations(key="other/x")
    return adapt(facts(), SyntheticTarget.drawn(rng).observations(), pool, meta=META)


def changed(data: bytes, key: str = "laptime", **fields: object) -> bytes:
    """The file with other values in what its header says under the key."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    described = json.loads(header["__metadata__"][key]) | fields
    header["__metadata__"][key] = json.dumps(described)
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + data[8 + length :]


def with_array(data: bytes, name: str, array: np.ndarray, key: str = "laptime") -> bytes:
    """The file with another array under the name."""
    (length,) = struct.unpack("<Q", data[:8])
    described = json.loads(data[8 : 8 + length])["__metadata__"][key]
    return save(load(data) | {name: array}, {key: described})


def test_round_trip(checkpoint: Checkpoint) -> None:
    data = checkpoint.to_bytes()
    again = Checkpoint.from_bytes(data)
    assert again.to_bytes() == data
    assert again.provenance == checkpoint.provenance
    assert again.target_key == facts().key
    for _, graph in reference_graphs():
        assert Predictor(again, META).predict(graph) == Predictor(checkpoint, META).predict(graph)
    assert len(data) < 100_000


def test_another_feature_version_is_refused_with_the_remedy(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointRejected, match=r"feature_version 999.*adapt the target again"):
        Checkpoint.from_bytes(changed(checkpoint.to_bytes(), feature_version=999))
    with pytest.raises(CheckpointRejected, match="format_version 1, "):
        Checkpoint.from_bytes(changed(checkpoint.to_bytes(), format_version=1))


def test_another_meta_checkpoint_is_refused_with_the_remedy(checkpoint: Checkpoint) -> None:
    again = Checkpoint.from_bytes(changed(checkpoint.to_bytes(), meta_sha256="ab" * 32))
    with pytest.raises(CheckpointRejected, match=r"abababababab, .*adapt the target again"):
        Predictor(again, META)


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
    others = [facts(key).model_dump(mode="json") for key in ("other/x", "another/x")]
    broken.append(changed(data, pooled=others))  # the arrays of one are missing
    broken.append(bytes(MAX_CHECKPOINT_BYTES + 1))
    latency, total = checkpoint.support.latency_ms, checkpoint.support.total_ms
    for name, array in (
        ("latency_ms", -latency),
        ("latency_ms", latency[:-1]),
        ("latency_ms", latency[:, None]),
        ("total_ms", np.inf * total),
        ("total_ms", total[:, :-1]),
        ("total_ms", np.zeros((0, 4))),
        ("pooled0.class_ms", -checkpoint.pooled[0].class_ms - 1.0),
    ):
        broken.append(with_array(data, name, np.ascontiguousarray(array)))
    (length,) = struct.unpack("<Q", data[:8])
    broken.append(data[: 8 + length] + b"\xff" * (len(data) - 8 - length))  # all numbers NaN
    for one in broken:
        with pytest.raises(CheckpointRejected):
            Checkpoint.from_bytes(one)


def test_mutated_bytes_never_raise_anything_else(checkpoint: Checkpoint) -> None:
    """What is still read can still predict."""
    rng, seed = np.random.default_rng(0), checkpoint.to_bytes()
    graph, refused = reference_graphs()[2][1], 0
    for _ in range(400):
        data = bytearray(seed)
        for at in rng.integers(0, 3000, size=3):
            data[at] = rng.integers(256)
        try:
            said = Predictor(Checkpoint.from_bytes(bytes(data)), META).predict(graph)
            assert np.isfinite(said.median_ms)
        except CheckpointRejected:
            refused += 1
    assert refused > 200


def test_what_training_writes_is_read_back() -> None:
    data = META.to_bytes()
    again = MetaCheckpoint.from_bytes(data)
    assert again.to_bytes() == data
    assert (again.facts, again.sha256) == (META.facts, META.sha256)
    encoded = META.pricer.encode(reference_graphs()[0][1])
    target = facts()
    for one in (META, again):
        priced = one.pricer.price(encoded, target.runtime, target.hardware)
        np.testing.assert_array_equal(
            priced.total_ms, META.pricer.price(encoded, target.runtime, target.hardware).total_ms
        )
    assert len(data) < MAX_META_BYTES


def test_other_versions_and_damage_of_the_network_are_refused() -> None:
    data, key = META.to_bytes(), "laptime-meta"
    for field in ("feature_version", "format_version", "head_version"):
        with pytest.raises(CheckpointRejected, match=f"{field} 999.*train it again"):
            MetaCheckpoint.from_bytes(changed(data, key, **{field: 999}))
    arrays = load(data)
    first, last = "member0.layer0.weight", "member0.layer2.weight"
    broken = [
        b"",
        data[:-8],
        bytes(MAX_META_BYTES + 1),
        changed(data, key, members=2),
        changed(data, key, members=0),
        changed(data, key, widenings={"of_known_engines": 0.0, "of_strangers": 1.0}),
        changed(data, key, sources=[]),
        changed(data, key, sources=changed_sources(data, key)),
        with_array(data, first, arrays[first][:-1], key),
        with_array(data, last, np.full_like(arrays[last], np.nan), key),
        with_array(data, "member0.layer1.weight", arrays["member0.layer1.weight"][:, :-1], key),
        with_array(data, "member0.layer1.bias", arrays["member0.layer1.bias"][:-1], key),
        with_array(data, "seen", arrays["seen"][:-1], key),
        with_array(data, "seen", np.full_like(arrays["seen"], np.nan), key),
    ]
    for one in broken:
        with pytest.raises(CheckpointRejected):
            MetaCheckpoint.from_bytes(one)


def changed_sources(data: bytes, key: str) -> list[object]:
    """One source fewer than the network has outputs."""
    (length,) = struct.unpack("<Q", data[:8])
    described = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][key])
    return list(described["sources"][:-1])


def test_mutated_networks_never_raise_anything_else() -> None:
    rng, seed = np.random.default_rng(1), META.to_bytes()
    (length,) = struct.unpack("<Q", seed[:8])
    encoded = META.pricer.encode(reference_graphs()[2][1])
    target, refused = facts(), 0
    for _ in range(300):
        data = bytearray(seed)
        for at in (*rng.integers(0, length, size=1), *rng.integers(0, len(seed), size=3)):
            data[at] = rng.integers(256)
        try:
            read = MetaCheckpoint.from_bytes(bytes(data))
            assert np.isfinite(read.pricer.price(encoded, target.runtime, target.hardware).total_ms).all()
        except CheckpointRejected:
            refused += 1
    assert refused > 100
