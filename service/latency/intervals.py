"""The interval of a measured median: Student's t over the rounds it was estimated from.

A measurement's standard error comes from the spread between rounds, so it has rounds - 1 degrees of
freedom. The quantile is found by bisection on the closed form of the distribution for whole degrees of
freedom (Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and 26.7.4).
"""

from __future__ import annotations

import math
from functools import lru_cache

_BISECTIONS = 60  # halvings of (0, pi/2): past double precision


def measured_interval(
    median_ms: float, standard_error_ms: float, *, round_count: int, coverage: float
) -> tuple[float, float] | None:
    """Lower and upper bound, in milliseconds, of the median that many such measurements would have; never
    below zero.

    None for fewer than two rounds: one round says nothing about the spread between rounds.
    """
    if round_count < 2:
        return None
    margin_ms = student_t(coverage, round_count - 1) * standard_error_ms
    return max(0.0, median_ms - margin_ms), median_ms + margin_ms


@lru_cache(maxsize=1024)
def student_t(coverage: float, degrees: int) -> float:
    """The t with P(-t < T < t) = coverage, for 0 < coverage < 1 and at least one degree of freedom."""
    low, high = 0.0, math.pi / 2
    for _ in range(_BISECTIONS):
        angle = (low + high) / 2
        if _central_probability(angle, degrees) < coverage:
            low = angle
        else:
            high = angle
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _central_probability(angle: float, degrees: int) -> float:
    """P(|T| < t) where angle = atan(t / sqrt(degrees))."""
    is_odd = degrees % 2 == 1
    if degrees == 1:
        return 2 * angle / math.pi
    cosine = math.cos(angle)
    term = cosine if is_odd else 1.0
    total = term
    for k in range(3 if is_odd else 2, degrees - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if is_odd else total
