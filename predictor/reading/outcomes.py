"""What a node makes of its inputs, worked out once for nodes that are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from predictor.memory import Memory
from predictor.reading.decoded import FileNode
from predictor.reading.nodes import Outcome, known_outputs
from predictor.reading.slots import Slot
from predictor.reading.typing import BLIND_TO_VALUES, output_types
from predictor.reading.values import dtype_name

_MAX_REMEMBERED_ELEMENTS = 64  # of a value that is read
_MAX_REMEMBERED_TENSORS = 32  # inputs and outputs


_remembered = Memory[tuple[object, ...], Outcome](4096)


def outcome_of(
    node: FileNode, inputs: Sequence[Slot | None], opsets: Mapping[str, int], *, is_known: bool
) -> Outcome:
    """Of a node without nested graphs; `is_known`: whether the values of all its inputs are. Raises
    `GraphRejected` as `output_types` does.
    """
    question = _question(node, inputs, opsets, is_known=is_known)
    known = None if question is None else _remembered.get(question)
    if known is not None:
        return known
    values = known_outputs(node, inputs, node.attributes, is_known=is_known)
    if values is not None:
        outcome = Outcome([(dtype_name(value), value.shape) for value in values], values)
    else:
        typed, is_bound = output_types(node, inputs, opsets)
        outcome = Outcome(typed, is_bound=is_bound)
    return outcome if question is None else _remembered.keep(question, outcome)


def _question(
    node: FileNode, inputs: Sequence[Slot | None], opsets: Mapping[str, int], *, is_known: bool
) -> tuple[object, ...] | None:
    """All that the outcome, its costs among it, follows from; None where that is not small and plain."""
    if node.key is None or len(inputs) + len(node.output) > _MAX_REMEMBERED_TENSORS:
        return None
    asked: list[object] = [node.key, *opsets.items(), len(node.output)]
    if "" in node.output:
        asked += map(bool, node.output)
    is_blind = not is_known and node.full_kind in BLIND_TO_VALUES
    for slot in inputs:
        if slot is None:
            asked.append(None)
            continue
        # A tensor that is read twice costs once: which it is tells its place among the inputs.
        asked += (slot.dtype, slot.shape, slot.role, inputs.index(slot))
        value = slot.value
        if value is not None and not is_blind:
            if value.size > _MAX_REMEMBERED_ELEMENTS:
                return None
            asked.append(value.tobytes())
    return tuple(asked)
