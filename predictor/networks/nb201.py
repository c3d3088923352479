"""NAS-Bench-201 (arXiv 2001.00326): a cell of four nodes and six edges, each with one of five operations.

A genome is a row of six indices into `OPERATIONS`, for the edges (1<-0), (2<-0), (2<-1), (3<-0), (3<-1),
(3<-2). The network, for 32 x 32 images: a 3x3 stem of 16 channels; three stages of five cells with 16, 32
and 64 channels; between them a residual block that halves height and width and doubles the channels; then
normalisation, ReLU, average pooling and a linear layer for the 100 classes of CIFAR-100. A convolution of a
cell is ReLU, convolution, batch normalisation, of which the last is folded. ReLUs of one node are one
operator, as a runtime merges them. Average pooling leaves the padding out of its mean.

The model is what would be deployed, not what was trained (`Form.DEPLOYED`). `none` emits nothing; a node
without any input is zero; what is made from zeros alone is a constant, and disappears into the biases behind
it; what no output needs disappears too. A cell whose output depends on no input (`facts(genome).is_constant`)
leaves nothing of the network but its last bias: its model adds that to a mean of the image times zero, so
that it still has an input and an operator to run.

The published latencies were taken from other forms of the same network, and a device's latency follows the
form that it ran. Training code runs every edge: a `none` multiplies by zero, and a branch that nobody needs
is computed (`Form.WRITTEN`; each convolution has a ReLU of its own). Converters for phones drop the branches
that no output needs, and compute with zeros like with any numbers (`Form.NEEDED`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise

import numpy as np

from predictor.networks.genome_check import GenomeRow, checked
from predictor.networks.layers import IMAGE, LayerNet, Maps, conv_macs

SPACE = "nb201"
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # to, from
OPTIONS: tuple[tuple[int, ...], ...] = (tuple(range(len(OPERATIONS))),) * len(EDGES)
RESOLUTION = 32
CLASSES = 100
CELLS = 5  # of each stage

_NONE, _SKIP, _CONV_1X1, _CONV_3X3, _AVG_POOL = range(len(OPERATIONS))
_KERNELS: Mapping[int, int] = {_CONV_1X1: 1, _CONV_3X3: 3}
_STAGES = ((16, 32), (32, 16), (64, 8))  # channels, size
_OUTPUT = 3
_BETWEEN = EDGES.index((2, 1))
_SWAPPED = (1, 0, 2, 3, 5, 4)  # the edges when nodes 1 and 2 change names


class Form(StrEnum):
    """How much of a cell a model contains: see this module's docstring."""

    DEPLOYED = "deployed"
    NEEDED = "needed"
    WRITTEN = "written"


@dataclass(frozen=True, slots=True)
class CellFacts:
    """Plain facts of one cell, for features.

    `live`: the edges, as indices into `EDGES`, that lie on a way from the cell's input to its output and are
    not `none`. `counts` and `live_counts` (5,): edges by operation, all of them and the live ones. `sums`:
    additions. `depth`: live operations other than `skip_connect` on the longest way, and `conv_depth` those
    that are convolutions.
    """

    live: tuple[int, ...]
    counts: tuple[int, ...]
    live_counts: tuple[int, ...]
    sums: int
    depth: int
    conv_depth: int

    @property
    def is_constant(self) -> bool:
        """Whether the output depends on no input."""
        return not self.live


def check(genome: GenomeRow) -> tuple[int, ...]:
    """The genome as Python integers. Raises `GenomeRejected`."""
    return checked(genome, space=SPACE, options=OPTIONS)


def canonical(genome: GenomeRow) -> tuple[int, ...]:
    """The one genome that stands for all whose models are alike: edges that are not live get `none`, and
    where nothing joins the two inner nodes, the smaller of both orders counts. Raises `GenomeRejected`.
    """
    chosen = check(genome)
    live = _facts(chosen).live
    pruned = tuple(chosen[edge] if edge in live else _NONE for edge in range(len(EDGES)))
    if pruned[_BETWEEN] != _NONE:
        return pruned
    return min(pruned, tuple(pruned[edge] for edge in _SWAPPED))


