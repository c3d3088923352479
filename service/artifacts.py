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
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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

    @property
    def incoming(self) -> Path:
        """The folder of bytes on their way in."""
        return self._root / "incoming"

    def path(self, sha256: str) -> Path:
        """Where these bytes are, or would be. Raises ValueError for what is no SHA-256."""
        if not _NAME.fullmatch(sha256):
            raise ValueError(f"an artifact is named by 64 lower-case hexadecimal digits, got {sha256!r}")
        return self._root / sha256[:2] / sha256[2:]

    def put_bytes(self, data: bytes) -> Stored:
        """Store bytes that are in memory."""
        with Incoming(self, max_bytes=len(data)) as incoming:
            incoming.write(data)
            return incoming.keep()

    @asynccontextmanager
    async def receive(self, chunks: AsyncIterable[bytes], *, max_bytes: int) -> AsyncIterator[Incoming]:
        """Bytes as they come from outside. They are gone afterwards unless the block says `keep`, so what is
        refused leaves nothing behind. Disk work happens in threads.

        Raises `TooLarge` past `max_bytes`.
        """
        with await run_in_threadpool(Incoming, self, max_bytes=max_bytes) as incoming:
            async for chunk in chunks:
                await run_in_threadpool(incoming.write, chunk)
            yield incoming

    def sweep(self, *, older_than_s: float) -> int:
        """Delete what was on its way in when its process died: not written for `older_than_s`. How many."""
        limit_s = time.time() - older_than_s
        swept = 0
        for path in self.incoming.glob("*"):
            with suppress(FileNotFoundError):  # another process came first, or the bytes were kept just now
                if path.stat().st_mtime < limit_s:
                    path.unlink()
                    swept += 1
        return swept

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


class Incoming:
    """Bytes on their way in: counted and hashed while they are written to a temporary file, which is gone
    when the block ends.
    """

    def __init__(self, store: ArtifactStore, *, max_bytes: int) -> None:
        store.incoming.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=store.incoming)
        self._store = store
        self._file = os.fdopen(descriptor, "wb")
        self._path = Path(name)
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    @property
    def stored(self) -> Stored:
        """What the bytes so far are called once they are kept."""
        return Stored(self._hash.hexdigest(), self._size_bytes)

    def write(self, chunk: bytes) -> None:
        """The next bytes. Raises `TooLarge`."""
        self._size_bytes += len(chunk)
        if self._size_bytes > self._max_bytes:
            raise TooLarge(self._max_bytes)
        self._hash.update(chunk)
        self._file.write(chunk)

    def read(self) -> bytes:
        """All bytes so far, before they are kept."""
        self._file.flush()
        return self._path.read_bytes()

    def keep(self) -> Stored:
        """Make the bytes durable under their name, unless they are."""
        stored = self.stored
        target = self._store.path(stored.sha256)
        if not target.exists():
            self._file.flush()
            os.fsync(self._file.fileno())
            target.parent.mkdir(exist_ok=True)
            self._path.replace(target)
        # also where another process put them: it may not have come so far, and a row is about to point here
        _sync_folder(target.parent)
        _sync_folder(target.parent.parent)
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
