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
from collections.abc import Sequence
from dataclasses import dataclass

from predictor.costs import scalar_cycles_of, work_of
from predictor.graph import ModelGraph, Operator, TensorInfo
from predictor.kinds import DEQUANTISES, KINDS, Family

_QUANTISES = frozenset(("QuantizeLinear", "com.microsoft/QuantizeLinear"))
_ACTIVATIONS = frozenset(
    (
        "Relu",
        "LeakyRelu",
        "Clip",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Elu",
        "Gelu",
        "PRelu",
        "Softplus",
    )
)
_PRODUCTS = (Family.CONV, Family.MATMUL)
_MAX_TAKEN_INPUTS = 5  # those of a batch normalisation; the sum of more tensors is a kernel of its own
_WEIGHT_INPUT = {
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "com.microsoft/QGemm": 3,
    "com.microsoft/QAttention": 1,
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """Operators that run as one. `anchor` gives it its name and class; bytes are what crosses its border.

    `work`: simple vector operations beside the multiply-accumulates; `scalar_cycles`: what runs one by one.
    `launches`: starts per inference. `weight_bytes` are those of `bytes_read` that come from the model
    file. `rows`, `inner`, `columns`: the matrix product (M, K) x (K, N) that each group and each step
    amounts to; 0 where there is none.
    """

    anchor: Operator
    members: tuple[Operator, ...]
    family: Family
    precision: str
    macs: int
    work: float
    scalar_cycles: float
    bytes_read: int
    bytes_written: int
    weight_bytes: int
    launches: int
    rows: int = 0
    inner: int = 0
    columns: int = 0
    groups: int = 1  # of a convolution
    has_replaceable_weights: bool = False  # the runtime may not rearrange them into its own layout

    @property
    def is_depthwise(self) -> bool:
        """A convolution whose filters see one channel each."""
        return self.family is Family.CONV and self.columns == 1 and self.groups > 1

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written


def kernels_of(graph: ModelGraph, *, fuses_chains: bool) -> tuple[Kernel, ...]:
    """The kernels that a runtime launches, views and control flow included (they have no macs, work or
    bytes).
    """
    fusion = _Fusion(graph, fuses_chains)
    for index, op in enumerate(graph.operators):
        fusion.place(index, op)
    stored = fusion.stored_as()
    return tuple(_kernel(graph, anchor, members, stored) for anchor, members in fusion.groups())


class _Fusion:
    """Which operators have been put together. `_home[i]` leads to the kernel of operator i, as in a
    union-find.
    """

    def __init__(self, graph: ModelGraph, fuses_chains: bool) -> None:
        self._tensors = graph.tensors
        self._operators = graph.operators
        self._fuses_chains = fuses_chains
        self._home = list(range(len(graph.operators)))
        self._producer: dict[str, int] = {}
        self._uses: dict[str, list[int]] = {}
        for index, op in enumerate(graph.operators):
            for name in filter(None, op.outputs):
                self._producer[name] = index
            for name in set(filter(None, op.inputs)):
                self._uses.setdefault(name, []).append(index)
        self._ends = {tensor.name for tensor in graph.outputs}
        self._quantised = [self._runs_on_integers(op) for op in graph.operators]
        self._read_as_integers = {
            name for name, uses in self._uses.items() if all(self._quantised[use] for use in uses)
        }

    def place(self, index: int, op: Operator) -> None:
        """Join the operator with the kernel that makes one of its inputs, if runtimes do."""
        if self._quantised[index]:
            self._take_in_dequantised(index, op)
        for name in op.inputs:
            source = self._producer.get(name)
            if source is None or not self._is_private(name) or op.repeats != self._operators[source].repeats:
                continue
            home = self._root(source)
            if home != index and self._fits(home, op, name):
                self._home[index] = home
                return

    def groups(self) -> list[tuple[Operator, list[Operator]]]:
        """Anchor and members of each kernel, in the file's order."""
        gathered: dict[int, list[Operator]] = {}
        for index, op in enumerate(self._operators):
            gathered.setdefault(self._root(index), []).append(op)
        return [(self._operators[root], members) for root, members in gathered.items()]

    def stored_as(self) -> dict[str, TensorInfo]:
        """Dequantised tensors that exist only inside a kernel, by name: the quantised tensor that is
        really read.
        """
        return {
            op.outputs[0]: self._tensors[op.inputs[0]]
            for index, op in enumerate(self._operators)
            if op.full_kind in DEQUANTISES and self._root(index) != index
        }

    def _root(self, index: int) -> int:
        while self._home[index] != index:
            index = self._home[index]
        return index

    def _is_private(self, name: str) -> bool:
        return name not in self._ends and len(self._uses.get(name, ())) == 1

    def _take_in_dequantised(self, index: int, op: Operator) -> None:
        """A dequantisation all of whose readers run on integers belongs to the first of them, and costs
        nothing.
        """
        for name in op.inputs:
            source = self._producer.get(name)
            if source is None or self._operators[source].full_kind not in DEQUANTISES or name in self._ends:
                continue
            if self._home[source] == source and name in self._read_as_integers:
                self._home[source] = index

    def _runs_on_integers(self, op: Operator) -> bool:
        """A product in few bits, or a float operator with all of its inputs and outputs between Q and DQ."""
        if op.kind in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            return op.precision in ("int8", "int4", "int2")
        made = [
            self._operators[self._producer[name]].full_kind for name in op.inputs if name in self._producer
        ]
        read = [self._operators[use].full_kind for name in op.outputs for use in self._uses.get(name, ())]
        return bool(made and read) and set(made) <= DEQUANTISES and set(read) <= _QUANTISES

    def _fits(self, home: int, op: Operator, through: str) -> bool:
        anchor = self._operators[home]
        family = KINDS[anchor.full_kind].family
        if op.full_kind in _QUANTISES:
            return self._quantised[home]
        if family in _PRODUCTS:
            return self._absorbs(anchor, op, through)
        chains = family in (Family.ELEMENTWISE, Family.NORMALISE)
        return self._fuses_chains and chains and KINDS[op.full_kind].family is Family.ELEMENTWISE

    def _absorbs(self, anchor: Operator, op: Operator, through: str) -> bool:
        """Whether a product takes in the operator behind it."""
        if len(op.inputs) > _MAX_TAKEN_INPUTS:
            return False
        kind = op.full_kind
        others = [self._tensors[name] for name in op.inputs if name and name != through]
        is_constant = all(tensor.role == "constant" for tensor in others)
        if kind in _ACTIVATIONS:
            return True
        if kind == "BatchNormalization":
            return is_constant and all(self._tensors[name].role == "constant" for name in anchor.inputs[1:2])
        if kind in ("Add", "Sum"):
            same = all(tensor.shape == self._tensors[op.outputs[0]].shape for tensor in others)
            return is_constant or (same and anchor.kind == "Conv")
        if kind in ("Mul", "Sub", "Div"):
            return is_constant or anchor.kind == "MatMulInteger"  # its scales are computed at run time
        return kind == "Cast" and anchor.kind == "MatMulInteger"


def _kernel(
    graph: ModelGraph, anchor: Operator, members: Sequence[Operator], stored: dict[str, TensorInfo]
) -> Kernel:
    made = {name for op in members for name in op.outputs if name}
    inside = {name for op in members for name in op.inputs if name in made}  # never leaves the kernel
    bytes_read = sum(op.bytes_read for op in members)
    bytes_written = sum(op.bytes_written for op in members)
    weights: dict[str, int] = {}
    for op in members:
        for name in {name for name in op.inputs if name}:
            tensor = graph.tensors[name]
            if name in inside:
                bytes_read -= tensor.size_bytes * op.repeats
            elif name in stored:
                bytes_read -= (tensor.size_bytes - stored[name].size_bytes) * op.repeats
            elif tensor.is_weight:
                weights[name] = tensor.size_bytes
    bytes_written -= sum(graph.tensors[name].size_bytes for name in inside) * anchor.repeats
    family = KINDS[anchor.full_kind].family
    rows, inner, columns = _product(graph, anchor, stored)
    beside = [_work(graph, op, family) for op in members]
    return Kernel(
        anchor=anchor,
        members=tuple(members),
        family=family,
        precision=anchor.precision,
        macs=sum(op.macs for op in members),
        work=sum(work for work, _ in beside),
        scalar_cycles=sum(cycles for _, cycles in beside),
        bytes_read=max(bytes_read, 0),
        bytes_written=max(bytes_written, 0),
        weight_bytes=min(sum(weights.values()), max(bytes_read, 0)),  # a lookup reads only a few rows
        launches=anchor.repeats,
        rows=rows,
        inner=inner,
        columns=columns,
        groups=_groups(anchor),
        has_replaceable_weights=_has_replaceable_weights(graph, anchor),
    )


def _has_replaceable_weights(graph: ModelGraph, anchor: Operator) -> bool:
    return any(graph.tensors[name].role == "overridable" for name in anchor.inputs if name)


def _work(graph: ModelGraph, op: Operator, family: Family) -> tuple[float, float]:
    """Vector operations and scalar cycles. Folded members do nothing per inference; a product is counted
    by its macs.
    """
    own = KINDS[op.full_kind].family
    if own in _PRODUCTS or own in (Family.RECURRENT, Family.VIEW, Family.CONTROL):
        return 0.0, 0.0
    if family in _PRODUCTS and (op.full_kind == "BatchNormalization" or op.full_kind in DEQUANTISES):
        return 0.0, 0.0
    inputs = [graph.tensors[name] if name else None for name in op.inputs]
    outputs = [graph.tensors[name] if name else None for name in op.outputs]
    cycles = scalar_cycles_of(op.full_kind, op.attributes, inputs=inputs, outputs=outputs)
    return work_of(op.full_kind, inputs, outputs) * op.repeats, cycles * op.repeats


def _groups(anchor: Operator) -> int:
    group = anchor.attributes.get("group", 1)
    return group if isinstance(group, int) and group > 0 else 1


def _product(graph: ModelGraph, anchor: Operator, stored: dict[str, TensorInfo]) -> tuple[int, int, int]:
    """(rows, inner, columns) of the matrix product behind a convolution or product, per group; zeros
    elsewhere.
    """
    family = KINDS[anchor.full_kind].family
    if family not in (*_PRODUCTS, Family.RECURRENT) or not anchor.outputs or not anchor.outputs[0]:
        return 0, 0, 0
    output = graph.tensors[anchor.outputs[0]]
    at = _WEIGHT_INPUT.get(anchor.full_kind, 1)
    name = anchor.inputs[at] if at < len(anchor.inputs) else ""
    weight = graph.tensors[name] if name else None
    if family is Family.RECURRENT:
        steps = graph.tensors[anchor.inputs[0]].shape if anchor.inputs[0] else ()
        hidden = max(output.shape[-1] if output.shape else 1, 1)
        return max(steps[1] if len(steps) > 1 else 1, 1), hidden, hidden
    if family is Family.CONV and weight is not None and len(weight.shape) > 1:
        inner = math.prod(weight.shape[1:])
        columns = max(weight.shape[0] // _groups(anchor), 1)
        return max(output.elements // max(weight.shape[0], 1), 1), inner, columns
    columns = output.shape[-1] if output.shape else 1
    per_call = max(anchor.macs // max(anchor.repeats, 1), 1)
    inner = max(per_call // max(output.elements, 1), 1)
    rows = output.elements // max(columns, 1)
    if weight is not None and not weight.is_weight and name not in stored and len(output.shape) > 1:
        rows = output.shape[-2]  # activations on both sides: one product per batch entry and head
    return max(rows, 1), inner, max(columns, 1)
