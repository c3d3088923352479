"""Results of the graph benchmark as JSON and as tables to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import fmean, pstdev

import numpy as np

from predictor.benchmarks.graph_method import GraphData
from predictor.benchmarks.graph_metrics import (
    SIGN_PRECISIONS,
    FarOff,
    GraphScores,
    Said,
    SignTest,
    far_off,
    graph_scores,
    ratios_within,
    said_of,
    sign_tests,
)
from predictor.benchmarks.graph_run import GraphTask, SplitResult
from predictor.benchmarks.graph_splits import ALL, GraphSplit

_NAME, _CELL = 16, 10


@dataclass(frozen=True, slots=True)
class MethodScores:
    """One run of a method in one way of leaving out: over everything, by target, by family; ratios between
    targets; signs of precisions; real models by target, and those far off that nobody was warned of. `parts`:
    the same over the targets of each provider, where there are several.
    """

    overall: GraphScores | None
    by_target: Mapping[str, GraphScores]
    by_family: Mapping[str, GraphScores]
    ratio_pairs: int
    ratio_within: float
    signs: Mapping[str, SignTest]
    published: Mapping[str, GraphScores]
    far_off: tuple[FarOff, ...]
    learn_s: float
    adapt_s: float
    samples: float
    device_ms: float
    parts: Mapping[str, MethodScores] = field(default_factory=dict)


Results = Mapping[GraphSplit, SplitResult]


def method_scores(results: Results, task: GraphTask) -> MethodScores:
    """Everything that is told of one run of a method."""
    whole = _scores(results, task)
    judged = {target.runtime.provider for target in task.data.targets if target.key in whole.by_target}
    if len(judged) < 2:
        return whole
    return replace(whole, parts={one: _scores(_on(results, task, one), task) for one in sorted(judged)})


def _on(results: Results, task: GraphTask, provider: str) -> Results:
    """What was said of the targets of one provider."""
    own = {target.key for target in task.data.targets if target.runtime.provider == provider}
    return {
        split: replace(result, targets=tuple(one for one in result.targets if one.target_key in own))
        for split, result in results.items()
    }


def _scores(results: Results, task: GraphTask) -> MethodScores:
    found = [one for split, result in results.items() if split.fold != ALL for one in result.targets]
    said = said_of(found, task.data)
    real = _real(results, task)
    pairs, within = ratios_within(said)
    everything = [one for result in results.values() for one in result.targets]
    return MethodScores(
        overall=graph_scores(said),
        by_target=_by_target(said, task.data),
        by_family=_by_family(said, task.data),
        ratio_pairs=pairs,
        ratio_within=within,
        signs=sign_tests(said, task.data),
        published={} if real is None or task.published is None else _by_target(real, task.published),
        far_off=() if real is None or task.published is None else tuple(far_off(real, task.published)),
        learn_s=_mean([result.learn_s for result in results.values()]),
        adapt_s=_mean([one.adapt_s for one in everything]),
        samples=_mean([one.samples for one in everything]),
        device_ms=_mean([one.device_ms for one in everything]),
    )


def _real(results: Results, task: GraphTask) -> Said | None:
    if task.published is None:
        return None
    found = [one for split, result in results.items() if split.fold == ALL for one in result.targets]
    return said_of(found, task.published)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else float("nan")


def _by_target(said: Said, data: GraphData) -> dict[str, GraphScores]:
    columns = np.arange(len(data.targets))
    each = {
        target.key: graph_scores(said, np.broadcast_to(columns == index, said.median_ms.shape))
        for index, target in enumerate(data.targets)
    }
    return {key: scores for key, scores in each.items() if scores is not None}


def _by_family(said: Said, data: GraphData) -> dict[str, GraphScores]:
    each = {
        str(family): graph_scores(
            said, np.broadcast_to((data.families == family)[:, None], said.median_ms.shape)
        )
        for family in np.unique(data.families)
    }
    return {key: scores for key, scores in each.items() if scores is not None}


ByRun = Mapping[str, Mapping[str, MethodScores]]  # by way of leaving out, then by method (`key~seed`)


def graph_document(task: GraphTask, runs: ByRun) -> dict[str, object]:
    """`{data: ..., <left out>: {<method>: {...}}}`; fractions, not per cent."""
    return {
        "data": _counts(task),
        **{
            kind: {method: asdict(scores) for method, scores in by_method.items()}
            for kind, by_method in runs.items()
        },
    }


def _counts(task: GraphTask) -> dict[str, object]:
    data = task.data
    return {
        "targets": [target.key for target in data.targets],
        "models": int(data.is_whole.sum()),
        "sweeps": int(data.is_sweep.sum()),
        "references": int(data.is_reference.sum()),
        "families": len(set(data.families[data.is_whole].tolist())),
        "folds": task.folds,
        "latencies": int(np.isfinite(data.latency_ms).sum()),
        "published": 0 if task.published is None else len(task.published),
        "again": _again(data),
    }


def _again(data: GraphData) -> dict[str, float]:
    """How far two measurements of one model on one target are apart: below that, nothing can be told."""
    if not len(data.again):
        return {}
    apart = np.abs(np.expm1(data.again))
    return {
        "pairs": len(apart), "median": float(np.median(apart)),
        "within10": float(np.mean(apart <= 0.1)), "within25": float(np.mean(apart <= 0.25)),
    }  # fmt: skip


def graph_lines(task: GraphTask, runs: ByRun) -> Iterator[str]:
    """All tables, one way of leaving out after another."""
    counts = _counts(task)
    yield (
        f"{len(task.data.targets)} targets, {counts['models']} models of {counts['families']} families, "
        f"{counts['sweeps']} single operators, {counts['published']} real models"
    )
    if again := _again(task.data):
        yield (
            f"measured again, {again['pairs']} times: {100 * again['median']:.1f} % apart in the median, "
            f"{100 * again['within10']:.1f} % within 10 %, {100 * again['within25']:.1f} % within 25 %"
        )
    for kind, by_method in runs.items():
        yield from ("", f"left out: one {kind} at a time, and a fold of families", "")
        yield from _overall(by_method)
        yield ""
        yield from _table(by_method, "by target, %", lambda scores: scores.by_target)
        yield ""
        yield from _table(by_method, "by family, %", lambda scores: scores.by_family)
        if any(scores.published for scores in by_method.values()):
            yield ""
            yield from _table(by_method, "real, MAPE %", lambda scores: scores.published, figure=_mape)
            yield from _warnings(by_method)


def _right(precision: str, scores: MethodScores) -> float | None:
    test = scores.signs.get(precision)
    return 100 * test.right / test.pairs if test is not None and test.pairs else None


_COLUMNS: Mapping[str, Callable[[MethodScores], float | None]] = {
    "pairs": lambda one: one.overall.pairs if one.overall else None,
    "median %": lambda one: 100 * one.overall.median_ape if one.overall else None,
    "MAPE %": lambda one: 100 * one.overall.mape if one.overall else None,
    "<=10 %": lambda one: 100 * one.overall.within10 if one.overall else None,
    "<=25 %": lambda one: 100 * one.overall.within25 if one.overall else None,
    "cover %": lambda one: 100 * one.overall.coverage if one.overall and one.overall.coverage else None,
    "log width": lambda one: one.overall.width if one.overall else None,
    "ratio %": lambda one: 100 * one.ratio_within,
    **{precision[:9]: partial(_right, precision) for precision in SIGN_PRECISIONS},
    "samples": lambda one: one.samples,
    "device ms": lambda one: one.device_ms,
    "learn s": lambda one: one.learn_s,
    "adapt s": lambda one: one.adapt_s,
}


def _overall(by_method: Mapping[str, MethodScores]) -> Iterator[str]:
    """A row per method, and the spread over seeds where there are several."""
    yield _row("all", list(_COLUMNS))
    for key, runs in _grouped(by_method).items():
        yield _figures(key, runs, _cell)
        if len(runs) > 1:
            yield _figures(f"  +- {len(runs)} seeds", runs, _spread)
        for provider in runs[0].parts:
            yield _figures(f"  on {provider}", [one.parts[provider] for one in runs], _cell)


def _figures(name: str, runs: Sequence[MethodScores], told: Callable[[Sequence[float | None]], str]) -> str:
    return _row(name, [told([figure(one) for one in runs]) for figure in _COLUMNS.values()])


def _grouped(by_method: Mapping[str, MethodScores]) -> dict[str, list[MethodScores]]:
    """Runs that differ by their seed."""
    groups: dict[str, list[MethodScores]] = {}
    for name, scores in by_method.items():
        groups.setdefault(name.partition("~")[0], []).append(scores)
    return groups


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None and np.isfinite(value)]
    if not known:
        return "-"
    mean = fmean(known)
    return f"{mean:.0f}" if abs(mean) >= 1000 else f"{mean:.3g}" if abs(mean) < 10 else f"{mean:.1f}"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return f"{pstdev(known):.2g}" if len(known) > 1 else "-"


def _median(scores: GraphScores) -> float:
    return 100 * scores.median_ape


def _mape(scores: GraphScores) -> float:
    return 100 * scores.mape


def _table(
    by_method: Mapping[str, MethodScores],
    title: str,
    part: Callable[[MethodScores], Mapping[str, GraphScores]],
    *,
    figure: Callable[[GraphScores], float] = _median,
) -> Iterator[str]:
    """A row per target or family, a column per method: the median error unless `figure` says otherwise."""
    groups = _grouped(by_method)
    keys = list(dict.fromkeys(key for scores in by_method.values() for key in part(scores)))
    width = max((len(key) for key in keys), default=0)
    yield " ".join([f"{title:{width}}", f"{'pairs':>6}", *(f"{name:>14}" for name in groups)])
    for key in keys:
        found = [[part(one)[key] for one in runs if key in part(one)] for runs in groups.values()]
        pairs = max((one.pairs for runs in found for one in runs), default=0)
        cells = [_cell([figure(one) for one in runs]) for runs in found]
        yield " ".join([f"{key:{width}}", f"{pairs:6}", *(f"{cell:>14}" for cell in cells)])


def _warnings(by_method: Mapping[str, MethodScores]) -> Iterator[str]:
    for name, scores in by_method.items():
        yield f"{name}: {len(scores.far_off)} real models off by more than a factor of 2 without a warning"
        for one in scores.far_off:
            yield (
                f"    {one.name} on {one.target_key}: predicted {one.predicted_ms:.3g} ms, "
                f"measured {one.measured_ms:.3g} ms"
            )


def _row(name: str, cells: Sequence[str]) -> str:
    return " ".join([f"{name:{_NAME}}", *(f"{cell:>{_CELL}}" for cell in cells)])
