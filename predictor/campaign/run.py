"""Measure every specimen on every target of this machine, pass after pass; resumable.

A batch holds specimens of many families in a random order, and is measured on all targets before the next one
starts: whatever the machine does in these seconds, it does to all targets. Each pass draws other batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from devices.batch import BatchEntry, run_batch
from devices.errors import DevicesError
from devices.measurement import Level, Measurement, MeasurementPlan, UsualSpeed
from devices.model_ref import ModelRef, sha256_of
from devices.profile import MeasurementRequest
from devices.speed import process_canaries_ns
from devices.statistics import median
from devices.target import Device, Runtime, Target
from predictor.campaign.models import Built, reference_built
from predictor.campaign.store import Campaigner, CampaignFolder, Record, place_of
from predictor.errors import GraphRejected, PredictorError
from predictor.graph import ModelGraph
from predictor.reading.reader import read_graph
from predictor.reference_set import ReferenceModel, reference_candidates, reference_models

BATCH = 24
_SETTLING_BATCHES = 5
_SETTLING_ACCELERATORS = 1  # which report times as observed

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure. `build` gives its bytes and the sizes of its inputs."""

    family: str
    name: str
    precision: str
    is_sweep: bool
    build: Callable[[], Built]


class _Prepared:
    """A subject with what is needed of it, made when it is first needed."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    @cached_property
    def built(self) -> Built:
        return self.subject.build()

    @cached_property
    def graph(self) -> ModelGraph:
        return read_graph(self.built[0], self.built[1])


@dataclass(frozen=True, slots=True)
class Campaign:
    """What a campaign measures, where, and where it keeps what it finds."""

    device: Device
    runtimes: Sequence[Runtime]
    subjects: Sequence[Subject]
    folder: CampaignFolder
    report: Report
    with_layers: bool = False

    def run(self, passes: int) -> None:
        """All passes; what is known is not measured again. Raises `PredictorError` where the machine cannot
        be settled.
        """
        campaigner = self.folder.campaigner(self.device) or self._settle()
        for passed in range(passes):
            batches = list(self._batches(passed))
            for number, batch in enumerate(batches):
                prepared = [_Prepared(subject) for subject in batch]
                for runtime in self.runtimes:
                    self._measure(prepared, runtime, passed, campaigner.usual_speed)
                self.report(f"pass {passed + 1} of {passes}: batch {number + 1} of {len(batches)}")

    def _batches(self, passed: int) -> Iterator[list[Subject]]:
        order = np.random.default_rng(passed).permutation(len(self.subjects))
        for start in range(0, len(order), BATCH):
            yield [self.subjects[index] for index in order[start : start + BATCH]]

    def _measure(
        self, prepared: Sequence[_Prepared], runtime: Runtime, passed: int, usual: UsualSpeed
    ) -> None:
        target = Target(device_key=self.device.key, runtime=runtime)
        wanted = [
            one for one in prepared if place_of(target, one.subject.name, passed) not in self.folder.known
        ]
        if not wanted:
            return
        found = _measured(self.device, runtime, wanted, usual, with_layers=self.with_layers)
        self.folder.add(
            [_record(target, one, passed, outcome) for one, outcome in zip(wanted, found, strict=True)]
        )

    def _settle(self) -> Campaigner:
        """The usual speed of this machine: the median canary of some processes that run the reference set."""
        references = [_Prepared(subject) for subject in _subjects_of(reference_models())]
        canaries_ns: list[float] = []
        clock = ""
        is_cpu = self.runtimes[0].provider == "cpu"
        for _ in range(_SETTLING_BATCHES if is_cpu else _SETTLING_ACCELERATORS):
            for outcome in _measured(self.device, self.runtimes[0], references, None):
                if isinstance(outcome, Measurement):
                    canaries_ns += process_canaries_ns(outcome.counted_rounds)
                    clock = outcome.clock
        if not canaries_ns:
            raise PredictorError(
                f"no reference model runs on {self.runtimes[0].key}; see `laptime-agent doctor`"
            )
        campaigner = Campaigner(
            device=self.device, usual_speed=UsualSpeed(canary_ns=median(canaries_ns), clock=clock)
        )
        self.folder.keep(campaigner)
        return campaigner


def reference_subjects() -> list[Subject]:
    """The reference set and its stand-ins, as part of a campaign."""
    return _subjects_of(reference_candidates())


def _subjects_of(references: Sequence[ReferenceModel]) -> list[Subject]:
    return [
        Subject("reference", one.name, "mixed", False, partial(reference_built, one)) for one in references
    ]


def _measured(
    device: Device,
    runtime: Runtime,
    prepared: Sequence[_Prepared],
    usual: UsualSpeed | None,
    *,
    with_layers: bool = False,
) -> list[Measurement | DevicesError]:
    entries = [
        BatchEntry(
            MeasurementRequest(
                device_key=device.key,
                runtime=runtime,
                model=ModelRef(sha256=sha256_of(one.built[0]), input_shapes=one.built[1]),
                plan=MeasurementPlan(level=Level.QUICK, with_layers=with_layers),
                usual_speed=usual,
            ),
            one.built[0],
        )
        for one in prepared
    ]
    return run_batch(entries)


def _record(target: Target, prepared: _Prepared, passed: int, outcome: Measurement | DevicesError) -> Record:
    subject = prepared.subject
    try:
        digest = prepared.graph.digest
    except GraphRejected:
        digest = ""  # a model that runs and cannot be costed is worth knowing
    return Record(
        place=place_of(target, subject.name, passed),
        runtime=target.runtime,
        family=subject.family,
        precision=subject.precision,
        is_sweep=subject.is_sweep,
        graph_digest=digest,
        measurement=outcome if isinstance(outcome, Measurement) else None,
        refusal=str(outcome) if isinstance(outcome, DevicesError) else None,
    )
