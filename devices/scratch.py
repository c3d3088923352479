"""The scratch folder of a boxed child: empty and private, locked while it is in use, gone afterwards.

A process that is killed leaves its folder behind. The kernel lets go of a lock however its holder ends, so a
folder that nobody holds is such a leftover, and whoever starts next removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from devices.errors import FailureCode, WorkFailed

PREFIX = "laptime-box-"
MIN_AGE_S = 2.0  # a younger folder may be one that its owner is about to lock
# Where the disk is full, Python finds no folder that takes a temporary file, and says so with ENOENT.
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOENT})


@contextmanager
def scratch_folder() -> Iterator[str]:
    """The path of a new folder, which is removed at the end. What cannot be removed then costs no result.

    Raises `WorkFailed`: out_of_disk, or internal where no folder can be made for another reason.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        code = FailureCode.OUT_OF_DISK if error.errno in FULL_DISK else FailureCode.INTERNAL
        raise WorkFailed(
            code, f"no scratch folder can be made: {error}; make room there, or name another with TMPDIR"
        ) from error
    with folder as path, _opened(Path(path)) as descriptor:
        with suppress(OSError):  # a file system without locks: what is left over there stays
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path


def remove_stale_folders() -> int:
    """Remove the folders that killed processes of this user left behind; how many there were. Never raises
    `OSError`: what cannot be removed stays.
    """
    with suppress(OSError):  # there is no folder for temporary files
        return sum(map(_remove_if_stale, Path(tempfile.gettempdir()).glob(f"{PREFIX}*")))
    return 0


def _remove_if_stale(path: Path) -> bool:
    try:
        with _opened(path) as descriptor:
            status = os.fstat(descriptor)
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < MIN_AGE_S:
                return False
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
    except OSError:  # in use, or no folder, or gone by now
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a folder; a link to one is refused with `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
