"""Latencies against a limit and against each other, as pure functions of intervals.

A latency that is only known to lie within an interval can be said to be under a limit when the whole
interval is, and over it when no part is. Two latencies whose intervals share a value cannot be told apart at
that coverage, whichever median is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Fits(StrEnum):
    """Whether a latency is under a limit: `yes` and `no` when its whole interval says so, else
    `uncertain`.
    """

    YES = "yes"
    NO = "no"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds, `lower_ms <= median_ms <= upper_ms`; both bounds are None where nothing is known of
    them.
    """

    median_ms: float
    lower_ms: float | None
    upper_ms: float | None

    @property
    def relative_error(self) -> float | None:
        """Half the width of the interval over the median; None without an interval."""
        if self.lower_ms is None or self.upper_ms is None:
            return None
        return 0.5 * (self.upper_ms - self.lower_ms) / self.median_ms


@dataclass(frozen=True, slots=True)
class Place:
    """One position of an order. `index` is that of the latency in what was ranked; `overlaps_next` says
    that it and the next slower one cannot be told apart, None for the last and where an interval is missing.
    """

    index: int
    overlaps_next: bool | None


def fits_below(latency: Latency, limit_ms: float) -> Fits:
    """Whether a latency is below a limit, as far as its interval says. Without an interval nothing is
    certain.
    """
    if latency.lower_ms is None or latency.upper_ms is None:
        return Fits.UNCERTAIN
    if latency.upper_ms < limit_ms:
        return Fits.YES
    return Fits.NO if latency.lower_ms >= limit_ms else Fits.UNCERTAIN


def overlaps(one: Latency, other: Latency) -> bool | None:
    """Whether two intervals share a value; None where one is missing."""
    if one.lower_ms is None or one.upper_ms is None or other.lower_ms is None or other.upper_ms is None:
        return None
    return max(one.lower_ms, other.lower_ms) <= min(one.upper_ms, other.upper_ms)


def ranked(latencies: Sequence[Latency | None]) -> tuple[Place, ...]:
    """Fastest median first, equal ones in the order they were given; what has no latency has no place."""
    known = [(latency, index) for index, latency in enumerate(latencies) if latency is not None]
    known.sort(key=lambda pair: pair[0].median_ms)
    followers = [latency for latency, _ in known[1:]]
    places = [
        Place(index, overlaps(latency, follower))
        for (latency, index), follower in zip(known, followers, strict=False)
    ]
    return (*places, *(Place(index, None) for _, index in known[-1:]))
