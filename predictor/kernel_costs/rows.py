"""What is written of one kernel: what it does, what it is, and what it is called."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from predictor.graph import AttributeValue, Likeness, Operator, TensorInfo
from predictor.kernel_costs.geometry import geometry_of
from predictor.kernel_costs.layout import Need, need_of
from predictor.kernel_making import PRODUCTS, Kernel
from predictor.kinds import KINDS, Family
from predictor.memory import Memory
from predictor.roofline import CLASS_BY_FAMILY, KernelClass, Slopes, class_of
from predictor.wiring import Connections


class Amount(IntEnum):
    """Columns of `KernelTable.amounts`: what a kernel does in one inference, all launches together."""

    MACS = 0
    WORK = 1
    SCALAR_CYCLES = 2
    BYTES_READ = 3
    BYTES_WRITTEN = 4
    WEIGHT_BYTES = 5
    LAUNCHES = 6
    ROWS = 7  # of one product: not summed
    INNER = 8
    COLUMNS = 9
    GROUPS = 10
    WINDOW = 11  # elements of a filter or pooling window
    STRIDE = 12  # product over the axes
    MEMBERS = 13
    WIDTH = 14  # from here on as `predictor.kernel_costs.geometry.Extent` says
    HEIGHT = 15
    BATCH = 16
    CHANNELS_READ = 17
    CHANNELS_WRITTEN = 18
    RUN = 19
    REDUCED = 20
    LAST_WINDOW = 21
    DILATION = 22
    PRODUCTS = 23
    INPUTS = 24
    RANK = 25
    IS_PADDED = 26
    IS_SMOOTH = 27
    IS_CUBIC = 28
    IS_TRANSPOSED = 29
    ON_IMAGE = 30
    ON_BLOCKS = 31  # as `predictor.kernel_costs.layout` says
    REARRANGED_BYTES = 32
    OFF_BLOCKS = 33  # where blocks are left because the caller may replace the weights
    REGROUPED = 34  # elements, as `predictor.kernel_costs.regrouping` says
    GRAPH_WEIGHT_BYTES = 35  # of one launch of each kernel of the graph: what the caches are asked to hold
    WINOGRAD_BYTES = (
        36  # of the weights, those that Winograd's transformation enlarges where a library uses it
    )
    GRAPH_WINOGRAD_BYTES = 37  # of the whole graph
    SLOPES = 38  # of a PRelu, a `Slopes`
    FOLDED_BYTES = 39  # of the call: what making constants reads and writes


class Flag(IntEnum):
    """Columns of `KernelTable.flags`."""

    DEPTHWISE = 0
    REPLACEABLE_WEIGHTS = 1
    ADDS_TENSOR = 2  # a residual sum in the same kernel
    CURVED = 3  # an exponential or the like in the same kernel
    QUANTISES = 4  # writes integers from within
    TRANSPOSED = 5
    INTEGER_CONV = 6  # dynamically quantised convolutions take a path of their own
    BY_TANH = 7  # a GELU written with a hyperbolic tangent, which not every runtime knows for one


class Neighbour(IntEnum):
    """What stands before or behind a kernel: columns of `KernelTable.before` and `behind`."""

    CONV = 0
    NARROW_CONV = 1  # its channels do not fill vectors, so libraries keep another layout
    MATMUL = 2
    MOVE = 3
    OTHER = 4
    BORDER = 5  # the caller


_VECTOR = 16  # channels
# Asked of every kernel: an enumeration's own names take several times as long to look up.
_MATMUL, _NORMALISE = Family.MATMUL, Family.NORMALISE
_CONV, _NARROW_CONV, _MATMUL_NEIGHBOUR = Neighbour.CONV, Neighbour.NARROW_CONV, Neighbour.MATMUL
CLASSES: tuple[KernelClass, ...] = tuple(KernelClass)
PRECISIONS = ("float32", "float16", "int8", "low_bit", "float64", "other")
# Kinds whose costs are learned one by one; the others are told by their class and their amounts alone.
KIND_NAMES = (
    "Conv", "ConvTranspose", "MatMul", "Gemm", "MatMulInteger", "ConvInteger", "MatMulNBits", "LSTM", "GRU",
    "Add", "Mul", "Sub", "Div", "Pow", "Relu", "Clip", "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Sqrt", "Gelu",
    "HardSwish", "HardSigmoid", "LeakyRelu", "PRelu", "Softplus", "Where", "Max", "Min", "Neg", "Cast",
    "Softmax", "LayerNormalization", "BatchNormalization", "InstanceNormalization", "LRN",
    "ReduceMean", "ReduceSum", "ReduceMax", "CumSum", "ArgMax",
    "MaxPool", "AveragePool", "GlobalAveragePool",
    "Concat", "Split", "Slice", "Gather", "Transpose", "Pad", "Tile", "Expand", "Resize", "DepthToSpace",
    "SpaceToDepth", "TopK", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
)  # fmt: skip
_ALIASES = {
    "FusedGemm": "Gemm", "QGemm": "Gemm", "FusedMatMul": "MatMul", "FusedConv": "Conv",
    "QLinearConv": "Conv", "QLinearMatMul": "MatMul", "Sum": "Add", "Upsample": "Resize",
    "FastGelu": "Gelu", "QuickGelu": "Gelu", "DynamicQuantizeLSTM": "LSTM", "Swish": "HardSwish",
    "SimplifiedLayerNormalization": "LayerNormalization", "SkipLayerNormalization": "LayerNormalization",
    "SkipSimplifiedLayerNormalization": "LayerNormalization", "RMSNormalization": "LayerNormalization",
    "BiasGelu": "Gelu", "Mish": "Gelu", "QLinearAdd": "Add", "QLinearMul": "Mul", "QLinearConcat": "Concat",
    "QLinearSigmoid": "Sigmoid",
}  # fmt: skip
CALL_NAME = "call"
_CURVES = frozenset(("Sigmoid", "Tanh", "Erf", "Exp", "Gelu", "Softplus", "Elu", "Mish", "Swish"))
_CLASS_INDEX = {kind: index for index, kind in enumerate(CLASSES)}
_KIND_INDEX = {name: index for index, name in enumerate(KIND_NAMES)}
_DENSE_CONV = (_CLASS_INDEX[KernelClass.CONV], _KIND_INDEX["Conv"])
_PRECISION_INDEX = {
    "float32": 0, "float16": 1, "bfloat16": 1, "int8": 2, "uint8": 2, "int4": 3, "uint4": 3, "int2": 3,
    "uint2": 3, "float64": 4,
}  # fmt: skip
_OTHER_PRECISION = 5
CALL_PLACE = 0
# The others, of layouts, regrouping and the graph's weights, are known when all kernels are.
_KNOWN_AT_ONCE = int(Amount.ON_BLOCKS)
FIXED_AMOUNTS = slice(0, _KNOWN_AT_ONCE)  # of `Row.numbers`, as the next ones
FLAGS = slice(_KNOWN_AT_ONCE, _KNOWN_AT_ONCE + len(Flag))
INDICES = slice(FLAGS.stop, FLAGS.stop + 3)
_AMOUNTS = struct.Struct(f"{_KNOWN_AT_ONCE}d")
_TRAITS = struct.Struct(f"{INDICES.stop - _KNOWN_AT_ONCE}d")
_TRANSFORMED = 9.0  # elements of a window
_NARROW = 8  # channels; below, no library transforms
_NOTHING_WITHIN = (False, False, False, False)


@dataclass(frozen=True, slots=True, eq=False)  # each is made once, so identity tells them apart
class Traits:
    """What a kernel is, whatever its size: its row of `KernelTable.flags`, its indices of class, kind and
    precision, what it counts as, and what it is to its neighbours.
    """

    flags: tuple[bool, ...]
    indices: tuple[int, int, int]
    name: str
    neighbour: int  # a `Neighbour`
    is_view: bool
    numbers: bytes = field(init=False)  # flags and indices, packed

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", _TRAITS.pack(*self.flags, *self.indices))


_MULTIPLYING = (*PRODUCTS, Family.RECURRENT)
_CALL = Traits(
    (False,) * len(Flag),
    (_CLASS_INDEX[KernelClass.CALL], -1, _OTHER_PRECISION),
    CALL_NAME,
    int(Neighbour.BORDER),
    is_view=False,
)


@dataclass(slots=True, eq=False)
class Row:
    """What is written of a kernel. `numbers`: its amounts that are known at once, flags and indices, packed
    as float64, which takes half as long as an array; `winograd_bytes`: of the weights that Winograd's
    transformation would enlarge; `slopes`: a `Slopes`; `blocks`: what it needs to run on blocks of channels,
    with weights of any role, and `fixed_blocks` with constant ones; `features`: what the network sees of all
    that, once somebody has asked.
    """

    numbers: bytes
    winograd_bytes: int
    slopes: int
    traits: Traits
    blocks: Need
    fixed_blocks: Need
    features: NDArray[np.float32] | None = None


def numbers_of(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Their numbers (R, INDICES.stop)."""
    return np.frombuffer(b"".join([row.numbers for row in rows]), np.float64).reshape(-1, INDICES.stop)


