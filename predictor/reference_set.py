"""The reference set: ten small models that every new target measures first, and why each of them.

They are medleys (`predictor.families`): blocks of many kinds and sizes in one network, so that a latency says
something of a whole class of kernels and not of one shape. Eight, and the last two stand-ins, are of an
optimal design, those after which the head (`predictor.few_shot`) expects the least variance; the others are
there because development families were predicted best after them. Six are float32, one float16 and three
quantised. A runtime that refuses some of the ten measures stand-ins in their place, which are float32: mobile
runtimes convert those. Weights are stored, not computed: a runtime that does not fold constants would compute
them in every run.

They are built here, from our own code, and their bytes never change: a change would make another set, whose
measurements mean something else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from predictor.families.image_medleys import image_medley
from predictor.families.row_medleys import row_medley, step_medley, stream_medley
from predictor.families.sweeps import Sweep


@dataclass(frozen=True, slots=True)
class ReferenceModel:
    """A model of the set: what it is there for, its bytes, and the shapes of its inputs."""

    name: str
    why: str
    model: bytes
    input_shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Choice:
    """A point of a design of the set's own, in a precision."""

    name: str
    why: str
    design: Sweep
    index: int
    precision: str = "fp32"


@lru_cache(maxsize=1)
def reference_models() -> tuple[ReferenceModel, ...]:
    """The ten models, always in the same order."""
    return _built(CHOICES)


@lru_cache(maxsize=1)
def stand_ins() -> tuple[ReferenceModel, ...]:
    """For those of the ten that a runtime refuses, the first of these that it runs, in this order."""
    return _built(STAND_INS)


def reference_candidates() -> tuple[ReferenceModel, ...]:
    """All of them in the order of preference: a target is told by the first ten that it runs."""
    return reference_models() + stand_ins()


def telling(run: Collection[str]) -> tuple[str, ...]:
    """Of the names of candidates that a target has run, those that tell it: the first ten."""
    found = [one.name for one in reference_candidates() if one.name in run]
    return tuple(found[: len(CHOICES)])


def _built(choices: Sequence[Choice]) -> tuple[ReferenceModel, ...]:
    built = [(each, each.design.at(each.index, each.precision).build()) for each in choices]
    return tuple(ReferenceModel(each.name, each.why, model, shapes) for each, (model, shapes) in built)


_IMAGES = Sweep("reference-images", 0, image_medley, least_opset=11)
_ROWS = Sweep("reference-rows", 0, row_medley, least_opset=14)
_STEPS = Sweep("reference-steps", 0, step_medley, least_opset=14)
_STREAMS = Sweep("reference-streams", 0, stream_medley, least_opset=14)
# Of the designs that the dataset's medleys are points of too.
_DATASET_IMAGES = Sweep("medley-images", 0, image_medley, least_opset=11)
_DATASET_ROWS = Sweep("medley-rows", 0, row_medley, least_opset=14)
CHOICES = (
    Choice(
        "mixed-convs",
        "convolutions of all kinds with sums and joins: where most networks on images spend their time",
        _IMAGES,
        3,
    ),
    Choice("dense-convs", "wide dense convolutions: bound by float arithmetic", _IMAGES, 34),
    Choice(
        "light-convs",
        "depthwise convolutions, pools and curves: little arithmetic per byte",
        _IMAGES,
        56,
    ),
    Choice(
        "mixed-rows",
        "products, attention, normalisation and transposes: what transformers are made of",
        _ROWS,
        18,
    ),
    Choice(
        "sequence-step",
        "one position through attention, state and gates: products with one row, many launches",
        _STEPS,
        19,
    ),
    Choice(
        "quantised-convs",
        "int8 convolutions between QuantizeLinear and DequantizeLinear",
        _IMAGES,
        99,
        "int8",
    ),
    Choice(
        "dynamic-rows", "int8 products whose inputs are quantised while running", _ROWS, 86, "int8-dynamic"
    ),
    Choice("four-bit-step", "one position through weights of four bits", _STEPS, 81, "w4"),
    Choice(
        "long-rows",
        "295 positions of 528 numbers: products and curves over more than a near cache holds",
        _DATASET_ROWS,
        259,
    ),
    Choice(
        "float16-convs",
        "convolutions of large images in float16: few processors have arithmetic for it",
        _DATASET_IMAGES,
        286,
        "fp16",
    ),
)
STAND_INS = (
    Choice("large-images", "many light kernels over two images of 121x121", _DATASET_IMAGES, 83),
    Choice("many-convs", "a 29x29 image through convolutions of many sizes", _DATASET_IMAGES, 234),
    Choice("wide-images", "four 16x16 images of 125 channels", _DATASET_IMAGES, 277),
    Choice("recurrent-frames", "GRU and LSTM over frames: products that wait for each other", _STREAMS, 7),
    Choice(
        "small-image",
        "a 9x9 image through many channels: kernels too small to fill a processor",
        _IMAGES,
        11,
    ),
)
