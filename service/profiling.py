"""Profile jobs: what one measurement is to be, as the job's payload holds it. Features, the worker and the
agents' side meet here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from devices.measurement import MeasurementPlan
from devices.model_ref import ModelRef, Sha256
from devices.vocabulary import Value
from service.db import tables
from service.jobs import queue
from service.jobs.states import JobKind

REFERENCE_PRIORITY = 10  # onboarding takes minutes: whoever waits for one measurement goes first


class ProfilePayload(Value):
    """One model at complete input sizes, and how to measure it. The target is the job's."""

    model_id: str
    sha256: Sha256
    model_bytes: int
    input_shapes: dict[str, tuple[int, ...]]
    plan: MeasurementPlan
    is_reference: bool = False

    @property
    def model(self) -> ModelRef:
        """The model as the agent is told of it."""
        return ModelRef(sha256=self.sha256, input_shapes=self.input_shapes)


def submit_profile(
    session: Session,
    *,
    target: tables.Target,
    model: tables.Model,
    input_shapes: Mapping[str, Sequence[int]],
    plan: MeasurementPlan,
    is_reference: bool = False,
    parent_id: str | None = None,
) -> tables.Job:
    """Queue one measurement on the target's device. The shapes are complete
    (`devices.model_ref.resolve_input_shapes`).
    """
    payload = ProfilePayload(
        model_id=model.id,
        sha256=model.sha256,
        model_bytes=model.size_bytes,
        input_shapes={name: tuple(shape) for name, shape in input_shapes.items()},
        plan=plan,
        is_reference=is_reference,
    )
    return queue.submit(
        session,
        project_id=target.project_id,
        kind=JobKind.PROFILE,
        payload=payload.model_dump(mode="json"),
        device_id=target.device_id,
        target_id=target.id,
        parent_id=parent_id,
        priority=REFERENCE_PRIORITY if is_reference else 0,
    )
