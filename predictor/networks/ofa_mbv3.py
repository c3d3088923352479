"""The MobileNetV3 space of Once-for-All (arXiv 1908.09791): five stages of two to four inverted residuals.

A genome is a row of 46: kernel sizes of 20 blocks (3, 5, 7), expansion ratios of 20 blocks (3, 4, 6), depths
of five stages (2, 3, 4), and the resolution (128, 132, ... 224). A stage has four blocks in the genome; those
beyond its depth do not exist, whatever the genome says of them.

The width is 1.2: that of the supernet whose accuracies go with the published latency tables.
Squeeze-and-excitation (second, fourth and fifth stage) and hard swish (stem, third stage on) stand where
MobileNetV3-Large (arXiv 1905.02244) has them. The squeezed width is a quarter of the expanded one, rounded to
a multiple of 8. Hard swish and hard sigmoid are ONNX's own operators. Batch normalisation is folded. The
layer behind the pooling has no bias in OFA; here it has one, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from predictor.networks.genome_check import GenomeRow, checked
from predictor.networks.layers import IMAGE, LayerNet, Maps, conv_macs, divisible, strided

SPACE = "ofa"
KERNELS, EXPANSIONS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
RESOLUTIONS = tuple(range(128, 225, 4))
STAGES, STAGE_BLOCKS = 5, 4
BLOCKS = STAGES * STAGE_BLOCKS
OPTIONS: tuple[tuple[int, ...], ...] = (
    *(KERNELS,) * BLOCKS,
    *(EXPANSIONS,) * BLOCKS,
    *(DEPTHS,) * STAGES,
    RESOLUTIONS,
)
WIDTH = 1.2
CLASSES = 1000

_STEM, _FIRST, _MIXED, _HEAD = (divisible(WIDTH * width) for width in (16, 16, 960, 1280))


@dataclass(frozen=True, slots=True)
class _Stage:
    filters: int
    stride: int
    is_squeezed: bool
    activation: str


_PLAN = tuple(
    _Stage(divisible(WIDTH * width), stride, is_squeezed, activation)
    for width, stride, is_squeezed, activation in (
        (24, 2, False, "Relu"),
        (40, 2, True, "Relu"),
        (80, 2, False, "HardSwish"),
        (112, 1, True, "HardSwish"),
        (160, 2, True, "HardSwish"),
    )
)


@dataclass(frozen=True, slots=True)
class _Block:
    """One that exists, with what it is given."""

    stage: int
    channels: int
    kernel: int
    expansion: int
    stride: int


def check(genome: GenomeRow) -> tuple[int, ...]:
    """The genome as Python integers. Raises `GenomeRejected`."""
    return checked(genome, space=SPACE, options=OPTIONS)


def present(genomes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which blocks of the rows (N, 46) exist, (N, 20)."""
    depths = genomes[:, 2 * BLOCKS : 2 * BLOCKS + STAGES]
    exists: NDArray[np.bool_] = np.arange(STAGE_BLOCKS) < depths[:, :, None]  # (N, 5, 4)
    return exists.reshape(len(genomes), BLOCKS)


def canonical(genome: GenomeRow) -> tuple[int, ...]:
    """The one genome that stands for all of the same model: blocks beyond a stage's depth get the first
    kernel size and expansion. Raises `GenomeRejected`.
    """
    chosen = list(check(genome))
    for stage in range(STAGES):
        for place in range(chosen[2 * BLOCKS + stage], STAGE_BLOCKS):
            at = STAGE_BLOCKS * stage + place
            chosen[at], chosen[BLOCKS + at] = KERNELS[0], EXPANSIONS[0]
    return tuple(chosen)


def input_shapes(genome: GenomeRow, *, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Of the model's one input. Raises `GenomeRejected`."""
    resolution = check(genome)[-1]
    return {IMAGE: (batch, 3, resolution, resolution)}


def network(genome: GenomeRow, *, batch: int = 1) -> bytes:
    """The ONNX model of a genome, the same bytes for genomes whose `canonical` is the same. Raises
    `GenomeRejected`.
    """
    chosen = check(genome)
    net = LayerNet(SPACE, size=chosen[-1], batch=batch)
    x = net.convolved(net.image, _STEM, 3, stride=2, activation="HardSwish")
    y = net.convolved(x, _STEM, 3, groups=_STEM, activation="Relu")
    x = net.added(net.convolved(y, _FIRST, 1), x)
    for block in _blocks(chosen):
        x = _inverted_residual(net, x, block)
    x = net.pooled(net.convolved(x, _MIXED, 1, activation="HardSwish"))
    return net.classified(net.convolved(x, _HEAD, 1, activation="HardSwish"), CLASSES)


def macs(genome: GenomeRow) -> int:
    """Multiply-accumulates for one image: a sum over the blocks that exist. Raises `GenomeRejected`."""
    chosen = check(genome)
    size = strided(chosen[-1], 2)
    total = conv_macs(3, _STEM, 3, size=size) + conv_macs(_STEM, _STEM, 3, size=size, groups=_STEM)
    total += conv_macs(_STEM, _FIRST, 1, size=size)
    for block in _blocks(chosen):
        total += _block_macs(block, size)
        size = strided(size, block.stride)
    total += conv_macs(_PLAN[-1].filters, _MIXED, 1, size=size)
    return total + _MIXED * _HEAD + _HEAD * CLASSES


def _blocks(chosen: tuple[int, ...]) -> Iterator[_Block]:
    channels = _FIRST
    for index, stage in enumerate(_PLAN):
        for place in range(chosen[2 * BLOCKS + index]):
            at = STAGE_BLOCKS * index + place
            yield _Block(index, channels, chosen[at], chosen[BLOCKS + at], stage.stride if place == 0 else 1)
            channels = stage.filters


def _inverted_residual(net: LayerNet, x: Maps, block: _Block) -> Maps:
    stage, wide = _PLAN[block.stage], block.expansion * block.channels
    y = net.convolved(x, wide, 1, activation=stage.activation)
    y = net.convolved(y, wide, block.kernel, stride=block.stride, groups=wide, activation=stage.activation)
    if stage.is_squeezed:
        squeezed = net.convolved(net.pooled(y), _squeezed(wide), 1, activation="Relu")
        gate = net.apply("HardSigmoid", net.convolved(squeezed, wide, 1), alpha=1 / 6, beta=0.5)
        y = net.apply("Mul", y, gate.name)
    y = net.convolved(y, stage.filters, 1)
    return net.added(y, x) if block.stride == 1 and block.channels == stage.filters else y


@lru_cache(maxsize=4096)
def _block_macs(block: _Block, size: int) -> int:
    stage, wide, after = _PLAN[block.stage], block.expansion * block.channels, strided(size, block.stride)
    total = conv_macs(block.channels, wide, 1, size=size)
    total += conv_macs(wide, wide, block.kernel, size=after, groups=wide)
    total += conv_macs(wide, stage.filters, 1, size=after)
    return total + 2 * wide * _squeezed(wide) if stage.is_squeezed else total


def _squeezed(wide: int) -> int:
    return divisible(wide // 4)
