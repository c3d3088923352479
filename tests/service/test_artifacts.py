"""Bytes by their hash: whole or not at all, however many write at once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from service import artifacts
from service.artifacts import ArtifactLost, ArtifactStore, Stored
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

    async def receive() -> Stored:
        async with store.receive(chunks(), max_bytes=100_000) as incoming:
            assert incoming.read() == whole
            return incoming.keep()

    whole = b"".join(bytes([number]) * 1000 for number in range(100))
    stored = asyncio.run(receive())
    assert stored == Stored(hashlib.sha256(whole).hexdigest(), 100_000)
    assert store.read(stored.sha256) == whole


async def receive_and_leave(store: ArtifactStore, chunks: AsyncIterator[bytes], *, max_bytes: int) -> None:
    async with store.receive(chunks, max_bytes=max_bytes):
        pass


def test_past_the_limit_nothing_is_kept(store: ArtifactStore, tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"12345", b"67890", b"1"):
            yield chunk

    with pytest.raises(TooLarge, match="limit of 10 bytes"):
        asyncio.run(receive_and_leave(store, chunks(), max_bytes=10))
    assert files(store, tmp_path) == []


def test_an_upload_that_breaks_off_or_is_not_wanted_leaves_nothing(
    store: ArtifactStore, tmp_path: Path
) -> None:
    async def chunks(*, breaks_off: bool) -> AsyncIterator[bytes]:
        yield b"half"
        if breaks_off:
            raise ConnectionError("the client went away")

    with pytest.raises(ConnectionError):
        asyncio.run(receive_and_leave(store, chunks(breaks_off=True), max_bytes=100))
    asyncio.run(receive_and_leave(store, chunks(breaks_off=False), max_bytes=100))
    assert files(store, tmp_path) == []


def test_what_a_dead_process_left_behind_is_swept(store: ArtifactStore, tmp_path: Path) -> None:
    assert store.sweep(older_than_s=0.0) == 0  # nothing was ever stored
    kept = store.put_bytes(b"kept")
    old, fresh = (store.incoming / name for name in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"half")
    for path in (old, store.path(kept.sha256)):
        os.utime(path, (0.0, 0.0))
    assert store.sweep(older_than_s=3600.0) == 1
    assert sorted(files(store, tmp_path)) == sorted([fresh, store.path(kept.sha256)])


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
