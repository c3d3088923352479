"""`digits-cnn`: 4032 small convolutional networks for digits, of 800 to 3 million multiply-accumulates an
image.

A 3 x 3 stem at full resolution, then one to three stages, each halving height and width, then average
pooling and a linear layer. A stage is one k x k convolution, or the separable form of it (depthwise k x k,
then 1 x 1; MobileNet, arXiv 1704.04861). Resolution is the image's size as the network gets it: digits are
averaged down to 4 x 4 or interpolated up to 16 x 16.
"""

from __future__ import annotations

from dataclasses import dataclass

from devices.target import Hardware
from search.architecture import Architecture, Convolution, Linear
from search.errors import RequestRejected
from search.genome import Genome
from search.quant import FULL_WEIGHT_BITS, QuantConfig, int8_layer, weight_bits_for
from search.space import Choice, check_genome

NAME = "digits-cnn"
CLASSES = 10
BATCH = 20  # images that one inference classifies; a single one costs less than the call itself
MAX_DEPTH = 3
MAX_CHANNELS = 48  # wider networks cost seconds of training and gain nothing
STEM_KERNEL = 3
CONV, SEPARABLE = "conv", "separable"
FP32, INT8 = "fp32", "int8"

_STAGES = range(1, MAX_DEPTH + 1)
_CHOICES = (
    Choice("depth", tuple(_STAGES)),
    Choice("growth", (1, 2)),  # of the channels, from stage to stage
    Choice("precision", (FP32, INT8)),
    Choice("resolution", (4, 8, 16)),
    Choice("width", (4, 8, 16, 24)),  # channels of the stem
    *(Choice(f"stage{stage}.block", (CONV, SEPARABLE)) for stage in _STAGES),
    *(Choice(f"stage{stage}.kernel", (3, 5)) for stage in _STAGES),
)


@dataclass(frozen=True, slots=True)
class DigitsCnn:
    """The space for one kind of target: int8 weights have the bits that it multiplies without saturating."""

    weight_bits: int = FULL_WEIGHT_BITS

    @classmethod
    def for_hardware(cls, hardware: Hardware) -> DigitsCnn:
        """The space as networks of this hardware are quantised."""
        return cls(weight_bits_for(hardware))

    @property
    def name(self) -> str:
        """See `SearchSpace.name`."""
        return NAME

    @property
    def choices(self) -> tuple[Choice, ...]:
        """See `SearchSpace.choices`."""
        return _CHOICES

    def canonical(self, genome: Genome) -> Genome:
        """Choices of stages beyond the depth have no effect."""
        chosen = genome.as_dict()
        depth = chosen["depth"]
        unused = tuple(f"stage{stage}." for stage in _STAGES if stage > int(depth))
        first = {choice.name: choice.options[0] for choice in _CHOICES}
        return Genome.of({n: first[n] if n.startswith(unused) else option for n, option in chosen.items()})

    def architecture(self, genome: Genome) -> Architecture:
        """The layers of a genome. Raises `RequestRejected` for a genome of another space."""
        check_genome(self, genome)
        chosen = genome.as_dict()
        width, growth = int(chosen["width"]), int(chosen["growth"])
        convolutions = [Convolution("stem", 1, width, STEM_KERNEL)]
        for stage in range(1, int(chosen["depth"]) + 1):
            out = min(width * growth, MAX_CHANNELS)
            kernel = int(chosen[f"stage{stage}.kernel"])
            is_separable = chosen[f"stage{stage}.block"] == SEPARABLE
            convolutions += _stage(f"stage{stage}", width, out, kernel, is_separable=is_separable)
            width = out
        names = [layer.name for layer in convolutions] + ["head"]
        is_int8 = chosen["precision"] == INT8
        return Architecture(
            batch=BATCH,
            channels=1,
            resolution=int(chosen["resolution"]),
            convolutions=tuple(convolutions),
            head=Linear("head", width, CLASSES),
            quant=QuantConfig.uniform(names, int8_layer(self.weight_bits)) if is_int8 else QuantConfig(),
        )


def training_identity(genome: Genome) -> Genome:
    """The genome with its precision set to fp32: genomes that differ in precision only are trained alike."""
    if "precision" not in genome.as_dict():
        raise RequestRejected(f"this is no genome of {NAME!r}: {genome.to_json()}")
    return Genome.of(genome.as_dict() | {"precision": FP32})


def _stage(name: str, width: int, out: int, kernel: int, *, is_separable: bool) -> list[Convolution]:
    if not is_separable:
        return [Convolution(name, width, out, kernel, stride=2)]
    return [
        Convolution(f"{name}.depthwise", width, width, kernel, stride=2, groups=width),
        Convolution(f"{name}.pointwise", width, out, 1),
    ]
