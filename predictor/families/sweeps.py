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
from typing import NamedTuple, TypeVar

from predictor.families.family import PRECISIONS, QUANTISED_OPSET, Drawing, Specimen
from predictor.families.layers import Net

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
# Sizes relative to the power of two below, and what they are rounded to.
_ROUND = ((1.2, 1.0), (1.4, 1.25), (1.6, 1.5), (1.75, 1.75), (2.0, 2.0))
_Item = TypeVar("_Item")


class Choices(ABC):
    """Sizes and variants of a model, one after the other; each call takes the next number in [0, 1).
    `is_round`: sizes are such as people choose.
    """

    def __init__(self, *, is_round: bool) -> None:
        self.is_round = is_round

    @abstractmethod
    def unit(self) -> float:
        """In [0, 1)."""

    def log(self, low: float, high: float) -> int:
        """A whole number, evenly spread in its logarithm."""
        size = round(low * math.exp(math.log(high / low) * self.unit()))
        return self.rounded(size, high)

    def rounded(self, size: int, high: float = math.inf) -> int:
        """Where sizes are round, one nearby that is: a power of two in nearly half of all cases, else 5,
        6 or 7 times one.
        """
        if not self.is_round or size < 5:
            return size
        power = 2 ** int(math.log2(size))
        nearest = next(share for bound, share in _ROUND if size / power < bound)
        return int(power * nearest) if power * nearest <= high else power

    def pick(self, *options: _Item) -> _Item:
        """One of the options; name one twice to have it twice as often."""
        return options[int(self.unit() * len(options))]

    def channels(self, low: float, high: float) -> int:
        """Three in four are multiples of 8, as networks have them; the others are what they are."""
        count = self.log(low, high)
        return max(count // 8 * 8, 8) if self.unit() < 0.75 and count >= 6 else count


class Design(Choices):
    """One point of a design; each call takes the next axis."""

    def __init__(self, name: str, index: int, *, is_round: bool = False) -> None:
        super().__init__(is_round=is_round)
        self._shift = zlib.crc32(name.encode()) / 2**32
        self._index = index
        self._axis = 0

    def unit(self) -> float:
        """In [0, 1)."""
        root = math.sqrt(_PRIMES[self._axis])
        self._axis += 1
        return (self._shift * self._axis + self._index * root) % 1.0

    def dice(self, name: str) -> Dice:
        """For what is drawn at this point, with sizes as round as its own."""
        return Dice(name, is_round=self.is_round)


class Dice(Choices):
    """As many pseudo-random choices as a network needs; those of a name are the same on every machine."""

    def __init__(self, name: str, *, is_round: bool = False) -> None:
        super().__init__(is_round=is_round)
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


class Bounds(NamedTuple):
    """What a medley's blocks stay within: multiply-accumulates of one block, and numbers and channels of one
    activation.
    """

    macs: float
    numbers: float
    channels: int

    def filters(self, shape: Sequence[int], window: int = 1) -> float:
        """The most channels that a convolution of an image or a signal (B, C, ...) may have, keeping its
        places; `window`: elements of its filters.
        """
        batch, channels, *sizes = shape
        places = batch * math.prod(sizes)
        return min(self.macs / (places * channels * window), self.numbers / places, self.channels)

    def halved(self, channels: int, places: int) -> int:
        """Channels, as often halved as it takes for an image of so many places, all of its batch together;
        one at least.
        """
        while channels > 1 and places * channels > self.numbers:
            channels //= 2
        return channels


@dataclass(frozen=True, slots=True)
class Point:
    """A sweep's model at one point of the design; `work` in steps of about 0.1 ns."""

    label: str
    draw: Drawing
    work: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """The first `count` points whose work lies in `bounds`; their precisions take turns in `precisions`
    (`predictor.families.family.PRECISIONS`). `is_round`: the design's sizes are.
    `lists_weights`: as `predictor.families.family.Specimen` says.
    """

    name: str
    count: int
    propose: Callable[[Design], Point]
    precisions: str = "f"
    bounds: tuple[float, float] = (0.0, 4e8)
    least_opset: int = 11
    is_round: bool = False
    lists_weights: bool = False

    def specimens(self) -> list[Specimen]:
        """The design's first points that are within bounds and differ."""
        found: dict[str, Specimen] = {}
        index = 0
        while len(found) < self.count:
            point = self.propose(self._design(index))
            index += 1
            if self.bounds[0] <= point.work <= self.bounds[1] and point.label not in found:
                precision = PRECISIONS[self.precisions[len(found) % len(self.precisions)]]
                found[point.label] = self._specimen(point, precision)
        return list(found.values())

    def at(self, index: int, precision: str) -> Specimen:
        """One point of the design, whatever the bounds."""
        return self._specimen(self.propose(self._design(index)), precision)

    def _design(self, index: int) -> Design:
        return Design(self.name, index, is_round=self.is_round)

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
            lists_weights=self.lists_weights,
        )


def label(**sizes: int | str | Sequence[int]) -> str:
    """`m4-k64`: letters and sizes."""
    return "-".join(
        f"{key}{value}" if isinstance(value, int | str) else f"{key}{'x'.join(map(str, value))}"
        for key, value in sizes.items()
    )
