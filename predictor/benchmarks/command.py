"""`laptime-predictor bench` and `nas`: methods on the published tasks, by their protocols."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from predictor.benchmarks.errors import TaskRejected
from predictor.benchmarks.jobs import BenchJob, Places, run_bench_job, run_jobs
from predictor.benchmarks.nas import Rules
from predictor.benchmarks.nas_table import NasJob, nas_document, nas_lines, run_nas_job
from predictor.benchmarks.options import default_work, names, write_document
from predictor.benchmarks.registry import METHODS, check_methods
from predictor.benchmarks.report import bench_document, bench_lines
from predictor.benchmarks.run import DeviceResult, Protocol
from predictor.benchmarks.tables import DATA_VARIABLE, SPACES, data_folder, load_table
from predictor.benchmarks.tasks import Split, Task, published_split, task_of
from predictor.terminal import say

FEWEST_SAMPLES = 3  # that a line with an error can be fitted to
_QUICK_METHODS = "laptime,mixture,ridge,flops"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench` and `nas` to a command line; `HANDLERS` run them."""
    bench = commands.add_parser("bench", help="few-shot latency prediction on the published tasks")
    chosen = bench.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--task", metavar="NAME[,NAME]", type=names, help="published: help-nb201, FD, ...")
    chosen.add_argument(
        "--space", choices=sorted(SPACES), help="a split of your own, with --train and --test"
    )
    bench.add_argument("--train", metavar="DEVICES", type=names, default=(), help="source devices, by commas")
    bench.add_argument("--test", metavar="DEVICES", type=names, default=(), help="target devices, by commas")
    bench.add_argument("--query", choices=("help", "all"), default="help",
                       help="protocol of a split of your own: which architectures are scored "
                       "(default: %(default)s)")  # fmt: skip
    bench.add_argument("--source-samples", type=int, metavar="N",
                       help="architectures that each source device has measured")  # fmt: skip
    _add_budget(bench, samples=20)
    _add_common(bench)
    nas = commands.add_parser(
        "nas", help="the most accurate of 500 candidates within a latency limit, on five devices"
    )
    _add_budget(nas, samples=10)
    nas.add_argument("--budget", type=int, default=20, metavar="N",
                     help="measurements in total, with those that verify an answer; as many as --samples for "
                     "an answer that nobody verified (default: %(default)s)")  # fmt: skip
    _add_common(nas)


def _add_budget(parser: argparse.ArgumentParser, *, samples: int) -> None:
    parser.add_argument("--samples", type=int, default=samples, metavar="N",
                        help="measurements on a target in total (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--selection", choices=("random", "active"), default="random",
                        help="who chooses what is measured: chance, or the method "
                        "(default: %(default)s)")  # fmt: skip


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", metavar="KEYS", type=names, default=_QUICK_METHODS,
                        help=f"of {', '.join(METHODS)} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help=f"folder of the latency tables (default: ${DATA_VARIABLE})")  # fmt: skip
    parser.add_argument("--work", type=Path, metavar="DIR", default=default_work("benchmarks"),
                        help="folder for what is trained or computed once "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, metavar="N",
                        help="processes, of one thread each; times compare with one only "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the same JSON to a file as well")


def run_bench(parsed: argparse.Namespace) -> int:
    """Print or write the results; the exit status. Raises `BenchmarkRejected` before anything is trained if a
    task, a method or a number is not possible.
    """
    _check_counts(parsed)
    places = Places(data_folder(parsed.data), parsed.work)
    splits = _splits(parsed, places.data)
    tasks = [_task(split, places.data, parsed.source_samples) for split in splits]
    protocol = Protocol(parsed.samples, parsed.selection, parsed.seeds)
    jobs = [
        BenchJob(split, method, protocol, parsed.source_samples, places)
        for split in splits
        for method in parsed.methods
    ]
    done = run_jobs(
        run_bench_job,
        jobs,
        workers=parsed.workers,
        report=lambda job: say(f"{job.split.name}: {job.method}"),
    )
    results: dict[str, dict[str, dict[str, DeviceResult]]] = {task.name: {} for task in tasks}
    for job, result in zip(jobs, done, strict=True):
        results[job.split.name][job.method] = result
    write_document(parsed, bench_document(results))
    if not parsed.json:
        for task in tasks:
            print(_title(task, protocol))
            print(*bench_lines(results[task.name]), "", sep="\n")
    return 0


def run_nas(parsed: argparse.Namespace) -> int:
    """Print or write HELP's end-to-end table; the exit status. Raises `BenchmarkRejected` as `run_bench`."""
    _check_counts(parsed)
    if parsed.budget < parsed.samples:
        raise TaskRejected(f"--budget {parsed.budget} is less than --samples {parsed.samples}")
    places = Places(data_folder(parsed.data), parsed.work)
    rules = Rules(parsed.samples, parsed.budget, parsed.selection)
    jobs = [NasJob(method, rules, parsed.seeds, places) for method in parsed.methods]
    done = run_jobs(run_nas_job, jobs, workers=parsed.workers, report=lambda job: say(f"nas: {job.method}"))
    results = dict(zip(parsed.methods, done, strict=True))
    write_document(parsed, nas_document(results))
    if not parsed.json:
        print(*nas_lines(results), sep="\n")
    return 0


def _splits(parsed: argparse.Namespace, folder: Path) -> list[Split]:
    if parsed.space:
        return [Split(f"{parsed.space}-custom", parsed.space, parsed.train, (), parsed.test, parsed.query)]
    if parsed.train or parsed.test:
        raise TaskRejected("--train and --test belong to --space; a published --task has its own devices")
    return [published_split(folder, name) for name in dict.fromkeys(parsed.task or ("",))]


def _task(split: Split, folder: Path, source_samples: int | None) -> Task:
    return task_of(split, load_table(split.space, folder), source_samples=source_samples)


def _title(task: Task, protocol: Protocol) -> str:
    left_out = f", but for {task.trim:.0%} at either end" if task.trim else ""
    note = f" ({task.note})" if task.note else ""
    return (
        f"{task.name}{note}: {len(task.train)} source devices with {len(task.source_rows)} architectures; "
        f"{protocol.samples} measurements on the target, {protocol.selection} selection, "
        f"{protocol.seeds} seeds; "
        f"scored: {len(task.query)} architectures{left_out}\n"
    )


def _check_counts(parsed: argparse.Namespace) -> None:
    """Raises `TaskRejected` for numbers that no benchmark can be run with."""
    for name, fewest in (("samples", FEWEST_SAMPLES), ("seeds", 1), ("workers", 1)):
        if getattr(parsed, name) < fewest:
            raise TaskRejected(f"--{name} must be at least {fewest}, got {getattr(parsed, name)}")
    check_methods(parsed.methods)


HANDLERS: Mapping[str, Callable[[argparse.Namespace], int]] = MappingProxyType(
    {"bench": run_bench, "nas": run_nas}
)
