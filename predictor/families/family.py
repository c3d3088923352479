"""What a family of models is: a function that draws a network of given sizes, and a table of sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from predictor.families.encode import encode
from predictor.families.layers import Net
from predictor.families.quantise import (
    CONV_KINDS,
    MATRIX_KINDS,
    to_dynamic,
    to_eight_bits,
    to_four_bits,
    to_half,
    to_qdq,
)
from predictor.families.style import style_of

PRECISIONS = {"f": "fp32", "h": "fp16", "q": "int8", "d": "int8-dynamic", "w": "w4", "p": "w8"}
QUANTISED_OPSET = 13  # per-channel DequantizeLinear


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of one network: channels or model size, blocks, image side or sequence length, batch; `kind` is
    a variant that its family knows.
    """

    width: int
    depth: int
    size: int
    batch: int
    kind: str = "-"

    @property
    def label(self) -> str:
        """As it stands in names."""
        kind = "" if self.kind == "-" else f"-{self.kind}"
        return f"w{self.width}-d{self.depth}-s{self.size}-b{self.batch}{kind}"


Drawing = Callable[[Net], None]


class PlannedDrawing(Protocol):
    """Draws a network of given sizes."""

    def __call__(self, net: Net, plan: Plan) -> None:
        """Adds its operators and names its outputs."""


@dataclass(frozen=True, slots=True)
class Family:
    """`rows`: lines of "width depth size batch kind precisions"; a precision is a letter of f (fp32), h
    (fp16), q (int8), d (int8-dynamic), w (w4), p (w8).
    """

    name: str
    draw: PlannedDrawing
    rows: str
    least_opset: int = 9
    has_convs: bool = True  # whether a static quantiser takes pools, joins and moves as well as products

    def specimens(self) -> list[Specimen]:
        """Sizes and precisions, in the table's order."""
        found: list[Specimen] = []
        for row in self.rows.strip().splitlines():
            width, depth, size, batch, kind, letters = row.split()
            plan = Plan(int(width), int(depth), int(size), int(batch), kind)
            least = self.least_opset if letters == "f" else max(self.least_opset, QUANTISED_OPSET)
            found += [
                Specimen(
                    family=self.name,
                    name=f"{self.name}/{plan.label}/{PRECISIONS[letter]}",
                    precision=PRECISIONS[letter],
                    is_sweep=False,
                    draw=partial(self.draw, plan=plan),
                    least_opset=least,
                    has_convs=self.has_convs,
                )
                for letter in letters
            ]
        return found


@dataclass(frozen=True, slots=True)
class Specimen:
    """One model of a family. Nothing is made before `build`. `lists_weights`: as inputs too, so that callers
    may replace them, whatever the dialect.
    """

    family: str
    name: str
    precision: str
    is_sweep: bool
    draw: Drawing
    least_opset: int
    has_convs: bool
    lists_weights: bool = False

    def build(self) -> tuple[bytes, dict[str, tuple[int, ...]]]:
        """The model's bytes, the same everywhere, and the shapes of its inputs."""
        stem = self.name.rsplit("/", 1)[0]
        style = style_of(stem, least_opset=self.least_opset)
        if self.lists_weights:
            style = replace(style, has_listed_weights=True, has_constant_nodes=False)
        net = Net(stem, style)
        self.draw(net)
        if self.precision == "int8":
            to_qdq(net, CONV_KINDS if self.has_convs else MATRIX_KINDS)
        elif self.precision == "int8-dynamic":
            to_dynamic(net)
        elif self.precision == "w4":
            to_four_bits(net)
        elif self.precision == "w8":
            to_eight_bits(net)
        elif self.precision == "fp16":
            to_half(net)
        return encode(net), dict(net.input_shapes())
