"""The queue where many use it at once, and what the model leaves out: times, events, locks."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from fleet_rows import add_project, add_target
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.db.clock import now_plus
from service.db.session import Database
from service.db.tables import Job, JobEvent
from service.errors import LeaseLost, NotFound
from service.jobs import queue, rows
from service.jobs.queue import Lease


@pytest.fixture
def project(database: Database) -> str:
    with database.write() as session:
        return add_project(session)


def submit_search(database: Database, project: str, *, max_attempts: int = 3) -> str:
    with database.write() as session:
        return queue.submit(
            session, project_id=project, kind="search", payload={}, max_attempts=max_attempts
        ).id


def claimed(database: Database, holder: str = "ann", *, device_id: str | None = None) -> Lease | None:
    kinds = ["adapt", "search"] if device_id is None else ["profile"]
    with database.write() as session:
        job = queue.claim(session, kinds=kinds, holder=holder, lease_s=30, device_id=device_id)
        return None if job is None else queue.lease_of(job)


def held(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


def stored(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return session.get_one(Job, job_id)


def events(database: Database, job_id: str) -> list[tuple[str, dict[str, object]]]:
    with database.read() as session:
        rows = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)).all()
    return [(row.type, row.data) for row in rows]


def run_at_once(act: Callable[[int], None], count: int) -> None:
    """In threads that start together; raises what the first of them raised."""
    barrier, failures = threading.Barrier(count), []

    def run(number: int) -> None:
        barrier.wait()
        try:
            act(number)
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def work_until_empty(url: str, holder: str) -> None:
    database = Database(url, pool_size=1)
    while (lease := claimed(database, holder)) is not None:
        with database.write() as session:
            queue.start(session, lease)
        with database.write() as session:
            queue.complete(session, lease, {"by": holder})
    database.dispose()


def test_processes_share_two_hundred_jobs(database: Database, database_url: str, project: str) -> None:
    with database.write() as session:
        submitted = {
            queue.submit(session, project_id=project, kind="search", payload={}).id for _ in range(200)
        }
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=work_until_empty, args=(database_url, name)) for name in ("ann", "bob", "cid")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with database.read() as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        counts = Counter(tuple(row) for row in session.execute(select(JobEvent.job_id, JobEvent.type)))
    assert jobs.keys() == submitted
    assert {(job.state, job.fence) for job in jobs.values()} == {("succeeded", 1)}
    assert set(counts.values()) == {1}
    assert {type for _, type in counts} == {"submitted", "leased", "started", "succeeded"}


def test_many_claims_for_one_device_give_one_lease(database: Database, project: str) -> None:
    with database.write() as session:
        target = add_target(session, project)
        for _ in range(8):
            queue.submit(
                session,
                project_id=project,
                kind="profile",
                payload={},
                device_id=target.device_id,
                target_id=target.id,
            )
    done: list[str] = []

    def claim_and_finish(number: int) -> None:
        for _ in range(10):
            lease = claimed(database, f"agent-{number}", device_id=target.device_id)
            if lease is None:
                continue
            with database.write() as session:
                queue.complete(session, lease, {})
            done.append(lease.job_id)

    run_at_once(claim_and_finish, 6)
    while (lease := claimed(database, "last", device_id=target.device_id)) is not None:
        with database.write() as session:
            queue.complete(session, lease, {})
        done.append(lease.job_id)
    assert len(done) == len(set(done)) == 8


def test_children_ending_at_once_are_each_counted(database: Database, project: str) -> None:
    parent_id = submit_search(database, project)
    parent = held(claimed(database))
    with database.write() as session:
        targets = [add_target(session, project, f"board-{number}") for number in range(6)]
        for target in targets:
            queue.submit(
                session,
                project_id=project,
                kind="profile",
                payload={},
                device_id=target.device_id,
                target_id=target.id,
                parent_id=parent_id,
            )
        queue.park(session, parent, progress=0.5)
    leases = [held(claimed(database, "agent", device_id=target.device_id)) for target in targets]
    assert claimed(database) is None

    def finish(number: int) -> None:
        with database.write() as session:
            queue.complete(session, leases[number], {})

    run_at_once(finish, 6)
    counts = [data["waiting_for"] for type, data in events(database, parent_id) if type == "child_ended"]
    assert counts == [5, 4, 3, 2, 1, 0]
    assert held(claimed(database)).job_id == parent_id


def test_cancel_and_children_ending_at_once_do_not_wait_for_each_other(
    database: Database, project: str
) -> None:
    for _ in range(5):
        parent_id = submit_search(database, project)
        parent = held(claimed(database))
        with database.write() as session:
            targets = [add_target(session, project, f"{parent_id[-6:]}-{number}") for number in range(4)]
            for target in targets:
                queue.submit(
                    session,
                    project_id=project,
                    kind="profile",
                    payload={},
                    device_id=target.device_id,
                    target_id=target.id,
                    parent_id=parent_id,
                )
            queue.park(session, parent, progress=0.5)
        leases = [held(claimed(database, "agent", device_id=target.device_id)) for target in targets]

        def act(number: int, parent_id: str = parent_id, leases: list[Lease] = leases) -> None:
            with database.write() as session:
                if number == 4:
                    queue.cancel(session, project_id=project, job_id=parent_id)
                else:
                    queue.complete(session, leases[number], {})

        run_at_once(act, 5)
        ended = stored(database, parent_id)
        assert (ended.state, ended.waiting_for) == ("cancelled", 0)


def test_times_are_the_databases(database: Database, project: str) -> None:
    job_id = submit_search(database, project)
    lease = held(claimed(database))
    with database.write() as session:
        before = session.scalars(select(now_plus())).one()
        started = queue.start(session, lease).started_at
        renewed = queue.renew(session, lease, lease_s=100).lease_until
    assert started is not None
    assert renewed is not None
    assert abs(started - before) < dt.timedelta(seconds=20)
    assert dt.timedelta(seconds=80) < renewed - before < dt.timedelta(seconds=120)
    with database.write() as session:
        finished = queue.complete(session, lease, {"answer": 42}).finished_at
    job = stored(database, job_id)
    assert job.finished_at == finished is not None
    assert job.created_at <= started <= finished
    assert (job.lease_until, job.holder, job.progress, job.result) == (None, None, 1.0, {"answer": 42})


def test_a_failed_attempt_waits_before_the_next(database: Database, project: str) -> None:
    job_id = submit_search(database, project, max_attempts=2)
    lease = held(claimed(database))
    with database.write() as session:
        queue.fail(session, lease, code="timed_out", detail="once", is_retryable=True)
    assert claimed(database) is None
    with database.write() as session:
        session.execute(update(Job).values(not_before=now_plus(-0.01)))
    again = held(claimed(database))
    assert again.fence == lease.fence + 1
    with database.write() as session:
        queue.fail(session, again, code="timed_out", detail="twice", is_retryable=True)
    job = stored(database, job_id)
    assert (job.state, job.failure_code, job.failure_detail) == ("failed", "timed_out", "twice")
    assert [type for type, _ in events(database, job_id)] == [
        "submitted",
        "leased",
        "requeued",
        "leased",
        "failed",
    ]


def test_a_silent_holder_is_replaced_and_then_refused(database: Database, project: str) -> None:
    submit_search(database, project)
    zombie = held(claimed(database, "ann"))
    with database.write() as session:
        session.execute(update(Job).values(lease_until=now_plus(-0.01)))
    heir = held(claimed(database, "bob"))
    assert (heir.job_id, heir.holder, heir.fence) == (zombie.job_id, "bob", 2)
    for write in (
        lambda s: queue.renew(s, zombie, lease_s=30),
        lambda s: queue.complete(s, zombie, {"by": "ann"}),
        lambda s: queue.fail(s, zombie, code="crashed", detail="", is_retryable=False),
    ):
        with pytest.raises(LeaseLost, match="fence 1 is lost"), database.write() as session:
            write(session)
    with database.write() as session:
        queue.complete(session, heir, {"by": "bob"})
    assert stored(database, heir.job_id).result == {"by": "bob"}
    lost = [data for type, data in events(database, heir.job_id) if type == "requeued"]
    assert lost == [{"code": "holder_lost", "detail": "ann was silent until its lease ran out", "attempt": 1}]


def test_a_refused_write_leaves_nothing_of_its_transaction(database: Database, project: str) -> None:
    submit_search(database, project)
    lease = held(claimed(database))
    stale = Lease(lease.job_id, "ann", lease.fence - 1)

    def record_and_complete(session: Session) -> None:
        queue.emit(session, lease.job_id, "note", {})
        queue.complete(session, stale, {})

    with pytest.raises(LeaseLost), database.write() as session:
        record_and_complete(session)
    assert [type for type, _ in events(database, lease.job_id)] == ["submitted", "leased"]


def test_smaller_priority_first_then_older(database: Database, project: str) -> None:
    with database.write() as session:
        ids = [
            queue.submit(session, project_id=project, kind="search", payload={}, priority=priority).id
            for priority in (5, 1, 5, -1)
        ]
    order = [held(claimed(database)).job_id for _ in range(4)]
    assert order == [ids[3], ids[1], ids[0], ids[2]]


def test_only_the_kinds_asked_for_and_only_without_a_device(database: Database, project: str) -> None:
    with database.write() as session:
        target = add_target(session, project)
        queue.submit(
            session,
            project_id=project,
            kind="profile",
            payload={},
            device_id=target.device_id,
            target_id=target.id,
        )
        assert queue.claim(session, kinds=["profile"], holder="w", lease_s=1) is None
        assert (
            queue.claim(session, kinds=["search"], holder="w", lease_s=1, device_id=target.device_id) is None
        )


def test_other_projects_jobs_do_not_exist(database: Database, project: str) -> None:
    job_id = submit_search(database, project)
    with database.write() as session:
        other = add_project(session, "other")
    with pytest.raises(NotFound), database.write() as session:
        queue.cancel(session, project_id=other, job_id=job_id)
    assert stored(database, job_id).state == "queued"


def test_events_emitted_at_once_are_numbered_without_gaps(database: Database, project: str) -> None:
    job_id = submit_search(database, project)

    def emit(number: int) -> None:
        for _ in range(5):
            with database.write() as session:
                queue.emit(session, job_id, "note", {"by": number})

    run_at_once(emit, 6)
    with database.read() as session:
        seqs = session.scalars(
            select(JobEvent.seq).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
        ).all()
    assert seqs == list(range(1, 32))


def test_a_claim_passes_by_what_others_hold_in_their_hands(postgresql_url: str) -> None:
    """On SQLite there is one writer at a time, so the question does not arise."""
    database = Database(postgresql_url, pool_size=3)
    with database.write() as session:
        project = add_project(session)
    first, second = (submit_search(database, project) for _ in range(2))
    with database.write() as session:
        rows.lock(session, first)
        assert held(claimed(database)).job_id == second
    assert held(claimed(database)).job_id == first
    database.dispose()


def test_repeated_starts_and_progress_are_told_once(database: Database, project: str) -> None:
    job_id = submit_search(database, project)
    lease = held(claimed(database))
    for _ in range(2):
        with database.write() as session:
            queue.start(session, lease)
            queue.renew(session, lease, lease_s=30, progress=0.5)
    assert [type for type, _ in events(database, job_id)] == ["submitted", "leased", "started", "progress"]


def test_a_holder_who_is_cancelled_hears_of_it_and_keeps_what_he_has(
    database: Database, project: str
) -> None:
    job_id = submit_search(database, project)
    lease = held(claimed(database))
    with database.write() as session:
        queue.start(session, lease)
        queue.cancel(session, project_id=project, job_id=job_id)
    with database.write() as session:
        assert queue.renew(session, lease, lease_s=30).state == "cancelling"
    for _ in range(2):
        with database.write() as session:
            assert queue.complete(session, lease, {"late": True}).state == "cancelled"
    job = stored(database, job_id)
    assert (job.result, job.failure_code) == ({"late": True}, None)
    assert [type for type, _ in events(database, job_id)][-2:] == ["cancel_requested", "cancelled"]


def test_nobody_else_tells_of_an_end(database: Database, project: str) -> None:
    job_id = submit_search(database, project)
    with pytest.raises(ValueError, match="ends a job's history"), database.write() as session:
        queue.emit(session, job_id, "succeeded", {})


def test_an_ended_history_stays_ended(database: Database, project: str) -> None:
    job_id = submit_search(database, project)
    with database.write() as session:
        assert queue.emit(session, job_id, "note", {}) == 2
        queue.cancel(session, project_id=project, job_id=job_id)
        assert queue.emit(session, job_id, "note", {}) is None
    assert [type for type, _ in events(database, job_id)] == ["submitted", "note", "cancelled"]


def test_what_a_holder_held_who_is_gone_is_given_back(database: Database, project: str) -> None:
    with database.write() as session:
        targets = [add_target(session, project, key) for key in ("a", "b", "c")]
        jobs = [
            queue.submit(
                session,
                project_id=project,
                kind="profile",
                payload={},
                device_id=target.device_id,
                target_id=target.id,
                max_attempts=max_attempts,
            ).id
            for target, max_attempts in zip(targets, (2, 1, 2), strict=True)
        ]
    devices = [target.device_id for target in targets]
    leases = [held(claimed(database, "ann", device_id=device_id)) for device_id in devices]
    with database.write() as session:
        queue.start(session, leases[0])
        assert queue.release(session, holder="bob", device_id=devices[0]) == 0
        for device_id in devices[:2]:
            assert queue.release(session, holder="ann", device_id=device_id) == 1
    assert [stored(database, job_id).state for job_id in jobs] == ["queued", "failed", "leased"]
    assert (stored(database, jobs[1]).failure_code, stored(database, jobs[1]).failure_detail) == (
        "holder_lost",
        "ann left before it was done",
    )
    with database.write() as session:
        assert queue.release(session, holder="ann", device_id=devices[0]) == 0
    assert held(claimed(database, "bob", device_id=devices[0])).fence == leases[0].fence + 1
