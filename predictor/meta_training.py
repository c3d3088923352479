"""Meta-training: from the dataset to the checkpoint that new targets are adapted from.

The cost network is trained on all models and targets but the reference set, which is what a new target
measures: those ten must be as new to the network as the models that people bring. How wide intervals must be
is learned by leaving out: networks that never saw some families predict them on each target in turn, which is
adapted from its reference measurements, once with its engine's other targets among the sources (but for its
twins, the same runtime on such a processor) and once without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictor.campaign.dataset import read_dataset
from predictor.campaign.examples import MeasuredModel, MeasuredModels, examples_of, measured_models
from predictor.checkpoint import TargetFacts
from predictor.errors import PredictorError
from predictor.few_shot.target import AdaptedGraphs
from predictor.kernel_costs.network import CostNetwork
from predictor.kernel_costs.pricing import MOST_COMMON_VIEW, NOMINAL_COUNT, Encoded, Pricer
from predictor.kernel_costs.ranges import SeenKernels
from predictor.kernel_costs.table import View, view_of
from predictor.kernel_costs.training import Examples, TrainingConfig, train
from predictor.known_references import KnownReferences
from predictor.meta_checkpoint import MetaCheckpoint, MetaFacts, Source, Widenings
from predictor.reference_set import telling
from predictor.resemblance import expectations, is_twin, knows_engine
from predictor.roofline import Machine

Floats = NDArray[np.float64]
Report = Callable[[str], None]
Trainer = Callable[[Examples, TrainingConfig, Report], CostNetwork]

REFERENCE_FAMILY = "reference"
FEWEST_REFERENCES = 6
_COVERAGE = 0.9
_LEAST_WIDENING = 1.0
_CALIBRATION_STEPS = 1000
_CALIBRATION_MEMBERS = 2  # one of each kind


@dataclass(frozen=True, slots=True)
class MetaConfig:
    """How a checkpoint is made. `calibration`: how the networks are trained that only calibrate; by default
    as the others, no more of them than `_CALIBRATION_MEMBERS` and no longer than `_CALIBRATION_STEPS`.
    """

    training: TrainingConfig = field(default_factory=TrainingConfig)
    folds: int = 4
    calibration: TrainingConfig | None = None
    seed: int = 0

    @property
    def of_folds(self) -> TrainingConfig:
        """What `calibration` says."""
        steps = min(self.training.steps, _CALIBRATION_STEPS)
        members = min(self.training.members, _CALIBRATION_MEMBERS)
        return self.calibration or replace(self.training, members=members, steps=steps)


@dataclass(frozen=True, slots=True)
class Prices:
    """What a network and N nominal machines say of G models: `total_ms` (G, S + N), `class_ms` (G, S + N,
    C).
    """

    total_ms: Floats
    class_ms: Floats


def train_on_file(
    dataset: Path, training: TrainingConfig, *, command: str, report: Report = lambda _: None
) -> MetaCheckpoint:
    """The checkpoint of a dataset's file. Raises `PredictorError` where it is none, or holds too little."""
    return train_meta(
        measured_models(read_dataset(dataset), report),
        MetaConfig(training=training),
        dataset_sha256=hashlib.sha256(dataset.read_bytes()).hexdigest(),
        command=command,
        report=report,
    )


