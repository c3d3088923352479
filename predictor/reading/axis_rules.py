"""More rules of `predictor.reading.plain_types`: operators that drop, widen or cut axes, recurrent ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from predictor.reading.shapes import Attributes, Shape, Typed
from predictor.reading.slots import Slot
from predictor.reading.type_rules import FLOATS, NUMBERS, TypeRule, few, has_only

RECURRENT: Mapping[str, type] = {"direction": str, "hidden_size": int}
_FIRST_TO_QUANTISE = 11  # the opset that brought DynamicQuantizeLinear
_MOST_PADDING = 1 << 31  # of one axis; inference refuses what overflows
_FIRST_WITH_SIZES_AS_INPUT = 13  # the opset since which Split takes its sizes as a tensor
_FIRST_WITH_COUNT = 18  # the opset since which a Split into equal parts says how many


def reduced_by_attribute(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """A reduction along axes that an attribute names."""
    axes = _whole(attributes.get("axes"))
    if len(inputs) > 1 or axes is None or not has_only(attributes, {"axes": tuple, "keepdims": int}):
        return None
    return _reduced(inputs[0], axes, attributes)


def reduced(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """A reduction along axes that its second input names."""
    axes = few(inputs[1]) if len(inputs) == 2 else None
    if axes is None or not has_only(attributes, {"keepdims": int}):
        return None
    return _reduced(inputs[0], axes, attributes)


def _reduced(first: Slot, axes: Shape, attributes: Attributes) -> Typed | None:
    places = _places(axes, len(first.shape))
    if first.dtype not in FLOATS or not places:
        return None
    if attributes.get("keepdims", 1):
        return first.dtype, tuple([1 if at in places else size for at, size in enumerate(first.shape)])
    return first.dtype, tuple([size for at, size in enumerate(first.shape) if at not in places])


def squeezed_by_attribute(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """Squeeze before opset 13."""
    axes = _axes_of_attribute(inputs, attributes)
    return None if axes is None else _squeezed(inputs[0], axes)


def squeezed(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """Squeeze by known axes."""
    axes = _axes_of_input(inputs, attributes)
    return None if axes is None else _squeezed(inputs[0], axes)


def _squeezed(first: Slot, axes: Shape) -> Typed | None:
    places = _places(axes, len(first.shape))
    if not places or first.dtype not in NUMBERS:
        return None
    if any(first.shape[at] != 1 for at in places):
        return None
    return first.dtype, tuple([size for at, size in enumerate(first.shape) if at not in places])


def unsqueezed_by_attribute(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """Unsqueeze before opset 13."""
    axes = _axes_of_attribute(inputs, attributes)
    return None if axes is None else _with_ones(inputs[0], axes)


def unsqueezed(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """Unsqueeze by known axes."""
    axes = _axes_of_input(inputs, attributes)
    return None if axes is None else _with_ones(inputs[0], axes)


def _with_ones(first: Slot, axes: Shape) -> Typed | None:
    rank = len(first.shape) + len(axes)
    places = _places(axes, rank)
    if places is None or first.dtype not in NUMBERS:
        return None
    sizes = iter(first.shape)
    return first.dtype, tuple([1 if at in places else next(sizes) for at in range(rank)])


def padded(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
    """Padding of all axes by known sizes."""
    first, pads = inputs[0], few(inputs[1]) if 2 <= len(inputs) <= 3 else None
    rank = len(first.shape)
    if pads is None or len(pads) != 2 * rank or first.dtype not in NUMBERS:
        return None
    if min(pads, default=-1) < 0 or max(pads) > _MOST_PADDING:
        return None
    if not has_only(attributes, {"mode": str}) or any(slot.dtype != first.dtype for slot in inputs[2:]):
        return None
    sizes = zip(first.shape, pads[:rank], pads[rank:], strict=True)
    return first.dtype, tuple([size + before + after for size, before, after in sizes])


def recurrent(names: Mapping[str, type]) -> TypeRule:
    """All states of a recurrent operator that runs forwards, the only output asked for; with these attributes
    at most.
    """

    def rule(inputs: Sequence[Slot], attributes: Attributes) -> Typed | None:
        first, hidden = inputs[0], attributes.get("hidden_size")
        if not 3 <= len(inputs) <= 4 or len(first.shape) != 3 or not has_only(attributes, names):
            return None
        if attributes.get("direction", "forward") != "forward" or not isinstance(hidden, int) or hidden < 1:
            return None
        if first.dtype not in FLOATS or any(slot.dtype != first.dtype for slot in inputs):
            return None
        steps, batch, _ = first.shape
        return first.dtype, (steps, 1, batch, hidden)

    return rule


def split(
    inputs: Sequence[Slot], attributes: Attributes, *, count: int, opset: int
) -> Sequence[Typed] | None:
    """Parts of known or of equal sizes along an axis counted from the front."""
    first, axis = inputs[0], attributes.get("axis", 0)
    takes_sizes = opset >= _FIRST_WITH_SIZES_AS_INPUT
    names = {"axis": int} if takes_sizes else {"axis": int, "split": tuple}
    if first.dtype not in NUMBERS or not has_only(attributes, names) or not isinstance(axis, int):
        return None
    if not 0 <= axis < len(first.shape) or len(inputs) > 1 + takes_sizes:
        return None
    size = first.shape[axis]
    sizes: Shape | None
    if len(inputs) == 2:
        sizes = few(inputs[1])
    elif "split" in attributes:
        sizes = _whole(attributes["split"])
    else:
        sizes = None if size % count or opset >= _FIRST_WITH_COUNT else (size // count,) * count
    if sizes is None or len(sizes) != count or min(sizes) < 1 or sum(sizes) != size:
        return None
    return [(first.dtype, (*first.shape[:axis], part, *first.shape[axis + 1 :])) for part in sizes]


def dynamically_quantised(
    inputs: Sequence[Slot], attributes: Attributes, *, count: int, opset: int
) -> Sequence[Typed] | None:
    """Bytes, their scale and their zero point."""
    first = inputs[0]
    if len(inputs) > 1 or attributes or count != 3 or opset < _FIRST_TO_QUANTISE or first.dtype != "float32":
        return None
    return [("uint8", first.shape), ("float32", ()), ("uint8", ())]


def _whole(value: object) -> Shape | None:
    """An attribute that is a tuple of whole numbers."""
    if not isinstance(value, tuple):
        return None
    numbers = tuple([item for item in value if type(item) is int])
    return numbers if len(numbers) == len(value) else None


def _axes_of_attribute(inputs: Sequence[Slot], attributes: Attributes) -> Shape | None:
    """What the only attribute beside the only input names, counted from the front."""
    axes = _whole(attributes.get("axes"))
    is_usual = len(inputs) == 1 and len(attributes) == 1 and axes is not None
    return axes if is_usual and min(axes or (0,)) >= 0 else None


def _axes_of_input(inputs: Sequence[Slot], attributes: Attributes) -> Shape | None:
    """What the second input says, where there is no attribute."""
    return few(inputs[1]) if len(inputs) == 2 and not attributes else None


def _places(axes: Shape, rank: int) -> set[int] | None:
    """Axes counted from the front; None where one is out of bounds or named twice."""
    places = {axis + rank if axis < 0 else axis for axis in axes}
    fits = len(places) == len(axes) and min(places, default=0) >= 0 and max(places, default=-1) < rank
    return places if fits else None
