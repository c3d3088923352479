"""How long to wait before trying again: capped exponential back-off with jitter, after AWS's "equal jitter"
(M. Brooker, "Exponential Backoff And Jitter", 2015): agents that lost their server together must not come
back together.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The first delay and the longest, in seconds, before jitter."""

    first_s: float = 1.0
    cap_s: float = 30.0


class Backoff:
    """The delays of one series of tries."""

    def __init__(self, policy: RetryPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._failures = 0

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Seconds to wait after another failure: between half and all of the doubled delay, and no less than
        was asked for.

        What the server asks for (`Retry-After`) is capped too, so that a mistaken answer cannot stop the
        agent for a day.
        """
        delay = min(self._policy.cap_s, self._policy.first_s * 2.0 ** min(self._failures, 60))
        self._failures += 1
        jittered = delay * (0.5 + 0.5 * self._rng.random())
        return max(jittered, min(at_least_s, self._policy.cap_s))

    def reset(self) -> None:
        """After a success: the next failure starts a new series."""
        self._failures = 0
