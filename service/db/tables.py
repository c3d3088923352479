"""The stored shape of everything, and nothing else: no behaviour lives on these classes.

Ids are text, `prefix_` plus a time-ordered random part (`service.ids`), so that a list ordered by id is
ordered by creation. Every row that a caller can name belongs to a project, and every query of a repository
filters by it. Times are UTC from the database's clock. Documents that only Python reads are JSON; what is
searched or constrained has a column.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.db.clock import UtcDateTime, now_plus

Document = dict[str, Any]  # the edge between JSON columns and the pydantic types that read them


class Table(DeclarativeBase):
    """Base of all tables; constraint names are spelled out so that migrations can alter them on both
    databases.
    """

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy
        Document: JSON(none_as_null=True),
        list[str]: JSON,
        dt.datetime: UtcDateTime,
    }


def _id() -> Mapped[str]:
    return mapped_column(String(40), primary_key=True)


def _created_at() -> Mapped[dt.datetime]:
    return mapped_column(insert_default=now_plus())


class Project(Table):
    """An owner of rows."""

    __tablename__ = "projects"
    id: Mapped[str] = _id()
    name: Mapped[str] = mapped_column(String(100), unique=True)
    # whether its measurements may become training data
    shares_measurements: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    created_at: Mapped[dt.datetime] = _created_at()


class ApiKey(Table):
    """A caller's key: only the SHA-256 of its secret is stored."""

    __tablename__ = "api_keys"
    id: Mapped[str] = _id()
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    created_at: Mapped[dt.datetime] = _created_at()
    expires_at: Mapped[dt.datetime | None]
    revoked_at: Mapped[dt.datetime | None]
    last_used_at: Mapped[dt.datetime | None]


class RegistrationToken(Table):
    """Lets one agent register once."""

    __tablename__ = "registration_tokens"
    id: Mapped[str] = _id()
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[dt.datetime] = _created_at()
    expires_at: Mapped[dt.datetime]
    used_at: Mapped[dt.datetime | None]


class Device(Table):
    """One physical machine of a project."""

    __tablename__ = "devices"
    __table_args__ = (UniqueConstraint("project_id", "key"), UniqueConstraint("project_id", "fingerprint"))
    id: Mapped[str] = _id()
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    key: Mapped[str] = mapped_column(String(63))
    fingerprint: Mapped[str] = mapped_column(String(64))
    hardware: Mapped[Document]
    created_at: Mapped[dt.datetime] = _created_at()


class Agent(Table):
    """The daemon on a device; one per device, replaced when the device registers again."""

    __tablename__ = "agents"
    id: Mapped[str] = _id()
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), unique=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))  # devices.wire.AgentState as last said
    conditions: Mapped[Document | None]
    created_at: Mapped[dt.datetime] = _created_at()
    last_seen_at: Mapped[dt.datetime] = mapped_column(insert_default=now_plus())


class Target(Table):
    """A device with a runtime: what latencies belong to."""

    __tablename__ = "targets"
    __table_args__ = (
        UniqueConstraint("project_id", "key"),
        CheckConstraint("state in ('onboarding', 'ready', 'failed', 'retired')", name="state"),
    )
    id: Mapped[str] = _id()
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), index=True)
    key: Mapped[str] = mapped_column(String(200))
    runtime: Mapped[Document]  # devices.target.Runtime
    state: Mapped[str] = mapped_column(String(16))
    state_reason: Mapped[str | None] = mapped_column(Text)
    live_predictor_id: Mapped[str | None] = mapped_column(String(40))  # no foreign key: predictors point here
    # raised with every measurement, so that what was read of them is known to be current
    revision: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    created_at: Mapped[dt.datetime] = _created_at()


class Artifact(Table):
    """Bytes in the artifact store, named by their SHA-256. The row exists only after the file is durable."""

    __tablename__ = "artifacts"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[dt.datetime] = _created_at()


class Model(Table):
    """An ONNX file that a project owns. Two projects that upload the same bytes own one artifact and two
    models.
    """

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("project_id", "sha256"),)
    id: Mapped[str] = _id()
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("artifacts.sha256"))
    name: Mapped[str] = mapped_column(String(200))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    inputs: Mapped[list[Document]] = mapped_column(JSON)  # devices.model_ref.InputSpec
    summary: Mapped[Document]  # operator counts, parameters, opset
    origin: Mapped[str] = mapped_column(String(16))  # upload | reference | search
    created_at: Mapped[dt.datetime] = _created_at()


