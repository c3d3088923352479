"""Which products a runtime of computer vision runs between two changes of shape, and which changes of shape
are work to it.

Such runtimes keep the batch apart from the axes. A product with a weight takes a matrix; where more axes are
left, because there are four or because nothing in the graph told which axis is the batch, its result is put
back into them. ncnn does that element by element where the product has left several rows beside each other,
which it does where they are a multiple of four, unless each row is an image of its own; it then takes up to
seventy times as long as the product. The rules are those of ncnn's converter (pnnx 20261020), as it converts
some hundred models of ours: convolutions, poolings, normalisations and recurrent layers tell that the first
axis is the batch, and what they are wired to, all of the graph as a rule, follows.

Where a model makes parts of an image its batch and lays rows of it there, as transformers on windows do, ncnn
moves to that batch and back from it element by element too (eleven networks, on three processors).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import chain

from predictor.graph import ModelGraph
from predictor.kernel_making import Kernel

_TELLING = frozenset(
    (
        "Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "LayerNormalization", "BatchNormalization",
        "InstanceNormalization", "MaxPool", "AveragePool", "GlobalAveragePool",
    )
)  # fmt: skip
_PACKED_ROWS = 4  # and their multiples lie beside each other
_ROWS_RANK = 3  # batch, rows, columns
_ORDERING = frozenset(("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather"))
_RESHAPED = 0.6  # of what an element of a product's result takes


def regrouped_of(kernels: Sequence[Kernel], graph: ModelGraph) -> list[float]:
    """For kernels in the order of running, and the call around them last: elements that are put back into
    axes.
    """
    found = [0.0] * (len(kernels) + 1)
    batches = {tensor.shape[0] for tensor in graph.inputs if tensor.shape}
    moved = {
        place: rows
        for place, kernel in enumerate(kernels)
        if kernel.anchor.kind == "Reshape" and (rows := _rebatched(kernel, graph, batches)) is not None
    }
    computed = _computed(kernels) if moved else frozenset()
    for place, (shape, names) in moved.items():
        if not computed.isdisjoint(names):
            found[place] = _RESHAPED * kernels[place].launches * math.prod(shape)
    products = [
        place
        for place, kernel in enumerate(kernels)
        if kernel.anchor.kind == "MatMul"
        and kernel.rows % _PACKED_ROWS == 0
        and graph.tensors[kernel.anchor.inputs[1]].is_weight
    ]
    if not products:
        return found
    is_told = not _TELLING.isdisjoint(kernel.anchor.kind for kernel in kernels)
    for place in products:
        kernel = kernels[place]
        shape = graph.tensors[kernel.anchor.outputs[0]].shape
        is_time_first = len(shape) == 3 and shape[0] not in batches and shape[1] in batches
        is_matrix = len(shape) < 3 or (len(shape) == 3 and is_told and not is_time_first)
        if not is_matrix and shape[-2] > 1:
            found[place] = float(kernel.rows * kernel.columns * kernel.launches)
    return found


def _computed(kernels: Sequence[Kernel]) -> frozenset[str]:
    """What kernels read or write that do more than change shapes and orders."""
    members = [
        member for kernel in kernels if kernel.anchor.kind not in _ORDERING for member in kernel.members
    ]
    return frozenset(name for member in members for name in (*member.inputs, *member.outputs))


def _rebatched(
    kernel: Kernel, graph: ModelGraph, batches: AbstractSet[int]
) -> tuple[tuple[int, ...], frozenset[str]] | None:
    """Rows that a change of shape gives another batch than the model's, or that had one: their shape, and
    what they are called on that side. None where it does not.
    """
    read = graph.tensors[kernel.anchor.inputs[0]].shape
    written = graph.tensors[kernel.anchor.outputs[0]].shape
    if not read or not written or (read[0] in batches) is (written[0] in batches):
        return None
    is_back = written[0] in batches
    rows = read if is_back else written
    ends = (member.inputs if is_back else member.outputs for member in kernel.members)
    return (rows, frozenset(chain.from_iterable(ends))) if len(rows) == _ROWS_RANK else None
