"""The life of a job, as functions of values. No clock, no database: `service.jobs.queue` applies what is
decided here.

    queued ──claim──▶ leased ──start──▶ running ──complete──▶ succeeded
       ▲                 │                 ├──────fail───────▶ failed
       └─── park, retry, expiry ───────────┤
                         └─────cancel──────┴─▶ cancelling ──any end──▶ cancelled

Every state between queued and the end has a lease deadline. A claim raises the fence, and whoever writes
states the fence he was given: an old one is refused (`StaleWrite`), because somebody else holds the job or
nobody does. A write that repeats what was accepted, and a renewal after the end, change nothing and are
answered with the job as it stands: messages are delivered at least once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    LEASED = "leased"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_live(self) -> bool:
        """Whether somebody holds a lease on it."""
        return self in _LIVE

    @property
    def is_ended(self) -> bool:
        """Whether nothing will ever change it."""
        return self in _ENDED


class Act(StrEnum):
    """What can happen to a job."""

    CLAIM = "claim"
    START = "start"
    RENEW = "renew"
    COMPLETE = "complete"
    FAIL = "fail"  # finally
    RETRY = "retry"  # failed or lost its holder, and may be tried again
    PARK = "park"
    CANCEL = "cancel"


class JobKind(StrEnum):
    """Who does it: an agent measures, a worker adapts and searches."""

    PROFILE = "profile"
    ADAPT = "adapt"
    SEARCH = "search"


_LIVE = frozenset({JobState.LEASED, JobState.RUNNING, JobState.CANCELLING})
_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

TRANSITIONS = MappingProxyType(
    {
        (JobState.QUEUED, Act.CLAIM): JobState.LEASED,
        (JobState.QUEUED, Act.CANCEL): JobState.CANCELLED,
        (JobState.LEASED, Act.START): JobState.RUNNING,
        (JobState.LEASED, Act.RENEW): JobState.LEASED,
        (JobState.LEASED, Act.COMPLETE): JobState.SUCCEEDED,
        (JobState.LEASED, Act.FAIL): JobState.FAILED,
        (JobState.LEASED, Act.RETRY): JobState.QUEUED,
        (JobState.LEASED, Act.PARK): JobState.QUEUED,
        (JobState.LEASED, Act.CANCEL): JobState.CANCELLING,
        (JobState.RUNNING, Act.START): JobState.RUNNING,
        (JobState.RUNNING, Act.RENEW): JobState.RUNNING,
        (JobState.RUNNING, Act.COMPLETE): JobState.SUCCEEDED,
        (JobState.RUNNING, Act.FAIL): JobState.FAILED,
        (JobState.RUNNING, Act.RETRY): JobState.QUEUED,
        (JobState.RUNNING, Act.PARK): JobState.QUEUED,
        (JobState.RUNNING, Act.CANCEL): JobState.CANCELLING,
        (
            JobState.CANCELLING,
            Act.START,
        ): JobState.CANCELLING,  # the holder learns of the cancel from the answer
        (JobState.CANCELLING, Act.RENEW): JobState.CANCELLING,
        (JobState.CANCELLING, Act.COMPLETE): JobState.CANCELLED,  # the result is kept with the job
        (JobState.CANCELLING, Act.FAIL): JobState.CANCELLED,
        (JobState.CANCELLING, Act.RETRY): JobState.CANCELLED,
        (JobState.CANCELLING, Act.PARK): JobState.CANCELLED,
        (JobState.CANCELLING, Act.CANCEL): JobState.CANCELLING,
    }
)

RETRY_BASE_S = 2.0
RETRY_LIMIT_S = 300.0


class StaleWrite(Exception):
    """The writer holds this job no longer."""


@dataclass(frozen=True, slots=True)
class Status:
    """The part of a job that decides what may happen to it."""

    state: JobState
    fence: int
    attempt: int
    max_attempts: int
    waiting_for: int = 0
    has_result: bool = False


def claim(status: Status) -> Status:
    """Somebody takes a queued job that waits for nothing."""
    if status.waiting_for:
        raise ValueError(f"a job that waits for {status.waiting_for} children cannot be claimed")
    claimed = replace(status, fence=status.fence + 1, attempt=status.attempt + 1)
    return _moved(claimed, Act.CLAIM)


def start(status: Status, fence: int) -> Status:
    """The holder begins. Repeating it, or saying it after the end, changes nothing."""
    return _kept(status, fence) or _moved(status, Act.START)


def renew(status: Status, fence: int, *, has_progressed: bool = False) -> Status:
    """The holder is alive; `has_progressed` (a checkpoint was stored) forgives the attempts made so far."""
    kept = _kept(status, fence)
    if kept is not None:
        return kept
    renewed = _moved(status, Act.RENEW)
    return replace(renewed, attempt=1) if has_progressed else renewed


def complete(status: Status, fence: int) -> Status:
    """The holder has a result. Repeating it is harmless; after any other end it is refused."""
    if status.state.is_ended and status.fence == fence and status.has_result:
        return status
    return replace(_moved(_held(status, fence), Act.COMPLETE), has_result=True)


def fail(status: Status, fence: int, *, is_retryable: bool) -> Status:
    """The holder gives up. Only what can succeed on retry is tried again, and only so often."""
    if status.fence == fence and status.state in {JobState.FAILED, JobState.CANCELLED}:
        return status
    return _given_up(_held(status, fence), is_retryable=is_retryable)


def expire(status: Status) -> Status:
    """The holder was not heard of until the lease ran out, or is known to be gone."""
    return _given_up(status, is_retryable=True)


def park(status: Status, fence: int) -> Status:
    """The holder hands the job back until its children have ended; that is progress, so attempts are
    forgiven.
    """
    return replace(_moved(_held(status, fence), Act.PARK), attempt=0)


def cancel(status: Status) -> Status:
    """Somebody wants the job no longer: at once if nobody holds it, else when its holder hears of it."""
    return status if status.state.is_ended else _moved(status, Act.CANCEL)


def retry_delay_s(attempt: int) -> float:
    """How long to wait after the given attempt failed: 2, 4, 8 ... at most 300 seconds."""
    return min(RETRY_LIMIT_S, RETRY_BASE_S * 2.0 ** min(attempt - 1, 30))


def _given_up(status: Status, *, is_retryable: bool) -> Status:
    can_retry = is_retryable and status.attempt < status.max_attempts
    return _moved(status, Act.RETRY if can_retry else Act.FAIL)


def _kept(status: Status, fence: int) -> Status | None:
    """The status itself where the writer's job has ended; None where he still holds it."""
    if status.state.is_ended and status.fence == fence:
        return status
    _held(status, fence)
    return None


def _held(status: Status, fence: int) -> Status:
    if status.fence != fence or not status.state.is_live:
        raise StaleWrite(
            f"the lease with fence {fence} is lost: the job is {status.state} with fence {status.fence}"
        )
    return status


def _moved(status: Status, act: Act) -> Status:
    return replace(status, state=TRANSITIONS[status.state, act])
