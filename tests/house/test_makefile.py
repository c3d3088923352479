"""When `make` makes the environment anew, and when it leaves it alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE = shutil.which("make")

pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")


def planned(environment: Path, target: str = "demo", *, is_dry: bool = True) -> str:
    """What make would do (or, if not `is_dry`, does) with this environment; pip is a stub."""
    assert MAKE is not None
    stub = environment.parent / "stub"
    stub.mkdir(exist_ok=True)
    (stub / "pip.py").touch()
    clean = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL"}}
    done = subprocess.run(
        [MAKE, *(["--dry-run"] if is_dry else []), target, f"VENV={environment}", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env={**clean, "PYTHONPATH": str(stub)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment as make leaves it, but for the packages."""
    made = tmp_path / "venv"
    planned(made, f"{made}/made", is_dry=False)
    (made / "installed").touch()
    return made


def test_a_sound_environment_is_used_as_it_is(environment: Path) -> None:
    assert "-m venv" not in planned(environment)
    assert "bin/laptime demo" in planned(environment)
    assert "pip" not in planned(environment)


def test_one_that_was_moved_is_made_anew(environment: Path) -> None:
    moved = environment.rename(environment.with_name("elsewhere"))
    assert f"-m venv --without-pip --clear {moved}" in planned(moved)
    assert "install -c constraints.txt" in planned(moved)


def test_one_whose_python_is_gone_is_made_anew(environment: Path) -> None:
    for name in (environment / "bin").glob("python*"):
        name.unlink()
        name.symlink_to("/nowhere/python")
    assert "-m venv --without-pip --clear" in planned(environment)
    planned(environment, f"{environment}/made", is_dry=False)
    assert (environment / "bin" / "python").exists()
    assert not (environment / "installed").exists(), "what was installed went with it"


def test_one_that_was_left_half_made_is_made_anew(environment: Path) -> None:
    (environment / "made").unlink()
    assert "-m venv --without-pip --clear" in planned(environment)


def test_a_folder_that_is_no_environment_is_never_cleared(tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "to-anna").write_text("dear")
    assert "--clear" not in planned(folder)
