"""The meta-learned checkpoint: what the cost network, its sources and the calibration are, as bytes.

One ships with the package (`shipped`); `laptime-predictor train` makes another from a dataset. safetensors
with JSON in the header, nothing executable.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from devices.target import Hardware, Runtime
from devices.vocabulary import Value
from predictor.checkpoint_header import header_text, read_header
from predictor.errors import CheckpointRejected
from predictor.few_shot.whole_graphs import HEAD_VERSION
from predictor.kernel_costs.bins import Bins
from predictor.kernel_costs.features import FEATURE_COUNT, FEATURE_VERSION
from predictor.kernel_costs.network import LAYERS, CostNetwork, from_arrays, to_arrays
from predictor.kernel_costs.pricing import Pricer
from predictor.kernel_costs.ranges import SIZED, SeenKernels
from predictor.known_references import KnownReferences

FORMAT_VERSION = 6
MAX_META_BYTES = 5 << 20
_KEY = "laptime-meta"
_MOST_WEIGHT = 1e6  # beyond, single precision may overflow
_LEAST_WIDTH = 1e-9  # of a piece
_MOST_WIDENING = 100.0
_MOST_LOG_RATIO = 10.0  # of measured to said: beyond, nothing was measured
_SHIPPED = ("predictor.checkpoints", "meta.safetensors")


class Source(Value):
    """A runtime that the network has learned, on the target that measured it."""

    target_key: str
    runtime: Runtime
    hardware: Hardware


class Widenings(Value):
    """Standard deviations on each side of what holds 90 % of the latencies: of targets whose engine is among
    the sources, and of those whose engine no source has.
    """

    of_known_engines: float = Field(gt=0, le=_MOST_WIDENING)
    of_strangers: float = Field(gt=0, le=_MOST_WIDENING)


class MetaFacts(Value):
    """What a meta-learned checkpoint was made from, and how it predicts. `command` makes it again."""

    format_version: int = FORMAT_VERSION
    feature_version: int = FEATURE_VERSION
    head_version: int = HEAD_VERSION
    sources: tuple[Source, ...] = Field(min_length=1)
    members: int = Field(ge=1)
    seen_names: tuple[str, ...]
    references: tuple[str, ...] = ()  # digests of the models that the sources were asked to run
    widenings: Widenings
    dataset_sha256: str
    command: str
    model_count: int
    measurement_count: int


@dataclass(frozen=True)
class MetaCheckpoint:
    """The network with its facts. Immutable."""

    facts: MetaFacts
    network: CostNetwork
    seen: SeenKernels
    references: KnownReferences

    @cached_property
    def pricer(self) -> Pricer:
        """The network as prices of graphs."""
        return Pricer.of(self.network, [source.runtime for source in self.facts.sources])

    @cached_property
    def sha256(self) -> str:
        """Of the bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """A safetensors file; the same bytes for the same checkpoint."""
        bounds = np.stack([self.seen.bounds[name] for name in self.facts.seen_names]).astype(np.float32)
        ratios = [self.references.log_ratios[digest] for digest in self.facts.references]
        arrays: dict[str, NDArray[np.generic]] = {
            **to_arrays(self.network),
            "seen": bounds,
            "references": np.reshape(ratios, (len(ratios), len(self.facts.sources))).astype(np.float32),
        }
        return save(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            {_KEY: header_text(self.facts)},
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> MetaCheckpoint:
        """Read what `to_bytes` wrote. Raises `CheckpointRejected` for anything else, other versions
        included.
        """
        described = read_header(
            data,
            _KEY,
            most_bytes=MAX_META_BYTES,
            versions={"format_version": FORMAT_VERSION, "head_version": HEAD_VERSION},
            name="the meta-learned checkpoint",
            remedy="train it again",
        )
        try:
            facts = MetaFacts.model_validate(described)
            arrays = load(data)
            network = from_arrays(arrays, members=facts.members, layers=LAYERS)
            seen = arrays["seen"].astype(np.float64)
            ratios = arrays["references"].astype(np.float32)
        except (SafetensorError, ValidationError, KeyError, ValueError) as error:
            raise CheckpointRejected(f"the meta-learned checkpoint is damaged: {error}") from error
        _check(facts, network, seen)
        _check_references(facts, ratios)
        bounds = dict(zip(facts.seen_names, seen, strict=True))
        references = KnownReferences(dict(zip(facts.references, ratios, strict=True)))
        return cls(facts, network, SeenKernels(bounds), references)


@lru_cache(maxsize=1)
def shipped() -> MetaCheckpoint:
    """The checkpoint that comes with the package."""
    package, name = _SHIPPED
    return MetaCheckpoint.from_bytes(resources.files(package).joinpath(name).read_bytes())


def _check(facts: MetaFacts, network: CostNetwork, seen: NDArray[np.float64]) -> None:
    sources, bins = len(facts.sources), network.bins
    if not _is_sound(bins):
        raise CheckpointRejected(
            f"the meta-learned checkpoint is damaged: the {len(bins)} pieces of its features must be of the "
            f"{FEATURE_COUNT} there are, start within {_MOST_WEIGHT:g} and be wider than {_LEAST_WIDTH:g}"
        )
    inputs = FEATURE_COUNT + len(bins)
    for member in network.members:
        shapes = [weight.shape for weight in member.weights]
        sizes = (inputs, *(bias.size for bias in member.biases))
        is_chained = shapes == list(pairwise(sizes)) and all(bias.ndim == 1 for bias in member.biases)
        is_bounded = all(np.all(np.abs(array) <= _MOST_WEIGHT) for array in (*member.weights, *member.biases))
        if not is_chained or sizes[-1] != sources or not is_bounded:
            raise CheckpointRejected(
                f"the meta-learned checkpoint is damaged: its layers have shapes {shapes}, expected "
                f"{inputs} inputs and {sources} sources, all numbers within {_MOST_WEIGHT:g}"
            )
    if seen.shape != (len(facts.seen_names), 2, len(SIZED)) or not np.isfinite(seen).all():
        raise CheckpointRejected(
            f"the meta-learned checkpoint is damaged: its sizes have shape {seen.shape} and must be finite"
        )


def _is_sound(bins: Bins) -> bool:
    shapes = {bins.fields.shape, bins.starts.shape, bins.widths.shape}
    return (
        shapes == {(len(bins),)}
        and bool(np.all((bins.fields >= 0) & (bins.fields < FEATURE_COUNT)))
        and bool(np.all(np.abs(bins.starts) <= _MOST_WEIGHT))
        and bool(np.all((bins.widths >= _LEAST_WIDTH) & (bins.widths <= _MOST_WEIGHT)))
    )


def _check_references(facts: MetaFacts, ratios: NDArray[np.float32]) -> None:
    """NaN: a source did not run the model; each model was run by one at least."""
    expected = (len(facts.references), len(facts.sources))
    is_known = ratios.shape == expected and not np.isnan(ratios).all(axis=1).any()
    if not is_known or np.any(np.abs(ratios) > _MOST_LOG_RATIO):
        raise CheckpointRejected(
            f"the meta-learned checkpoint is damaged: its ratios of references have shape {ratios.shape}, "
            f"expected {expected}, a number in each row at least and all within {_MOST_LOG_RATIO:g}"
        )
