"""Which sources a new target should be expected to resemble, before anything is measured on it.

The same runtime on another device, or with another number of threads, is the best witness; then the same
engine where it runs graphs in the same way (`predictor.kernel_costs.table.View`), then the same engine at
another level of optimisation. Of engines and providers that no source has, every source says as much, and the
nominal machines most: what others are known to do misleads more than it tells.

Where other runtimes of the target's machine are known, an analogy says more: the runtime takes on this
machine what it takes elsewhere, times what this machine takes longer than that one with those runtimes.

Measurements decide (`predictor.few_shot`): this is where they start from, and any source of the engine may
turn out to be the best witness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from devices.target import Hardware, Runtime
from predictor.few_shot.whole_graphs import ALIKE, FOREIGN, STRANGER_HEAD, UNLIKE, Expectation
from predictor.kernel_costs.pricing import NOMINAL_COUNT
from predictor.kernel_costs.table import view_of
from predictor.roofline import SHORT_FLOAT_FLAGS

UNKNOWN_PROCESSOR = "unknown"


class Known(Protocol):
    """A target, or a source of the checkpoint: a runtime on a machine."""

    @property
    def runtime(self) -> Runtime:
        """How models run."""

    @property
    def hardware(self) -> Hardware:
        """Where."""


class _Witness(NamedTuple):
    """What a source has to say of a target: its weight among all, and, if it may also be the one that tells
    most, how much speaks for that against all of them together.
    """

    weight: float
    log_prior: float | None = None


_SAME_RUNTIME = _Witness(1000.0, 2.0)
_SAME_WAY = _Witness(100.0, 4.5)
_SAME_ENGINE = _Witness(10.0, -1.0)
_STRANGER = _Witness(1.0)
_NOMINAL = _Witness(2.0)  # the nominal machine: no stranger's habits
_UNFOLDING = _Witness(0.0)  # the same with one habit, which only a stranger may have
_ABOVE_ALL = 2000.0  # of a single witness
_UNLIKE_LOG_PRIOR = -3.0  # for a target unlike its sources
_OWN_ANALOGY_LOG_PRIOR = 3.0  # the engine itself is known on the target's machine, run otherwise
_ANALOGY_LOG_PRIOR = 2.0  # only other engines are


def expectations(
    target: Known, sources: Sequence[Known], pooled: Sequence[Known] = ()
) -> tuple[Expectation, ...]:
    """What a target may be like, over the sources, the nominal machines and pooled targets, in this order: as
    all of them by rank (`source_weights`) or as one source of its engine; by analogy; unlike the sources in
    its classes of kernels; or nearest to the nominal machine. Where nobody knows the engine: as all of them,
    or as one of the nominal machines, with classes of its own.
    """
    witnesses = _witnesses(target, sources, pooled)
    ranked = source_weights(target, sources, pooled)
    if not knows_engine(target, (*sources, *pooled)):
        alone = [_mostly(len(sources) + place, len(witnesses)) for place in range(NOMINAL_COUNT)]
        return tuple(Expectation(weights, FOREIGN, head=STRANGER_HEAD) for weights in (ranked, *alone))
    found = [Expectation(ranked, ALIKE)]
    for place, witness in enumerate(witnesses):
        if witness.log_prior is not None:
            found.append(Expectation(_mostly(place, len(witnesses)), ALIKE, witness.log_prior))
    found += _analogies(target, [*sources, *[None] * NOMINAL_COUNT, *pooled])
    nominal = _mostly(len(sources), len(witnesses))
    for by_class in (UNLIKE, FOREIGN):
        found.append(Expectation(ranked, by_class, _UNLIKE_LOG_PRIOR))
        found.append(Expectation(nominal, by_class, _UNLIKE_LOG_PRIOR))
    return tuple(found)


def source_weights(
    target: Known, sources: Sequence[Known], pooled: Sequence[Known] = ()
) -> NDArray[np.float64]:
    """Of the sources, the nominal machines and pooled targets, in this order; they sum to one."""
    weights = [witness.weight for witness in _witnesses(target, sources, pooled)]
    together: NDArray[np.float64] = np.asarray(weights) / sum(weights)
    return together


def knows_engine(target: Known, sources: Sequence[Known]) -> bool:
    """Whether any source runs models as the target does, on whatever machine."""
    return any(_have_one_engine(target.runtime, source.runtime) for source in sources)


def is_twin(one: Known, other: Known) -> bool:
    """Whether two are the same runtime on processors of one kind, as far as they tell."""
    return one.runtime == other.runtime and _is_same_machine(one.hardware, other.hardware)


def knows_short_floats(target: Known, sources: Sequence[Known]) -> bool:
    """Whether the target's engine was measured on a processor that is like the target's in float16. With
    instructions for it, float16 is as fast as float32; without, a library may take ten times as long.
    """
    runtime = target.runtime
    alike = [source for source in sources if _have_one_engine(runtime, source.runtime)]
    if runtime.provider != "cpu":
        return bool(alike)
    own = _has_short_floats(target.hardware)
    return any(_has_short_floats(source.hardware) is own for source in alike)


def _has_short_floats(hardware: Hardware) -> bool:
    return not SHORT_FLOAT_FLAGS.isdisjoint(hardware.isa_flags)


def _witnesses(target: Known, sources: Sequence[Known], pooled: Sequence[Known]) -> list[_Witness]:
    known = [_witness(target.runtime, source.runtime) for source in sources]
    others = [_witness(target.runtime, other.runtime) for other in pooled]
    return [*known, _NOMINAL, _UNFOLDING, *others]


def _have_one_engine(one: Runtime, other: Runtime) -> bool:
    return (one.engine, one.provider) == (other.engine, other.provider)


def _witness(runtime: Runtime, source: Runtime) -> _Witness:
    if not _have_one_engine(runtime, source):
        return _STRANGER
    if (runtime.optimization, runtime.precision) == (source.optimization, source.precision):
        return _SAME_RUNTIME
    return _SAME_WAY if view_of(runtime) is view_of(source) else _SAME_ENGINE


def _analogies(target: Known, known: Sequence[Known | None]) -> list[Expectation]:
    """One for each source that is the target's runtime on another machine, of which at least one other
    runtime is known on both machines: of the target's own engine, if there are such. `known`: None at the
    nominal machines' places.
    """
    found = []
    for place, other in enumerate(known):
        if other is None or _witness(target.runtime, other.runtime) is not _SAME_RUNTIME:
            continue
        if _is_same_machine(target.hardware, other.hardware):
            continue
        pairs = _pairs(target.hardware, other.hardware, known)
        own = [pair for pair in pairs if pair.engine == target.runtime.engine]
        told = own or pairs
        if not told:
            continue
        weights = np.zeros(len(known))
        weights[place] += 1.0
        for pair in told:
            weights[pair.here] += 1.0 / len(told)
            weights[pair.there] -= 1.0 / len(told)
        found.append(Expectation(weights, ALIKE, _OWN_ANALOGY_LOG_PRIOR if own else _ANALOGY_LOG_PRIOR))
    return found


class _Pair(NamedTuple):
    """Places of one runtime on two machines."""

    engine: str
    here: int
    there: int


def _pairs(here: Hardware, there: Hardware, known: Sequence[Known | None]) -> list[_Pair]:
    on_there: dict[tuple[object, ...], int] = {}
    for place, one in enumerate(known):
        if one is not None and _is_same_machine(one.hardware, there):
            on_there.setdefault(_habits(one.runtime), place)
    return [
        _Pair(one.runtime.engine, place, on_there[_habits(one.runtime)])
        for place, one in enumerate(known)
        if one is not None and _is_same_machine(one.hardware, here) and _habits(one.runtime) in on_there
    ]


def _habits(runtime: Runtime) -> tuple[object, ...]:
    return runtime.engine, runtime.provider, runtime.optimization, runtime.precision, runtime.threads


def _is_same_machine(one: Hardware, other: Hardware) -> bool:
    """Whether two devices have the same processor, as far as it tells."""
    facts, others = (
        (hardware.cpu_model, hardware.architecture, hardware.isa_flags) for hardware in (one, other)
    )
    return facts == others and one.cpu_model != UNKNOWN_PROCESSOR


def _mostly(place: int, count: int) -> NDArray[np.float64]:
    """(count,), nearly all of it in one place."""
    weights = np.full(count, 1.0 / (_ABOVE_ALL + count - 1))
    weights[place] *= _ABOVE_ALL
    return weights