class Measurement(Table):
    """An accepted measurement. The raw document is compressed JSON of devices.measurement.Measurement."""

    __tablename__ = "measurements"
    __table_args__ = (
        UniqueConstraint("job_id"),  # recorded once, whatever is resent
        Index("ix_measurements_lookup", "target_id", "model_id", "shapes_sha256", "created_at"),
    )
    id: Mapped[str] = _id()
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    target_id: Mapped[str] = mapped_column(ForeignKey("targets.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    shapes_sha256: Mapped[str] = mapped_column(String(64))  # of the canonical JSON of input_shapes
    input_shapes: Mapped[Document]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    level: Mapped[str] = mapped_column(String(16))
    is_valid: Mapped[bool] = mapped_column(Boolean)
    is_reference: Mapped[bool] = mapped_column(Boolean)  # taken to onboard the target
    median_ms: Mapped[float] = mapped_column(Float)
    p90_ms: Mapped[float | None] = mapped_column(Float)
    standard_error_ms: Mapped[float] = mapped_column(Float)
    reasons: Mapped[list[str]]
    document: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    created_at: Mapped[dt.datetime] = _created_at()


class Predictor(Table):
    """A checkpoint adapted to one target, with its accuracy card. Rows are immutable; the target points at
    the live one.
    """

    __tablename__ = "predictors"
    id: Mapped[str] = _id()
    target_id: Mapped[str] = mapped_column(ForeignKey("targets.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    checkpoint_sha256: Mapped[str] = mapped_column(ForeignKey("artifacts.sha256"))
    accuracy: Mapped[Document]  # predictor.evaluate.AccuracyCard
    created_at: Mapped[dt.datetime] = _created_at()


class Job(Table):
    """A row of work. States and transitions are `service.jobs.states`; the only writer of these columns is
    `service.jobs.queue`.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "state in ('queued', 'leased', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')",
            name="state",
        ),
        # every state between queued and the end has a deadline, and no other state has one
        CheckConstraint(
            "(state in ('leased', 'running', 'cancelling')) = (lease_until is not null)",
            name="lease_matches_state",
        ),
        CheckConstraint("waiting_for >= 0", name="waiting_for"),
        Index("ix_jobs_claim", "state", "kind", "device_id", "priority", "id"),
        Index("ix_jobs_parent", "parent_id"),
        # one live lease per device: a second measurement would disturb the first
        Index(
            "uq_jobs_live_device",
            "device_id",
            unique=True,
            sqlite_where=text("device_id is not null and state in ('leased', 'running', 'cancelling')"),
            postgresql_where=text("device_id is not null and state in ('leased', 'running', 'cancelling')"),
        ),
    )
    id: Mapped[str] = _id()
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))  # profile | adapt | search
    state: Mapped[str] = mapped_column(String(16))
    priority: Mapped[int] = mapped_column(Integer)  # smaller first
    device_id: Mapped[str | None] = mapped_column(ForeignKey("devices.id"))  # profile jobs only
    target_id: Mapped[str | None] = mapped_column(ForeignKey("targets.id"))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    waiting_for: Mapped[int] = mapped_column(Integer)  # children that have not ended; claimable only at 0
    payload: Mapped[Document]
    attempt: Mapped[int] = mapped_column(Integer)  # claims so far
    max_attempts: Mapped[int] = mapped_column(Integer)
    fence: Mapped[int] = mapped_column(Integer)  # raised at every claim
    holder: Mapped[str | None] = mapped_column(String(100))  # agent id or worker name
    lease_until: Mapped[dt.datetime | None]
    not_before: Mapped[dt.datetime | None]  # back-off before a retry
    cancel_requested_at: Mapped[dt.datetime | None]
    progress: Mapped[float] = mapped_column(Float)
    result: Mapped[Document | None]
    failure_code: Mapped[str | None] = mapped_column(String(40))
    failure_detail: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[dt.datetime] = _created_at()
    started_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]


class JobEvent(Table):
    """Append-only history of a job: what progress streams read, and the audit log."""

    __tablename__ = "job_events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)  # 1, 2, 3 ... within the job
    at: Mapped[dt.datetime] = mapped_column(insert_default=now_plus())
    type: Mapped[str] = mapped_column(String(40))
    data: Mapped[Document]


class Search(Table):
    """A stored search request. `checkpoint_sha256` is the loop's whole state, `pinned_predictor_id` what
    scores its genomes.
    """

    __tablename__ = "searches"
    id: Mapped[str] = _id()
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    target_id: Mapped[str] = mapped_column(ForeignKey("targets.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    request: Mapped[Document]  # search.loop.SearchRequest
    pinned_predictor_id: Mapped[str | None] = mapped_column(ForeignKey("predictors.id"))
    checkpoint_sha256: Mapped[str | None] = mapped_column(ForeignKey("artifacts.sha256"))
    summary: Mapped[Document | None]  # search.verification.VerificationSummary, when the front is verified
    created_at: Mapped[dt.datetime] = _created_at()


class Trial(Table):
    """One genome's history within a search. Times on the prediction side come from the pinned predictor."""

    __tablename__ = "trials"
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    genome: Mapped[Document]
    state: Mapped[str] = mapped_column(String(16))  # proposed | scored | verified | failed
    objectives: Mapped[Document]  # name -> value, as the strategy was told
    predicted_ms: Mapped[float | None] = mapped_column(Float)
    predicted_lower_ms: Mapped[float | None] = mapped_column(Float)
    predicted_upper_ms: Mapped[float | None] = mapped_column(Float)
    on_predicted_front: Mapped[bool] = mapped_column(Boolean)
    on_verified_front: Mapped[bool] = mapped_column(Boolean)
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    measurement_id: Mapped[str | None] = mapped_column(ForeignKey("measurements.id"))
    failure: Mapped[str | None] = mapped_column(Text)


class IdempotencyKey(Table):
    """The stored answer to a POST, given again when the same request is repeated."""

    __tablename__ = "idempotency_keys"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    route: Mapped[str] = mapped_column(String(200))
    request_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None] = mapped_column(Integer)  # None: the first request is still at work
    headers: Mapped[Document | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[dt.datetime] = _created_at()
