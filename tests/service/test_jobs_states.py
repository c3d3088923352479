"""The job's life as a table, worked by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from service.jobs import states
from service.jobs.states import JobState, StaleWrite, Status

QUEUED, LEASED, RUNNING, CANCELLING, SUCCEEDED, FAILED, CANCELLED = JobState
LIVE = (LEASED, RUNNING, CANCELLING)
ENDED = (SUCCEEDED, FAILED, CANCELLED)


def status(state: JobState, *, attempt: int = 1, has_result: bool = False) -> Status:
    return Status(state=state, fence=7, attempt=attempt, max_attempts=3, has_result=has_result)


WRITES = {
    "start": lambda s, f: states.start(s, f),
    "renew": lambda s, f: states.renew(s, f),
    "checkpoint": lambda s, f: states.renew(s, f, has_progressed=True),
    "complete": lambda s, f: states.complete(s, f),
    "fail": lambda s, f: states.fail(s, f, is_retryable=False),
    "retry": lambda s, f: states.fail(s, f, is_retryable=True),
    "park": lambda s, f: states.park(s, f),
}

# write -> the states it leads to from leased, running, cancelling; the ends from which it may be repeated
TABLE = {
    "start": ((RUNNING, RUNNING, CANCELLING), ENDED),
    "renew": ((LEASED, RUNNING, CANCELLING), ENDED),
    "checkpoint": ((LEASED, RUNNING, CANCELLING), ENDED),
    "complete": ((SUCCEEDED, SUCCEEDED, CANCELLED), ()),  # with its result, below
    "fail": ((FAILED, FAILED, CANCELLED), (FAILED, CANCELLED)),
    "retry": ((QUEUED, QUEUED, CANCELLED), (FAILED, CANCELLED)),
    "park": ((QUEUED, QUEUED, CANCELLED), ()),
}


@pytest.mark.parametrize("write", TABLE)
def test_writes_of_the_holder(write: str) -> None:
    outcomes, harmless = TABLE[write]
    for before, after in zip(LIVE, outcomes, strict=True):
        assert WRITES[write](status(before), 7).state is after
    for ended in ENDED:
        if ended in harmless:
            assert WRITES[write](status(ended), 7) == status(ended)
        else:
            with pytest.raises(StaleWrite):
                WRITES[write](status(ended), 7)


@pytest.mark.parametrize(("write", "state"), list(itertools.product(WRITES, JobState)))
def test_writes_of_anybody_else_are_refused(write: str, state: JobState) -> None:
    for fence in (6, 8):
        with pytest.raises(StaleWrite, match=f"fence {fence} is lost"):
            WRITES[write](status(state, has_result=True), fence)


@pytest.mark.parametrize("write", WRITES)
def test_nobody_writes_to_a_queued_job(write: str) -> None:
    with pytest.raises(StaleWrite):
        WRITES[write](status(QUEUED), 7)


def test_claim_raises_fence_and_attempt() -> None:
    claimed = states.claim(status(QUEUED, attempt=0))
    assert (claimed.state, claimed.fence, claimed.attempt) == (LEASED, 8, 1)


def test_claim_of_a_waiting_job_is_a_bug() -> None:
    with pytest.raises(ValueError, match="waits for 2 children"):
        states.claim(replace(status(QUEUED), waiting_for=2))


def test_complete_is_accepted_once_and_repeated_harmlessly() -> None:
    done = states.complete(status(RUNNING), 7)
    assert done == status(SUCCEEDED, has_result=True)
    assert states.complete(done, 7) == done
    kept = states.complete(status(CANCELLING), 7)
    assert kept == status(CANCELLED, has_result=True)
    assert states.complete(kept, 7) == kept


@pytest.mark.parametrize("state", [LEASED, RUNNING])
def test_attempts_are_bounded(state: JobState) -> None:
    assert [states.expire(status(state, attempt=n)).state for n in (1, 2, 3, 4)] == [
        QUEUED,
        QUEUED,
        FAILED,
        FAILED,
    ]
    assert states.expire(status(CANCELLING)).state is CANCELLED


def test_progress_forgives_attempts() -> None:
    assert states.renew(status(RUNNING, attempt=3), 7).attempt == 3
    assert states.renew(status(RUNNING, attempt=3), 7, has_progressed=True).attempt == 1
    assert states.park(status(RUNNING, attempt=3), 7).attempt == 0


def test_cancel() -> None:
    outcomes = {state: states.cancel(status(state)).state for state in JobState}
    assert outcomes == {
        QUEUED: CANCELLED,
        LEASED: CANCELLING,
        RUNNING: CANCELLING,
        CANCELLING: CANCELLING,
        SUCCEEDED: SUCCEEDED,
        FAILED: FAILED,
        CANCELLED: CANCELLED,
    }


def test_pauses_double_up_to_five_minutes() -> None:
    assert [states.retry_delay_s(n) for n in (1, 2, 3, 7, 8, 9, 1000)] == [2, 4, 8, 128, 256, 300, 300]