def _numbers(amounts: Sequence[float], traits: Traits) -> bytes:
    return _AMOUNTS.pack(*amounts) + traits.numbers


_ROWS = Memory[Likeness, Row](4096)
_CALLS = Memory[tuple[float, ...], Row](4096)


class Rows:
    """What is written of each kernel, once for all that are alike and however many views they are in. The
    call around the kernels has the first row.
    """

    def __init__(self, call_amounts: tuple[float, ...], connections: Connections) -> None:
        self.rows = [_CALLS.get(call_amounts) or _CALLS.keep(call_amounts, _call_row(call_amounts))]
        self._connections = connections
        self._known: dict[Likeness | int, int] = {}  # by identity where nothing is alike

    def places_of(self, kernels: Sequence[Kernel]) -> list[int]:
        """Rows of these kernels."""
        known, rows = self._known, self.rows
        keys = [kernel.likeness or id(kernel) for kernel in kernels]
        for key, kernel in zip(keys, kernels, strict=True):
            if key not in known:
                known[key] = len(rows)
                rows.append(self._row_of(kernel, kernel.likeness))
        return [known[key] for key in keys]

    def _row_of(self, kernel: Kernel, likeness: Likeness | None) -> Row:
        if likeness is None:
            return _written(kernel, self._connections)
        known = _ROWS.get(likeness)
        return known or _ROWS.keep(likeness, _written(kernel, self._connections))


