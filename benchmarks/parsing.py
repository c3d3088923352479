"""What reading a graph costs, beside what onnx itself takes for the least that anyone must do.

    python -m benchmarks.parsing [--models DIR] [--rounds 15] [--json] [--check]

Of each model, in one process and in turn, round after round, so that drift of the machine hits all alike:

- base: `onnx.load` of the file, and `onnx.shape_inference.infer_shapes` of what it gave, as a reader must ask
  for it that refuses contradictions and follows computed sizes (check_type, strict_mode, data_prop). The
  file has the asked input sizes written in it;
- least: the same of bytes in memory (`onnx.load_model_from_string`, which looks for no external data) and
  with inference's defaults, which let contradictions pass;
- read: the file's bytes and `read_graph` of them at the same sizes, having forgotten every model before it;
- encode: its kernels and their features, in every view that the cost network knows, right after that;
- again: both once more, while the process remembers nodes and kernels like these, as a server does;
- digest: what names the graph, worked out for those who ask for it.

Times are processor time of the one thread at work, so that whoever else uses the machine counts little.
Printed are ratios of medians to the base: `first` is read plus encode, `again` the same when remembered,
`least` is `first` over the least instead. The models are the ten reference models and, with a folder, its
ONNX files at the sizes in its manifest.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean, median
from tempfile import TemporaryDirectory
from time import thread_time_ns

import onnx
from onnx import shape_inference

from predictor.graph import ModelGraph
from predictor.kernel_costs.pricing import encode
from predictor.kernel_costs.table import View
from predictor.memory import forget
from predictor.reading.reader import read_graph, read_inputs
from predictor.reference_set import reference_models

BAR = 1.5  # what reading and encoding may take, as a multiple of the base
VIEWS = tuple(View)


@dataclass(frozen=True, slots=True)
class Subject:
    """A file to read: as it is, and with the input sizes written in it."""

    name: str
    model: Path
    sized: Path
    sized_bytes: bytes
    input_shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one model, and what they come to as multiples of the base."""

    model: str
    size_bytes: int
    operators: int
    base_ms: float
    least_ms: float
    read_ms: float
    encode_ms: float
    again_ms: float
    digest_ms: float

    @property
    def read_alone(self) -> float:
        """Reading for the first time."""
        return self.read_ms / self.base_ms

    @property
    def first(self) -> float:
        """Reading for the first time, and encoding."""
        return (self.read_ms + self.encode_ms) / self.base_ms

    @property
    def least(self) -> float:
        """Reading for the first time, and encoding, over the least."""
        return (self.read_ms + self.encode_ms) / self.least_ms

    @property
    def again(self) -> float:
        """Reading and encoding what is like something read and encoded before."""
        return self.again_ms / self.base_ms


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where `--check` finds the geometric mean or the sum over the bar."""
    options = _parser().parse_args(arguments)
    with TemporaryDirectory(prefix="laptime-parsing-") as folder:
        rows = measure(subjects_in(Path(folder), options.models), rounds=options.rounds)
    totals = summary(rows)
    if options.json:
        print(json.dumps({"models": [asdict(row) for row in rows], "summary": totals}, indent=1))
    else:
        _print_table(rows, totals)
    is_over = max(totals["first_geometric_mean"], totals["first_of_sums"]) > BAR
    return 1 if options.check and is_over else 0


def measure(subjects: Sequence[Subject], *, rounds: int) -> list[Row]:
    """Each model once per round; medians over the rounds."""
    graphs = [_read(subject) for subject in subjects]
    taken: list[list[tuple[float, ...]]] = [[] for _ in subjects]
    gc.collect()
    gc.disable()  # collections fall on whoever comes by; both sides free what they make by counting
    try:
        for _ in range(rounds):
            for index, subject in enumerate(subjects):
                taken[index].append(_one_round(subject))
    finally:
        gc.enable()
    rows: list[Row] = []
    for subject, graph, times in zip(subjects, graphs, taken, strict=True):
        size = subject.model.stat().st_size
        medians = [median(column) for column in zip(*times, strict=True)]
        rows.append(Row(subject.name, size, len(graph.operators), *medians))
    return rows


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Over all models: geometric mean, ratio of the sums and worst model of each ratio."""
    base = sum(row.base_ms for row in rows)
    encoded = sum(row.encode_ms for row in rows)
    sums = {
        "read_alone": sum(row.read_ms for row in rows) / base,
        "first": (sum(row.read_ms for row in rows) + encoded) / base,
        "again": sum(row.again_ms for row in rows) / base,
        "least": (sum(row.read_ms for row in rows) + encoded) / sum(row.least_ms for row in rows),
    }
    found: dict[str, float] = {}
    for name, of_sums in sums.items():
        ratios = [float(getattr(row, name)) for row in rows]
        found[f"{name}_geometric_mean"] = geometric_mean(ratios)
        found[f"{name}_of_sums"] = of_sums
        found[f"{name}_worst"] = max(ratios)
    return found


