"""Every table of the first version.

Revision ID: 0001
Revises: nothing
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

_TIME = sa.DateTime(timezone=True)
_IS_LIVE = "state in ('leased', 'running', 'cancelling')"
_JOB_STATES = "'queued', 'leased', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled'"


def upgrade() -> None:
    """In the order of their references."""
    _artifacts()
    _projects()
    _api_keys()
    _devices()
    _idempotency_keys()
    _models()
    _registration_tokens()
    _agents()
    _targets()
    _jobs()
    _job_events()
    _measurements()
    _predictors()
    _searches()
    _trials()


def downgrade() -> None:
    """Nothing is left: there was no version before this one."""
    for table in (
        "trials",
        "searches",
        "predictors",
        "measurements",
        "job_events",
        "jobs",
        "targets",
        "agents",
        "registration_tokens",
        "models",
        "idempotency_keys",
        "devices",
        "api_keys",
        "projects",
        "artifacts",
    ):
        op.drop_table(table)


def _to(table: str, column: str, referred: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [referred], name=f"fk_{table}_{column}")


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.String(100), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_artifacts"),
    )


def _projects() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("project_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.Column("revoked_at", _TIME),
        sa.Column("last_used_at", _TIME),
        _to("api_keys", "project_id", "projects.id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_project_id", "api_keys", ["project_id"])


def _devices() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("project_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(63), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("hardware", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        _to("devices", "project_id", "projects.id"),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
        sa.UniqueConstraint("project_id", "fingerprint", name="uq_devices_project_id_fingerprint"),
        sa.UniqueConstraint("project_id", "key", name="uq_devices_project_id_key"),
    )
    op.create_index("ix_devices_project_id", "devices", ["project_id"])


def _idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("project_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("route", sa.String(200), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("headers", sa.JSON()),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("created_at", _TIME, nullable=False),
        _to("idempotency_keys", "project_id", "projects.id"),
        sa.PrimaryKeyConstraint("project_id", "key", name="pk_idempotency_keys"),
    )


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("project_id", sa.String(40), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        _to("models", "project_id", "projects.id"),
        _to("models", "sha256", "artifacts.sha256"),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("project_id", "sha256", name="uq_models_project_id_sha256"),
    )
    op.create_index("ix_models_project_id", "models", ["project_id"])


def _registration_tokens() -> None:
    op.create_table(
        "registration_tokens",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("project_id", sa.String(40), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("used_at", _TIME),
        _to("registration_tokens", "project_id", "projects.id"),
        sa.PrimaryKeyConstraint("id", name="pk_registration_tokens"),
    )
    op.create_index("ix_registration_tokens_project_id", "registration_tokens", ["project_id"])


def _agents() -> None:
    op.create_table(
        "agents",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("device_id", sa.String(40), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("conditions", sa.JSON()),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("last_seen_at", _TIME, nullable=False),
        _to("agents", "device_id", "devices.id"),
        sa.PrimaryKeyConstraint("id", name="pk_agents"),
        sa.UniqueConstraint("device_id", name="uq_agents_device_id"),
    )


def _targets() -> None:
    op.create_table(
        "targets",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("project_id", sa.String(40), nullable=False),
        sa.Column("device_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("runtime", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("state_reason", sa.Text()),
        sa.Column("live_predictor_id", sa.String(40)),
        sa.Column("created_at", _TIME, nullable=False),
        sa.CheckConstraint("state in ('onboarding', 'ready', 'failed', 'retired')", name="ck_targets_state"),
        _to("targets", "device_id", "devices.id"),
        _to("targets", "project_id", "projects.id"),
        sa.PrimaryKeyConstraint("id", name="pk_targets"),
        sa.UniqueConstraint("project_id", "key", name="uq_targets_project_id_key"),
    )
    op.create_index("ix_targets_device_id", "targets", ["device_id"])
    op.create_index("ix_targets_project_id", "targets", ["project_id"])


def _job_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("project_id", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(40)),
        sa.Column("target_id", sa.String(40)),
        sa.Column("parent_id", sa.String(40)),
        sa.Column("waiting_for", sa.Integer(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(100)),
        sa.Column("lease_until", _TIME),
        sa.Column("not_before", _TIME),
        sa.Column("cancel_requested_at", _TIME),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("result", sa.JSON()),
        sa.Column("failure_code", sa.String(40)),
        sa.Column("failure_detail", sa.Text()),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("finished_at", _TIME),
    ]


def _jobs() -> None:
    op.create_table(
        "jobs",
        *_job_columns(),
        sa.CheckConstraint(f"({_IS_LIVE}) = (lease_until is not null)", name="ck_jobs_lease_matches_state"),
        sa.CheckConstraint(f"state in ({_JOB_STATES})", name="ck_jobs_state"),
        sa.CheckConstraint("waiting_for >= 0", name="ck_jobs_waiting_for"),
        _to("jobs", "device_id", "devices.id"),
        _to("jobs", "parent_id", "jobs.id"),
        _to("jobs", "project_id", "projects.id"),
        _to("jobs", "target_id", "targets.id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_claim", "jobs", ["state", "kind", "device_id", "priority", "id"])
    op.create_index("ix_jobs_parent", "jobs", ["parent_id"])
    op.create_index("ix_jobs_project_id", "jobs", ["project_id"])
    live = sa.text(f"device_id is not null and {_IS_LIVE}")
    op.create_index(
        "uq_jobs_live_device", "jobs", ["device_id"], unique=True, sqlite_where=live, postgresql_where=live
    )


def _job_events() -> None:
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        _to("job_events", "job_id", "jobs.id"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_job_events"),
    )


def _measurements() -> None:
    op.create_table(
        "measurements",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("project_id", sa.String(40), nullable=False),
        sa.Column("target_id", sa.String(40), nullable=False),
        sa.Column("model_id", sa.String(40), nullable=False),
        sa.Column("shapes_sha256", sa.String(64), nullable=False),
        sa.Column("input_shapes", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("is_valid", sa.Boolean(), nullable=False),
        sa.Column("is_reference", sa.Boolean(), nullable=False),
        sa.Column("median_ms", sa.Float(), nullable=False),
        sa.Column("p90_ms", sa.Float()),
        sa.Column("standard_error_ms", sa.Float(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        _to("measurements", "job_id", "jobs.id"),
        _to("measurements", "model_id", "models.id"),
        _to("measurements", "project_id", "projects.id"),
        _to("measurements", "target_id", "targets.id"),
        sa.PrimaryKeyConstraint("id", name="pk_measurements"),
        sa.UniqueConstraint("job_id", name="uq_measurements_job_id"),
    )
    looked_up = ["target_id", "model_id", "shapes_sha256", "created_at"]
    op.create_index("ix_measurements_lookup", "measurements", looked_up)
    op.create_index("ix_measurements_project_id", "measurements", ["project_id"])


def _predictors() -> None:
    op.create_table(
        "predictors",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("target_id", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("checkpoint_sha256", sa.String(64), nullable=False),
        sa.Column("accuracy", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        _to("predictors", "checkpoint_sha256", "artifacts.sha256"),
        _to("predictors", "job_id", "jobs.id"),
        _to("predictors", "target_id", "targets.id"),
        sa.PrimaryKeyConstraint("id", name="pk_predictors"),
    )
    op.create_index("ix_predictors_target_id", "predictors", ["target_id"])


def _searches() -> None:
    op.create_table(
        "searches",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("project_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("target_id", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("pinned_predictor_id", sa.String(40)),
        sa.Column("checkpoint_sha256", sa.String(64)),
        sa.Column("summary", sa.JSON()),
        sa.Column("created_at", _TIME, nullable=False),
        _to("searches", "checkpoint_sha256", "artifacts.sha256"),
        _to("searches", "job_id", "jobs.id"),
        _to("searches", "pinned_predictor_id", "predictors.id"),
        _to("searches", "project_id", "projects.id"),
        _to("searches", "target_id", "targets.id"),
        sa.PrimaryKeyConstraint("id", name="pk_searches"),
        sa.UniqueConstraint("job_id", name="uq_searches_job_id"),
    )
    op.create_index("ix_searches_project_id", "searches", ["project_id"])


def _trials() -> None:
    op.create_table(
        "trials",
        sa.Column("search_id", sa.String(40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("genome", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("objectives", sa.JSON(), nullable=False),
        sa.Column("predicted_ms", sa.Float()),
        sa.Column("predicted_lower_ms", sa.Float()),
        sa.Column("predicted_upper_ms", sa.Float()),
        sa.Column("on_predicted_front", sa.Boolean(), nullable=False),
        sa.Column("on_verified_front", sa.Boolean(), nullable=False),
        sa.Column("model_id", sa.String(40)),
        sa.Column("measurement_id", sa.String(40)),
        sa.Column("failure", sa.Text()),
        _to("trials", "measurement_id", "measurements.id"),
        _to("trials", "model_id", "models.id"),
        _to("trials", "search_id", "searches.id"),
        sa.PrimaryKeyConstraint("search_id", "number", name="pk_trials"),
    )
