"""Sequences of tensors, followed item by item: they vanish from the graph, only the copies they cause
remain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from predictor.graph import AttributeValue
from predictor.reading.slots import Slot
from predictor.reading.values import integers

MAX_ITEMS = 1024  # each step of a growing sequence holds them all again

SEQUENCE_KINDS = frozenset(
    [
        "SequenceEmpty",
        "SequenceConstruct",
        "SequenceInsert",
        "SequenceErase",
        "SequenceAt",
        "ConcatFromSequence",
    ]
)


def followed(kind: str, inputs: Sequence[Slot | None], name: str) -> Slot:
    """The result of an operator that only handles sequences. Raises ValueError where a position is not
    known.
    """
    slots = [slot for slot in inputs if slot is not None]
    if kind in ("SequenceEmpty", "SequenceConstruct"):
        return _sequence(name, slots)
    items = list(_items(slots[0]))
    if kind == "SequenceAt":
        return items[_position(slots[1], items)]
    if kind == "SequenceInsert":
        at = _position(slots[2], items, extra=1) if len(slots) > 2 else len(items)
        return _sequence(name, [*items[:at], slots[1], *items[at:]])
    at = _position(slots[1], items) if len(slots) > 1 else len(items) - 1  # SequenceErase
    return _sequence(name, [*items[:at], *items[at + 1 :]])


def concatenated(
    slot: Slot, attributes: Mapping[str, AttributeValue]
) -> tuple[tuple[Slot, ...], tuple[int, ...]]:
    """The items of a sequence, and the shape of their concatenation."""
    items = _items(slot)
    axis = integers(attributes.get("axis"), (0,))[0]
    first = items[0].shape
    if attributes.get("new_axis"):
        at = axis % (len(first) + 1)
        return items, (*first[:at], len(items), *first[at:])
    at = axis % len(first)
    return items, (*first[:at], sum(item.shape[at] for item in items), *first[at + 1 :])


def split_shapes(
    slot: Slot, sizes: Slot | None, attributes: Mapping[str, AttributeValue]
) -> tuple[tuple[int, ...], ...]:
    """The shapes into which SplitToSequence cuts a tensor. Raises ValueError where the cuts are not known."""
    axis = integers(attributes.get("axis"), (0,))[0] % len(slot.shape)
    whole = slot.shape[axis]
    if sizes is None:
        kept = (1,) if attributes.get("keepdims", 1) else ()
        return ((*slot.shape[:axis], *kept, *slot.shape[axis + 1 :]),) * _checked_length(whole)
    if sizes.value is None:
        raise ValueError("the sizes depend on values that only a run can tell")
    cuts = integers(sizes.value)
    if not sizes.shape:
        step = max(cuts[0], 1)
        _checked_length(-(-whole // step))
        cuts = tuple(min(step, whole - start) for start in range(0, whole, step))
    return tuple((*slot.shape[:axis], cut, *slot.shape[axis + 1 :]) for cut in cuts)


def _sequence(name: str, items: Sequence[Slot]) -> Slot:
    _checked_length(len(items))
    return Slot(name=name, dtype=items[0].dtype if items else "float32", shape=(), items=tuple(items))


def _checked_length(count: int) -> int:
    if count > MAX_ITEMS:
        raise ValueError(f"the sequence has {count} tensors, at most {MAX_ITEMS} are followed")
    return count


def _items(slot: Slot) -> tuple[Slot, ...]:
    if not slot.items:
        raise ValueError("the sequence is empty or unknown")
    return slot.items


def _position(slot: Slot, items: Sequence[Slot], extra: int = 0) -> int:
    if slot.value is None or slot.value.size != 1:
        raise ValueError("the position depends on values that only a run can tell")
    position = int(slot.value.item())
    position += len(items) if position < 0 else 0
    if not 0 <= position < len(items) + extra:
        raise ValueError(f"position {position} is outside of the sequence of {len(items)}")
    return position
