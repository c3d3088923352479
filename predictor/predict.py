"""Predict latencies of graphs on the target that a checkpoint was adapted to, with intervals and a word on
extrapolation.

An interval holds what is not known: how the target differs from the sources after few measurements, the
noise that the model cannot explain, and kernels that no measurement came near. Its width was calibrated on
targets and model families that were left out of training, with and without other targets of their engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from predictor.checkpoint import Checkpoint
from predictor.description import Described, describe, description_of, shares_of_kernels
from predictor.errors import CheckpointRejected, PredictorError
from predictor.few_shot.target import AdaptedGraphs, GraphEstimates
from predictor.graph import ModelGraph
from predictor.kernel_costs.pricing import as_loaded_by
from predictor.kernel_costs.ranges import CONTROL_NAMES
from predictor.kernel_costs.table import CALL_NAME, View, kernels_in, name_of, view_of
from predictor.meta_checkpoint import MetaCheckpoint, shipped
from predictor.resemblance import expectations, knows_engine, knows_short_floats

Floats = NDArray[np.float64]

_STRANGE_SD = 0.7  # of the log of what kernels take that no measurement came near
_CONTROL_SHARE = 0.5  # of the time, as which an operator counts that starts others and was never measured
_UNSEEN_SIZE_SD = 0.1  # per factor e outside of the measured latencies
_BLOCK = 500  # graphs at once: what more of them need leaves the caches
_REPORTED_SHARE = 0.1  # of the time: below, a strange kernel is not worth a word
_REPORTED_FACTOR = 5.0  # outside of the measured latencies
_REPORTED_HALF = 1.0  # of the 90 % interval of the log latency, on each side
_SHORT = "(float16)"  # as kernels are named
_COVERAGE = 0.9  # that the widening was calibrated at


@dataclass(frozen=True, slots=True)
class Prediction:
    """Milliseconds; `lower_ms <= median_ms <= upper_ms`, all positive. `reasons` say why it
    extrapolates, if it does.
    """

    median_ms: float
    lower_ms: float
    upper_ms: float
    coverage: float
    extrapolates: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerShare:
    """A kernel's part of a predicted latency: its name, the operators that run in it, its kind, and its
    milliseconds.
    """

    name: str
    operators: tuple[str, ...]
    kind: str
    ms: float


class Predictor:
    """Answers for one target. Immutable and safe to share between threads."""

    def __init__(self, checkpoint: Checkpoint, meta: MetaCheckpoint | None = None) -> None:
        """Raises `CheckpointRejected` where the checkpoint stands on another meta-learned one."""
        meta = meta or shipped()
        made_with = checkpoint.provenance.meta_sha256
        if made_with != meta.sha256:
            raise CheckpointRejected(
                f"the checkpoint stands on the meta-learned checkpoint {made_with[:12]}, here is "
                f"{meta.sha256[:12]}; adapt the target again from its stored measurements"
            )
        self.checkpoint = checkpoint
        self._meta = meta
        self._target = checkpoint.provenance.target
        sources, pooled = meta.facts.sources, checkpoint.provenance.pooled
        self._pooled = [
            AdaptedGraphs.of(
                support.total_ms,
                support.class_ms,
                support.latency_ms,
                expectations=expectations(other, sources),
            )
            for other, support in zip(pooled, checkpoint.pooled, strict=True)
        ]
        widenings = meta.facts.widenings
        self._is_stranger = not knows_engine(self._target, (*sources, *pooled))
        self._widening = widenings.of_strangers if self._is_stranger else widenings.of_known_engines
        self._is_new_to_short_floats = not knows_short_floats(self._target, (*sources, *pooled))
        own = checkpoint.support
        total_ms, class_ms = self._with_pooled(own.total_ms, own.class_ms)
        self._adapted = AdaptedGraphs.of(
            total_ms,
            class_ms,
            own.latency_ms,
            expectations=expectations(self._target, sources, pooled),
        )

    def predict(self, graph: ModelGraph, coverage: float = 0.9) -> Prediction:
        """The latency of one graph; `coverage` is the probability that the interval should hold it,
        within (0, 1).
        """
        return self.predict_many((graph,), coverage)[0]

    def predict_many(self, graphs: Sequence[ModelGraph], coverage: float = 0.9) -> tuple[Prediction, ...]:
        """The latency of each graph, in their order."""
        return self.predict_described([self.describe(graph) for graph in graphs], coverage)

    def describe(self, graph: ModelGraph) -> Described:
        """The graph's description on this target, for `predict_described`: worth keeping where a graph is
        asked for again.
        """
        return describe(graph, self._target.runtime, self._target.hardware, self._meta)

    def predict_described(
        self, described: Sequence[Described], coverage: float = 0.9
    ) -> tuple[Prediction, ...]:
        """`predict_many` of graphs that are described already. Raises `PredictorError` for a coverage
        outside of (0, 1).
        """
        if not 0.0 < coverage < 1.0:
            raise PredictorError(f"coverage must lie between 0 and 1, got {coverage}")
        if not described:
            return ()
        estimates = self._estimates(described)
        deviation = self._deviations(estimates, described)
        half = deviation * float(ndtri(0.5 + 0.5 * coverage) / ndtri(0.5 + 0.5 * _COVERAGE))
        lower, upper = estimates.median_ms * np.exp(-half), estimates.median_ms * np.exp(half)
        return tuple(
            Prediction(
                median_ms=float(median),
                lower_ms=float(low),
                upper_ms=float(high),
                coverage=coverage,
                extrapolates=bool(reasons),
                reasons=reasons,
            )
            for median, low, high, reasons in zip(
                estimates.median_ms, lower, upper, self._all_reasons(estimates, described), strict=True
            )
        )

    def breakdown(self, graph: ModelGraph) -> tuple[LayerShare, ...]:
        """The predicted median kernel by kernel, in the order of running; the parts sum to the median. The
        call around the kernels comes last.
        """
        loaded = as_loaded_by(graph, self._target.runtime)
        encoded = self._meta.pricer.encode(loaded)
        own = view_of(self._target.runtime)
        view = own if own in encoded.tables else View.FUSED
        priced = self._meta.pricer.price(encoded, self._target.runtime, self._target.hardware)
        shares = shares_of_kernels(priced, view)
        described = description_of(graph, encoded, priced, self._meta)
        median_ms = self.predict_described([described])[0].median_ms
        kernels = kernels_in(loaded, view)
        rows = [
            LayerShare(
                name=kernel.anchor.name or kernel.anchor.kind,
                operators=tuple(op.name or op.kind for op in kernel.members),
                kind=name_of(kernel),
                ms=float(share * median_ms),
            )
            for kernel, share in zip(kernels, shares[:-1], strict=True)
        ]
        return (*rows, LayerShare("call", (), "call", float(shares[-1] * median_ms)))

    def _with_pooled(self, total_ms: Floats, class_ms: Floats) -> tuple[Floats, Floats]:
        """The sources' milliseconds, and those of the pooled targets as further sources, whose classes are
        divided as the sources divide them.
        """
        if not self._pooled:
            return total_ms, class_ms
        shares = (class_ms / total_ms[:, :, None]).mean(axis=1)  # (N, C)
        said = [adapted.estimate(total_ms, class_ms).median_ms for adapted in self._pooled]
        more = np.stack(said, axis=1)  # (N, Q)
        return (
            np.concatenate([total_ms, more], axis=1),
            np.concatenate([class_ms, more[:, :, None] * shares[:, None, :]], axis=1),
        )

    def _estimates(self, described: Sequence[Described]) -> GraphEstimates:
        parts = [
            self._estimates_of_some(described[start : start + _BLOCK])
            for start in range(0, len(described), _BLOCK)
        ]
        return GraphEstimates(
            np.concatenate([part.median_ms for part in parts]),
            np.concatenate([part.deviation for part in parts]),
        )

    def _estimates_of_some(self, described: Sequence[Described]) -> GraphEstimates:
        total_ms = np.stack([one.total_ms for one in described])
        class_ms = np.stack([one.class_ms for one in described])
        return self._adapted.estimate(*self._with_pooled(total_ms, class_ms))

    def _deviations(self, estimates: GraphEstimates, described: Sequence[Described]) -> Floats:
        """Half the width of the 90 % interval of the log-latency (N,)."""
        strange = np.asarray([self._strange_share(one) for one in described])
        beyond = self._beyond(estimates.median_ms)
        extra = (_STRANGE_SD * np.minimum(strange, 1.0)) ** 2 + (_UNSEEN_SIZE_SD * beyond) ** 2
        widened: Floats = self._widening * np.sqrt(estimates.deviation**2 + extra)
        return widened

    def _strange_share(self, described: Described) -> float:
        """Share of the time that no measurement tells of; may exceed one."""
        has_control = not CONTROL_NAMES.isdisjoint(described.strange)
        of_kernels = sum(described.strange.values()) + self._short_share(described) + described.unpacked
        of_kernels += sum(self._unmeasured(described).values())
        return of_kernels + (_CONTROL_SHARE if has_control else 0.0)

    def _unmeasured(self, described: Described) -> dict[str, float]:
        """Shares of the time of kernels that the target has not run, where no source knows its engine: what
        others take for them says little of it.
        """
        if not self._is_stranger:
            return {}
        told = {*self.checkpoint.provenance.seen_kinds, *described.strange, CALL_NAME}
        return {name: share for name, share in described.shares.items() if name not in told}

    def _short_share(self, described: Described) -> float:
        """Share of the time in products of float16, where nobody knows what they take here."""
        if not self._is_new_to_short_floats:
            return 0.0
        return sum(share for name, share in described.shares.items() if name.endswith(_SHORT))

    def _beyond(self, median_ms: Floats) -> Floats:
        """How far outside of the measured latencies, in logarithms; 0 inside."""
        provenance = self.checkpoint.provenance
        above = np.log(median_ms / provenance.longest_ms)
        outside: Floats = np.maximum(above, np.log(provenance.shortest_ms / median_ms))
        return np.maximum(outside, 0.0)

    def _all_reasons(
        self, estimates: GraphEstimates, described: Sequence[Described]
    ) -> list[tuple[str, ...]]:
        beyond = self._beyond(estimates.median_ms)
        return [
            self._reasons(one, float(median), float(deviation), float(outside))
            for one, median, deviation, outside in zip(
                described, estimates.median_ms, estimates.deviation, beyond, strict=True
            )
        ]

    def _reasons(
        self, described: Described, median_ms: float, deviation: float, beyond: float
    ) -> tuple[str, ...]:
        provenance = self.checkpoint.provenance
        reasons = [
            f"operator {what} than was ever measured ({share:.0%} of the estimated time)"
            if ", " in what
            else f"operator {what} was never measured ({share:.0%} of the estimated time)"
            for what, share in _largest_first(described.strange)
            if share >= _REPORTED_SHARE and what not in CONTROL_NAMES
        ]
        reasons += [
            f"operator {name} was never measured, and takes time beside the operators in it"
            for name in sorted(CONTROL_NAMES.intersection(described.strange))
        ]
        reasons += [
            f"operator {name} was never measured here, nor with {self._target.runtime.engine} elsewhere "
            f"({share:.0%} of the estimated time)"
            for name, share in _largest_first(self._unmeasured(described))
            if share >= _REPORTED_SHARE
        ]
        short_share = self._short_share(described)
        if short_share >= _REPORTED_SHARE:
            reasons.append(
                f"float16 was never measured with {self._target.runtime.engine} on a processor like this one "
                f"({short_share:.0%} of the estimated time)"
            )
        if described.unpacked >= _REPORTED_SHARE:
            reasons.append(
                "weights are stored as integers that the file itself casts to floats, which some runtimes do "
                f"in every run and others never ({described.unpacked:.0%} of the estimated time); "
                "export them with DequantizeLinear"
            )
        if beyond > np.log(_REPORTED_FACTOR):
            measured = f"{provenance.shortest_ms:.3g} to {provenance.longest_ms:.3g} ms"
            reasons.append(f"{median_ms:.3g} ms is outside of what was measured here ({measured})")
        half = self._widening * deviation
        if half > _REPORTED_HALF:
            factor = f"uncertain by a factor {np.exp(half):.1f}"
            reasons.append(f"no measured model spends its time like this one ({factor})")
        return tuple(reasons)


def _largest_first(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda item: (-item[1], item[0]))
