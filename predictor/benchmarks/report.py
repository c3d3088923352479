"""Results of benchmarks as JSON and as tables to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean

from predictor.benchmarks.run import DeviceResult, MethodResult, TaskResult

_NAME, _CELL = 10, 16


def bench_document(results: Mapping[str, TaskResult]) -> dict[str, object]:
    """`{task: {method: {device: {spearman, mape, ...}}}}`; fractions, not per cent."""
    return {
        task: {
            method: {device: asdict(result) for device, result in devices.items()}
            for method, devices in methods.items()
        }
        for task, methods in results.items()
    }


def bench_lines(results: TaskResult) -> Iterator[str]:
    """One task: ranks and milliseconds by device, then what the methods did on average."""
    devices = list(next(iter(results.values())))
    yield _row("Spearman", [*devices, "mean"])
    for method, by_device in results.items():
        yield _row(method, _cells(by_device, lambda one: (one.spearman, one.spearman_std), digits=3))
    yield ""
    yield _row("MAPE, %", [*devices, "mean"])
    for method, by_device in results.items():
        yield _row(method, _cells(by_device, lambda one: (100 * one.mape, 100 * one.mape_std), digits=1))
    yield ""
    yield from _averages(results)


def _row(name: str, cells: Sequence[str]) -> str:
    return " ".join([f"{name:{_NAME}}", *(f"{cell:>{_CELL}}" for cell in cells)])


def _cells(
    by_device: MethodResult, pair: Callable[[DeviceResult], tuple[float, float]], *, digits: int
) -> list[str]:
    pairs = [pair(result) for result in by_device.values()]
    cells = [f"{mean:.{digits}f} ± {std:.{digits}f}" for mean, std in pairs]
    return [*cells, f"{fmean(mean for mean, _ in pairs):.{digits}f}"]


_AVERAGES: Mapping[str, Callable[[DeviceResult], float | None]] = {
    "measured": lambda one: one.measurements,
    "median APE, %": lambda one: 100 * one.median_ape,
    "within 10 %, %": lambda one: 100 * one.acc10,
    "coverage, %": lambda one: None if one.coverage90 is None else 100 * one.coverage90,
    "log width": lambda one: one.width,
    "constant width": lambda one: one.constant_width,
    "interval score": lambda one: one.interval_score,
    "constant score": lambda one: one.constant_interval_score,
    "adapt ms": lambda one: one.adapt_ms,
    "thousands/s": lambda one: one.predictions_per_s / 1e3,
    "train s": lambda one: one.train_s,
}
_DIGITS = {
    "measured": 0, "log width": 3, "constant width": 3, "interval score": 3, "constant score": 3,
    "thousands/s": 0,
}  # fmt: skip


def _averages(results: TaskResult) -> Iterator[str]:
    """Means over devices: a row per method, a column per figure."""
    yield _row("mean", list(_AVERAGES))
    for method, by_device in results.items():
        cells = []
        for name, figure in _AVERAGES.items():
            values = [value for result in by_device.values() if (value := figure(result)) is not None]
            cells.append(f"{fmean(values):.{_DIGITS.get(name, 1)}f}" if values else "-")
        yield _row(method, cells)
