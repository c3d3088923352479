"""Judging the samples of a measurement: which rounds count, and which rules of its level do not hold.

A broken rule makes a measurement invalid, never an exception: the numbers are kept, with the reasons beside
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from devices.levels import Rules
from devices.measurement import Conditions, Estimate, Round, by_process
from devices.statistics import median, spread
from devices.target import Runtime
from devices.timing import NS_PER_S

ONE_THREAD_OCCUPANCY = 1 / 1.05  # processor time over wall time of a round; below it the round was preempted
MANY_THREAD_OCCUPANCY = 1 / 1.15  # relative to the usual round: several threads never keep busy all the time
MIN_KEPT_SHARE = 0.5  # of the rounds: discarding more would select, not clean
SHARED_ROUND = 1.15  # of the fastest round's median: beyond, something else ran on the accelerator


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict is given on. `is_settled`, `is_complete`: of all processes that ran."""

    runtime: Runtime
    max_duration_s: float
    rounds: Sequence[Round]
    estimate: Estimate
    process_count: int
    is_settled: bool
    is_complete: bool
    before: Conditions
    after: Conditions
    is_throttled: bool

    @property
    def counted(self) -> list[Round]:
        """The rounds that were not discarded."""
        return [r for r in self.rounds if r.discarded is None]


def discard_preempted(rounds: Sequence[Round], runtime: Runtime, *, min_samples: int) -> tuple[Round, ...]:
    """The same rounds, those marked whose runs did not get the processor, or not the accelerator alone.

    On one thread a run's processor time equals its wall time unless something else ran; several threads also
    wait for one another, so a round is compared with the median round. Runs on accelerators wait without
    using the processor, which tells nothing; an accelerator that serves several processes does so in slices,
    so there a round is compared with the fastest one. The rounds with the highest share stay in any case,
    half of all and as many as hold `min_samples`: where everything is disturbed, the verdict says so.
    """
    if runtime.provider != "cpu":
        fastest_ns = min(median(r.samples_ns) for r in rounds)
        shares = [fastest_ns / median(r.samples_ns) if fastest_ns else 1.0 for r in rounds]
        return _keep_best(rounds, shares, 1 / SHARED_ROUND, min_samples, _shared)
    if any(not r.cpu_ns for r in rounds):
        return tuple(rounds)
    shares = [occupancy(r) for r in rounds]
    limit = ONE_THREAD_OCCUPANCY if runtime.threads == 1 else MANY_THREAD_OCCUPANCY * median(shares)
    return _keep_best(rounds, shares, limit, min_samples, _preempted)


def _keep_best(
    rounds: Sequence[Round],
    shares: Sequence[float],
    limit: float,
    min_samples: int,
    reason: Callable[[float, float], str],
) -> tuple[Round, ...]:
    kept: set[int] = set()
    sample_count = 0
    for index in sorted(range(len(rounds)), key=lambda index: -shares[index]):
        if shares[index] >= limit or len(kept) < MIN_KEPT_SHARE * len(rounds) or sample_count < min_samples:
            kept.add(index)
            sample_count += len(rounds[index].samples_ns)
    return tuple(
        r if index in kept else r.model_copy(update={"discarded": reason(shares[index], limit)})
        for index, r in enumerate(rounds)
    )


def occupancy(one: Round) -> float:
    """Processor time over wall time of a round's samples: 1 is one thread that was never interrupted."""
    wall_ns = sum(one.samples_ns)
    return sum(one.cpu_ns) / wall_ns if wall_ns else 1.0


def covered_span_s(rounds: Sequence[Round]) -> float:
    """Time that the rounds cover: in each process from its first round's start to its last round's end, added
    up.
    """
    spans_ns = (
        own[-1].started_at_ns + sum(own[-1].samples_ns) - own[0].started_at_ns
        for own in by_process(rounds).values()
    )
    return sum(spans_ns) / NS_PER_S


def broken_rules(rules: Rules, evidence: Evidence) -> tuple[str, ...]:
    """Each rule of the level that does not hold, as `code: values, bound, remedy`."""
    return (
        *_amount_reasons(rules, evidence),
        *_spread_reasons(rules, evidence),
        *_process_reasons(rules, evidence),
        *_machine_reasons(rules, evidence),
    )


