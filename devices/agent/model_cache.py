"""Models on disk by SHA-256, so that one that is measured often is downloaded once.

Bounded; the least recently used go first.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from devices.agent.logs import event
from devices.model_ref import sha256_of

log = logging.getLogger(__name__)


class ModelCache:
    """A directory of model files, used by one thread.

    It is only a cache: no trouble with it ever fails a job.
    """

    def __init__(self, directory: Path, *, capacity_bytes: int) -> None:
        self._directory = directory
        self._capacity_bytes = capacity_bytes
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._evict(capacity_bytes)  # it may have been larger at the last start
        except OSError as error:
            log.warning(event("model_cache_failed", error=error, then="going on without"))

    def get(self, sha256: str) -> bytes | None:
        """The bytes, verified, or None. A file that has changed on the disk is removed."""
        path = self._directory / sha256
        try:
            data = path.read_bytes()
            if sha256_of(data) == sha256:
                os.utime(path)  # its modification time is the time of its last use
                return data
            log.warning(event("model_cache_damaged", model=sha256, then="downloading it again"))
            path.unlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning(event("model_cache_failed", model=sha256, error=error, then="downloading it"))
        return None

    def put(self, sha256: str, data: bytes) -> None:
        """Keep the bytes, if they fit at all, and make room by the age of last use."""
        if len(data) > self._capacity_bytes:
            return
        temporary = self._directory / f"{sha256}.tmp"
        try:
            self._evict(self._capacity_bytes - len(data))
            temporary.write_bytes(data)  # not synced: `get` verifies what it reads
            temporary.replace(self._directory / sha256)
        except OSError as error:
            log.warning(event("model_cache_failed", model=sha256, error=error, then="going on without"))
            with suppress(OSError):
                temporary.unlink(missing_ok=True)  # on a full disk, half a model is in everybody's way

    def _evict(self, keep_bytes: int) -> None:
        files = [(path, path.stat()) for path in self._directory.iterdir()]
        total_bytes = sum(status.st_size for _, status in files)
        for path, status in sorted(files, key=lambda file: file[1].st_mtime_ns):
            if total_bytes <= keep_bytes:
                return
            path.unlink(missing_ok=True)
            total_bytes -= status.st_size
