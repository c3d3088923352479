"""Activations that exporters spell out (GELU, SiLU, hard swish, Mish), each found from its rarest operator.

The conditions are those of `predictor.fusions`.
"""

from __future__ import annotations

from predictor.wiring import Fused, Wiring, put_together


def erf_gelu(wiring: Wiring, place: int) -> Fused | None:
    """x / sqrt(2) -> Erf -> + 1, and the two products with x and 1/2 in any order."""
    scaled = wiring.maker(wiring.operators[place].inputs[0], "Div", "Mul")
    shift = wiring.reader(place, "Add")
    if scaled is None or shift is None or not wiring.beside_number(shift):
        return None
    x = wiring.beside_number(scaled)
    return _gated_by_half(wiring, x, {scaled, place, shift}, shift)


def tanh_gelu(wiring: Wiring, place: int) -> Fused | None:
    """c (x + d x^3) -> Tanh -> + 1, and the two products with x and 1/2 in any order."""
    scaled = wiring.maker(wiring.operators[place].inputs[0], "Mul")
    total = wiring.maker(wiring.beside_number(scaled), "Add") if scaled is not None else None
    shift = wiring.reader(place, "Add")
    if scaled is None or total is None or shift is None or not wiring.beside_number(shift):
        return None
    for x in wiring.operators[total].inputs:
        term = wiring.maker(wiring.other(total, x), "Mul")
        cube = wiring.maker(wiring.beside_number(term), "Pow", "Mul") if term is not None else None
        if term is None or cube is None or x not in wiring.operators[cube].inputs:
            continue
        members = {scaled, total, shift, place, term, cube}
        square = wiring.maker(wiring.other(cube, x), "Mul", "Pow")
        if square is not None and set(wiring.operators[square].inputs[:1]) == {x}:
            members.add(square)
        return _gated_by_half(wiring, x, members, shift)
    return None


def _gated_by_half(wiring: Wiring, x: str, members: set[int], gate: int) -> Fused | None:
    """x times the gate times 1/2: the half may come first, last, or on x."""
    if not x or wiring.is_short(x):
        return None
    last = wiring.reader(gate, "Mul")
    if last is None:
        return None
    if wiring.beside_number(last) == wiring.operators[gate].outputs[0]:  # half the gate, then x
        members.add(last)
        gate, last = last, wiring.reader(last, "Mul")
        return (
            put_together(wiring, members | {last}, "Gelu", (x,))
            if last is not None and (wiring.other(last, wiring.operators[gate].outputs[0]) == x)
            else None
        )
    other = wiring.other(last, wiring.operators[gate].outputs[0])
    if other != x:
        half = wiring.maker(other, "Mul", "Div")
        if half is None or wiring.beside_number(half) != x:
            return None
        return put_together(wiring, members | {last, half}, "Gelu", (x,))
    half = wiring.reader(last, "Mul", "Div")
    if half is None or not wiring.beside_number(half):
        return None
    return put_together(wiring, members | {last, half}, "Gelu", (x,))


def swish(wiring: Wiring, place: int) -> Fused | None:
    """x times the sigmoid of x, or of a multiple of x."""
    x = wiring.operators[place].inputs[0]
    gated = wiring.reader(place, "Mul")
    if gated is None:
        return None
    other = wiring.other(gated, wiring.operators[place].outputs[0])
    if other == x:
        return put_together(wiring, {place, gated}, "Swish", (x,))
    scaled = wiring.maker(x, "Mul")
    if scaled is None or not other or wiring.beside_number(scaled) != other:
        return None
    return put_together(wiring, {scaled, place, gated}, "Swish", (other,))


def gated(wiring: Wiring, place: int) -> Fused | None:
    """x times the hard sigmoid of x."""
    x = wiring.operators[place].inputs[0]
    gated = wiring.reader(place, "Mul")
    if gated is None or wiring.other(gated, wiring.operators[place].outputs[0]) != x:
        return None
    return put_together(wiring, {place, gated}, "HardSwish", (x,))


def clipped(wiring: Wiring, place: int) -> Fused | None:
    """x times the clipped x + 3, over 6; the sixth may be taken before or after the product."""
    shift = wiring.maker(wiring.operators[place].inputs[0], "Add")
    x = wiring.beside_number(shift) if shift is not None else ""
    last = wiring.reader(place, "Mul", "Div")
    if shift is None or last is None or not x:
        return None
    members = {shift, place, last}
    if wiring.other(last, wiring.operators[place].outputs[0]) == x:
        sixth = wiring.reader(last, "Mul", "Div")
        is_whole = sixth is not None and bool(wiring.beside_number(sixth))
    else:
        sixth = wiring.reader(last, "Mul") if wiring.beside_number(last) else None
        is_whole = sixth is not None and wiring.other(sixth, wiring.operators[last].outputs[0]) == x
    if sixth is None or not is_whole:
        return None
    return put_together(wiring, members | {sixth}, "HardSwish", (x,))


def mish(wiring: Wiring, place: int) -> Fused | None:
    """x times the hyperbolic tangent of its softplus."""
    x = wiring.operators[place].inputs[0]
    curve = wiring.reader(place, "Tanh")
    last = wiring.reader(curve, "Mul") if curve is not None else None
    if curve is None or last is None or wiring.other(last, wiring.operators[curve].outputs[0]) != x:
        return None
    return put_together(wiring, {place, curve, last}, "Mish", (x,))
