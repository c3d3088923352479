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
_RESHAPED = 0.6  # of what an element of a product's result takes


def regrouped_of(kernels: Sequence[Kernel], graph: ModelGraph) -> list[float]:
    """For kernels in the order of running, and the call around them last: elements that are put back into
    axes.
    """
    found = [0.0] * (len(kernels) + 1)
    batches = {tensor.shape[0] for tensor in graph.inputs if tensor.shape}
    for place, kernel in enumerate(kernels):
        if kernel.anchor.kind == "Reshape":
            found[place] = _RESHAPED * kernel.launches * _rebatched(kernel, graph, batches)
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


def _rebatched(kernel: Kernel, graph: ModelGraph, batches: AbstractSet[int]) -> float:
    """Elements of rows that a change of shape gives another batch than the model's, or that had one."""
    read, written = (
        graph.tensors[name].shape for name in (kernel.anchor.inputs[0], kernel.anchor.outputs[0])
    )
    if not read or not written or (read[0] in batches) is (written[0] in batches):
        return 0.0
    rows = read if written[0] in batches else written
    return float(math.prod(rows)) if len(rows) == _ROWS_RANK else 0.0
