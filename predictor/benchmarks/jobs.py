"""Benchmarks in processes of their own, each on one thread.

One thread, so that times compare and figures do not depend on the machine. The libraries under numpy and
torch read their thread count once, when they are loaded, so it is set before a process begins.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from predictor.benchmarks.architectures import architectures_of
from predictor.benchmarks.errors import BenchmarkRejected
from predictor.benchmarks.registry import make_methods
from predictor.benchmarks.run import DeviceResult, Protocol, run_method
from predictor.benchmarks.tables import load_table
from predictor.benchmarks.tasks import Split, task_of
from predictor.errors import PredictorError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

AJob = TypeVar("AJob")
AResult = TypeVar("AResult")


@dataclass(frozen=True, slots=True)
class Places:
    """`data`: the folder of the tables; `work`: for what is trained or computed once."""

    data: Path
    work: Path


@dataclass(frozen=True, slots=True)
class BenchJob:
    """One method on one task."""

    split: Split
    method: str
    protocol: Protocol
    source_samples: int | None
    places: Places


def run_bench_job(job: BenchJob) -> dict[str, DeviceResult]:
    """Results by device. Raises `BenchmarkRejected`, which crosses the border between processes."""
    with rejections_that_travel(f"{job.method} on {job.split.name}"):
        table = load_table(job.split.space, job.places.data)
        task = task_of(job.split, table, source_samples=job.source_samples)
        architectures = architectures_of(table.space, table.genomes, job.places.work)
        method = make_methods([job.method], job.places.work)[job.method]
        return run_method(method, task, table, architectures, protocol=job.protocol)


def run_jobs(
    run: Callable[[AJob], AResult], jobs: Sequence[AJob], *, workers: int, report: Callable[[AJob], None]
) -> list[AResult]:
    """Results in the order of the jobs. `report` hears of each that is done."""
    results = []
    with _single_threaded(), ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            for job, result in zip(jobs, pool.map(run, jobs), strict=True):
                report(job)
                results.append(result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


@contextmanager
def rejections_that_travel(what: str) -> Iterator[None]:
    """Errors of this floor as one that can be sent between processes: some of the others have more
    arguments than a message, and arrive as a broken pool.
    """
    try:
        yield
    except PredictorError as error:
        raise BenchmarkRejected(f"{what}: {error}") from error


@contextmanager
def _single_threaded() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