def train_meta(
    data: MeasuredModels,
    config: MetaConfig,
    *,
    dataset_sha256: str,
    command: str,
    report: Report = lambda _: None,
    trainer: Trainer = train,
) -> MetaCheckpoint:
    """The checkpoint of a dataset. Deterministic for a seed and a number of threads. Raises `PredictorError`
    where nothing was measured but the reference set.
    """
    learned = without_families(data, ())
    if not learned.models:
        raise PredictorError(
            f"the dataset holds {len(data.models)} models that can be rebuilt, all of the reference set; "
            "measure families too (`laptime-predictor campaign`)"
        )
    widenings = calibrated_widenings(data, config, report, trainer)
    report(f"training on {len(learned.models)} models and {len(data.targets)} targets")
    network = trainer(examples_of(learned), config.training, report)
    seen = SeenKernels.of([table for model in data.models for table in model.encoded.tables.values()])
    measurement_count = int(np.isfinite(data.latency_ms).sum())
    data, network = witnessed(data, network)
    pricer = Pricer.of(network, [target.runtime for target in data.targets])
    references = known_references(data, pricer)
    facts = MetaFacts(
        sources=tuple(
            Source(target_key=target.key, runtime=target.runtime, hardware=target.hardware)
            for target in data.targets
        ),
        members=config.training.members,
        seen_names=tuple(sorted(seen.bounds)),
        references=tuple(sorted(references.log_ratios)),
        widenings=widenings,
        dataset_sha256=dataset_sha256,
        command=command,
        model_count=len(data.models),
        measurement_count=measurement_count,
    )
    return MetaCheckpoint(facts, network, seen, references)


def family_folds(data: MeasuredModels, count: int, seed: int) -> list[tuple[str, ...]]:
    """Families of whole models, dealt into `count` folds."""
    families = sorted({model.family for model in data.models if _is_network(model)})
    order = np.random.default_rng(seed).permutation(len(families))
    return [tuple(families[index] for index in order[start::count]) for start in range(count)]


def calibrated_widenings(
    data: MeasuredModels, config: MetaConfig, report: Report = lambda _: None, trainer: Trainer = train
) -> Widenings:
    """Standard deviations on each side that held 90 % of the models of left-out families on left-out
    targets, where others of their engine stayed and where none did.
    """
    kin: list[Floats] = []
    strangers: list[Floats] = []
    for fold in family_folds(data, config.folds, config.seed):
        report(f"calibrating without {', '.join(fold)}")
        network_data = without_families(data, fold)
        network = trainer(examples_of(network_data), config.of_folds, report)
        known, network = witnessed(data, network)
        judged = of_families(known, (*fold, REFERENCE_FAMILY))
        pricer = Pricer.of(network, [target.runtime for target in known.targets])
        for is_stranger, misses in _misses(judged, pricer, fold):
            (strangers if is_stranger else kin).append(misses)
    return Widenings(of_known_engines=_holding(kin or strangers), of_strangers=_holding(strangers or kin))


def _holding(misses: Sequence[Floats]) -> float:
    """What holds so many of each target's; every target counts the same, however many models it runs."""
    quantiles = [float(np.quantile(own, _COVERAGE)) for own in misses]
    return max(float(np.mean(quantiles)), _LEAST_WIDENING) if quantiles else _LEAST_WIDENING


def _is_network(model: MeasuredModel) -> bool:
    """Whether it is a whole one, and none of the reference set."""
    return not model.is_sweep and model.family != REFERENCE_FAMILY


def witnessed(data: MeasuredModels, network: CostNetwork) -> tuple[MeasuredModels, CostNetwork]:
    """The targets that may say what another is like, those that have run whole networks, and their outputs.
    One that has run medleys only teaches the network, its engine's part above all; what the network says of
    it elsewhere is a guess.
    """
    is_network = [_is_network(model) for model in data.models]
    columns = np.flatnonzero(np.isfinite(data.latency_ms[is_network]).any(axis=0))
    if not len(columns):  # a dataset of medleys
        return data, network
    return data.take(range(len(data.models)), columns.tolist()), network.of_sources(columns.tolist())


def without_families(data: MeasuredModels, families: Sequence[str]) -> MeasuredModels:
    """All targets, and the models of other families; never the reference set, under whatever name."""
    out = {*families, REFERENCE_FAMILY}
    references = {model.digest for model in data.models if model.family == REFERENCE_FAMILY}
    rows = [
        index
        for index, model in enumerate(data.models)
        if model.family not in out and model.digest not in references
    ]
    return data.take(rows, range(len(data.targets)))


def of_families(data: MeasuredModels, families: Sequence[str]) -> MeasuredModels:
    """All targets, and the models of these families."""
    rows = [index for index, model in enumerate(data.models) if model.family in families]
    return data.take(rows, range(len(data.targets)))