def _one_round(subject: Subject) -> tuple[float, ...]:
    graphs: list[ModelGraph] = []
    base = _ms(lambda: _inferred_from(onnx.load(subject.sized)))
    least = _ms(lambda: shape_inference.infer_shapes(onnx.load_model_from_string(subject.sized_bytes)))
    forget()
    read = _ms(lambda: graphs.append(_read(subject)))
    encoded = _ms(lambda: encode(graphs[0], VIEWS))
    again = _ms(lambda: encode(_read(subject), VIEWS))
    digest = _ms(lambda: graphs[0].digest)
    return base, least, read, encoded, again, digest


def _inferred_from(model: onnx.ModelProto) -> onnx.ModelProto:
    return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def _read(subject: Subject) -> ModelGraph:
    return read_graph(subject.model.read_bytes(), subject.input_shapes)


def _ms(call: Callable[[], object]) -> float:
    began = thread_time_ns()
    call()
    return (thread_time_ns() - began) / 1e6


def subjects_in(folder: Path, models: Path | None) -> list[Subject]:
    """The reference models, and those of a folder if there is one; the files to read are written to
    `folder`.
    """
    wanted = [(each.name, each.model, each.input_shapes) for each in reference_models()]
    if models is not None:
        manifest = models / "manifest.json"
        known = json.loads(manifest.read_text()) if manifest.is_file() else {}
        for file in sorted(models.glob("*.onnx")):
            shapes = known.get(file.name, {}).get("input_shapes") or {}
            wanted.append((file.stem, file.read_bytes(), shapes))
    return [_subject(folder, name, model, shapes) for name, model, shapes in wanted]


def _subject(folder: Path, name: str, model: bytes, input_shapes: Mapping[str, Sequence[int]]) -> Subject:
    """The sizes are written over the axes of the inputs that the file declares."""
    sized = onnx.load_model_from_string(model)
    asked = {spec.name for spec in read_inputs(model)}
    for declared in sized.graph.input:
        if declared.name in asked and declared.name in input_shapes:
            dims = declared.type.tensor_type.shape.dim
            for dim, size in zip(dims, input_shapes[declared.name], strict=True):
                dim.dim_value = size
    shapes = {each: tuple(sizes) for each, sizes in input_shapes.items() if each in asked}
    as_it_is, with_sizes = folder / f"{name}.onnx", folder / f"{name}-sized.onnx"
    as_it_is.write_bytes(model)
    with_sizes.write_bytes(sized.SerializeToString())
    return Subject(name, as_it_is, with_sizes, with_sizes.read_bytes(), shapes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.parsing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", type=Path, help="folder of ONNX files, with the sizes in manifest.json")
    parser.add_argument("--rounds", type=_at_least_one, default=15)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--check", action="store_true", help=f"exit 1 where reading takes over {BAR} times")
    return parser


def _at_least_one(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"at least one round, got {count}")
    return count


def _print_table(rows: Sequence[Row], totals: Mapping[str, float]) -> None:
    print(
        f"{'model':28} {'kB':>7} {'ops':>5} {'base ms':>8} {'read':>6} {'encode ms':>11} "
        f"{'digest ms':>9} first  again  least"
    )
    for row in sorted(rows, key=lambda row: row.first):
        print(
            f"{row.model:28} {row.size_bytes / 1e3:7.0f} {row.operators:5} {row.base_ms:8.2f} "
            f"{row.read_alone:6.2f} {row.encode_ms:11.2f} {row.digest_ms:9.2f} "
            f"{row.first:5.2f}  {row.again:5.2f}  {row.least:5.2f}"
        )
    for name, value in totals.items():
        print(f"{name:28} {value:.2f}")


if __name__ == "__main__":
    sys.exit(main())
