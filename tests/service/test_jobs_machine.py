"""The queue against a small model of what it should do, driven by Hypothesis, on both databases.

The model knows nothing of SQL, of `service.jobs.states` or of events; it is the description of HOUSE's job
rules in plain Python. Every write that the queue offers is tried with every lease that was ever given,
current or stale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update

from service.db.clock import now_plus
from service.db.session import Database
from service.db.tables import Device, Job, JobEvent, Project, Target
from service.errors import Conflict, LeaseLost
from service.jobs import queue
from service.jobs.queue import Lease

LIVE = {"leased", "running", "cancelling"}
ENDED = {"succeeded", "failed", "cancelled"}
DEVICES = ("dev_a", "dev_b")
HOLDERS = ("ann", "bob", "cid")
MAX_ATTEMPTS = 2


@dataclass
class Expected:
    """What the model knows of one job."""

    id: str
    device: str | None
    parent: Expected | None
    kind: str
    state: str = "queued"
    fence: int = 0
    attempt: int = 0
    is_expired: bool = False
    is_backing_off: bool = False
    holder: str = ""  # the last one
    has_result: bool = False
    children: list[Expected] = field(default_factory=list)

    @property
    def waiting_for(self) -> int:
        return sum(child.state not in ENDED for child in self.children)

    def is_held_under(self, fence: int) -> bool:
        return self.state in LIVE and self.fence == fence

    def end(self, state: str) -> None:
        self.state, self.is_expired = state, False
        for child in self.children:
            child.stop()

    def stop(self) -> None:
        """Cancelled from outside."""
        if self.state == "queued":
            self.end("cancelled")
        elif self.state in LIVE:
            self.state = "cancelling"
            for child in self.children:
                child.stop()

    def give_up(self, *, can_retry: bool) -> None:
        if self.state == "cancelling":
            self.end("cancelled")
        elif can_retry and self.attempt < MAX_ATTEMPTS:
            self.state, self.is_expired = "queued", False
        else:
            self.end("failed")


class JobsMachine(RuleBasedStateMachine):
    """Submit, claim, write, expire and cancel in any order."""

    leases = Bundle("leases")

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.jobs: dict[str, Expected] = {}
        self.histories: dict[str, list[tuple[int, str]]] = {}

    def teardown(self) -> None:
        with self.database.write() as session:
            session.execute(delete(JobEvent))
            session.execute(delete(Job).where(Job.parent_id.is_not(None)))
            session.execute(delete(Job))

    # -- submitting

    def _submit(
        self, session: Any, kind: str, device: str | None = None, parent: Expected | None = None
    ) -> Expected:
        job = queue.submit(
            session,
            project_id="prj_1",
            kind=kind,
            payload={},
            device_id=device,
            target_id=device and f"tgt_{device}",
            parent_id=parent and parent.id,
            max_attempts=MAX_ATTEMPTS,
        )
        made = Expected(job.id, device, parent, kind)
        if parent is not None:
            parent.children.append(made)
        self.jobs[job.id] = made
        return made

    def has_room(self) -> bool:
        """Few jobs at a time, so that much happens to each."""
        return sum(job.state not in ENDED for job in self.jobs.values()) < 5

    @precondition(has_room)
    @rule(device=st.sampled_from(DEVICES))
    def submit_profile(self, device: str) -> None:
        with self.database.write() as session:
            self._submit(session, "profile", device)

    @rule(
        children=st.integers(0, 3), device=st.sampled_from(DEVICES), kind=st.sampled_from(["adapt", "search"])
    )
    def submit_family(self, children: int, device: str, kind: str) -> None:
        with self.database.write() as session:
            parent = self._submit(session, kind)
            for _ in range(children):
                self._submit(session, "profile", device, parent)

    @rule(lease=leases, device=st.sampled_from(DEVICES))
    def submit_child(self, lease: Lease, device: str) -> None:
        parent = self.jobs[lease.job_id]
        if parent.parent is not None or parent.device is not None:
            return
        if parent.state in ENDED:
            with pytest.raises(Conflict, match="no more children"), self.database.write() as session:
                queue.submit(session, project_id="prj_1", kind="profile", payload={}, parent_id=parent.id)
        else:
            with self.database.write() as session:
                self._submit(session, "profile", device, parent)

    # -- claiming

    def _model_reap(self) -> int:
        expired = [job for job in self.jobs.values() if job.is_expired]
        for job in sorted(expired, key=lambda job: (job.parent.id if job.parent else job.id, job.id)):
            if job.state in LIVE:  # a parent's end leaves live children live, so each is given up once
                job.give_up(can_retry=True)
        return len(expired)

    def _model_claim(self, kinds: set[str], device: str | None) -> Expected | None:
        busy = {job.device for job in self.jobs.values() if job.state in LIVE and job.device}
        ready = [
            job
            for job in self.jobs.values()
            if job.state == "queued"
            and job.kind in kinds
            and job.device == device
            and job.device not in busy
            and not job.waiting_for
            and not job.is_backing_off
        ]
        return min(ready, key=lambda job: job.id, default=None)

    @rule(target=leases, holder=st.sampled_from(HOLDERS), device=st.sampled_from([None, *DEVICES]))
    def claim(self, holder: str, device: str | None) -> Any:
        kinds = {"profile"} if device else {"adapt", "search"}
        self._model_reap()
        expected = self._model_claim(kinds, device)
        with self.database.write() as session:
            job = queue.claim(session, kinds=kinds, holder=holder, lease_s=60.0, device_id=device)
            lease = None if job is None else queue.lease_of(job)
        assert (lease and lease.job_id) == (expected and expected.id)
        if expected is None or lease is None:
            return multiple()
        expected.state, expected.fence, expected.attempt = "leased", expected.fence + 1, expected.attempt + 1
        expected.holder = holder
        assert lease == Lease(expected.id, holder, expected.fence)
        return lease

    # -- writing under a lease, current or stale

    def _write(self, lease: Lease, write: Any, *, is_accepted: bool) -> None:
        if is_accepted:
            with self.database.write() as session:
                write(session)
        else:
            with pytest.raises(LeaseLost), self.database.write() as session:
                write(session)

    def _is_heard(self, lease: Lease) -> bool:
        """Whether its start or renewal is answered: while it holds the job, and harmlessly after the end."""
        job = self.jobs[lease.job_id]
        return job.fence == lease.fence and job.state != "queued"

    @rule(lease=leases)
    def start(self, lease: Lease) -> None:
        job = self.jobs[lease.job_id]
        self._write(lease, lambda session: queue.start(session, lease), is_accepted=self._is_heard(lease))
        if job.is_held_under(lease.fence) and job.state == "leased":
            job.state = "running"

    @rule(lease=leases, progress=st.sampled_from([None, 0.25, 0.5]), is_checkpoint=st.booleans())
    def renew(self, lease: Lease, progress: float | None, is_checkpoint: bool) -> None:
        job = self.jobs[lease.job_id]

        def write(session: Any) -> None:
            if is_checkpoint:
                queue.checkpoint(session, lease, lease_s=60.0, progress=progress or 0.0)
            else:
                queue.renew(session, lease, lease_s=60.0, progress=progress)

        self._write(lease, write, is_accepted=self._is_heard(lease))
        if job.is_held_under(lease.fence):
            job.is_expired = False
            job.attempt = 1 if is_checkpoint else job.attempt

    @rule(lease=leases)
    def complete(self, lease: Lease) -> None:
        job = self.jobs[lease.job_id]
        is_held = job.is_held_under(lease.fence)
        is_repeated = job.state in ENDED and job.fence == lease.fence and job.has_result
        self._write(lease, lambda s: queue.complete(s, lease, {"n": 1}), is_accepted=is_held or is_repeated)
        if is_held:
            job.has_result = True
            job.end("cancelled" if job.state == "cancelling" else "succeeded")

    @rule(lease=leases, is_retryable=st.booleans())
    def fail(self, lease: Lease, is_retryable: bool) -> None:
        job = self.jobs[lease.job_id]
        is_held = job.is_held_under(lease.fence)
        is_repeated = job.state in {"failed", "cancelled"} and job.fence == lease.fence
        self._write(
            lease,
            lambda s: queue.fail(s, lease, code="crashed", detail="by the test", is_retryable=is_retryable),
            is_accepted=is_held or is_repeated,
        )
        if is_held:
            job.give_up(can_retry=is_retryable)
            job.is_backing_off = job.state == "queued"

    @rule(lease=leases)
    def park(self, lease: Lease) -> None:
        job = self.jobs[lease.job_id]
        is_held = job.is_held_under(lease.fence)
        self._write(lease, lambda session: queue.park(session, lease, progress=0.5), is_accepted=is_held)
        if is_held:
            job.attempt = 0
            if job.state == "cancelling":
                job.end("cancelled")
            else:
                job.state, job.is_expired = "queued", False

    @rule(lease=leases)
    def hold(self, lease: Lease) -> None:
        self._write(lease, lambda session: queue.hold(session, lease), is_accepted=self._is_heard(lease))

    # -- the world outside

    @rule(lease=consumes(leases))
    def cancel(self, lease: Lease) -> None:
        self._cancel(lease.job_id)

    @rule(data=st.data())
    def cancel_any(self, data: st.DataObject) -> None:
        if self.jobs:
            self._cancel(data.draw(st.sampled_from(sorted(self.jobs))))

    def _cancel(self, job_id: str) -> None:
        with self.database.write() as session:
            queue.cancel(session, project_id="prj_1", job_id=job_id)
        self.jobs[job_id].stop()

    @rule(lease=leases)
    def let_lease_run_out(self, lease: Lease) -> None:
        job = self.jobs[lease.job_id]
        with self.database.write() as session:
            is_live = (Job.id == job.id, Job.lease_until.is_not(None))
            session.execute(update(Job).where(*is_live).values(lease_until=now_plus(-1.0)))
        job.is_expired = job.state in LIVE

    @rule(holder=st.sampled_from(HOLDERS), device=st.sampled_from(DEVICES))
    def leave(self, holder: str, device: str) -> None:
        held = [
            job
            for job in self.jobs.values()
            if job.state in LIVE and (job.holder, job.device) == (holder, device)
        ]
        for job in held:
            job.give_up(can_retry=True)
        with self.database.write() as session:
            assert queue.release(session, holder=holder, device_id=device) == len(held)

    @rule()
    def let_pauses_pass(self) -> None:
        with self.database.write() as session:
            session.execute(update(Job).where(Job.not_before.is_not(None)).values(not_before=now_plus(-1.0)))
        for job in self.jobs.values():
            job.is_backing_off = False

    @rule()
    def reap(self) -> None:
        expected = self._model_reap()
        with self.database.write() as session:
            assert queue.reap(session) == expected

    # -- what always holds

    @invariant()
    def rows_are_as_expected(self) -> None:
        with self.database.read() as session:
            rows = {row.id: row for row in session.scalars(select(Job))}
        assert rows.keys() == self.jobs.keys()
        for job in self.jobs.values():
            row = rows[job.id]
            seen = (row.state, row.fence, row.attempt, row.waiting_for, row.result is not None)
            assert seen == (job.state, job.fence, job.attempt, job.waiting_for, job.has_result), job.id
            assert (row.lease_until is not None) == (row.state in LIVE) == (row.holder is not None)
            assert (row.finished_at is not None) == (row.state in ENDED)
            assert (row.failure_code is not None) == (row.state == "failed")

    @invariant()
    def a_device_does_one_thing(self) -> None:
        with self.database.read() as session:
            busy = session.scalars(
                select(Job.device_id).where(Job.state.in_(LIVE), Job.device_id.is_not(None))
            ).all()
        assert len(busy) == len(set(busy))

    @invariant()
    def no_parent_ends_before_its_queued_children(self) -> None:
        for job in self.jobs.values():
            assert not (job.state in ENDED and any(child.state == "queued" for child in job.children))

    @invariant()
    def histories_only_grow(self) -> None:
        with self.database.read() as session:
            rows = session.execute(
                select(JobEvent.job_id, JobEvent.seq, JobEvent.type).order_by(JobEvent.seq)
            ).all()
        found: dict[str, list[tuple[int, str]]] = {job_id: [] for job_id in self.jobs}
        for job_id, seq, type in rows:
            found[job_id].append((seq, type))
        for job_id, history in found.items():
            assert [seq for seq, _ in history] == list(range(1, len(history) + 1))
            before = self.histories.get(job_id, [])
            assert history[: len(before)] == before
            ends = [type for _, type in history if type in ENDED]
            assert ends == ([self.jobs[job_id].state] if self.jobs[job_id].state in ENDED else [])
            assert not ends or history[-1][1] == ends[0]
        self.histories = found


def test_queue_does_what_the_model_does(database: Database) -> None:
    with database.write() as session:
        session.add(Project(id="prj_1", name="one"))
        session.flush()
        for device in DEVICES:
            session.add(Device(id=device, project_id="prj_1", key=device, fingerprint=device, hardware={}))
        session.flush()
        for device in DEVICES:
            target = f"tgt_{device}"
            session.add(
                Target(
                    id=target,
                    project_id="prj_1",
                    device_id=device,
                    key=target,
                    runtime={},
                    state="onboarding",
                )
            )
    run_state_machine_as_test(
        lambda: JobsMachine(database),
        settings=hypothesis_settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
