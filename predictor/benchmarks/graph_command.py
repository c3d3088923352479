"""`laptime-predictor graph-bench`: latency of whole graphs on targets and families that were left out."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from predictor.benchmarks.errors import TaskRejected
from predictor.benchmarks.graph_arrays import ArrayCache
from predictor.benchmarks.graph_data import digest_of, load_graph_data, load_published
from predictor.benchmarks.graph_method import GraphMethod
from predictor.benchmarks.graph_registry import GRAPH_METHODS, check_graph_methods, make_graph_methods
from predictor.benchmarks.graph_report import MethodScores, graph_document, graph_lines, method_scores
from predictor.benchmarks.graph_run import GraphTask, run_stored
from predictor.benchmarks.graph_splits import ALL, FOLDS, LEFT_OUT, GraphSplit, fold_of, splits_of
from predictor.benchmarks.options import default_work, names, write_document
from predictor.terminal import say


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `graph-bench` to a command line; `HANDLERS` run it."""
    bench = commands.add_parser(
        "graph-bench",
        help="whole graphs on left-out targets, over left-out families, from ten measurements; "
        "goes on where it stopped",
    )
    bench.add_argument("--dataset", type=Path, required=True, metavar="FILE", help="Parquet of a campaign")
    bench.add_argument(
        "--published", type=Path, metavar="FILE", help="Parquet of real models, never learned from"
    )
    bench.add_argument("--models", type=Path, metavar="DIR", help="the ONNX files that --published measured")
    bench.add_argument("--methods", metavar="KEYS", type=names, default=",".join(GRAPH_METHODS),
                       help="(default: %(default)s)")  # fmt: skip
    bench.add_argument("--leave-out", metavar="KINDS", type=names, default="group,engine",
                       help="a target, a group of unlike ones, all of a device or of an engine "
                       "(default: %(default)s)")  # fmt: skip
    bench.add_argument("--only", metavar="TEXT", default="", help="of them, those whose key contains this")
    bench.add_argument("--folds", type=int, metavar="N", help=f"run the first N of {FOLDS} folds of families")
    bench.add_argument("--seed", type=int, default=0, help="of the folds (default: %(default)s)")
    bench.add_argument("--seeds", type=int, default=1, metavar="N",
                       help="runs of a method in which chance has a part (default: %(default)s)")  # fmt: skip
    bench.add_argument("--work", type=Path, metavar="DIR", default=default_work("graph-bench"),
                       help="finished splits (default: %(default)s)")  # fmt: skip
    bench.add_argument("--again", metavar="KEYS", type=names, default=(), help="methods to run anew")
    bench.add_argument("--json", action="store_true", help="machine-readable output")
    bench.add_argument("--output", type=Path, metavar="FILE", help="write the same JSON to a file as well")


def run_graph_bench(parsed: argparse.Namespace) -> int:
    """Print or write the results; the exit status. Raises `TaskRejected` before anything is read if a
    method or a number is not possible.
    """
    _check(parsed)
    data = load_graph_data(parsed.dataset, report=say)
    published = None
    if parsed.published:
        published = load_published(parsed.published, parsed.models, data=data, report=say)
    task = GraphTask(data, fold_of(data, count=FOLDS, seed=parsed.seed), published)
    known = digest_of(data) if published is None else f"{digest_of(data)}-{digest_of(published)}"
    folder = parsed.work / f"{known}-{parsed.seed}"
    folds = [*range(parsed.folds or FOLDS), *([] if published is None else [ALL])]
    splits = {kind: splits_of(data, [kind], folds=folds, only=parsed.only) for kind in parsed.leave_out}
    runs: dict[str, dict[str, MethodScores]] = {kind: {} for kind in splits}
    cache = ArrayCache()
    for key in parsed.methods:
        for method in make_graph_methods(key, seeds=parsed.seeds, cache=cache):
            if key in parsed.again:
                shutil.rmtree(folder / method.name, ignore_errors=True)
            for kind, wanted in splits.items():
                runs[kind][method.name] = _run(method, task, wanted, folder)
    write_document(parsed, graph_document(task, runs))
    if not parsed.json:
        print(*graph_lines(task, runs), sep="\n")
    return 0


def _run(method: GraphMethod, task: GraphTask, splits: list[GraphSplit], folder: Path) -> MethodScores:
    results = {}
    for split in splits:
        results[split] = run_stored(method, task, split, folder=folder)
        say(f"{method.name}: {split.label}")
    return method_scores(results, task)


def _check(parsed: argparse.Namespace) -> None:
    check_graph_methods(parsed.methods)
    unknown = [kind for kind in parsed.leave_out if kind not in LEFT_OUT]
    if unknown or not parsed.leave_out:
        raise TaskRejected(f"--leave-out {', '.join(unknown)} is unknown; there are {', '.join(LEFT_OUT)}")
    if (parsed.published is None) != (parsed.models is None):
        raise TaskRejected("--published and --models belong together: measurements, and the files measured")
    if parsed.seeds < 1:
        raise TaskRejected(f"--seeds must be at least 1, got {parsed.seeds}")
    if parsed.folds is not None and not 1 <= parsed.folds <= FOLDS:
        raise TaskRejected(f"--folds must be 1 to {FOLDS}, got {parsed.folds}")


HANDLERS: Mapping[str, Callable[[argparse.Namespace], int]] = MappingProxyType(
    {"graph-bench": run_graph_bench}
)
