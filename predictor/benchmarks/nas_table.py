"""HELP's end-to-end table for several methods: every cell is a device and a limit, over several seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from predictor.benchmarks.architectures import architectures_of
from predictor.benchmarks.jobs import Places, rejections_that_travel
from predictor.benchmarks.nas import LIMITS_MS, TASK, Arena, Choice, Rules, search_device
from predictor.benchmarks.registry import make_methods
from predictor.benchmarks.tables import load_candidates, load_table
from predictor.benchmarks.tasks import published_split, source_of, task_of


@dataclass(frozen=True, slots=True)
class NasJob:
    """One method on all devices and limits."""

    method: str
    rules: Rules
    seeds: int
    places: Places


@dataclass(frozen=True, slots=True)
class Cell:
    """One device and limit, over seeds: accuracies in per cent, `kept` the share of seeds that kept the
    limit, `gap` to the oracle where they did (None where none did), the largest of any seed, measurements.
    """

    limit_ms: float
    accuracy: float
    latency_ms: float
    kept: float
    oracle: float
    gap: float | None
    worst_gap: float | None
    measurements: float
    most_measurements: int


@dataclass(frozen=True, slots=True)
class Total:
    """Over all cells. `kept`: cells of `cells` that kept their limit, on average and with the worst seed;
    `gap`: mean over the kept cells, on average over seeds and of the worst seed.
    """

    cells: int
    kept: float
    worst_kept: int
    accuracy: float
    oracle: float
    gap: float | None
    worst_gap: float | None
    measurements: float
    most_measurements: int


@dataclass(frozen=True, slots=True)
class NasResult:
    """Of one method: cells by device, and their total."""

    devices: Mapping[str, tuple[Cell, ...]]
    total: Total


def run_nas_job(job: NasJob) -> NasResult:
    """Train once, then search with every seed. Raises `BenchmarkRejected`, as `run_bench_job` does."""
    with rejections_that_travel(f"{job.method} in nas"):
        split = published_split(job.places.data, TASK)
        table = load_table(split.space, job.places.data)
        candidates = load_candidates(job.places.data)
        architectures = architectures_of(table.space, table.genomes, job.places.work)
        method = make_methods([job.method], job.places.work)[job.method]
        trained = method.train(source_of(task_of(split, table), table, architectures))
        arenas = {device: Arena.of(table, candidates, device) for device in LIMITS_MS}
        by_seed = [
            {
                device: search_device(trained, arena, rules=job.rules, seed=seed)
                for device, arena in arenas.items()
            }
            for seed in range(job.seeds)
        ]
    return result_of(by_seed)


def result_of(by_seed: Sequence[Mapping[str, Sequence[Choice]]]) -> NasResult:
    """Cells and total of choices, one mapping per seed from device to its choices in the order of limits."""
    devices = {
        device: tuple(_cell(choices) for choices in zip(*(one[device] for one in by_seed), strict=True))
        for device in by_seed[0]
    }
    flat = [[choice for choices in one.values() for choice in choices] for one in by_seed]
    everything = [choice for choices in flat for choice in choices]
    kept = [sum(choice.is_kept for choice in choices) for choices in flat]
    gaps = [fmean(kept_gaps) for choices in flat if (kept_gaps := _gaps(choices))]
    total = Total(
        cells=len(flat[0]),
        kept=fmean(kept),
        worst_kept=min(kept),
        accuracy=fmean(choice.accuracy for choice in everything),
        oracle=fmean(choice.oracle for choice in everything),
        gap=fmean(gaps) if gaps else None,
        worst_gap=max(gaps, default=None),
        measurements=fmean(choice.measurements for choice in everything),
        most_measurements=max(choice.measurements for choice in everything),
    )
    return NasResult(devices, total)


def _gaps(choices: Sequence[Choice]) -> list[float]:
    return [choice.oracle - choice.accuracy for choice in choices if choice.is_kept]


def _cell(choices: Sequence[Choice]) -> Cell:
    gaps = _gaps(choices)
    return Cell(
        limit_ms=choices[0].limit_ms,
        accuracy=fmean(choice.accuracy for choice in choices),
        latency_ms=fmean(choice.latency_ms for choice in choices),
        kept=fmean(choice.is_kept for choice in choices),
        oracle=choices[0].oracle,
        gap=fmean(gaps) if gaps else None,
        worst_gap=max(gaps, default=None),
        measurements=fmean(choice.measurements for choice in choices),
        most_measurements=max(choice.measurements for choice in choices),
    )


def nas_document(results: Mapping[str, NasResult]) -> dict[str, object]:
    """`{method: {devices: {device: [{limit_ms, accuracy, ...}]}, total: {...}}}`."""
    return {method: asdict(result) for method, result in results.items()}


def nas_lines(results: Mapping[str, NasResult]) -> Iterator[str]:
    """A table to read: a block per method, and the totals of all."""
    for method, result in results.items():
        yield (
            f"{method:16} {'limit ms':>9} {'latency ms':>11} {'kept':>6} {'accuracy':>9} {'oracle':>7} "
            f"{'gap':>6} {'worst':>6} {'measured':>9}"
        )
        for device, cells in result.devices.items():
            for cell in cells:
                yield (
                    f"{device:16} {cell.limit_ms:9.1f} {cell.latency_ms:11.2f} {cell.kept:6.0%} "
                    f"{cell.accuracy:9.2f} {cell.oracle:7.2f} {_points(cell.gap)} {_points(cell.worst_gap)} "
                    f"{cell.measurements:9.1f}"
                )
        yield ""
    yield (
        f"{'total':16} {'kept':>12} {'worst seed':>11} {'accuracy':>9} {'oracle':>7} {'gap':>6} {'worst':>6} "
        f"{'measured':>9} {'at most':>8}"
    )
    for method, result in results.items():
        total = result.total
        yield (
            f"{method:16} {total.kept:6.1f} of {total.cells:2} {total.worst_kept:11} {total.accuracy:9.2f} "
            f"{total.oracle:7.2f} {_points(total.gap)} {_points(total.worst_gap)} {total.measurements:9.1f} "
            f"{total.most_measurements:8}"
        )


def _points(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{value:6.2f}"