def _call_row(amounts: tuple[float, ...]) -> Row:
    return Row(_numbers(amounts, _CALL), 0, 0, _CALL, Need.IMPOSSIBLE, Need.IMPOSSIBLE)


def _written(kernel: Kernel, connections: Connections) -> Row:
    anchor, members, family, precision = kernel[:4]
    is_product = family in PRODUCTS
    traits = _traits(
        anchor.kind,
        anchor.domain,
        precision,
        (class_of(kernel), kernel.is_depthwise, _neighbour(kernel)) if is_product else None,
        kernel.has_replaceable_weights,
        _NOTHING_WITHIN if len(members) == 1 and members[0] is anchor else _within(kernel),
    )
    window, stride, attributes = 1.0, 1.0, anchor.attributes
    if attributes:
        window, stride = _product(attributes.get("kernel_shape")), _product(attributes.get("strides"))
    geometry = geometry_of(kernel, connections.tensors, connections.elements)
    # macs to groups, in the order of `Amount`
    amounts = (*kernel[4:15], window, stride, len(members), *geometry)
    is_transformed = (
        traits.indices[:2] == _DENSE_CONV and window == _TRANSFORMED and _is_transformed(amounts, kernel)
    )
    blocks = fixed_blocks = need_of(kernel, connections.tensors)
    if kernel.has_replaceable_weights:
        fixed_blocks = need_of(kernel, connections.tensors, roles=("constant",))
    winograd_bytes = kernel.weight_bytes if is_transformed else 0
    slopes = _slopes_of(anchor, connections.tensors) if anchor.kind == "PRelu" else 0
    return Row(_numbers(amounts, traits), winograd_bytes, slopes, traits, blocks, fixed_blocks)


