"""Adapt a predictor to one target from about ten measurements: closed form, deterministic, milliseconds of
work.

The meta-learned checkpoint knows what kernels cost on the runtimes of a campaign (its sources). A new target
resembles some of these sources, with factors of its own for classes of kernels (`predictor.few_shot`). What
the sources took for the reference set is known (`predictor.known_references`). Where other targets have been
measured (`pool`), each of them is adapted first and becomes one more source.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from devices.target import Hardware, Runtime
from predictor.checkpoint import LEAST_MS, MOST_MS, Checkpoint, Provenance, Support
from predictor.checkpoint import TargetFacts as TargetFacts  # adapting is where callers meet it
from predictor.description import Described, describe
from predictor.errors import AdaptationRejected
from predictor.graph import ModelGraph
from predictor.meta_checkpoint import MetaCheckpoint, shipped

MAX_POOLED_TARGETS = 8  # those with the most measurements
MIN_POOLED_MEASUREMENTS = 6  # fewer say too little of a target to learn from it


@dataclass(frozen=True, slots=True)
class Observation:
    """One valid measurement of one model on one target. `name`: of the model, for the accuracy card."""

    target_key: str
    runtime: Runtime
    hardware: Hardware
    graph: ModelGraph
    median_ms: float
    standard_error_ms: float
    name: str = ""


@dataclass(frozen=True, slots=True)
class Pool:
    """Other targets as sources, and their supports."""

    targets: tuple[TargetFacts, ...] = ()
    supports: tuple[Support, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the targets."""
        return tuple(target.key for target in self.targets)


def adapt(
    target: TargetFacts,
    observations: Sequence[Observation],
    pool: Sequence[Observation] = (),
    *,
    meta: MetaCheckpoint | None = None,
) -> Checkpoint:
    """A predictor for `target` from its own measurements, with other targets' (`pool`) as further sources, on
    top of the shipped checkpoint or another.

    Raises `AdaptationRejected` where there are no observations, where one is of another target, or where a
    latency, of the pool too, is not a positive number. The order of observations does not matter beyond
    rounding.
    """
    meta = meta or shipped()
    _check(target, observations)
    described = [describe_observation(observation, target, meta) for observation in observations]
    return adapt_described(target, observations, described, pool=pool_of(pool, target, meta), meta=meta)


def describe_observation(observation: Observation, target: TargetFacts, meta: MetaCheckpoint) -> Described:
    """A measured model, as the sources would run it on the target's hardware."""
    return describe(observation.graph, target.runtime, target.hardware, meta)


def adapt_described(
    target: TargetFacts,
    observations: Sequence[Observation],
    described: Sequence[Described],
    *,
    pool: Pool,
    meta: MetaCheckpoint,
) -> Checkpoint:
    """`adapt`, with the descriptions and the pool already at hand."""
    _check(target, observations)
    provenance = Provenance(
        target=target,
        meta_sha256=meta.sha256,
        trained_on=tuple(
            sorted(observation.name or observation.graph.digest for observation in observations)
        ),
        pooled=pool.targets,
        seen_kinds=tuple(sorted({kind for one in described for kind in one.shares})),
        shortest_ms=min(observation.median_ms for observation in observations),
        longest_ms=max(observation.median_ms for observation in observations),
    )
    return Checkpoint(provenance, _support(observations, described, meta), pool.supports)


def pool_of(pool: Sequence[Observation], target: TargetFacts, meta: MetaCheckpoint) -> Pool:
    """Other targets as sources; measurements of `target` itself are left out. Raises `AdaptationRejected` for
    a latency that is not a positive number.
    """
    groups: dict[str, list[Observation]] = defaultdict(list)
    for observation in pool:
        if observation.target_key != target.key:
            _check_latency(observation)
            groups[observation.target_key].append(observation)
    known = [key for key, group in groups.items() if len(group) >= MIN_POOLED_MEASUREMENTS]
    keys = sorted(sorted(known, key=lambda key: (-len(groups[key]), key))[:MAX_POOLED_TARGETS])
    targets, supports = [], []
    for key in keys:
        own = groups[key]
        facts = TargetFacts(key=key, runtime=own[0].runtime, hardware=own[0].hardware)
        targets.append(facts)
        supports.append(_support(own, [describe_observation(one, facts, meta) for one in own], meta))
    return Pool(tuple(targets), tuple(supports))


def _support(
    observations: Sequence[Observation], described: Sequence[Described], meta: MetaCheckpoint
) -> Support:
    total_ms, class_ms = meta.references.all_corrected(
        [observation.graph.digest for observation in observations],
        np.stack([one.total_ms for one in described]),
        np.stack([one.class_ms for one in described]),
    )
    return Support(
        total_ms=total_ms,
        class_ms=class_ms,
        latency_ms=np.array([observation.median_ms for observation in observations]),
    )


def _check(target: TargetFacts, observations: Sequence[Observation]) -> None:
    if not observations:
        raise AdaptationRejected(f"no measurement of {target.key}; measure the reference set first")
    for observation in observations:
        if observation.target_key != target.key:
            raise AdaptationRejected(
                f"a measurement of {observation.target_key} cannot adapt {target.key}; pass it in the pool"
            )
        _check_latency(observation)


def _check_latency(observation: Observation) -> None:
    median_ms, error_ms = observation.median_ms, observation.standard_error_ms
    is_latency = LEAST_MS <= median_ms <= MOST_MS
    if not is_latency or not math.isfinite(error_ms) or error_ms < 0:
        raise AdaptationRejected(
            f"{observation.name or 'a model'} has {median_ms} ms with a standard error of {error_ms} ms on "
            f"{observation.target_key}; latencies are positive and at most {MOST_MS:g} ms"
        )
