"""How a machine joins the fleet: an agent registers once, and announces what its machine offers at every
start.

Both bring the rows in line with what the agent says, in one transaction: the device by its fingerprint,
one target per runtime, and the onboarding of each target that is new.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from sqlalchemy.orm import Session

from devices.target import Runtime, Target
from devices.wire import (
    AgentState,
    AnnouncedTarget,
    AnnounceReply,
    AnnounceRequest,
    Cadence,
    RegisterReply,
    RegisterRequest,
)
from service import security
from service.db import tables
from service.dependencies import Services
from service.errors import Conflict, Invalid, Unauthenticated
from service.fleet import repository
from service.fleet.onboarding import ReferenceEntry, onboard, restore, retire, stored_reference_set
from service.fleet.schemas import TargetState
from service.ids import new_id
from service.security import AgentPrincipal
from service.settings import Settings

MAX_TARGET_KEY = 200  # as wide as the column
MAX_DEVICE_KEY = 63
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


def cadence_of(settings: Settings) -> Cadence:
    """How often agents of this server are to call."""
    return Cadence(
        heartbeat_s=settings.agent_heartbeat_s, lease_wait_s=min(settings.agent_lease_wait_s, 60.0)
    )


def register(services: Services, token: str, request: RegisterRequest) -> RegisterReply:
    """First contact. An agent that was on this machine before is replaced, and its token dies.

    Raises `Unauthenticated` for a registration token that is unknown, expired or used.
    """
    reference_set = stored_reference_set(services.artifacts)
    with services.database.write() as session:
        project_id = security.consume_registration_token(session, token)
        repository.lock_project(session, project_id)
        device = _registered_device(session, project_id, request)
        repository.remove_agent(session, device.id)
        agent_id = new_id("agt")
        minted = security.mint(agent_id)
        agent = tables.Agent(
            id=agent_id,
            device_id=device.id,
            secret_sha256=minted.secret_sha256,
            version=_version(request),
            state=AgentState.IDLE.value,
            conditions=None,
        )
        session.add(agent)
        session.flush()
        targets = _match_targets(session, device, request.runtimes, reference_set)
    return RegisterReply(
        agent_id=agent_id,
        device_id=device.id,
        device_key=device.key,
        targets=targets,
        cadence=cadence_of(services.settings),
        agent_token=minted.token,
    )


def announce(services: Services, caller: AgentPrincipal, request: AnnounceRequest) -> AnnounceReply:
    """An agent starts again, perhaps with other runtimes. Raises `Conflict` (device_changed) for another
    machine's fingerprint, and `Unauthenticated` for an agent that was replaced meanwhile.
    """
    reference_set = stored_reference_set(services.artifacts)
    with services.database.write() as session:
        repository.lock_project(session, caller.project_id)
        device = repository.device(session, caller.project_id, caller.device_id)
        if device.fingerprint != request.device.fingerprint:
            raise Conflict(
                "device_changed",
                f"this agent's token belongs to device {device.key} with fingerprint {device.fingerprint}, "
                f"not to {request.device.fingerprint}; register this machine with a token of its own",
            )
        device.hardware = request.device.hardware.model_dump(mode="json")
        if not repository.note_announcement(session, caller.agent_id, version=_version(request)):
            raise Unauthenticated("another agent has registered for this device")
        targets = _match_targets(session, device, request.runtimes, reference_set)
    return AnnounceReply(
        agent_id=caller.agent_id,
        device_id=device.id,
        device_key=device.key,
        targets=targets,
        cadence=cadence_of(services.settings),
    )


def _registered_device(session: Session, project_id: str, request: RegisterRequest) -> tables.Device:
    hardware = request.device.hardware.model_dump(mode="json")
    device = repository.device_with_fingerprint(session, project_id, request.device.fingerprint)
    if device is not None:
        device.hardware = hardware
        return device
    device = tables.Device(
        id=new_id("dev"),
        project_id=project_id,
        key=_free_key(request.device.key, repository.device_keys(session, project_id)),
        fingerprint=request.device.fingerprint,
        hardware=hardware,
    )
    session.add(device)
    session.flush()
    return device


def _free_key(proposed: str, taken: frozenset[str]) -> str:
    """The proposed key, or with -2, -3 ... where other machines have it."""
    if proposed not in taken:
        return proposed
    numbered = (f"{proposed[: MAX_DEVICE_KEY - len(f'-{n}')]}-{n}" for n in itertools.count(2))
    return next(key for key in numbered if key not in taken)


def _match_targets(
    session: Session,
    device: tables.Device,
    runtimes: Iterable[Runtime],
    reference_set: tuple[ReferenceEntry, ...],
) -> tuple[AnnouncedTarget, ...]:
    """Make, restore and retire targets until they are what is announced; the announced ones."""
    announced = {_target_key(device.key, runtime): runtime for runtime in runtimes}
    known = {target.key: target for target in repository.targets_of_device(session, device.id)}
    for key in known.keys() - announced.keys():
        if known[key].state != TargetState.RETIRED.value:
            retire(session, known[key])
    for key, runtime in announced.items():
        if key not in known:
            known[key] = _new_target(session, device, key, runtime)
            onboard(session, known[key], reference_set)
        else:
            known[key].runtime = runtime.model_dump(mode="json")  # the patch version may differ
            if known[key].state == TargetState.RETIRED.value:
                restore(session, known[key], reference_set)
    return tuple(AnnouncedTarget(target_id=known[key].id, key=key) for key in announced)


def _new_target(session: Session, device: tables.Device, key: str, runtime: Runtime) -> tables.Target:
    target = tables.Target(
        id=new_id("tgt"),
        project_id=device.project_id,
        device_id=device.id,
        key=key,
        runtime=runtime.model_dump(mode="json"),
        state=TargetState.ONBOARDING.value,
        state_reason=None,
        live_predictor_id=None,
    )
    session.add(target)
    session.flush()
    return target


def _target_key(device_key: str, runtime: Runtime) -> str:
    key = Target(device_key=device_key, runtime=runtime).key
    if len(key) > MAX_TARGET_KEY:
        raise Invalid(
            "target_key_too_long",
            f"target key {key!r} has {len(key)} characters, at most {MAX_TARGET_KEY} are possible; "
            "shorten the device key",
        )
    return key


def _version(request: AnnounceRequest) -> str:
    return _UNPRINTABLE.sub("", request.agent_version)[:64]