def input_shapes(genome: GenomeRow, *, batch: int = 1) -> dict[str, tuple[int, ...]]:  # noqa: ARG001 - one size
    """Of the model's one input."""
    return {IMAGE: (batch, 3, RESOLUTION, RESOLUTION)}


def facts(genome: GenomeRow) -> CellFacts:
    """What the cell is made of. Raises `GenomeRejected`."""
    return _facts(check(genome))


def needed(genome: GenomeRow) -> tuple[int, ...]:
    """The edges, as indices into `EDGES`, from which a way leads to the output over edges other than `none`.
    Raises `GenomeRejected`.
    """
    chosen = check(genome)
    nodes = {_OUTPUT}
    for operation, (to, source) in zip(reversed(chosen), reversed(EDGES), strict=True):
        if operation != _NONE and to in nodes:
            nodes.add(source)
    return tuple(edge for edge, (to, _) in enumerate(EDGES) if chosen[edge] != _NONE and to in nodes)


def network(genome: GenomeRow, *, batch: int = 1, form: Form = Form.DEPLOYED) -> bytes:
    """The ONNX model of a genome; deployed, the same bytes for genomes whose `canonical` is the same. Raises
    `GenomeRejected`.
    """
    chosen = canonical(genome) if form is Form.DEPLOYED else check(genome)
    live = _facts(chosen).live
    net = LayerNet(SPACE, size=RESOLUTION, batch=batch)
    if form is Form.DEPLOYED and not live:
        return _constant(net, batch)
    x = net.convolved(net.image, _STAGES[0][0], 3)
    for channels, _ in _STAGES:
        if channels != x.channels:
            x = _reduced(net, x, channels)
        for _ in range(CELLS):
            x = _cell(net, x, chosen, live) if form is Form.DEPLOYED else _whole_cell(net, x, chosen, form)
    scale, mean = (net.store(np.full(x.channels, value, np.float32)) for value in (1.0, 0.0))
    x = net.apply("Relu", net.apply("BatchNormalization", x, scale, mean, mean, scale))
    return net.classified(net.pooled(x), CLASSES)


def macs(genome: GenomeRow) -> int:
    """Multiply-accumulates for one image: a sum over the live edges. Raises `GenomeRejected`."""
    chosen = check(genome)
    live = _facts(chosen).live
    around, each = _macs()
    return around + sum(each[chosen[edge]] for edge in live) if live else 0


def _cell(net: LayerNet, x: Maps, chosen: tuple[int, ...], live: tuple[int, ...]) -> Maps:
    nodes: dict[int, Maps] = {0: x}
    rectified: dict[int, Maps] = {}
    for edge in live:
        to, source = EDGES[edge]
        y, operation = nodes[source], chosen[edge]
        if operation in _KERNELS:
            if source not in rectified:
                rectified[source] = net.apply("Relu", y)
            y = net.convolved(rectified[source], x.channels, _KERNELS[operation])
        elif operation == _AVG_POOL:
            y = _averaged(net, y)
        nodes[to] = net.added(nodes[to], y) if to in nodes else y
    return nodes[_OUTPUT]


def _whole_cell(net: LayerNet, x: Maps, chosen: tuple[int, ...], form: Form) -> Maps:
    """A cell with nothing folded: all edges as they are written, or those that the output needs."""
    edges = range(len(EDGES)) if form is Form.WRITTEN else needed(chosen)
    zero = net.store(np.zeros(1, np.float32))
    nodes: dict[int, Maps] = {0: x}
    for edge in edges:
        (to, source), operation = EDGES[edge], chosen[edge]
        y = nodes.get(source) or net.apply("Mul", x, zero)
        if operation in _KERNELS:
            y = net.convolved(net.apply("Relu", y), x.channels, _KERNELS[operation])
        elif operation == _AVG_POOL:
            y = _averaged(net, y)
        elif operation == _NONE:
            y = net.apply("Mul", y, zero)
        nodes[to] = net.added(nodes[to], y) if to in nodes else y
    return nodes.get(_OUTPUT) or net.apply("Mul", x, zero)


