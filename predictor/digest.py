"""A digest of what decides about latency: structure, shapes, dtypes, attributes. No weights, no names, no
order of nodes.

Every operator is hashed with what lies before it, then with what lies behind it, and the sorted hashes are
hashed together, as in Weisfeiler and Leman's graph invariants. Short integer constants count by value: they
are axes, shapes and indices, which newer opsets pass as tensors; all other constants count by dtype and
shape alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from predictor.graph import Operator, TensorInfo

_VERSION = 1  # raise it when the same model must get another digest


def digest_of(
    operators: Sequence[Operator],
    tensors: Mapping[str, TensorInfo],
    *,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    integers: Mapping[str, tuple[int, ...]],
    opset: int,
) -> str:
    """SHA-256 in hexadecimal. `operators` in any topological order; `integers`: values of short integer
    constants by name.
    """
    labels = {
        tensor.name: _hash("input", index, tensor.dtype, tensor.shape) for index, tensor in enumerate(inputs)
    }
    for name, tensor in tensors.items():
        if name not in labels:
            labels[name] = _hash(tensor.role, tensor.dtype, tensor.shape, integers.get(name))
    stored = sorted(labels[name] for name, tensor in tensors.items() if tensor.is_weight)
    before: list[str] = []
    for op in operators:
        made = [(tensors[name].dtype, tensors[name].shape) if name else None for name in op.outputs]
        read = [labels[name] if name else "" for name in op.inputs]
        before.append(_hash(op.full_kind, sorted(op.attributes.items()), op.repeats, read, made))
        for index, name in enumerate(op.outputs):
            if name:
                labels[name] = _hash(before[-1], index)
    behind = _hashes_behind(operators, outputs)
    both = sorted(_hash(one, other) for one, other in zip(before, behind, strict=True))
    ends = [labels[tensor.name] for tensor in outputs]
    starts = [labels[tensor.name] for tensor in inputs]
    return hashlib.sha256(_hash(_VERSION, opset, starts, ends, both, stored).encode()).hexdigest()


def _hashes_behind(operators: Sequence[Operator], outputs: Sequence[TensorInfo]) -> list[str]:
    """Of each operator, what happens to its results: needed to tell apart twins that feed different
    things.
    """
    uses: dict[str, list[str]] = {}
    for index, tensor in enumerate(outputs):
        uses.setdefault(tensor.name, []).append(_hash("output", index))
    behind: list[str] = []
    for op in reversed(operators):
        behind.append(_hash(op.full_kind, [sorted(uses.get(name, ())) for name in op.outputs]))
        for index, name in enumerate(op.inputs):
            if name:
                uses.setdefault(name, []).append(_hash(behind[-1], index))
    behind.reverse()
    return behind


def _hash(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