def price_models(data: MeasuredModels, pricer: Pricer, target: TargetFacts) -> Prices:
    """All models on the hardware and threads of a target."""
    return _prices(data, pricer, pricer.machines(target.runtime, target.hardware), view_of(target.runtime))


def _prices(data: MeasuredModels, pricer: Pricer, machines: Sequence[Machine], view: View) -> Prices:
    priced = [pricer.price_on(_in_views(model.encoded, pricer), machines, view) for model in data.models]
    return Prices(np.array([one.total_ms for one in priced]), np.array([one.class_ms for one in priced]))


def known_references(data: MeasuredModels, pricer: Pricer) -> KnownReferences:
    """What the targets took for the reference set, against what the network says."""
    own = of_families(data, (REFERENCE_FAMILY,))
    if not own.models:
        return KnownReferences({})
    prices = _PricedByMachine(own, pricer)
    said = [prices.on(target).total_ms[:, column] for column, target in enumerate(own.targets)]
    return KnownReferences.of([model.digest for model in own.models], own.latency_ms, np.stack(said, axis=1))


class _PricedByMachine:
    """The same models on the machines of several targets; each machine once."""

    def __init__(self, data: MeasuredModels, pricer: Pricer) -> None:
        self._data, self._pricer = data, pricer
        self._known: dict[tuple[tuple[Machine, ...], View], Prices] = {}

    def on(self, target: TargetFacts) -> Prices:
        """On the hardware and threads of a target."""
        machines = self._pricer.machines(target.runtime, target.hardware)
        asked = machines, view_of(target.runtime)
        if asked not in self._known:
            self._known[asked] = _prices(self._data, self._pricer, *asked)
        return self._known[asked]


def _misses(data: MeasuredModels, pricer: Pricer, fold: Sequence[str]) -> Iterator[tuple[bool, Floats]]:
    """For each left-out target, with and without its siblings: whether no source is of its engine, and errors
    in their own standard deviations.
    """
    families = np.array([model.family for model in data.models])
    references = known_references(data, pricer)
    by_machine = _PricedByMachine(data, pricer)
    for column, target in enumerate(data.targets):
        measured = np.isfinite(data.latency_ms[:, column])
        references_run = np.flatnonzero(measured & (families == REFERENCE_FAMILY))
        tell = telling([data.models[row].name for row in references_run])
        support = np.array([row for row in references_run if data.models[row].name in tell], dtype=np.intp)
        query = np.flatnonzero(measured & np.isin(families, fold))
        if len(support) < FEWEST_REFERENCES or not len(query):
            continue
        prices = by_machine.on(target)
        others = np.flatnonzero(
            [place != column and not is_twin(target, other) for place, other in enumerate(data.targets)]
        )
        strangers = np.flatnonzero([not knows_engine(target, [other]) for other in data.targets])
        for learned in (others, strangers):
            if not len(learned):
                continue
            is_stranger = not knows_engine(target, [data.targets[source] for source in learned])
            nominal = range(len(data.targets), len(data.targets) + NOMINAL_COUNT)  # these stand last
            sources = [*learned, *nominal]
            latency_ms = data.latency_ms[:, column]
            total_ms, class_ms = references.of_sources(learned).all_corrected(
                [data.models[row].digest for row in support],
                prices.total_ms[np.ix_(support, sources)],
                prices.class_ms[np.ix_(support, sources)],
            )
            adapted = AdaptedGraphs.of(
                total_ms,
                class_ms,
                latency_ms[support],
                expectations=expectations(target, [data.targets[source] for source in learned]),
            )
            said = adapted.estimate(
                prices.total_ms[np.ix_(query, sources)], prices.class_ms[np.ix_(query, sources)]
            )
            yield is_stranger, np.abs(np.log(latency_ms[query] / said.median_ms)) / said.deviation


def _in_views(encoded: Encoded, pricer: Pricer) -> Encoded:
    views: set[View] = {*pricer.views, MOST_COMMON_VIEW}
    return Encoded(
        {view: encoded.tables[view] for view in views}, {view: encoded.features[view] for view in views}
    )
