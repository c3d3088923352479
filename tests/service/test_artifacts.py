"""Bytes by their hash: whole or not at all, however many write at once."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from service import artifacts
from service.artifacts import ArtifactLost, ArtifactStore
from service.db.session import Database
from service.db.tables import Artifact
from service.errors import TooLarge


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def files(store: ArtifactStore, tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


def test_round_trip(store: ArtifactStore, tmp_path: Path) -> None:
    data = b"some bytes" * 1000
    stored = store.put_bytes(data)
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert store.read(stored.sha256) == data == b"".join(store.chunks(stored.sha256))
    assert files(store, tmp_path) == [store.path(stored.sha256)]


def test_empty_bytes_are_bytes(store: ArtifactStore) -> None:
    assert store.read(store.put_bytes(b"").sha256) == b""


def test_a_stream_is_counted_and_hashed(store: ArtifactStore) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(100):
            yield bytes([number]) * 1000

    stored = asyncio.run(store.put_stream(chunks(), max_bytes=100_000))
    assert stored.size_bytes == 100_000
    assert store.read(stored.sha256) == b"".join(bytes([number]) * 1000 for number in range(100))


def test_past_the_limit_nothing_is_kept(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="limit of 10 bytes"):
        store.put_chunks([b"12345", b"67890", b"1"], max_bytes=10)
    assert files(store, tmp_path) == []


def test_an_upload_that_breaks_off_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError("the client went away")

    with pytest.raises(ConnectionError):
        asyncio.run(store.put_stream(chunks(), max_bytes=100))
    assert files(store, tmp_path) == []


def test_many_put_the_same_bytes_at_once(store: ArtifactStore, tmp_path: Path) -> None:
    data = b"x" * 300_000
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(store.put_bytes(data).sha256)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [hashlib.sha256(data).hexdigest()] * 8
    assert files(store, tmp_path) == [store.path(found[0])]
    assert store.read(found[0]) == data


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "/" * 64])
def test_no_name_becomes_a_path(store: ArtifactStore, name: str) -> None:
    for use in (store.path, store.read, lambda name: list(store.chunks(name))):
        with pytest.raises(ValueError, match="64 lower-case hexadecimal digits"):
            use(name)


def test_damage_is_noticed(store: ArtifactStore) -> None:
    stored = store.put_bytes(b"precious")
    store.path(stored.sha256).write_bytes(b"precioux")
    with pytest.raises(ArtifactLost, match="damaged; restore it"):
        store.read(stored.sha256)
    store.path(stored.sha256).unlink()
    with pytest.raises(ArtifactLost, match="missing"):
        store.read(stored.sha256)
    assert store.put_bytes(b"precious") == stored
    assert store.read(stored.sha256) == b"precious"


def test_a_row_is_written_once(store: ArtifactStore, database: Database) -> None:
    stored = store.put_bytes(b"model")
    for media_type in ("application/onnx", "text/plain"):
        with database.write() as session:
            artifacts.record(session, stored, media_type=media_type)
    with database.read() as session:
        row = session.scalars(select(Artifact)).one()
    assert (row.sha256, row.size_bytes, row.media_type) == (stored.sha256, 5, "application/onnx")
