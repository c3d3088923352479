"""Models on disk, found by what a measurement calls them: a path, the SHA-256 of the bytes, the digest of the
graph, or the name of a reference model.

A `manifest.json` beside the files gives the sizes of dynamic axes: {file: {"input_shapes": {input: [...]}}}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from devices.model_ref import sha256_of
from predictor.errors import PredictorError
from predictor.graph import ModelGraph
from predictor.reading.reader import read_graph
from predictor.reference_set import ReferenceModel, reference_candidates

MANIFEST = "manifest.json"
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")

Shapes = Mapping[str, tuple[int, ...]]
# The path of a file or the name of a reference model, and sizes.
_Key = tuple[Path | str, tuple[tuple[str, tuple[int, ...]], ...]]


@dataclass(frozen=True, slots=True)
class Found:
    """A model that was asked for: what it is called here, and its graph."""

    name: str
    graph: ModelGraph


class ModelLibrary:
    """The reference models, and the ONNX files of some folders and of the folders below them.

    Files are hashed when the first digest is looked up, and graphs are kept: the same model is measured on
    many targets.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise PredictorError(f"{folder} is not a folder; give one that holds ONNX files")
        self._folders = tuple(folders)
        self._references = {model.name: model for model in reference_candidates()}
        self._by_bytes = {sha256_of(model.model): model for model in self._references.values()}
        self._opened: dict[_Key, Found] = {}
        self._refused: set[_Key] = set()  # models that do not take the sizes of a search
        self._manifests: dict[Path, Mapping[str, object]] = {}

    def find(
        self, model: str, input_shapes: Shapes, *, beside: Path, graph_digest: str | None = None
    ) -> Found:
        """The model that is called so, at these input sizes.

        Paths are relative to `beside`, else to one of the folders. Where no sizes are given, a manifest
        beside the file or the file itself has them. `graph_digest` is tried where `model` is not found.
        Raises `PredictorError` where nothing is found, and `GraphRejected` for a file that makes no graph.
        """
        if model in self._references:
            return self._open(self._references[model], input_shapes)
        if _DIGEST.fullmatch(model):
            digest = model.lower()
            found = self._by_sha256(digest, input_shapes) or self._by_graph(digest, input_shapes)
        else:
            found = self._by_path(model, input_shapes, beside)
        if found is None and graph_digest is not None:
            found = self._by_graph(graph_digest.lower(), input_shapes)
        if found is None:
            raise PredictorError(self._not_found(model, beside))
        return found

    def _by_sha256(self, sha256: str, input_shapes: Shapes) -> Found | None:
        if sha256 in self._by_bytes:
            return self._open(self._by_bytes[sha256], input_shapes)
        path = self._files.get(sha256)
        return None if path is None else self._open(path, input_shapes)

    def _by_graph(self, digest: str, input_shapes: Shapes) -> Found | None:
        return next((found for found in self._all(input_shapes) if found.graph.digest == digest), None)

    def _by_path(self, model: str, input_shapes: Shapes, beside: Path) -> Found | None:
        for folder in (beside, *self._folders):
            if (folder / model).is_file():
                return self._open(folder / model, input_shapes)
        # `reference-set` writes files of this name, and a measurement file can lie anywhere else
        reference = self._references.get(Path(model).name.removesuffix(".onnx"))
        return None if reference is None else self._open(reference, input_shapes)

    @cached_property
    def _files(self) -> Mapping[str, Path]:
        """The files of the folders by the SHA-256 of their bytes."""
        paths = [path for folder in self._folders for path in sorted(folder.rglob("*.onnx"))]
        return {sha256_of(path.read_bytes()): path for path in reversed(paths) if path.is_file()}

    def _all(self, input_shapes: Shapes) -> Iterator[Found]:
        """Every model that takes these sizes."""
        models: tuple[ReferenceModel | Path, ...] = (*self._references.values(), *self._files.values())
        for model in models:
            if _key(model, input_shapes) in self._refused:
                continue
            try:
                found = self._open(model, input_shapes)
            except PredictorError:
                self._refused.add(_key(model, input_shapes))
            else:
                yield found

    def _open(self, model: ReferenceModel | Path, input_shapes: Shapes) -> Found:
        key = _key(model, input_shapes)
        if key in self._opened:
            return self._opened[key]
        if isinstance(model, Path):
            graph = read_graph(model.read_bytes(), input_shapes or self._stated(model))
        else:
            graph = read_graph(model.model, input_shapes or model.input_shapes)
        self._opened[key] = Found(model.name, graph)
        return self._opened[key]

    def _stated(self, path: Path) -> Shapes:
        manifest = path.parent / MANIFEST
        if manifest not in self._manifests:
            self._manifests[manifest] = read_manifest(manifest)
        return stated_shapes(self._manifests[manifest], path.name, manifest)

    def _not_found(self, model: str, beside: Path) -> str:
        if _DIGEST.fullmatch(model):
            where = ", ".join(map(str, self._folders)) or "no folder, for none was named"
            return (
                f"no reference model and no file has this SHA-256 or, at these sizes, this graph digest; "
                f"searched: {where}; name the model's folder with --models, and give input_shapes where the "
                "file does not fix them"
            )
        names = ", ".join(self._references)
        return (
            f"no such file in {', '.join(map(str, (beside, *self._folders)))}, and no reference model has "
            f"this name ({names}); correct the path, or name the folder of the file with --models"
        )


def _key(model: ReferenceModel | Path, input_shapes: Shapes) -> _Key:
    called = model if isinstance(model, Path) else model.name
    return called, tuple(sorted(input_shapes.items()))


def read_manifest(manifest: Path) -> Mapping[str, object]:
    """What a manifest says of each file, by file name; nothing where there is no manifest.

    Raises `PredictorError` where it is not JSON.
    """
    try:
        described = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    except ValueError as error:
        raise PredictorError(f"{manifest} is not JSON: {error}") from error
    return described if isinstance(described, dict) else {}


def stated_shapes(described: Mapping[str, object], name: str, manifest: Path) -> dict[str, tuple[int, ...]]:
    """The input sizes that a manifest states for a file; none where it says nothing, or null: the file
    fixes them all. Raises `PredictorError` where they are of another form.
    """
    entry = described.get(name, {})
    given = entry.get("input_shapes") if isinstance(entry, dict) else None
    if given is None:
        return {}
    if isinstance(given, dict) and all(
        isinstance(name, str) and isinstance(sizes, list) and all(isinstance(size, int) for size in sizes)
        for name, sizes in given.items()
    ):
        return {name: tuple(sizes) for name, sizes in given.items()}
    raise PredictorError(f"{manifest}: input_shapes must map input names to lists of sizes, got {given!r}")
