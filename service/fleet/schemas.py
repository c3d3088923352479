"""What API clients see of the fleet: devices with their agents, and targets. The agents' own messages are
`devices.wire`.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from devices.measurement import Conditions
from devices.target import Hardware, Runtime
from devices.wire import AgentState
from predictor.evaluate import AccuracyCard


class TargetState(StrEnum):
    """`onboarding`: measures its reference set. `ready`: has a live predictor. `failed`: the onboarding gave
    none. `retired`: its agent no longer offers the runtime.
    """

    ONBOARDING = "onboarding"
    READY = "ready"
    FAILED = "failed"
    RETIRED = "retired"


class AgentView(BaseModel):
    """The daemon on a device."""

    id: str = Field(examples=["agt_01k9m2x7wq4v"])
    version: str = Field(examples=["0.1.0"])
    state: AgentState = Field(
        description="As the agent last said; `lost` when it has been silent for three heartbeats."
    )
    conditions: Conditions | None = Field(description="The machine at the last heartbeat that reported it.")
    last_seen_at: dt.datetime


class DeviceView(BaseModel):
    """One physical machine."""

    model_config = ConfigDict(
        json_schema_extra={"description": "One physical machine, with the agent that serves it."}
    )

    id: str = Field(examples=["dev_01k9m2x7wq4v"])
    key: str = Field(description="Readable and unique within the project.", examples=["rpi5-8gb"])
    fingerprint: str = Field(description="The machine's stable identity.")
    hardware: Hardware
    agent: AgentView | None
    created_at: dt.datetime


class LivePredictor(BaseModel):
    """The predictor that answers for a target now."""

    id: str = Field(examples=["prd_01k9m2x7wq4v"])
    accuracy: AccuracyCard = Field(description="Leave-one-out on the target's own measurements.")
    created_at: dt.datetime


class TargetAccuracy(BaseModel):
    """How well a target's live predictor does on the target's own measurements, each predicted from all the
    others.
    """

    target_id: str = Field(examples=["tgt_01k9m2x7wq4v"])
    target_key: str
    predictor_id: str
    adapted_at: dt.datetime
    measured_since: int = Field(description="Valid measurements that came later: it has not learned of them.")
    accuracy: AccuracyCard = Field(
        description="Errors, overall and by family of models; coverage of intervals; what it learned from."
    )


class TargetView(BaseModel):
    """A device with a runtime: what a latency belongs to."""

    id: str = Field(examples=["tgt_01k9m2x7wq4v"])
    key: str = Field(
        description="Device, engine, version, provider and threads; unique within the project.",
        examples=["rpi5-8gb/onnxruntime-1.31/cpu/t4"],
    )
    device_id: str
    device_key: str
    runtime: Runtime
    state: TargetState
    state_reason: str | None = Field(
        description="Why the target is not ready; if it is, what its onboarding lacked. Null: nothing to say."
    )
    predictor: LivePredictor | None
    onboarding_job_id: str | None = Field(
        description="The newest adapt job that an onboarding of this target asked for; its `waiting_for` and "
        "events tell how far it is."
    )
    created_at: dt.datetime