def _slopes_of(op: Operator, tensors: Mapping[str, TensorInfo]) -> int:
    image, slopes = (tensors.get(name) for name in (*op.inputs, "", "")[:2])
    if image is None or slopes is None:  # what an operator lacks costs it nothing here
        return int(Slopes.NONE)
    if slopes.elements <= 1:
        return int(Slopes.ONE)
    return int(Slopes.RANKED if len(slopes.shape) == len(image.shape) else Slopes.UNRANKED)


def _is_transformed(amounts: Sequence[float], kernel: Kernel) -> bool:
    """Whether Winograd's transformation would enlarge the weights of a dense convolution whose windows have
    nine elements: with 3x3 filters that go step by step.
    """
    is_plain = amounts[Amount.STRIDE] == 1.0 and amounts[Amount.DILATION] == 1.0
    widest = max(amounts[Amount.CHANNELS_READ], amounts[Amount.CHANNELS_WRITTEN])
    return kernel.groups == 1 and is_plain and amounts[Amount.LAST_WINDOW] == 3.0 and widest > _NARROW


@lru_cache(maxsize=4096)
def _traits(
    kind: str,
    domain: str,
    precision: str,
    product: tuple[KernelClass, bool, Neighbour] | None,
    has_replaceable_weights: bool,
    within: tuple[bool, bool, bool, bool],
) -> Traits:
    """`product`: class of a product, whether it is depthwise, and what it is to its neighbours; None of other
    kernels, of which the family tells that.
    """
    family = KINDS[f"{domain}/{kind}" if domain else kind].family
    known = _ALIASES.get(kind, kind)
    if product is None:
        is_moved = family in (Family.MOVE, Family.VIEW)
        product = (CLASS_BY_FAMILY[family], False, Neighbour.MOVE if is_moved else Neighbour.OTHER)
    kernel_class, is_depthwise, neighbour = product
    multiplies = family in _MULTIPLYING
    return Traits(
        flags=(
            is_depthwise,
            has_replaceable_weights,
            within[0] or kind.startswith("Skip"),
            *within[1:3],
            kind == "ConvTranspose",
            kind == "ConvInteger",
            within[3],
        ),
        indices=(
            _CLASS_INDEX[kernel_class],
            _KIND_INDEX.get(known, -1),
            _PRECISION_INDEX.get(precision, _OTHER_PRECISION),
        ),
        name=_named(known, precision, is_depthwise=is_depthwise, multiplies=multiplies),
        neighbour=int(neighbour),  # numpy takes plain numbers much faster
        is_view=family is Family.VIEW,
    )


def _neighbour(kernel: Kernel) -> Neighbour:
    """Of a product."""
    if kernel.family is _MATMUL:
        return _MATMUL_NEIGHBOUR
    return _NARROW_CONV if kernel.columns * kernel.groups % _VECTOR else _CONV


def name_of(kernel: Kernel) -> str:
    """`Conv (int8)`, `Conv (depthwise)`, `Softmax`."""
    kind = _ALIASES.get(kernel.anchor.kind, kernel.anchor.kind)
    multiplies = kernel.family in _MULTIPLYING
    return _named(kind, kernel.precision, is_depthwise=kernel.is_depthwise, multiplies=multiplies)


def _named(kind: str, precision: str, *, is_depthwise: bool, multiplies: bool) -> str:
    if is_depthwise:
        kind = f"{kind} (depthwise)"
    return f"{kind} ({precision})" if multiplies and precision != "float32" else kind


def _product(sizes: AttributeValue | None) -> float:
    return float(math.prod(map(int, sizes))) if sizes and isinstance(sizes, tuple) else 1.0


def _within(kernel: Kernel) -> tuple[bool, bool, bool, bool]:
    """Whether the operators beside the anchor add a tensor, take a curve or quantise, and whether they write
    a GELU with a tangent.
    """
    kinds = {op.kind for op in kernel.members if op is not kernel.anchor}
    adds = "Add" in kinds or "Sum" in kinds
    is_formula = kernel.family is _NORMALISE  # which has sums of its own
    is_by_tanh = kernel.anchor.kind == "Gelu" and "Tanh" in kinds
    return adds and not is_formula, not _CURVES.isdisjoint(kinds), "QuantizeLinear" in kinds, is_by_tanh
