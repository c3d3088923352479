"""Scratch folders: there while in use, gone afterwards; what a killed process leaves is told apart."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from devices.errors import FailureCode, WorkFailed
from devices.scratch import PREFIX, remove_stale_folders, scratch_folder


@pytest.fixture(autouse=True)
def _own_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def left_behind(parent: Path, name: str = f"{PREFIX}left") -> Path:
    """As a process leaves it that was killed an hour ago, with a file in it."""
    path = parent / name
    path.mkdir()
    (path / "profile.json").write_text("half")
    os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    return path


def test_a_folder_is_empty_and_private_and_gone_afterwards(tmp_path: Path) -> None:
    with scratch_folder() as path:
        assert Path(path).parent == tmp_path
        assert os.listdir(path) == []
        assert Path(path).stat().st_mode & 0o077 == 0
        (Path(path) / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_use_stays_however_old_it_is(tmp_path: Path) -> None:
    stale = left_behind(tmp_path)
    with scratch_folder() as path:
        os.utime(path, (0, 0))
        assert remove_stale_folders() == 1
        assert Path(path).is_dir()
    assert not stale.exists()


def test_what_is_new_or_something_else_stays(tmp_path: Path) -> None:
    new = tmp_path / f"{PREFIX}new"  # made, but not locked yet
    new.mkdir()
    other = left_behind(tmp_path, "laptime-pg-1")
    (tmp_path / f"{PREFIX}link").symlink_to(other)
    (tmp_path / f"{PREFIX}file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert remove_stale_folders() == 0
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, FailureCode.OUT_OF_DISK),
        (errno.EDQUOT, FailureCode.OUT_OF_DISK),
        (errno.EACCES, FailureCode.INTERNAL),
    ],
)
def test_a_disk_that_takes_no_folder_is_told(
    monkeypatch: pytest.MonkeyPatch, number: int, code: FailureCode
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(WorkFailed, match="make room there") as caught, scratch_folder():
        pass
    assert caught.value.code is code


def test_without_any_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_usable() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert remove_stale_folders() == 0
