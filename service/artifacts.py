"""Bytes by the SHA-256 of their content: models, checkpoints, whatever is too large for the database.

A file appears under its name only when it is complete and durable: written to a temporary file, synced,
renamed. So the same bytes may be put twice or by several at once, and a row in `artifacts` (written
afterwards) never points at nothing. No name from outside ever becomes a path.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.db import tables
from service.db.insert import insert_if_absent
from service.errors import TooLarge

CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"[0-9a-f]{64}")


class ArtifactLost(Exception):
    """Bytes that were stored are missing or differ from their name: the store on disk was damaged."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes that are durable under this name."""

    sha256: str
    size_bytes: int


class ArtifactStore:
    """A folder of immutable files. Any number of processes may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, sha256: str) -> Path:
        """Where these bytes are, or would be. Raises ValueError for what is no SHA-256."""
        if not _NAME.fullmatch(sha256):
            raise ValueError(f"an artifact is named by 64 lower-case hexadecimal digits, got {sha256!r}")
        return self._root / sha256[:2] / sha256[2:]

    def put_bytes(self, data: bytes) -> Stored:
        """Store bytes that are in memory."""
        return self.put_chunks([data], max_bytes=len(data))

    def put_chunks(self, chunks: Iterable[bytes], *, max_bytes: int) -> Stored:
        """Store bytes as they come. Raises `TooLarge` past `max_bytes`, and then keeps nothing."""
        with _Incoming(self._root, max_bytes) as incoming:
            for chunk in chunks:
                incoming.write(chunk)
            return incoming.keep(self)

    async def put_stream(self, chunks: AsyncIterable[bytes], *, max_bytes: int) -> Stored:
        """As `put_chunks`, from an asynchronous source; disk work happens in threads."""
        incoming = await run_in_threadpool(_Incoming, self._root, max_bytes)
        with incoming:
            async for chunk in chunks:
                await run_in_threadpool(incoming.write, chunk)
            return await run_in_threadpool(incoming.keep, self)

    def read(self, sha256: str) -> bytes:
        """All bytes, checked against their name. Raises `ArtifactLost`."""
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError:
            raise ArtifactLost(
                f"artifact {sha256} is missing in {self._root}; restore it from a backup"
            ) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactLost(f"artifact {sha256} in {self._root} is damaged; restore it from a backup")
        return data

    def chunks(self, sha256: str) -> Iterator[bytes]:
        """The bytes piece by piece, for answers that should not be held in memory."""
        with self.path(sha256).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


class _Incoming:
    """Bytes on their way in: counted and hashed while they are written to a temporary file."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        folder = root / "incoming"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
        self._file = os.fdopen(descriptor, "wb")
        self._path = Path(name)
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def __enter__(self) -> _Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        self._size_bytes += len(chunk)
        if self._size_bytes > self._max_bytes:
            raise TooLarge(self._max_bytes)
        self._hash.update(chunk)
        self._file.write(chunk)

    def keep(self, store: ArtifactStore) -> Stored:
        stored = Stored(self._hash.hexdigest(), self._size_bytes)
        target = store.path(stored.sha256)
        if not target.exists():
            self._file.flush()
            os.fsync(self._file.fileno())
            target.parent.mkdir(exist_ok=True)
            self._path.replace(target)
            _sync_folder(target.parent)
        return stored


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def record(session: Session, stored: Stored, *, media_type: str) -> None:
    """Write the row of bytes that are durable; a row that is there already stays as it is."""
    row = {"sha256": stored.sha256, "size_bytes": stored.size_bytes, "media_type": media_type}
    insert_if_absent(session, tables.Artifact, row, returning=tables.Artifact.sha256)
