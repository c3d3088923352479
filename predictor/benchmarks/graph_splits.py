"""What is left out of a meta-training: targets, and families of models with them.

`target`: one target is left out, others of its engine stay. `group`: several at once, as unlike each other as
can be; that leaves out a little more and takes a fraction of the time. `device`: all targets of a machine are
gone, `engine`: all of an engine. Each is crossed with folds of families, the same for all methods. Fold `ALL`
leaves no family out; real models, which are of none, are predicted from it. With a target goes its twin, the
same runtime on another machine with the same processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from predictor.benchmarks.errors import TaskRejected
from predictor.benchmarks.graph_method import Flags, GraphData, device_of
from predictor.checkpoint import TargetFacts

LeftOut = Literal["group", "target", "device", "engine"]
LEFT_OUT: tuple[LeftOut, ...] = get_args(LeftOut)
ALL = -1
FOLDS = 4
_GROUPS = 5


@dataclass(frozen=True, slots=True)
class GraphSplit:
    """One meta-training: `key` of what is left out, and the fold of families left out."""

    left_out: LeftOut
    key: str
    fold: int

    @property
    def label(self) -> str:
        """As it stands in file names."""
        fold = "all" if self.fold == ALL else f"fold{self.fold}"
        return f"{self.left_out}--{self.key.replace('/', '_').replace(' ', '-')}--{fold}"


def splits_of(
    data: GraphData, kinds: Sequence[LeftOut], *, folds: Sequence[int], only: str = ""
) -> list[GraphSplit]:
    """All meta-trainings; of the left-out targets those whose key contains `only`.

    Raises `TaskRejected` where nothing remains to learn from.
    """
    found = []
    for kind in kinds:
        keys = {key_of(data, kind, column) for column in range(len(data.targets))}
        if len(keys) < 2:
            raise TaskRejected(f"the dataset has one {kind} only: without it there is nothing to learn from")
        found += [GraphSplit(kind, key, fold) for key in sorted(keys) if only in key for fold in folds]
    if not found:
        raise TaskRejected(f"no target's key contains {only!r}")
    return found


def key_of(data: GraphData, kind: LeftOut, column: int) -> str:
    """What a target is left out with: its own key, its device, its engine, or its group. Groups are dealt
    engine by engine, so that one holds as few targets of an engine as can be; twins share a place.
    """
    target = data.targets[column]
    if kind == "group":
        by_engine = sorted(data.targets, key=lambda one: (one.runtime.engine, one.key))
        order = list(dict.fromkeys(_twin(one) for one in by_engine))
        groups = min(_GROUPS, len(order))
        return f"{order.index(_twin(target)) % groups + 1} of {groups}"
    if kind == "device":
        return device_of(target.key)
    return target.key if kind == "target" else target.runtime.engine


def judged_columns(data: GraphData, split: GraphSplit) -> Flags:
    """(T,): targets that a split is about."""
    return np.array(
        [key_of(data, split.left_out, column) == split.key for column in range(len(data.targets))]
    )


def left_out_columns(data: GraphData, split: GraphSplit) -> Flags:
    """(T,): targets that a split's meta-training does not know: those of its key, and the same runtimes on
    other machines with the same processor.
    """
    twins = {_twin(data.targets[column]) for column in np.flatnonzero(judged_columns(data, split))}
    return np.array([_twin(target) in twins for target in data.targets])


def _twin(target: TargetFacts) -> tuple[str, str, frozenset[str]]:
    """What two targets have in common that only the machine's state tells apart."""
    hardware = target.hardware
    return target.runtime.model_dump_json(), hardware.cpu_model, frozenset(hardware.isa_flags)


def fold_of(data: GraphData, *, count: int, seed: int) -> dict[str, int]:
    """The fold of each family of whole models: shuffled, then the largest first into the emptiest fold."""
    families = sorted({str(family) for family in data.families[data.is_whole]})
    sizes = {family: int((data.families == family).sum()) for family in families}
    shuffled = np.random.default_rng(seed).permutation(families)
    filled = [0] * count
    folds: dict[str, int] = {}
    for family in sorted(map(str, shuffled), key=lambda name: -sizes[name]):
        folds[family] = filled.index(min(filled))
        filled[folds[family]] += sizes[family]
    return folds


def held_out_rows(data: GraphData, split: GraphSplit, folds: dict[str, int]) -> Flags:
    """(G,): whole models of the split's fold."""
    return np.array([folds.get(str(family), ALL) == split.fold for family in data.families]) & data.is_whole


def sources_of(data: GraphData, split: GraphSplit, folds: dict[str, int]) -> GraphData:
    """What a split's meta-training may see: neither the left-out targets, nor the held-out families, nor a
    graph that is the same as one of theirs, nor models that no source target has run.
    """
    held = held_out_rows(data, split, folds)
    secret = {data.graphs[row].digest for row in np.flatnonzero(held)} if split.fold != ALL else set[str]()
    allowed = np.array([graph.digest not in secret for graph in data.graphs])
    known = data.columns(~left_out_columns(data, split))
    return known.rows(allowed & np.isfinite(known.latency_ms).any(axis=1))
