"""What the operators that run as one still compute and move.

What does not depend on who runs together is worked out once for a graph (`KernelMaker`), however many ways to
run it are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, NamedTuple

from predictor.costs import has_scalar_cycles, scalar_cycles_of, touches_inputs
from predictor.graph import Likeness, Operator, TensorInfo
from predictor.kinds import DEQUANTISES, KINDS, Family
from predictor.memory import Memory
from predictor.wiring import Connections

PRODUCTS = (Family.CONV, Family.MATMUL)
_WITHOUT_WORK = (*PRODUCTS, Family.RECURRENT, Family.VIEW, Family.CONTROL)
_MULTIPLIES = (*PRODUCTS, Family.RECURRENT)
_IDLE_KINDS = frozenset(name for name, kind in KINDS.items() if kind.family in _WITHOUT_WORK)
_INTEGER_CYCLES = 0.06  # pools and the like of bytes fill vectors where those of floats run one by one
_FOLDED = DEQUANTISES | {"BatchNormalization"}  # into a product
_DEQUANTISED_BEFORE = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
# Asked of every kernel: an enumeration's own names take several times as long to look up.
_CONV, _RECURRENT = Family.CONV, Family.RECURRENT
_WEIGHT_INPUT = {
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "com.microsoft/QGemm": 3,
    "com.microsoft/QAttention": 1,
}


_MOST_REMEMBERED = 32  # operators of a kernel
_PACKED_TIMES = 4  # as small: weights in 8 bits, of which most are stored so
QUANTISED_ON_THE_WAY = frozenset(  # full kinds of products whose inputs are quantised while running
    (
        "MatMulInteger", "ConvInteger", "com.microsoft/DynamicQuantizeMatMul",
        "com.microsoft/MatMulIntegerToFloat", "com.microsoft/DynamicQuantizeLSTM",
    )
)  # fmt: skip
_NOTHING: Mapping[str, TensorInfo] = {}
Patterned = tuple[int, bool, str, tuple[str, ...]]


class Kernel(NamedTuple):  # made by the hundred: a dataclass would take four times as long
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
    likeness: Likeness | None = None  # kernels that have the same one differ in names alone

    @property
    def is_depthwise(self) -> bool:
        """A convolution whose filters see one channel each."""
        return self.family is _CONV and self.columns == 1 and self.groups > 1

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written


_TOLD = 2  # what of a kernel is the same for all that are alike begins here
_ALONE = Memory[Likeness, tuple[Any, ...]](4096)
_AS_FLOATS = Memory[Likeness, tuple[Any, ...]](4096)
_TOGETHER = Memory[tuple[object, ...], tuple[Any, ...]](4096)
_STORED_OTHERWISE = Memory[tuple[Likeness, str], Likeness](4096)


class KernelMaker:
    """Makes the kernels of one graph. An operator that runs alone makes the same kernel in every view."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._tensors = connections.tensors
        self._lone: list[Kernel | None] = [None] * len(connections.operators)
        self._joined: dict[tuple[object, ...], Kernel] = {}  # by places and patterns
        self._works: list[tuple[float, float] | None] = [None] * len(connections.operators)

    def alone(self, place: int) -> Kernel:
        """An operator on its own."""
        kernel = self._lone[place]
        if kernel is None:
            op = self._connections.operators[place]
            known = None if op.likeness is None else _ALONE.get(op.likeness)
            if known is None:
                kernel = self._alone(op, self._connections.kinds[place], self._own_work(place))
                if op.likeness is not None:
                    _ALONE.keep(op.likeness, kernel[_TOLD:])
            else:
                kernel = Kernel._make((op, (op,), *known))
            self._lone[place] = kernel
        return kernel

    def together(
        self,
        root: int,
        places: tuple[int, ...],
        patterns: tuple[Patterned, ...] = (),
        *,
        anchors: Sequence[Operator] | None = None,
        spared: Set[int] = frozenset(),
        stored: Mapping[str, TensorInfo] = _NOTHING,
    ) -> Kernel:
        """As `of`; `patterns` say what `anchors` and `spared` mean here."""
        key = (root, places, patterns, *stored)
        kernel = self._joined.get(key)
        if kernel is not None:
            return kernel
        operators = self._connections.operators
        own = operators if anchors is None else anchors
        question = self._question(root, places, patterns, stored)
        known = None if question is None else _TOGETHER.get(question)
        if known is None:
            likeness = None if question is None else Likeness()
            kernel = self.of(places, stored, likeness, root=root, anchors=own, spared=spared)
            if question is not None:
                _TOGETHER.keep(question, kernel[_TOLD:])
        else:
            members = tuple([operators[place] for place in places])
            kernel = Kernel._make((own[root], members, *known))
        self._joined[key] = kernel
        return kernel

    def _question(
        self,
        root: int,
        places: tuple[int, ...],
        patterns: tuple[Patterned, ...],
        stored: Mapping[str, TensorInfo],
    ) -> tuple[object, ...] | None:
        """All that the numbers of a kernel follow from, with its tensors counted instead of named; None where
        something is not known, or much.
        """
        if len(places) > _MOST_REMEMBERED:
            return None
        members = [self._connections.operators[place] for place in places]
        likenesses = [op.likeness for op in members]
        if None in likenesses:
            return None
        names = [name for op in members for name in (*op.outputs, *op.inputs)]
        numbers = dict(zip(names, range(len(names)), strict=True))
        asked: list[object] = [places.index(root), *likenesses, *map(numbers.get, names)]
        for place, is_spared, kind, inputs in patterns:
            if not numbers.keys() >= set(inputs):
                return None
            asked += (places.index(place), is_spared, kind, *[numbers[name] for name in inputs])
        for name, tensor in stored.items():
            asked += (numbers[name], tensor.dtype, tensor.shape)
        return tuple(asked)

    def listed(self) -> list[Kernel]:
        """All operators as frameworks and unoptimised sessions run them."""
        alone, as_floats = self.alone, self._as_floats
        return [
            as_floats(place)
            if op.kind in _DEQUANTISED_BEFORE and op.precision.startswith("int")
            else alone(place)
            for place, op in enumerate(self._connections.operators)
        ]

    def _as_floats(self, place: int) -> Kernel:
        """A product whose operands were dequantised computes in float32, and its weights are dequantised in
        every run.
        """
        op = self._connections.operators[place]
        own = replace(op, precision="float32")
        known = None if op.likeness is None else _AS_FLOATS.get(op.likeness)
        if known is not None:
            return Kernel._make((own, (own,), *known))
        kernel = self._alone(own, self._connections.kinds[place], (0.0, 0.0))
        work = kernel.work + KINDS["DequantizeLinear"].work * op.parameters
        if op.likeness is None:
            return kernel._replace(work=work)
        kernel = kernel._replace(work=work, likeness=Likeness())
        _AS_FLOATS.keep(op.likeness, kernel[_TOLD:])
        return kernel

    def _alone(self, op: Operator, full_kind: str, work: tuple[float, float]) -> Kernel:
        family = KINDS[full_kind].family
        own_work, own_cycles = work
        weight_bytes, groups, bytes_read = 0, 1, op.bytes_read
        if op.parameters:
            weights, size_bytes = self._connections.weights, self._connections.size_bytes
            for name in {*op.inputs}:
                if name in weights:
                    weight_bytes += size_bytes[name]
        rows = inner = columns = 0
        if family in _MULTIPLIES:
            rows, inner, columns = self._product(op, family, _NOTHING)
        if op.attributes:
            groups = groups_of(op)
        return Kernel(
            op,
            (op,),
            family,
            op.precision,
            op.macs,
            own_work,
            own_cycles,
            bytes_read,
            op.bytes_written,
            weight_bytes if weight_bytes < bytes_read else bytes_read,  # a lookup reads only a few rows
            op.repeats,
            rows,
            inner,
            columns,
            groups,
            self._connections.has_overridable and self._reads_overridable(op),
            op.likeness,
        )

    def _reads_overridable(self, op: Operator) -> bool:
        return "overridable" in [self._tensors[name].role for name in op.inputs if name]

    def of(
        self,
        places: tuple[int, ...],
        stored: Mapping[str, TensorInfo],
        likeness: Likeness | None,
        *,
        root: int,
        anchors: Sequence[Operator],
        spared: Set[int],
    ) -> Kernel:
        """Operators that run under the name of the anchor at `root`; `anchors` stand for the operators of the
        graph, and those at `spared` places do no work of their own. `stored`: what is really read for a
        dequantised tensor.
        """
        operators, anchor = self._connections.operators, anchors[root]
        members = tuple([operators[place] for place in places])
        family = KINDS[anchor.full_kind].family
        moved = self._moved(members, stored, family=family, launches=anchor.repeats)
        bytes_read, bytes_written, weight_bytes = moved
        work, cycles = 0.0, 0.0
        for place in places:
            if place not in spared:
                own_work, own_cycles = self._work(place, anchors[place], family)
                work += own_work
                cycles += own_cycles
        precision = anchor.precision
        if stored and family not in _MULTIPLIES:
            precision, cycles = "int8", cycles * _INTEGER_CYCLES
        return Kernel(
            anchor,
            members,
            family,
            precision,
            sum([op.macs for op in members]),
            work,
            cycles,
            max(bytes_read, 0),
            max(bytes_written, 0),
            min(weight_bytes, max(bytes_read, 0)),
            anchor.repeats,
            *self._product(anchor, family, stored),
            groups_of(anchor),
            self._connections.has_overridable and self._reads_overridable(anchor),
            likeness,
        )

    def _moved(
        self, members: Sequence[Operator], stored: Mapping[str, TensorInfo], *, family: Family, launches: int
    ) -> tuple[int, int, int]:
        """Bytes read and written across the border, and bytes of the weights."""
        weights, size_bytes = self._connections.weights, self._connections.size_bytes
        reads_once = family not in PRODUCTS  # in one pass, whichever members need it
        bytes_read = bytes_written = weight_bytes = 0
        made: set[str] = set()
        for op in members:
            made.update(op.outputs)
            bytes_read += op.bytes_read
            bytes_written += op.bytes_written
        inside: set[str] = set()  # never leaves the kernel
        entered: set[str] = set()
        for op in members:
            for name in {*op.inputs}:
                if not name:
                    continue
                if name in made:
                    inside.add(name)
                    bytes_read -= size_bytes[name] * op.repeats
                elif name in stored:
                    bytes_read -= (size_bytes[name] - stored[name].size_bytes) * op.repeats
                elif name not in entered:
                    entered.add(name)
                    if name in weights:
                        weight_bytes += size_bytes[name]
                elif reads_once and name not in weights:
                    bytes_read -= size_bytes[name] * op.repeats
        for name in inside:
            bytes_written -= size_bytes[name] * launches
        return bytes_read, bytes_written, weight_bytes

    def _work(self, place: int, op: Operator, family: Family) -> tuple[float, float]:
        """Vector operations and scalar cycles of `op`, which stands at this place, in a kernel of this
        family. Folded members do nothing per inference; a product is counted by its macs.
        """
        is_own = op is self._connections.operators[place]
        full_kind = self._connections.kinds[place] if is_own else op.full_kind
        if family in PRODUCTS and full_kind in _FOLDED:
            return 0.0, 0.0
        return self._own_work(place) if is_own else self._counted(op, full_kind)

    def _own_work(self, place: int) -> tuple[float, float]:
        known = self._works[place]
        if known is None:
            op, full_kind = self._connections.operators[place], self._connections.kinds[place]
            known = self._works[place] = self._counted(op, full_kind)
        return known

    def _counted(self, op: Operator, full_kind: str) -> tuple[float, float]:
        if full_kind in _IDLE_KINDS:
            return 0.0, 0.0
        kind, elements = KINDS[full_kind], self._connections.elements
        most = 0
        for name in (*op.outputs, *op.inputs) if touches_inputs(kind) else op.outputs:
            if name and (count := elements[name]) > most:
                most = count
        if not has_scalar_cycles(full_kind):
            return kind.work * most * op.repeats, 0.0
        inputs = [self._tensors[name] if name else None for name in op.inputs]
        outputs = [self._tensors[name] if name else None for name in op.outputs]
        cycles = scalar_cycles_of(full_kind, op.attributes, inputs=inputs, outputs=outputs)
        return kind.work * most * op.repeats, cycles * op.repeats

    def _product(
        self, anchor: Operator, family: Family, stored: Mapping[str, TensorInfo]
    ) -> tuple[int, int, int]:
        """(rows, inner, columns) of the matrix product behind a convolution or product, per group; zeros
        elsewhere.
        """
        if family not in _MULTIPLIES or not anchor.outputs or not anchor.outputs[0]:
            return 0, 0, 0
        shape = self._tensors[anchor.outputs[0]].shape
        elements = self._connections.elements[anchor.outputs[0]]
        at = _WEIGHT_INPUT.get(anchor.full_kind, 1)
        name = anchor.inputs[at] if at < len(anchor.inputs) else ""
        weight = self._tensors[name] if name else None
        if family is _CONV and weight is not None and len(weight.shape) > 1:
            filters = weight.shape[0]
            inner = math.prod(weight.shape[1:])
            return max(elements // max(filters, 1), 1), inner, max(filters // groups_of(anchor), 1)
        if family is _RECURRENT:
            steps = self._tensors[anchor.inputs[0]].shape if anchor.inputs[0] else ()
            hidden = max(shape[-1] if shape else 1, 1)
            rows, inner = steps[1:3] if len(steps) > 2 else (1, hidden)
            return max(rows, 1), max(inner, 1), hidden
        columns = shape[-1] if shape else 1
        per_call = max(anchor.macs // max(anchor.repeats, 1), 1)
        inner = max(per_call // max(elements, 1), 1)
        rows = elements // max(columns, 1)
        if weight is not None and not weight.is_weight and name not in stored and len(shape) > 1:
            rows = shape[-2]  # activations on both sides: one product per batch entry and head
        return max(rows, 1), inner, max(columns, 1)


def packed(kernel: Kernel) -> Kernel:
    """A product with weights that the file stores as integers, by a runtime that keeps them so: OpenVINO
    quantises the other side while running.
    """
    return _with_weights(kernel, "int8", kernel.weight_bytes // _PACKED_TIMES)


def as_floats(kernel: Kernel) -> Kernel:
    """A product of what is quantised while running, by a runtime that has no kernel for it: OpenVINO makes
    floats of its weights when it loads them, and of the other side while running.
    """
    return _with_weights(kernel, "float32", kernel.weight_bytes * _PACKED_TIMES)


def _with_weights(kernel: Kernel, precision: str, weight_bytes: int) -> Kernel:
    likeness = kernel.likeness
    if likeness is not None:
        question = likeness, precision
        likeness = _STORED_OTHERWISE.get(question) or _STORED_OTHERWISE.keep(question, Likeness())
    return kernel._replace(
        precision=precision,
        bytes_read=kernel.bytes_read - kernel.weight_bytes + weight_bytes,
        weight_bytes=weight_bytes,
        likeness=likeness,
    )


def groups_of(anchor: Operator) -> int:
    """Of a convolution; 1 of anything else."""
    group = anchor.attributes.get("group", 1)
    return group if isinstance(group, int) and group > 0 else 1
