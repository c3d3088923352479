"""How well a checkpoint does on the targets of a campaign: each is adapted from what it took for the
reference set, and asked for the other models that it ran.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from predictor.adapt import Observation, TargetFacts, adapt
from predictor.campaign.dataset import Row as Measured
from predictor.campaign.models import Built
from predictor.errors import GraphRejected
from predictor.evaluate import COVERAGE, accuracy_card, card_of
from predictor.graph import ModelGraph
from predictor.local_study import Report, Row, Study
from predictor.meta_checkpoint import MetaCheckpoint
from predictor.predict import Predictor
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_candidates, telling

Builders = Mapping[str, Callable[[], Built]]


def campaign_studies(
    measured: Sequence[Measured],
    builders: Builders,
    *,
    meta: MetaCheckpoint,
    report: Report = lambda _: None,
) -> list[Study]:
    """One for each target, in the order of their keys: what is predicted of whole models, beside what was
    measured; several measurements of a model become their geometric mean. `builders` make the models by
    their names: what they do not know is not asked for, and neither is a model that they build differently.
    A target without reference models, or without others, is left out.
    """
    by_target: dict[str, list[Measured]] = defaultdict(list)
    for one in measured:
        by_target[one.target_key].append(one)
    graphs = _Graphs(builders, report)
    studies = []
    for key, rows in sorted(by_target.items()):
        study = _study(rows, graphs, meta)
        if study is None:
            report(f"{key} is left out: it has run no reference models, or no others")
        else:
            studies.append(study)
    return studies


class _Graphs:
    """Graphs of measured models, each built once."""

    def __init__(self, builders: Builders, report: Report) -> None:
        self._builders, self._report = builders, report
        self._known: dict[str, ModelGraph | None] = {}

    def of(self, name: str) -> ModelGraph | None:
        """None where nobody can build it."""
        if name not in self._known:
            self._known[name] = self._built(name)
        return self._known[name]

    def _built(self, name: str) -> ModelGraph | None:
        if name not in self._builders:
            return None
        try:
            return read_graph(*self._builders[name]())
        except GraphRejected as error:
            self._report(f"{name} is left out: {error}")
            return None


def _study(rows: Sequence[Measured], graphs: _Graphs, meta: MetaCheckpoint) -> Study | None:
    target = TargetFacts(key=rows[0].target_key, runtime=rows[0].runtime, hardware=rows[0].hardware)
    references = {one.name for one in reference_candidates()}
    found = _observed(target, [row for row in rows if row.name in references or not row.is_sweep], graphs)
    observations = [found[name] for name in telling(found)]
    asked = [one for name, one in found.items() if name not in references]
    if not observations or not asked:
        return None
    predictor = Predictor(adapt(target, observations, meta=meta), meta)
    described = [predictor.describe(one.graph) for one in asked]
    said = predictor.predict_described(described, COVERAGE)
    families = [one.family for one in described]
    told = tuple(
        Row(one.name, family, prediction, one.median_ms)
        for one, family, prediction in zip(asked, families, said, strict=True)
    )
    summary = card_of(said, [one.median_ms for one in asked], families)
    return Study(target.key, accuracy_card(target, observations, meta=meta), told, summary)


def _observed(target: TargetFacts, rows: Sequence[Measured], graphs: _Graphs) -> dict[str, Observation]:
    """By name, in its order."""
    by_name: dict[str, list[Measured]] = defaultdict(list)
    for row in rows:
        by_name[row.name].append(row)
    found = {}
    for name, all_of_it in sorted(by_name.items()):
        graph = graphs.of(name)
        own = [row for row in all_of_it if graph is not None and row.graph_digest == graph.digest]
        if graph is None or not own:
            continue
        found[name] = Observation(
            target_key=target.key,
            runtime=target.runtime,
            hardware=target.hardware,
            graph=graph,
            median_ms=float(np.exp(np.mean([np.log(row.median_ms) for row in own]))),
            standard_error_ms=max(row.standard_error_ms for row in own),
            name=name,
        )
    return found
