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

from predictor.graph import Operator, TensorInfo
from predictor.kernel_making import Kernel, groups_of

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
_KNOWN = {"Conv", "Concat"} | _POOLS | _PASSING | _JOINING | _SCALING

Layouts = tuple[list[float], list[float]]


def layouts_of(
    kernels: Sequence[Kernel],
    tensors: Mapping[str, TensorInfo],
    results: Collection[str],
    *,
    roles: Collection[str] = ("constant", "overridable"),
) -> Layouts:
    """For kernels in the order of running, and the call around them last: 1.0 where one runs on blocks, and
    the bytes that are rearranged before it. `results` leave the graph, plain. `roles`: of weights that may be
    stored in blocks too; ONNX Runtime leaves those alone that the caller may replace.
    """
    blocked: set[str] = set()  # tensors
    plain_too: set[str] = set()  # blocked ones that somebody has rearranged
    runs, rearranged = [0.0] * (len(kernels) + 1), [0.0] * (len(kernels) + 1)
    if not any(kernel.anchor.kind == "Conv" for kernel in kernels):
        return runs, rearranged
    for place, kernel in enumerate(kernels):
        op, members, _, precision = kernel[:4]
        if precision == "int8":
            for member in members:
                if member.kind == "DequantizeLinear" and member.inputs[0] in blocked:
                    blocked.add(member.outputs[0])
        if op.kind in _KNOWN and _runs_on_blocks(op, precision, tensors, blocked, roles):
            runs[place] = 1.0
            if op.inputs[0] not in blocked:
                rearranged[place] = _rearranged_before(op, precision, tensors)
            for member in members:
                blocked.update(member.outputs)
        elif blocked:
            moved = {name for member in members for name in member.inputs if name in blocked}
            if moved:
                rearranged[place] = float(sum([tensors[name].size_bytes for name in moved - plain_too]))
                plain_too |= moved
    rearranged[-1] = float(sum(tensors[name].size_bytes for name in results if name in blocked - plain_too))
    return runs, rearranged


def _rearranged_before(op: Operator, precision: str, tensors: Mapping[str, TensorInfo]) -> float:
    """Bytes of a plain image that a kernel reads in blocks. A convolution of few channels reads it as it
    is.
    """
    first = op.inputs[0]
    if precision == "int8":
        return float(tensors[first].elements)
    is_direct = op.kind == "Conv" and tensors[first].shape[1] < BLOCK
    return 0.0 if is_direct else float(tensors[first].size_bytes)


def _runs_on_blocks(
    op: Operator,
    precision: str,
    tensors: Mapping[str, TensorInfo],
    blocked: set[str],
    roles: Collection[str],
) -> bool:
    kind = op.kind
    if precision not in ("float32", "int8") or not op.outputs or not op.inputs or not op.inputs[0]:
        return False
    read = tensors[op.inputs[0]].shape
    if precision == "int8":  # signals too
        return len(read) > _ROWS_RANK if kind == "Conv" else op.inputs[0] in blocked
    if len(read) != _IMAGE_RANK:
        return False
    if kind == "Conv":
        return tensors[op.inputs[1]].role in roles and _has_blocks(op, tensors)
    if kind in _POOLS:
        return read[1] % BLOCK == 0
    if kind in _JOINING:
        shape = tensors[op.outputs[0]].shape
        return all(name in blocked and tensors[name].shape == shape for name in op.inputs if name)
    if kind == "Concat":
        is_of_channels = op.attributes.get("axis") in (1, -3)
        return is_of_channels and all(
            name in blocked and tensors[name].shape[1] % BLOCK == 0 for name in op.inputs
        )
    if kind in _SCALING:
        return op.inputs[0] in blocked and op.attributes.get("mode", "nearest") in ("nearest", "linear")
    return op.inputs[0] in blocked


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
