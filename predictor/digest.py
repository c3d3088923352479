"""A digest of what decides about latency: structure, shapes, dtypes, attributes. No weights, no names, no
order of nodes.

Every operator is hashed with what lies before it, then with what lies behind it, and the sorted hashes are
hashed together, as in Weisfeiler and Leman's graph invariants. Short integer constants count by value: they
are axes, shapes and indices, which newer opsets pass as tensors; all other constants count by dtype and
shape alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256

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
    unpacks_weights: bool = False,
    folded_bytes: int = 0,
) -> str:
    """SHA-256 in hexadecimal. `operators` in any topological order; `integers`: values of short integer
    constants by name; `unpacks_weights`: whether any are unpacked, and that and `folded_bytes` are as
    `ModelGraph` says.
    """
    labels = _labels(tensors, inputs, integers)
    stored = sorted([labels[name] for name, tensor in tensors.items() if tensor.is_weight])
    before: list[str] = []
    for op in operators:
        made = [(tensors[name].dtype, tensors[name].shape) if name else None for name in op.outputs]
        read = [labels[name] if name else "" for name in op.inputs]
        mine = _hash(op.full_kind, sorted(op.attributes.items()), op.repeats, read, made)
        before.append(mine)
        for index, name in enumerate(op.outputs):
            if name:
                labels[name] = _hash(mine, index)
    behind = _hashes_behind(operators, outputs)
    both = sorted(_hash(one, other) for one, other in zip(before, behind, strict=True))
    ends = [labels[tensor.name] for tensor in outputs]
    starts = [labels[tensor.name] for tensor in inputs]
    more = ("unpacks_weights",) if unpacks_weights else ()  # which few do
    more = (*more, folded_bytes) if folded_bytes else more  # likewise
    return sha256(_hash(_VERSION, opset, starts, ends, both, stored, *more).encode()).hexdigest()


def _labels(
    tensors: Mapping[str, TensorInfo],
    inputs: Sequence[TensorInfo],
    integers: Mapping[str, tuple[int, ...]],
) -> dict[str, str]:
    """Of each tensor before anything is known of where it comes from; the place of an input counts."""
    labels = {
        tensor.name: _hash("input", index, tensor.dtype, tensor.shape) for index, tensor in enumerate(inputs)
    }
    alike: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        if name not in labels:
            described = (tensor.role, tensor.dtype, tensor.shape, integers.get(name))
            label = alike.get(described)
            if label is None:
                label = alike[described] = _hash(*described)
            labels[name] = label
    return labels


def _hashes_behind(operators: Sequence[Operator], outputs: Sequence[TensorInfo]) -> list[str]:
    """Of each operator, what happens to its results: needed to tell apart twins that feed different
    things.
    """
    uses: dict[str, list[str]] = {name: [] for op in operators for name in op.outputs}
    for index, tensor in enumerate(outputs):
        if tensor.name in uses:
            uses[tensor.name].append(_hash("output", index))
    behind: list[str] = []
    for op in reversed(operators):
        mine = _hash(op.full_kind, [sorted(uses[name]) for name in op.outputs])
        behind.append(mine)
        for index, name in enumerate(op.inputs):
            if name and name in uses:  # what an operator makes: the uses of other tensors are not asked for
                uses[name].append(_hash(mine, index))
    behind.reverse()
    return behind


def _hash(*parts: object) -> str:
    return blake2b(repr(parts).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