def _averaged(net: LayerNet, x: Maps) -> Maps:
    return net.apply("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=0)


def _reduced(net: LayerNet, x: Maps, channels: int) -> Maps:
    """The residual block between stages: its short way is 2x2 average pooling and a 1x1 convolution."""
    y = net.convolved(net.apply("Relu", x), channels, 3, stride=2)
    y = net.convolved(net.apply("Relu", y), channels, 3)
    halved = Maps(net.op("AveragePool", x.name, kernel_shape=[2, 2], strides=[2, 2]), x.channels, x.size // 2)
    return net.added(y, net.convolved(halved, channels, 1))


def _constant(net: LayerNet, batch: int) -> bytes:
    mean = net.op("ReduceMean", IMAGE, axes=[1, 2, 3], keepdims=0)  # (B,)
    nothing = net.op("Mul", net.op("Reshape", mean, net.ints(batch, 1)), net.store(np.zeros(1, np.float32)))
    bias = net.store(np.linspace(-0.1, 0.1, CLASSES, dtype=np.float32))
    return net.finish(net.op("Add", nothing, bias), batch, CLASSES)


@lru_cache(maxsize=15625)  # all there are
def _facts(chosen: tuple[int, ...]) -> CellFacts:
    fed, needed = {0}, {_OUTPUT}
    for operation, (to, source) in zip(chosen, EDGES, strict=True):  # edges are in topological order
        if operation != _NONE and source in fed:
            fed.add(to)
    for operation, (to, source) in zip(reversed(chosen), reversed(EDGES), strict=True):
        if operation != _NONE and to in needed:
            needed.add(source)
    live = tuple(
        index
        for index, (to, source) in enumerate(EDGES)
        if chosen[index] != _NONE and source in fed and to in needed
    )
    live_operations = [chosen[index] for index in live]
    targets = [EDGES[index][0] for index in live]
    return CellFacts(
        live=live,
        counts=tuple(chosen.count(operation) for operation in range(len(OPERATIONS))),
        live_counts=tuple(live_operations.count(operation) for operation in range(len(OPERATIONS))),
        sums=len(targets) - len(set(targets)),
        depth=_longest(chosen, live, (_CONV_1X1, _CONV_3X3, _AVG_POOL)),
        conv_depth=_longest(chosen, live, (_CONV_1X1, _CONV_3X3)),
    )


def _longest(chosen: tuple[int, ...], live: tuple[int, ...], counted: tuple[int, ...]) -> int:
    longest = dict.fromkeys(range(_OUTPUT + 1), 0)
    for edge in live:
        to, source = EDGES[edge]
        longest[to] = max(longest[to], longest[source] + (chosen[edge] in counted))
    return longest[_OUTPUT]


@lru_cache(maxsize=1)
def _macs() -> tuple[int, dict[int, int]]:
    """Around the cells, and of one edge in all cells by operation."""
    around = conv_macs(3, _STAGES[0][0], 3, size=RESOLUTION) + _STAGES[-1][0] * CLASSES
    for (channels, _), (wider, size) in pairwise(_STAGES):
        around += conv_macs(channels, wider, 3, size=size) + conv_macs(wider, wider, 3, size=size)
        around += conv_macs(channels, wider, 1, size=size)
    each = dict.fromkeys(range(len(OPERATIONS)), 0)
    for operation, kernel in _KERNELS.items():
        each[operation] = CELLS * sum(conv_macs(c, c, kernel, size=size) for c, size in _STAGES)
    return around, each
