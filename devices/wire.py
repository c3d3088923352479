"""Every message between an agent and its server. The agent always calls; the server never does.

| call | request | reply |
|---|---|---|
| POST /v1/agents/register | RegisterRequest + registration token | RegisterReply with the agent's own token |
| PUT  /v1/agents/self | AnnounceRequest | AnnounceReply: after a restart, with the runtimes as they are now |
| POST /v1/agents/self/heartbeat | HeartbeatRequest | HeartbeatReply |
| POST /v1/agents/self/leases | LeaseRequest | LeaseReply (waits up to `wait_s` for work) |
| POST /v1/agents/self/leases/{job_id}/start | LeaseWrite | LeaseState |
| POST /v1/agents/self/leases/{job_id}/renew | LeaseWrite | LeaseState |
| POST /v1/agents/self/leases/{job_id}/complete | CompleteRequest | LeaseState |
| POST /v1/agents/self/leases/{job_id}/fail | FailRequest | LeaseState |
| GET  /v1/agents/self/models/{sha256} | | the model's bytes |

Tokens travel as `Authorization: Bearer ...`. Delivery is at least once: `complete` and `fail` are spooled
and resent until the server answers 2xx or a 4xx that no retry would change, and the server accepts each
(job, fence) once. A write with an old fence is answered 409 `lease_lost`, and the agent then kills its child
and drops the result; a repeated write of an accepted result is answered 200.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from devices.errors import FailureCode
from devices.measurement import Conditions, Measurement, MeasurementPlan
from devices.model_ref import ModelRef
from devices.target import Device, Runtime
from devices.vocabulary import Value

WIRE_VERSION = 1


class AgentState(StrEnum):
    """What an agent says of itself, or (`lost`) what the server concludes from its silence."""

    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPED = "stopped"
    LOST = "lost"


class Cadence(Value):
    """How often to call. The server decides, so that a fleet can be slowed down without touching it."""

    heartbeat_s: float = Field(default=10.0, gt=0)
    lease_wait_s: float = Field(default=20.0, ge=0)  # how long the server may hold a lease request open
    idle_pause_s: float = Field(default=1.0, ge=0)  # between two lease requests that brought no work


class AnnounceRequest(Value):
    """Who the agent is and what its machine can do now."""

    wire_version: int = WIRE_VERSION
    agent_version: str
    device: Device
    runtimes: tuple[Runtime, ...] = Field(min_length=1, max_length=64)


class RegisterRequest(AnnounceRequest):
    """First contact, authorised by a one-time registration token."""


class AnnouncedTarget(Value):
    """A target as the server knows it."""

    target_id: str
    key: str


class AnnounceReply(Value):
    """The device's key may differ from the one proposed, where that was taken by another machine."""

    agent_id: str
    device_id: str
    device_key: str
    targets: tuple[AnnouncedTarget, ...]
    cadence: Cadence


class RegisterReply(AnnounceReply):
    """The agent's own token, shown this once."""

    agent_token: str


class HeartbeatRequest(Value):
    """Sent beside work, from its own thread."""

    state: AgentState
    job_id: str | None = None
    conditions: Conditions | None = None


class HeartbeatReply(Value):
    """The cadence may change at any heartbeat."""

    cadence: Cadence


class LeaseRequest(Value):
    """Ask for one job of one of this device's targets."""

    wait_s: float = Field(default=0.0, ge=0, le=60)


class ProfileWork(Value):
    """One leased measurement."""

    job_id: str
    fence: int
    lease_s: float  # renew before this much time has passed; stop work if renewing failed for that long
    runtime: Runtime
    device_key: str
    model: ModelRef
    model_bytes: int
    plan: MeasurementPlan


class LeaseReply(Value):
    """`work` is None when there is nothing to do."""

    work: ProfileWork | None = None


class LeaseWrite(Value):
    """Start or renew: the fence proves that the sender still holds the lease it was given."""

    fence: int
    progress: float | None = Field(default=None, ge=0, le=1)


class LeaseState(Value):
    """The job as it stands after a write. `cancel_requested`: stop the work and report `cancelled`."""

    job_id: str
    state: str
    cancel_requested: bool = False


class CompleteRequest(Value):
    """A finished measurement, valid or not."""

    fence: int
    measurement: Measurement


class FailRequest(Value):
    """A measurement that came to no end."""

    fence: int
    code: FailureCode
    detail: str = Field(max_length=4000)