def _amount_reasons(rules: Rules, evidence: Evidence) -> list[str]:
    reasons: list[str] = []
    if evidence.process_count < rules.processes or not evidence.is_complete:
        remedy = (
            f"the time limit of {evidence.max_duration_s:g} s ended the measurement, raise max_duration_s"
        )
    else:
        remedy = "too many rounds were disturbed, measure again on a quieter machine"
    count, span_s = evidence.estimate.sample_count, covered_span_s(evidence.rounds)
    if count < rules.min_samples:
        reasons.append(f"too_few_samples: {count} count, the level asks for {rules.min_samples}; {remedy}")
    if span_s < rules.min_span_s:
        asked = f"the level asks for {rules.min_span_s:g} s"
        reasons.append(f"too_short: the rounds cover {span_s:.2f} s, {asked}; {remedy}")
    if rules.warmup_windows > 1 and not evidence.is_settled:
        reasons.append(
            f"not_warm: no {rules.warmup_windows} consecutive warm-up windows agreed within 10 %; "
            "the machine is disturbed, or the time limit left too little for warming up"
        )
    return reasons


def _spread_reasons(rules: Rules, evidence: Evidence) -> list[str]:
    reasons: list[str] = []
    estimate = evidence.estimate
    fraction = estimate.mad_ms / estimate.median_ms if estimate.median_ms else 0.0
    if rules.max_mad_fraction is not None and fraction > rules.max_mad_fraction:
        reasons.append(
            f"unstable: the median absolute deviation is {fraction:.0%} of the median, "
            f"the limit is {rules.max_mad_fraction:.0%}; measure again on a quieter machine"
        )
    if evidence.runtime.provider != "cpu":
        reasons += _sharing_reasons(evidence.counted)
    share = median_occupancy(estimate, evidence.runtime)
    if share is not None and share < rules.min_occupancy:
        reasons.append(
            f"preempted: the median run got {share:.0%} of one processor core, "
            f"at least {rules.min_occupancy:.0%} is needed; stop what else runs on the machine"
        )
    return reasons


def _sharing_reasons(counted: Sequence[Round]) -> list[str]:
    """More than half of the rounds were disturbed: some of those count, and are slower than the fastest."""
    medians_ns = [median(r.samples_ns) for r in counted]
    slowest = max(medians_ns) / max(min(medians_ns), 1)
    if slowest <= SHARED_ROUND:
        return []
    return [
        f"shared: in one of the rounds that count the median run took {slowest:.2f} times what it took in "
        f"another, the limit is {SHARED_ROUND:g}; stop what else runs on the accelerator"
    ]


def median_occupancy(estimate: Estimate, runtime: Runtime) -> float | None:
    """Share of one core that the median run got: a few interrupted runs do not move it.

    None where it says nothing: several threads wait for one another, accelerators for the host.
    """
    if runtime.provider != "cpu" or runtime.threads != 1:
        return None
    if estimate.cpu_median_ms is None or not estimate.median_ms:
        return None
    return estimate.cpu_median_ms / estimate.median_ms


def _process_reasons(rules: Rules, evidence: Evidence) -> list[str]:
    if rules.max_disagreement is None:
        return []
    medians = [
        median(list(chain.from_iterable(r.samples_ns for r in own)))
        for own in by_process(evidence.counted).values()
    ]
    if len(medians) < rules.processes:
        return [f"one_process: {len(medians)} of {rules.processes} processes count; raise max_duration_s"]
    if (apart := spread(medians)) > rules.max_disagreement:
        return [
            f"processes_disagree: the medians of {len(medians)} fresh processes lie {apart:.1%} apart, "
            f"the limit is {rules.max_disagreement:.0%}; measure again on a quieter machine"
        ]
    return []


def _machine_reasons(rules: Rules, evidence: Evidence) -> list[str]:
    if not rules.must_not_throttle:
        return []
    before, after = evidence.before, evidence.after
    reasons: list[str] = []
    if evidence.is_throttled:
        reasons.append("throttled: the processor was slowed down to cool; let it cool, or cool it better")
    if (before.governor, before.affinity) != (after.governor, after.affinity):
        reasons.append(
            "conditions_changed: governor or affinity differ between before and after; keep them fixed"
        )
    return reasons


def _shared(share: float, limit: float) -> str:
    times = f"{1 / share:.2f} times that of the fastest round"
    return f"shared: the median run took {times}, at most {1 / limit:.2f} expected"


def _preempted(share: float, limit: float) -> str:
    return f"preempted: {share:.2f} s of processor time per second, at least {limit:.2f} expected"
