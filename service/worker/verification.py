"""The measured side of a search's front: what its profile jobs brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from search.loop import Candidate
from search.verification import VerifiedLatency
from service.db import tables
from service.jobs.states import JobKind
from service.latency.intervals import measured_interval
from service.measurements import decode_document

COVERAGE = 0.9  # of the interval of a measured median


@dataclass(frozen=True, slots=True)
class Verification:
    """What became of one candidate. Both None: its measurement came to no end."""

    latency: VerifiedLatency | None = None
    measurement_id: str | None = None


def has_children(session: Session, job_id: str) -> bool:
    """Whether the candidates of this search were submitted before."""
    return session.scalar(_children(job_id).with_only_columns(tables.Job.id).limit(1)) is not None


def verifications(session: Session, job_id: str, candidates: Sequence[Candidate]) -> dict[int, Verification]:
    """By trial number, what was measured for each candidate. Candidates with the same bytes share a
    measurement.
    """
    measured = {
        job.payload["sha256"]: measurement
        for job, measurement in session.execute(
            _children(job_id)
            .add_columns(tables.Measurement)
            .outerjoin(tables.Measurement, tables.Measurement.job_id == tables.Job.id)
        )
    }
    return {
        candidate.trial_number: _verification(measured.get(candidate.model_sha256))
        for candidate in candidates
    }


def _children(job_id: str):  # type: ignore[no-untyped-def]
    return select(tables.Job).where(tables.Job.parent_id == job_id, tables.Job.kind == JobKind.PROFILE.value)


def _verification(row: tables.Measurement | None) -> Verification:
    if row is None:
        return Verification()
    estimate = decode_document(row.document).estimate
    interval = measured_interval(
        row.median_ms, row.standard_error_ms, round_count=estimate.round_count, coverage=COVERAGE
    )
    lower_ms, upper_ms = interval or (row.median_ms, row.median_ms)
    latency = VerifiedLatency(
        median_ms=row.median_ms,
        lower_ms=lower_ms,
        upper_ms=upper_ms,
        is_valid=row.is_valid,
        reasons=tuple(row.reasons),
    )
    return Verification(latency, row.id)
