"""FBNet (arXiv 1812.03443): 22 positions, each with one of nine inverted residual blocks.

A genome is a row of 22 indices into `OPERATIONS`. The macro-architecture is that of table 1, also used by
HW-NAS-Bench (arXiv 2103.10584): a 3x3 stem of 16 channels, seven stages of 1, 4, 4,
4, 4, 4, 1 blocks, a 1x1 convolution, average pooling and a linear layer.

What the published descriptions leave open, and what is assumed here:

* `CIFAR` is what the published latency tables are of, although the paper searches for ImageNet: fitted as
  sums over (position, operation), the blocks of the table's analytic devices cost in proportion to the
  multiply-accumulates at 32 x 32 and not at 224 x 224, where the first blocks would be three times too
  cheap. `IMAGENET` is the paper's. With 1504 channels before the pooling it gives the multiply-accumulates
  that the paper reports for FBNet-A, B and C (249, 295 and 375 million) to one percent (HW-NAS-Bench: 1984).
* `skip` between different shapes is a 1x1 convolution with ReLU, as HW-NAS-Bench has it; else the identity.
* `_g2` blocks have two groups in both 1x1 convolutions, and shuffle the channels behind the first. They are
  defined for an expansion of 1.
* ReLU follows the first two convolutions of a block and none the third; the stem and the last convolution
  have one. Batch normalisation is folded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from predictor.networks.genome_check import GenomeRow, checked
from predictor.networks.layers import IMAGE, LayerNet, Maps, conv_macs, strided

SPACE = "fbnet"
OPERATIONS = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
POSITIONS = 22
OPTIONS: tuple[tuple[int, ...], ...] = (tuple(range(len(OPERATIONS))),) * POSITIONS

_SKIP = OPERATIONS.index("skip")
_BLOCKS = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1))
_STEM = 16
_STAGES = ((1, 16), (4, 24), (4, 32), (4, 64), (4, 112), (4, 184), (1, 352))  # blocks, channels


@dataclass(frozen=True, slots=True)
class Macro:
    """What surrounds the blocks. `strides`: of the first block of each stage."""

    image: int
    stem_stride: int
    strides: tuple[int, ...]
    head: int
    classes: int


CIFAR = Macro(image=32, stem_stride=1, strides=(1, 1, 2, 2, 1, 2, 1), head=1504, classes=100)
IMAGENET = Macro(image=224, stem_stride=2, strides=(1, 2, 2, 2, 1, 2, 1), head=1504, classes=1000)


def check(genome: GenomeRow) -> tuple[int, ...]:
    """The genome as Python integers. Raises `GenomeRejected`."""
    return checked(genome, space=SPACE, options=OPTIONS)


def canonical(genome: GenomeRow) -> tuple[int, ...]:
    """The genome itself: every choice has an effect. Raises `GenomeRejected`."""
    return check(genome)


def input_shapes(genome: GenomeRow, *, batch: int = 1) -> dict[str, tuple[int, ...]]:  # noqa: ARG001 - one size
    """Of the model's one input."""
    return {IMAGE: (batch, 3, CIFAR.image, CIFAR.image)}


def network(genome: GenomeRow, *, batch: int = 1, macro: Macro = CIFAR) -> bytes:
    """The ONNX model of a genome, the same bytes for the same arguments. Raises `GenomeRejected`."""
    chosen = check(genome)
    net = LayerNet(SPACE, size=macro.image, batch=batch)
    x = net.convolved(net.image, _STEM, 3, stride=macro.stem_stride, activation="Relu")
    for operation, (filters, stride) in zip(chosen, _shapes(macro), strict=True):
        x = _block(net, x, operation, filters=filters, stride=stride)
    x = net.convolved(x, macro.head, 1, activation="Relu")
    return net.classified(net.pooled(x), macro.classes)


def macs(genome: GenomeRow, *, macro: Macro = CIFAR) -> int:
    """Multiply-accumulates for one image: a sum over positions. Raises `GenomeRejected`."""
    around, table = _macs_table(macro)
    return around + sum(table[position][operation] for position, operation in enumerate(check(genome)))


def _block(net: LayerNet, x: Maps, operation: int, *, filters: int, stride: int) -> Maps:
    is_same = stride == 1 and filters == x.channels
    if operation == _SKIP:
        return x if is_same else net.convolved(x, filters, 1, stride=stride, activation="Relu")
    kernel, expansion, groups = _BLOCKS[operation]
    wide = expansion * x.channels
    y = net.convolved(x, wide, 1, groups=groups, activation="Relu")
    if groups > 1:
        y = net.shuffled(y, groups)
    y = net.convolved(y, wide, kernel, stride=stride, groups=wide, activation="Relu")
    y = net.convolved(y, filters, 1, groups=groups)
    return net.added(y, x) if is_same else y


def _shapes(macro: Macro) -> Iterator[tuple[int, int]]:
    """Filters and stride of each position."""
    for (depth, filters), stride in zip(_STAGES, macro.strides, strict=True):
        for index in range(depth):
            yield filters, stride if index == 0 else 1


@lru_cache(maxsize=4)
def _macs_table(macro: Macro) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """Of all that is around the blocks, and by position and operation."""
    size, channels = strided(macro.image, macro.stem_stride), _STEM
    around = conv_macs(3, _STEM, 3, size=size)
    rows: list[tuple[int, ...]] = []
    for filters, stride in _shapes(macro):
        row = [_block_macs(block, size, channels, filters=filters, stride=stride) for block in _BLOCKS]
        is_same = stride == 1 and filters == channels
        size = strided(size, stride)
        rows.append((*row, 0 if is_same else conv_macs(channels, filters, 1, size=size)))
        channels = filters
    around += conv_macs(channels, macro.head, 1, size=size) + macro.head * macro.classes
    return around, tuple(rows)


def _block_macs(block: tuple[int, int, int], size: int, channels: int, *, filters: int, stride: int) -> int:
    kernel, expansion, groups = block
    wide, after = expansion * channels, strided(size, stride)
    return (
        conv_macs(channels, wide, 1, size=size, groups=groups)
        + conv_macs(wide, wide, kernel, size=after, groups=wide)
        + conv_macs(wide, filters, 1, size=after, groups=groups)
    )
