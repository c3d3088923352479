"""A target with a live predictor, and an agent's side of its measurements, for tests of the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from devices.measurement import ColdStart, Conditions, Estimate, Measurement, MeasurementPlan, Round, Verdict
from devices.model_ref import ModelRef
from devices.target import Hardware, Runtime
from service import artifacts, measurements
from service.db import tables
from service.db.clock import now_plus
from service.db.session import Database
from service.dependencies import Services
from service.ids import new_id
from service.jobs import queue
from service.jobs.states import JobKind
from service.profiling import ProfilePayload

RUNTIME = Runtime(engine="fake", version="1.0.0", provider="cpu", threads=1)
HARDWARE = Hardware(
    cpu_model="a processor",
    architecture="x86_64",
    physical_cores=2,
    logical_cores=2,
    memory_bytes=1 << 33,
    isa_flags=("avx2",),
    operating_system="Linux",
)
AGENT = "agt_test"


@dataclass(frozen=True)
class StubPredictors:
    """Loads nothing: the searches of these tests have a scorer of their own."""

    def load(self, checkpoint_sha256: str) -> Any:
        """Whatever the checkpoint."""
        return object()


def with_stub_predictors(services: Services) -> Services:
    """The same services, for checkpoints that are no checkpoints."""
    return replace(services, predictors=StubPredictors())  # type: ignore[arg-type]


def add_target(
    session: Session, project_id: str, *, key: str = "board", state: str = "onboarding"
) -> tables.Target:
    """A device and a target on it, without a predictor."""
    device = tables.Device(
        id=new_id("dev"),
        project_id=project_id,
        key=key,
        fingerprint=(key * 64)[:64],
        hardware=HARDWARE.model_dump(mode="json"),
    )
    session.add(device)
    session.flush()
    target = tables.Target(
        id=new_id("tgt"),
        project_id=project_id,
        device_id=device.id,
        key=f"{key}/{RUNTIME.key}",
        runtime=RUNTIME.model_dump(mode="json"),
        state=state,
    )
    session.add(target)
    session.flush()
    return target


def add_live_predictor(session: Session, services: Services, target: tables.Target) -> str:
    """A predictor row whose checkpoint is a few bytes; its id."""
    job = queue.submit(
        session, project_id=target.project_id, kind=JobKind.ADAPT, payload={}, target_id=target.id
    )
    queue.cancel(session, project_id=target.project_id, job_id=job.id)
    stored = services.artifacts.put_bytes(b"no checkpoint")
    artifacts.record(session, stored, media_type="application/octet-stream")
    row = tables.Predictor(
        id=new_id("prd"), target_id=target.id, job_id=job.id, checkpoint_sha256=stored.sha256, accuracy={}
    )
    session.add(row)
    session.flush()
    target.live_predictor_id, target.state = row.id, "ready"
    session.flush()
    return row.id


def add_search(session: Session, target: tables.Target, request: dict[str, Any]) -> tables.Search:
    """A search with its job, as the API makes them."""
    search_id = new_id("sea")
    job = queue.submit(
        session,
        project_id=target.project_id,
        kind=JobKind.SEARCH,
        payload={"search_id": search_id},
        target_id=target.id,
    )
    search = tables.Search(
        id=search_id,
        project_id=target.project_id,
        name="a search",
        target_id=target.id,
        job_id=job.id,
        request=request,
    )
    session.add(search)
    session.flush()
    return search


def measurement_of(
    payload: ProfilePayload, device_key: str, median_ms: float, *, is_valid: bool = True
) -> Measurement:
    """A measurement of a profile job's model with a given median."""
    samples_ns = (round(median_ms * 1e6),) * 3
    return Measurement(
        agent_version="0",
        device_key=device_key,
        runtime=RUNTIME,
        model=ModelRef(sha256=payload.sha256, input_shapes=payload.input_shapes),
        plan=MeasurementPlan(level=payload.plan.level),
        clock="scripted",
        sandbox="none",
        cold_starts=(ColdStart(load_ns=1, first_run_ns=1),),
        rounds=(Round(started_at_ns=0, samples_ns=samples_ns), Round(started_at_ns=9, samples_ns=samples_ns)),
        before=Conditions(at_unix_s=0.0),
        after=Conditions(at_unix_s=1.0),
        estimate=Estimate(
            median_ms=median_ms, mad_ms=0.0, standard_error_ms=0.01 * median_ms, sample_count=6, round_count=2
        ),
        verdict=Verdict(is_valid=is_valid, reasons=() if is_valid else ("too noisy",)),
    )


def measure_next(
    database: Database,
    device_id: str,
    latency_ms: Callable[[ProfilePayload], float],
    *,
    is_valid: bool = True,
) -> bool:
    """Do one profile job of a device as its agent would; whether there was one."""
    with database.write() as session:
        job = queue.claim(session, kinds=[JobKind.PROFILE], holder=AGENT, lease_s=60, device_id=device_id)
        if job is None:
            return False
        device = session.get_one(tables.Device, device_id)
        payload = ProfilePayload.model_validate(job.payload)
        measurement = measurement_of(payload, device.key, latency_ms(payload), is_valid=is_valid)
        row = measurements.record(session, job=job, measurement=measurement)
        queue.complete(session, queue.lease_of(job), {"measurement_id": row.id, "is_valid": row.is_valid})
    return True


def refuse_next(database: Database, device_id: str) -> bool:
    """Fail one profile job of a device for good; whether there was one."""
    with database.write() as session:
        job = queue.claim(session, kinds=[JobKind.PROFILE], holder=AGENT, lease_s=60, device_id=device_id)
        if job is None:
            return False
        queue.fail(session, queue.lease_of(job), code="crashed", detail="it fell over", is_retryable=False)
    return True


def expire_leases(database: Database) -> None:
    """Let the time of every live lease run out."""
    with database.write() as session:
        session.execute(
            update(tables.Job).where(tables.Job.lease_until.is_not(None)).values(lease_until=now_plus(-1.0))
        )


def job_of(database: Database, job_id: str) -> tables.Job:
    """The row as it is."""
    with database.read() as session:
        return session.get_one(tables.Job, job_id)


def children_of(database: Database, job_id: str) -> list[tables.Job]:
    """A job's children, oldest first."""
    with database.read() as session:
        rows = session.scalars(
            select(tables.Job).where(tables.Job.parent_id == job_id).order_by(tables.Job.id)
        )
        return list(rows)
