"""From listed operators to launched kernels: what runtimes fuse, and what a fused kernel still computes and
moves.

The rules are those that CPU runtimes share (ONNX Runtime's graph transformers; OpenVINO does the same and
more): batch normalisation and constant scales disappear into the convolution before them; an activation or
a residual sum is applied while the result is still in registers; dequantised inputs and requantised outputs
turn a float operator into an integer kernel. Runtimes with a code generator (OpenVINO, TensorRT) also run
chains of element-wise operators as one kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from predictor.fusions import fused_of
from predictor.graph import ModelGraph, Operator, TensorInfo
from predictor.kernel_making import (
    PRODUCTS,
    QUANTISED_ON_THE_WAY,
    Kernel,
    KernelMaker,
    as_floats,
    groups_of,
    packed,
)
from predictor.kinds import DEQUANTISES, KINDS, Family
from predictor.wiring import Connections

__all__ = ["Kernel", "Views", "kernels_of", "unfused_kernels_of"]

_QUANTISES = frozenset(("QuantizeLinear", "com.microsoft/QuantizeLinear"))
# What ONNX Runtime's convolutions and its Gemm apply to their results; generated kernels take any curve.
_AFTER_CONV = frozenset(("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid"))
_AFTER_GEMM = frozenset(
    ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Elu", "Selu", "Softplus", "Softsign")
)
_ACTIVATIONS = _AFTER_CONV | _AFTER_GEMM | {"HardSwish", "Gelu", "PRelu", "Swish", "Mish"}
# What may ever join the kernel before it; a code generator's chains take all that is element-wise too.
_JOINS = _QUANTISES | _ACTIVATIONS | {"BatchNormalization", "Cast", "Add", "Sum", "Mul", "Sub", "Div"}
_JOINS_CHAINS = _JOINS | {name for name, kind in KINDS.items() if kind.family is Family.ELEMENTWISE}
_QUANTISED_PRODUCTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
# Beside products, what ONNX Runtime 1.32 computes in integers; a code generator does so with every operator.
_IN_INTEGERS = frozenset(
    (
        "MaxPool", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax", "Add", "Mul",
        "Concat", "Split", "Where", "Gather", "Slice", "Transpose", "Reshape", "Flatten", "Squeeze",
        "Unsqueeze", "Expand", "Resize", "DepthToSpace",
    )
)  # fmt: skip
_ELEMENTWISE = Family.ELEMENTWISE
_CHAINS = (_ELEMENTWISE, Family.NORMALISE)
_IMAGE_RANK = 4
_BLOCK = 16  # channels that ONNX Runtime's convolutions keep together
_MAX_TAKEN_INPUTS = 5  # those of a batch normalisation; the sum of more tensors is a kernel of its own


class Views:
    """The kernels of one graph in the ways that runtimes run it; what the ways share is worked out once."""

    def __init__(self, graph: ModelGraph) -> None:
        self.connections = Connections(graph)
        self._maker = KernelMaker(self.connections)

    def fused(self, *, fuses_chains: bool) -> tuple[Kernel, ...]:
        """As `kernels_of`."""
        fusion = _Fusion(self.connections, fuses_chains)
        fusion.place_all()
        kernels = fusion.kernels(self._maker)
        return tuple(self._generated(kernels) if fuses_chains else kernels)

    def _generated(self, kernels: list[Kernel]) -> list[Kernel]:
        """The same kernels with the weights that a code generator holds in memory."""
        weights = self.connections.graph.unpacked
        if weights:
            kernels = [packed(kernel) if _multiplies_by(kernel, weights) else kernel for kernel in kernels]
        if not QUANTISED_ON_THE_WAY.isdisjoint(self.connections.kinds):
            kernels = [
                as_floats(kernel) if kernel.anchor.full_kind in QUANTISED_ON_THE_WAY else kernel
                for kernel in kernels
            ]
        return kernels

    def listed(self) -> tuple[Kernel, ...]:
        """As `unfused_kernels_of`."""
        return tuple(self._maker.listed())


def _multiplies_by(kernel: Kernel, weights: Set[str]) -> bool:
    """Whether it is a matrix product with one of these weights."""
    return kernel.family is Family.MATMUL and not weights.isdisjoint(kernel.anchor.inputs[1:2])


def kernels_of(graph: ModelGraph, *, fuses_chains: bool) -> tuple[Kernel, ...]:
    """The kernels that a runtime launches, views and control flow included (they have no macs, work or
    bytes).
    """
    return Views(graph).fused(fuses_chains=fuses_chains)


def unfused_kernels_of(graph: ModelGraph) -> tuple[Kernel, ...]:
    """Every operator on its own, as frameworks and unoptimised sessions run them. A product whose operands
    were dequantised computes in float32, and its weights are dequantised in every run.
    """
    return Views(graph).listed()


@dataclass(frozen=True, slots=True)
class _Integers:
    """Of a graph with quantised tensors: which operators run on integers, and the dequantised tensors that
    only such operators read. Both are empty where nothing is dequantised.
    """

    operators: Sequence[bool]
    tensors: Set[str]


def _integers_of(connections: Connections, *, fuses_chains: bool) -> _Integers:
    if not connections.has_quantised:
        return _Integers((), frozenset())
    operators = [_runs_on_integers(op, connections, any_kind=fuses_chains) for op in connections.operators]
    tensors: set[str] = set()
    for op, kind in zip(connections.operators, connections.kinds, strict=True):
        name = op.outputs[0] if kind in DEQUANTISES else ""
        if name in connections.uses and all(operators[use] for use in connections.uses[name]):
            tensors.add(name)
    return _Integers(operators, tensors)


def _runs_on_integers(op: Operator, connections: Connections, *, any_kind: bool) -> bool:
    """A product in few bits, or a float operator with all of its inputs and outputs between Q and DQ, of any
    kind or of one that has such a kernel.
    """
    if op.kind in _QUANTISED_PRODUCTS:
        return op.precision in ("int8", "int4", "int2")
    if not connections.has_quantised or not (any_kind or op.kind in _IN_INTEGERS):
        return False
    kinds, producer, uses = connections.kinds, connections.producer, connections.uses
    is_between = False
    for name in op.inputs:
        if name in producer:
            if kinds[producer[name]] not in DEQUANTISES:
                return False
            is_between = True
    if not is_between:
        return False
    read = [kinds[use] for name in op.outputs for use in uses.get(name, ())]
    return bool(read) and _QUANTISES.issuperset(read)


class _Fusion:
    """Which operators have been put together. `_home[i]` leads to the kernel of operator i, as in a
    union-find.
    """

    def __init__(self, connections: Connections, fuses_chains: bool) -> None:
        self._connections = connections
        self._tensors = connections.tensors
        self._operators = operators = connections.operators
        self._fuses_chains = fuses_chains
        self._known = connections.known(is_generated=fuses_chains)
        self._joins = _JOINS_CHAINS if fuses_chains else _JOINS
        self._home = list(range(len(operators)))
        self._producer = connections.producer
        self._uses = connections.uses
        self._ends = connections.ends
        self._own_kinds = connections.kinds
        self._kinds = list(connections.kinds)  # of the anchors
        self._anchors = list(operators)
        self._spared: set[int] = set()  # whose work that of a pattern's anchor stands for
        self._patterned: set[int] = set()  # all operators of patterns
        self._closed: set[int] = set()  # products that have applied their activation
        self._put_patterns_together(connections)
        self._has_quantised = connections.has_quantised
        integers = _integers_of(connections, fuses_chains=fuses_chains)
        self._quantised, self._read_as_integers = integers.operators, integers.tensors

    def _put_patterns_together(self, connections: Connections) -> None:
        for fused in fused_of(connections, fuses_chains=self._fuses_chains):
            root = fused.members[-1]
            self._anchors[root] = fused.anchor
            self._kinds[root] = fused.anchor.full_kind
            self._patterned.update(fused.members)
            self._spared |= fused.spared - {root}
            for member in fused.members:
                self._home[member] = root

    def place_all(self) -> None:
        """Join each operator with the kernel that makes one of its inputs, if runtimes do."""
        home, joins, kinds = self._home, self._joins, self._kinds
        for index in range(len(home)):
            if home[index] != index:
                continue
            if self._has_quantised and self._quantised[index]:
                self._take_in_dequantised(index, self._anchors[index])
            if kinds[index] in joins:
                self._place(index)

    def _place(self, index: int) -> None:
        op = self._anchors[index]
        for name in op.inputs:
            source = self._producer.get(name)
            if source is None or op.repeats != self._operators[source].repeats:
                continue
            if not self._is_private(name, index):
                continue
            home = self._root(source)
            if home != index and self._fits(home, index, name):
                self._home[index] = home
                return

    def kernels(self, maker: KernelMaker) -> list[Kernel]:
        """Of each home, in the file's order."""
        gathered: dict[int, list[int]] = {}
        for index, above in enumerate(self._home):
            root = index if above == index else self._root(above)
            known = gathered.get(root)
            if known is None:
                gathered[root] = [index]
            else:
                known.append(index)
        stored, operators = self._stored_as(), self._operators
        return [
            maker.alone(root)
            if len(places) == 1 and (not stored or stored.keys().isdisjoint(operators[root].inputs))
            else self._joined(maker, root, tuple(places), stored)
            for root, places in gathered.items()
        ]

    def _joined(
        self, maker: KernelMaker, root: int, places: tuple[int, ...], stored: Mapping[str, TensorInfo]
    ) -> Kernel:
        """A kernel of operators that run together, or of one that reads what is stored otherwise."""
        if not stored and self._patterned.isdisjoint(places):
            return maker.together(root, places)
        read = {
            name: stored[name] for place in places for name in self._operators[place].inputs if name in stored
        }
        patterns = tuple(
            [  # which these are: other views may know the same
                (place, place in self._spared, self._kinds[place], self._anchors[place].inputs)
                for place in places
                if place in self._patterned
            ]
        )
        anchors, spared = self._anchors, self._spared
        return maker.together(root, places, patterns, anchors=anchors, spared=spared, stored=read)

    def _stored_as(self) -> dict[str, TensorInfo]:
        """Dequantised tensors that exist only inside a kernel, by name: the quantised tensor that is
        really read.
        """
        if not self._has_quantised:
            return {}
        return {
            op.outputs[0]: self._tensors[op.inputs[0]]
            for index, op in enumerate(self._operators)
            if self._own_kinds[index] in DEQUANTISES and self._root(index) != index
        }

    def _root(self, index: int) -> int:
        while self._home[index] != index:
            index = self._home[index]
        return index

    def _is_private(self, name: str, index: int) -> bool:
        """Whether nothing but the kernel of operator `index` reads it."""
        home, uses = self._home, self._uses[name]
        if len(uses) == 1:
            return home[uses[0]] == index and name not in self._ends
        return name not in self._ends and all(home[use] == index for use in uses)

    def _take_in_dequantised(self, index: int, op: Operator) -> None:
        """A dequantisation all of whose readers run on integers belongs to the first of them, and costs
        nothing.
        """
        for name in op.inputs:
            source = self._producer.get(name)
            if source is None or self._own_kinds[source] not in DEQUANTISES or name in self._ends:
                continue
            if self._home[source] == source and name in self._read_as_integers:
                self._home[source] = index

    def _fits(self, home: int, index: int, through: str) -> bool:
        family, kind = KINDS[self._kinds[home]].family, self._kinds[index]
        if kind in _QUANTISES:
            return self._is_quantised(home)
        if family in PRODUCTS:
            return self._absorbs(home, self._anchors[index], kind, through)
        return self._fuses_chains and family in _CHAINS and KINDS[kind].family is _ELEMENTWISE

    def _is_quantised(self, home: int) -> bool:
        """Whether the product there runs on integers."""
        if self._has_quantised:
            return self._quantised[home]
        return _runs_on_integers(self._operators[home], self._connections, any_kind=self._fuses_chains)

    def _absorbs(self, home: int, op: Operator, kind: str, through: str) -> bool:
        """Whether a product takes in the operator behind it, which is of this kind."""
        anchor = self._anchors[home]
        if len(op.inputs) > _MAX_TAKEN_INPUTS or home in self._closed:
            return False
        if kind in _ACTIVATIONS:
            return self._applies(home, op, through)
        others = [name for name in op.inputs if name and name != through]
        is_constant = self._known.issuperset(others)
        if kind == "BatchNormalization":
            return is_constant and self._known.issuperset(anchor.inputs[1:2])
        if anchor.kind == "MatMulInteger" and kind in ("Cast", "Mul", "Sub", "Div"):
            return True  # its scales are computed at run time
        if kind not in ("Add", "Sum", "Mul", "Sub", "Div"):
            return False
        shape = self._tensors[op.outputs[0]].shape
        if is_constant:
            is_free = self._fuses_chains or self._is_quantised(home)
            return is_free or _is_folded(anchor, kind, [self._tensors[name].shape for name in others], shape)
        same = kind in ("Add", "Sum") and all(self._tensors[name].shape == shape for name in others)
        return same and anchor.kind == "Conv" and (self._fuses_chains or self._is_blocked(home, shape))

    def _is_blocked(self, home: int, shape: tuple[int, ...]) -> bool:
        """Whether ONNX Runtime runs the convolution on blocks of channels, and so adds to its result."""
        groups = groups_of(self._anchors[home])
        if (is_quantised := self._is_quantised(home)) or len(shape) != _IMAGE_RANK:
            return is_quantised
        return groups in (1, shape[1]) or (shape[1] // groups) % _BLOCK == 0

    def _applies(self, home: int, op: Operator, through: str) -> bool:
        """Whether a product applies this activation to its result; nothing but a quantiser then follows."""
        anchor = self._anchors[home]
        if self._fuses_chains or self._is_quantised(home):
            return True
        self._closed.add(home)
        if anchor.kind == "Conv":
            return op.kind in _AFTER_CONV
        has_bias = anchor.kind == "Gemm" or (anchor.kind == "MatMul" and through not in anchor.outputs)
        return has_bias and len(self._tensors[through].shape) == 2 and op.kind in _AFTER_GEMM


def _is_folded(
    anchor: Operator, kind: str, constants: Sequence[tuple[int, ...]], shape: tuple[int, ...]
) -> bool:
    """Whether ONNX Runtime takes constants of these shapes into the weights or the bias of a product with a
    result of the given shape.
    """
    sizes = [math.prod(constant) for constant in constants]
    if KINDS[anchor.full_kind].family is Family.MATMUL:
        is_bias = kind in ("Add", "Sum") and max(sizes, default=1) <= max(shape[-1:], default=1)
        return is_bias or (kind in ("Mul", "Div") and max(sizes, default=1) == 1)
    per_channel = (shape[1], *(1,) * (len(shape) - 2))
    wanted = [per_channel, (1, *per_channel), *([()] if kind == "Mul" else [])]
    return kind in ("Add", "Mul") and all(constant in wanted for constant in constants)
