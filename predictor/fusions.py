"""Operators that exporters spell out and runtimes put together again: normalisations, curved activations,
gates, and what a product takes in from before it.

A pattern is found from its rarest operator (a square root, an error function, a sigmoid), so a graph without
such operators costs one dictionary lookup per operator. The conditions are those that ONNX Runtime 1.32 was
seen to apply to small models of ours; a runtime with a code generator takes more (`fuses_chains`). A graph
holds no weights: where a pattern needs a certain number, any single constant number counts as that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from predictor.curves import clipped, erf_gelu, gated, mish, swish, tanh_gelu
from predictor.graph import Operator
from predictor.wiring import Connections, Fused, Wiring, put_together

_POOLS = ("Conv", "AveragePool", "MaxPool")
_SKIPPED_RANK = 3  # ONNX Runtime takes a residual sum into a normalisation of (B, N, D) only


def fused_of(connections: Connections, *, fuses_chains: bool) -> list[Fused]:
    """The patterns of a graph, none overlapping another."""
    wiring = Wiring(
        connections.operators,
        connections.kinds,
        connections.tensors,
        connections.producer,
        connections.uses,
        connections.ends,
        connections.known(is_generated=fuses_chains),
        fuses_chains,
    )
    matchers = _WITH_CODE if fuses_chains else _ALWAYS
    found: list[Fused] = []
    taken: set[int] = set()
    for place, kind in enumerate(connections.kinds):
        if kind not in matchers:
            continue
        fused = matchers[kind](wiring, place)
        if fused is not None and taken.isdisjoint(fused.members):
            found.append(fused)
            taken.update(fused.members)
    return found


def _normalised(wiring: Wiring, place: int) -> Fused | None:
    """From the square root: the mean of squares before it, the division and the affine map behind it."""
    variance = _variance(wiring, place)
    if variance is None:
        return None
    members, centred = variance
    last = _divided(wiring, place, centred, members)
    if last is None:
        return None
    size = wiring.tensors[centred].shape[-1]
    scaled, gamma = _with_vector(wiring, last, "Mul", size)
    if scaled is not None:
        members.add(last := scaled)
    elif not wiring.fuses_chains:
        return None
    weights: tuple[str, ...] = (gamma,) if gamma else ()
    shifted, beta = _with_vector(wiring, last, "Add", size)
    has_shift = shifted is not None and not wiring.is_short(centred)
    sub = wiring.maker(centred, "Sub")
    mean = wiring.maker(wiring.operators[sub].inputs[1], "ReduceMean") if sub is not None else None
    if sub is None or mean is None or not (has_shift or wiring.fuses_chains):
        return put_together(wiring, members, "SimplifiedLayerNormalization", (centred, *weights))
    x = wiring.operators[sub].inputs[0]
    if wiring.operators[mean].inputs[0] != x:
        return None
    members |= {sub, mean}
    if shifted is not None:
        members.add(shifted)
        weights += (beta,)
    whole = put_together(wiring, members, "LayerNormalization", (x, *weights))
    return whole and _with_skip(wiring, whole)


def _with_vector(wiring: Wiring, place: int, kind: str, size: int) -> tuple[int | None, str]:
    """The only reader, if it is of this kind and combines the result with a constant row; and that row."""
    at = wiring.reader(place, kind)
    row = wiring.other(at, wiring.operators[place].outputs[0]) if at is not None else ""
    if not wiring.is_constant(row) or wiring.tensors[row].shape[-1:] != (size,):
        return None, ""
    return at, row


def _variance(wiring: Wiring, root: int) -> tuple[set[int], str] | None:
    """Members up to the square root, and the tensor whose squares are averaged over the last axis."""
    shift = wiring.maker(wiring.operators[root].inputs[0], "Add")
    mean = wiring.maker(wiring.beside_number(shift), "ReduceMean") if shift is not None else None
    square = wiring.maker(wiring.operators[mean].inputs[0], "Pow", "Mul") if mean is not None else None
    if shift is None or mean is None or square is None:
        return None
    base, power = wiring.operators[square].inputs
    is_square = wiring.is_number(power) if wiring.operators[square].kind == "Pow" else base == power
    shape = wiring.tensors[base].shape
    if not is_square or wiring.tensors[wiring.operators[mean].outputs[0]].shape != (*shape[:-1], 1):
        return None
    cast = wiring.maker(base, "Cast")
    members = {root, shift, mean, square}
    if cast is not None and wiring.reader(cast, "Pow", "Mul") == square:  # squares in float32, x in float16
        members.add(cast)
        base = wiring.operators[cast].inputs[0]
    return members, base


def _divided(wiring: Wiring, root: int, centred: str, members: set[int]) -> int | None:
    """The operator that divides by the root, at once or by its reciprocal; it and what it needs join the
    members.
    """
    narrowed = wiring.reader(root, "Cast")
    if narrowed is not None:
        members.add(root := narrowed)
    length = wiring.operators[root].outputs[0]
    kinds = ("Div", "Reciprocal") if wiring.fuses_chains else ("Div",)
    divided = wiring.reader(root, *kinds)
    if divided is None:
        return None
    members.add(divided)
    inputs = wiring.operators[divided].inputs
    if inputs == (centred, length):
        return divided
    if inputs != (length,) and not (inputs[1] == length and wiring.is_number(inputs[0])):
        return None
    times = wiring.reader(divided, "Mul")
    if times is None or wiring.other(times, wiring.operators[divided].outputs[0]) != centred:
        return None
    members.add(times)
    return times


def _normal_operator(wiring: Wiring, place: int) -> Fused | None:
    """A normalisation that stands in the file as one operator, with the sum before it."""
    lone = Fused(wiring.operators[place], (place,), frozenset((place,)))
    whole = _with_skip(wiring, lone)
    return whole if len(whole.members) > 1 else None


def _with_skip(wiring: Wiring, normal: Fused) -> Fused:
    """With the sum before it that is read by nothing else, of a residual or of a table of positions. Runtimes
    have a kernel of its own for that, which may be many times slower than the plain one.
    """
    name = normal.anchor.inputs[0]
    total = wiring.maker(name, "Add")
    shape = wiring.tensors[name].shape
    if total is None or len(shape) != _SKIPPED_RANK:
        return normal
    if any(wiring.tensors[each].shape != shape for each in wiring.operators[total].inputs):
        return normal
    members = frozenset((*normal.members, total))
    if not wiring.is_closed(members):
        return normal
    anchor = replace(normal.anchor, kind="SkipLayerNormalization", domain="com.microsoft")
    return Fused(anchor, tuple(sorted(members)), normal.spared)


def _product(wiring: Wiring, place: int) -> Fused | None:
    """A product with the turned or scaled operands that it reads as they are."""
    op = wiring.operators[place]
    if op.precision != "float32":
        return None
    before: set[int] = set()
    for name in op.inputs:
        at = wiring.maker(name, "Transpose", "Mul", "Div")
        if at is None or wiring.reader(at, "MatMul") != place:
            continue
        is_transposed = wiring.operators[at].kind == "Transpose"
        if _turns_last(wiring.operators[at]) if is_transposed else wiring.beside_number(at):
            before.add(at)
    members = frozenset((*before, place))
    if not before or not wiring.is_closed(members):
        return None
    return Fused(op, tuple(sorted(members)), members)


def _dynamic_product(wiring: Wiring, place: int) -> Fused | None:
    """An integer product with the conversion and the scales behind it, and the quantiser before it if
    nothing else reads that.
    """
    cast = wiring.reader(place, "Cast")
    times = wiring.reader(cast, "Mul") if cast is not None else None
    if wiring.fuses_chains or cast is None or times is None:
        return None
    scales = wiring.maker(wiring.other(times, wiring.operators[cast].outputs[0]), "Mul")
    if scales is None or wiring.reader(scales, "Mul") != times:
        return None
    members = frozenset((place, cast, times, scales))
    quantiser = wiring.maker(wiring.operators[place].inputs[0], "DynamicQuantizeLinear")
    if quantiser is not None and wiring.is_closed(members | {quantiser}):
        members |= {quantiser}
    if not wiring.is_closed(members):
        return None
    working = frozenset((quantiser,)) if quantiser is not None else frozenset()
    return Fused(wiring.operators[place], tuple(sorted(members)), members - working)


def _turns_last(op: Operator) -> bool:
    perm = op.attributes.get("perm", ())
    if not isinstance(perm, tuple) or len(perm) < 2:
        return False
    axes = tuple(range(len(perm)))
    return perm == (*axes[:-2], axes[-1], axes[-2])


def _padded(wiring: Wiring, place: int) -> Fused | None:
    """Constant padding that the convolution or pool behind it does itself."""
    op = wiring.operators[place]
    last = wiring.reader(place, *_POOLS)
    is_plain = op.attributes.get("mode", "constant") == "constant"
    if last is None or not is_plain or wiring.operators[last].inputs[0] != op.outputs[0]:
        return None
    members = frozenset((place, last))
    if not wiring.is_closed(members):
        return None
    return Fused(wiring.operators[last], (place, last), members)


_Matcher = Callable[[Wiring, int], Fused | None]
_ALWAYS: Mapping[str, _Matcher] = {
    "Sqrt": _normalised,
    "LayerNormalization": _normal_operator,
    "Erf": erf_gelu,
    "Tanh": tanh_gelu,
    "Sigmoid": swish,
    "MatMul": _product,
    "Pad": _padded,
    "MatMulInteger": _dynamic_product,
}
_WITH_CODE: Mapping[str, _Matcher] = {
    **_ALWAYS,
    "HardSigmoid": gated,
    "Clip": clipped,
    "Softplus": mish,
}
