"""Models are taken out of packages as they were chosen, or not at all."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.packaged_models import NotAsExpected, Packaged, collect, listed

DATA = b"a model, as far as anyone here looks"
MODEL = Packaged(
    name="made_up",
    package="some-package==1.2",
    file="some_package/models/made.up.onnx",
    sha256=hashlib.sha256(DATA).hexdigest()[:16],
    input_shapes={"x": [1, 3]},
)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "some_package-1.2-py3-none-any.whl", "w") as archive:
        archive.writestr(MODEL.file, DATA)
    return tmp_path


def test_a_model_is_written_with_the_sizes_it_is_asked_at(wheels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    collect([MODEL], wheels, out)
    assert (out / "made_up.onnx").read_bytes() == DATA
    assert json.loads((out / "manifest.json").read_text()) == {
        "made_up.onnx": {"input_shapes": {"x": [1, 3]}}
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sha256": "0" * 16},
            "made.up.onnx of some_package-1.2.* has sha256 .*, expected 0000",
        ),
        ({"file": "some_package/other.onnx"}, "has no some_package/other.onnx"),
        ({"package": "some-package==1.3"}, "no wheel of some-package==1.3"),
    ],
)
def test_what_is_not_as_expected_is_said(
    wheels: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    with pytest.raises(NotAsExpected, match=message):
        collect([replace(MODEL, **change)], wheels, tmp_path / "out")  # type: ignore[arg-type]


def test_every_listed_model_is_named_once_and_pinned() -> None:
    models = listed()
    assert len({model.name for model in models}) == len(models) > 30
    for model in models:
        assert model.package.count("==") == 1
        assert len(model.sha256) == 16
        assert model.input_shapes
