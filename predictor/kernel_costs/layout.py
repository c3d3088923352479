"""Which kernels run on blocks of channels, and what has to be rearranged between those and the others.

Convolution libraries keep images in blocks of 16 channels that lie beside each other, where the channels
allow it, and images of bytes with all channels beside each other. A pooling or a sum behind such a
convolution runs on the blocks too, many times faster than on plain images; where a kernel that knows no
blocks reads them, or the other way round, the image is rearranged first. The rules are those of ONNX Runtime
1.32 at its default level, as its profiles of small models of ours show them; other libraries' differ in
details.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum

from predictor.graph import Operator, TensorInfo
from predictor.kernel_making import Kernel, groups_of
from predictor.wiring import Connections

BLOCK = 16  # channels; of processors with vectors of 512 bits, and a good guess elsewhere
_ALIGNED = 4  # what rearranging needs
_ROWS_RANK, _IMAGE_RANK = 2, 4
_POOLS = frozenset(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"))
_PASSING = frozenset(
    (
        "Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "BatchNormalization", "QuantizeLinear",
        "DequantizeLinear",
    )
)  # fmt: skip
_JOINING = frozenset(("Add", "Sum", "Mul"))
_SCALING = frozenset(("Upsample", "Resize"))
_GATHERING = _JOINING | {"Concat"}
_KNOWN = {"Conv", "Concat"} | _POOLS | _PASSING | _JOINING | _SCALING

Layouts = tuple[list[float], list[float]]


class Need(IntEnum):
    """What has to be there so that a kernel runs on blocks."""

    NOTHING = 0
    FIRST = 1  # its first input, in blocks
    ALL = 2  # all inputs
    IMPOSSIBLE = 3


# Asked of every kernel: an enumeration's own names take several times as long to look up.
_NOTHING, _FIRST, _ALL, _IMPOSSIBLE = Need.NOTHING, Need.FIRST, Need.ALL, Need.IMPOSSIBLE
_STORED = ("constant", "overridable")


def layouts_of(kernels: Sequence[Kernel], needs: Sequence[Need], connections: Connections) -> Layouts:
    """For kernels in the order of running, and the call around them last: 1.0 where one runs on blocks, and
    the bytes that are rearranged before it. What leaves the graph is plain.
    """
    blocked: set[str] = set()  # tensors
    plain_too: set[str] = set()  # blocked ones that somebody has rearranged
    runs, rearranged = [0.0] * (len(kernels) + 1), [0.0] * (len(kernels) + 1)
    if not any(kernel.anchor.kind == "Conv" for kernel in kernels):
        return runs, rearranged
    size_bytes = connections.size_bytes
    for place, kernel in enumerate(kernels):
        op, members, _, precision = kernel[:4]
        if precision == "int8":
            for member in members:
                if member.kind == "DequantizeLinear" and member.inputs[0] in blocked:
                    blocked.add(member.outputs[0])
        need = needs[place]
        if need is not _IMPOSSIBLE and _is_met(need, op, blocked):
            runs[place] = 1.0
            if op.inputs[0] not in blocked:
                rearranged[place] = _rearranged_before(op, precision, connections)
            for member in members:
                blocked.update(member.outputs)
            continue
        for member in members:
            if not blocked.isdisjoint(member.inputs):
                moved = blocked.intersection(member.inputs) - plain_too
                rearranged[place] += float(sum([size_bytes[name] for name in moved]))
                plain_too |= moved
    rearranged[-1] = float(sum([size_bytes[name] for name in connections.ends & blocked - plain_too]))
    return runs, rearranged


def _is_met(need: Need, op: Operator, blocked: set[str]) -> bool:
    if need is _FIRST:
        return op.inputs[0] in blocked
    return need is _NOTHING or blocked.issuperset(filter(None, op.inputs))


def _rearranged_before(op: Operator, precision: str, connections: Connections) -> float:
    """Bytes of a plain image that a kernel reads in blocks. A convolution of few channels reads it as it
    is.
    """
    first = op.inputs[0]
    if precision == "int8":
        return float(connections.elements[first])
    is_direct = op.kind == "Conv" and connections.tensors[first].shape[1] < BLOCK
    return 0.0 if is_direct else float(connections.size_bytes[first])


def need_of(kernel: Kernel, tensors: Mapping[str, TensorInfo], *, roles: Collection[str] = _STORED) -> Need:
    """What a kernel needs, whatever is around it. `roles`: of weights that may be stored in blocks too; ONNX
    Runtime leaves those alone that the caller may replace.
    """
    op, _, _, precision = kernel[:4]
    if op.kind not in _KNOWN or precision not in ("float32", "int8"):
        return _IMPOSSIBLE
    if not op.outputs or not op.inputs or not op.inputs[0]:
        return _IMPOSSIBLE
    rank = len(tensors[op.inputs[0]].shape)
    if precision == "int8":  # signals too
        is_possible = op.kind != "Conv" or rank > _ROWS_RANK
    else:
        is_possible = rank == _IMAGE_RANK and _fits_blocks(op, tensors, roles)
    if not is_possible:
        return _IMPOSSIBLE
    if op.kind == "Conv" or (op.kind in _POOLS and precision == "float32"):
        return _NOTHING
    return _ALL if precision == "float32" and op.kind in _GATHERING else _FIRST


def _fits_blocks(op: Operator, tensors: Mapping[str, TensorInfo], roles: Collection[str]) -> bool:
    """Whether an operator on images of floats has a way to run on blocks."""
    kind = op.kind
    if kind == "Conv":
        return tensors[op.inputs[1]].role in roles and _has_blocks(op, tensors)
    if kind in _POOLS:
        return tensors[op.inputs[0]].shape[1] % BLOCK == 0
    if kind in _JOINING:
        shape = tensors[op.outputs[0]].shape
        return all(tensors[name].shape == shape for name in op.inputs if name)
    if kind == "Concat":
        is_of_channels = op.attributes.get("axis") in (1, -3)
        return is_of_channels and all(name and tensors[name].shape[1] % BLOCK == 0 for name in op.inputs)
    return kind not in _SCALING or op.attributes.get("mode", "nearest") in ("nearest", "linear")


def _has_blocks(op: Operator, tensors: Mapping[str, TensorInfo]) -> bool:
    """Of a convolution."""
    weight = tensors[op.inputs[1]]
    if len(weight.shape) != _IMAGE_RANK:
        return False
    written, read = weight.shape[:2]
    groups = groups_of(op)
    if groups == 1:
        return read < BLOCK or read % _ALIGNED == 0
    if written % _ALIGNED:
        return False
    return (read == 1 and written == groups) or (read % BLOCK == 0 and (written // groups) % BLOCK == 0)
