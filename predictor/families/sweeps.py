"""How single operators are swept over sizes: a quasi-random design, the same on every machine.

Coordinates are Kronecker's sequence: point n has frac(shift + n sqrt(p)) on the axis of the prime p, which
covers a box evenly for every number of points.
"""

from __future__ import annotations

import math
import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from predictor.families.family import PRECISIONS, QUANTISED_OPSET, Drawing, Specimen
from predictor.families.layers import Net

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
_Item = TypeVar("_Item")


class Choices(ABC):
    """Sizes and variants of a model, one after the other; each call takes the next number in [0, 1)."""

    @abstractmethod
    def unit(self) -> float:
        """In [0, 1)."""

    def log(self, low: float, high: float) -> int:
        """A whole number, evenly spread in its logarithm."""
        return round(low * math.exp(math.log(high / low) * self.unit()))

    def pick(self, *options: _Item) -> _Item:
        """One of the options; name one twice to have it twice as often."""
        return options[int(self.unit() * len(options))]

    def channels(self, low: float, high: float) -> int:
        """Three in four are multiples of 8, as networks have them; the others are what they are."""
        count = self.log(low, high)
        return max(count // 8 * 8, 8) if self.unit() < 0.75 and count >= 6 else count


class Design(Choices):
    """One point of a design; each call takes the next axis."""

    def __init__(self, name: str, index: int) -> None:
        self._shift = zlib.crc32(name.encode()) / 2**32
        self._index = index
        self._axis = 0

    def unit(self) -> float:
        """In [0, 1)."""
        root = math.sqrt(_PRIMES[self._axis])
        self._axis += 1
        return (self._shift * self._axis + self._index * root) % 1.0


class Dice(Choices):
    """As many pseudo-random choices as a network needs; those of a name are the same on every machine."""

    def __init__(self, name: str) -> None:
        self._numbers = random.Random(name)

    def unit(self) -> float:
        """In [0, 1)."""
        return self._numbers.random()


Block = Callable[[Net, str, Choices], str]  # adds to a network, behind a tensor of it


def composed(net: Net, x: str, count: int, blocks: Sequence[Block], dice: Dice) -> str:
    """That many of the blocks behind each other, drawn at random."""
    for _ in range(count):
        x = dice.pick(*blocks)(net, x, dice)
    return x


@dataclass(frozen=True, slots=True)
class Point:
    """A sweep's model at one point of the design; `work` in steps of about 0.1 ns."""

    label: str
    draw: Drawing
    work: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """The first `count` points whose work lies in `bounds`; their precisions take turns in `precisions`
    (`predictor.families.family.PRECISIONS`).
    """

    name: str
    count: int
    propose: Callable[[Design], Point]
    precisions: str = "f"
    bounds: tuple[float, float] = (0.0, 4e8)
    least_opset: int = 11

    def specimens(self) -> list[Specimen]:
        """The design's first points that are within bounds and differ."""
        found: dict[str, Specimen] = {}
        index = 0
        while len(found) < self.count:
            point = self.propose(Design(self.name, index))
            index += 1
            if self.bounds[0] <= point.work <= self.bounds[1] and point.label not in found:
                precision = PRECISIONS[self.precisions[len(found) % len(self.precisions)]]
                found[point.label] = self._specimen(point, precision)
        return list(found.values())

    def at(self, index: int, precision: str) -> Specimen:
        """One point of the design, whatever the bounds."""
        return self._specimen(self.propose(Design(self.name, index)), precision)

    def _specimen(self, point: Point, precision: str) -> Specimen:
        least = self.least_opset if precision == "fp32" else max(self.least_opset, QUANTISED_OPSET)
        return Specimen(
            family=self.name,
            name=f"{self.name}/{point.label}/{precision}",
            precision=precision,
            is_sweep=True,
            draw=point.draw,
            least_opset=least,
            has_convs=True,
        )


def label(**sizes: int | str | Sequence[int]) -> str:
    """`m4-k64`: letters and sizes."""
    return "-".join(
        f"{key}{value}" if isinstance(value, int | str) else f"{key}{'x'.join(map(str, value))}"
        for key, value in sizes.items()
    )
