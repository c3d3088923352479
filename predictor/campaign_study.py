"""How well a checkpoint does on the targets of a campaign: each is adapted from what it took for the
reference set, and asked for the other models that it ran.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import geometric_mean

from predictor.adapt import Observation, TargetFacts, adapt
from predictor.campaign.dataset import Row as Measured
from predictor.campaign.models import Builders, built_graph
from predictor.evaluate import COVERAGE, accuracy_card, card_of
from predictor.graph import ModelGraph
from predictor.local_study import Report, Row, Study
from predictor.meta_checkpoint import MetaCheckpoint
from predictor.predict import Predictor
from predictor.reference_set import reference_candidates, telling


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
    references = {one.name for one in reference_candidates()}
    names = {one.name for one in measured if one.name in references or not one.is_sweep}
    built = {name: built_graph(name, builders, report) for name in sorted(names)}
    graphs = {name: graph for name, graph in built.items() if graph is not None}
    studies = []
    for key, rows in sorted(by_target.items()):
        study = _study(rows, graphs, meta)
        if study is None:
            report(f"{key} is left out: it has run no reference models, or no others")
        else:
            studies.append(study)
    return studies


def _study(rows: Sequence[Measured], graphs: Mapping[str, ModelGraph], meta: MetaCheckpoint) -> Study | None:
    target = TargetFacts(key=rows[0].target_key, runtime=rows[0].runtime, hardware=rows[0].hardware)
    references = {one.name for one in reference_candidates()}
    found = _observed(target, rows, graphs)
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


def _observed(
    target: TargetFacts, rows: Sequence[Measured], graphs: Mapping[str, ModelGraph]
) -> dict[str, Observation]:
    """By name, in its order."""
    by_name: dict[str, list[Measured]] = defaultdict(list)
    for row in rows:
        if row.name in graphs and row.graph_digest == graphs[row.name].digest:
            by_name[row.name].append(row)
    return {
        name: Observation(
            target_key=target.key,
            runtime=target.runtime,
            hardware=target.hardware,
            graph=graphs[name],
            median_ms=geometric_mean([row.median_ms for row in own]),
            standard_error_ms=max(row.standard_error_ms for row in own),
            name=name,
        )
        for name, own in sorted(by_name.items())
    }
