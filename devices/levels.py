"""What each level of measurement asks for, and how it goes about it.

| level | asks for | used for |
|---|---|---|
| quick | 10 samples over 0.3 s, the processor 70 % of the time | training predictors, onboarding |
| standard | 64 samples over 2 s once warm; deviation (MAD) within 15 % of the median; p90 | answers, fronts |
| certified | 662 samples over 60 s, two processes within 5 %, no throttling; p90, p99 | gates, publishing |

The rules follow MLPerf (conservative percentiles, their sample counts) and perf_analyzer (windows that
agree); why rounds, why several processes and why the median is in `docs/measuring.md`, with numbers.

Speed differs between processes as much as it drifts within one (on a shared virtual machine by some 4 %,
nearly independent from process to process), so many short processes tell more than one long one. How many
standard takes depends on the machine: a quiet one is done after the least number, a noisy one goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from devices.measurement import Level


@dataclass(frozen=True, slots=True)
class Rules:
    """What a level asks for, and how it goes about it. Percentiles are fractions; None: no such rule."""

    min_samples: int
    min_span_s: float
    processes: int  # at least so many fresh ones, one after the other,
    max_processes: int  # and up to so many, until the standard error is within the target
    rounds: int  # per process
    span_s: float  # of the rounds of one process
    duty: float  # share of the span that samples fill, where the model is fast
    warmup_windows: int
    min_occupancy: float  # processor time over wall time of the median run, on one thread
    percentiles: tuple[float, ...] = ()
    target_error: float | None = None  # of the median, as a fraction of it
    max_mad_fraction: float | None = None
    max_disagreement: float | None = None  # between the medians of the processes
    must_not_throttle: bool = False


RULES = {
    Level.QUICK: Rules(
        min_samples=10, min_span_s=0.3, processes=1, max_processes=3, rounds=6, span_s=0.9, duty=0.5,
        warmup_windows=1, min_occupancy=0.7, target_error=0.03,
    ),
    Level.STANDARD: Rules(
        min_samples=64, min_span_s=2.0, processes=4, max_processes=8, rounds=4, span_s=0.8, duty=0.6,
        warmup_windows=3, min_occupancy=0.9, percentiles=(0.9,), target_error=0.01, max_mad_fraction=0.15,
    ),
    Level.CERTIFIED: Rules(
        min_samples=662, min_span_s=60.0, processes=2, max_processes=2, rounds=60, span_s=33.0, duty=0.8,
        warmup_windows=3, min_occupancy=0.9, percentiles=(0.9, 0.99), max_mad_fraction=0.15,
        max_disagreement=0.05, must_not_throttle=True,
    ),
}  # fmt: skip
