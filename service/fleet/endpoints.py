"""The fleet over HTTP: devices and targets for API clients, and the agents' side (`devices.wire`)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse

from devices.wire import (
    AnnounceReply,
    AnnounceRequest,
    CompleteRequest,
    FailRequest,
    HeartbeatReply,
    HeartbeatRequest,
    LeaseReply,
    LeaseRequest,
    LeaseState,
    LeaseWrite,
    RegisterReply,
    RegisterRequest,
)
from service.dependencies import AgentCaller, Caller, FleetAdmin, Reader, RegistrationSecret, ServicesDep
from service.errors import problem_responses
from service.fleet import registration, service, work
from service.fleet.onboarding import stored_reference_set
from service.fleet.schemas import DeviceView, TargetAccuracy, TargetState, TargetView
from service.idempotency import IdempotentRoute, RequestKeyDep
from service.jobs.schemas import JobView
from service.paging import PageDep, PageOf

DeviceName = Annotated[str, Path(max_length=63, description="a device's id or key", examples=["rpi5-8gb"])]
TargetId = Annotated[
    str, Path(max_length=40, description="a target's id", examples=["tgt_01k9m2x7wq4v0r8t6y5h3n1b2c"])
]
JobId = Annotated[
    str, Path(max_length=40, description="the leased job", examples=["job_01k9m2x7wq4v0r8t6y5h3n1b2c"])
]

_clients = APIRouter(
    prefix="/v1", tags=["fleet"], route_class=IdempotentRoute, responses=problem_responses(401, 403, 422)
)
_agents = APIRouter(prefix="/v1/agents", tags=["agents"], responses=problem_responses(400, 401, 422))


@_clients.get("/devices", summary="List devices, newest first")
def list_devices(caller: Reader, services: ServicesDep, page: PageDep) -> PageOf[DeviceView]:
    """Devices of the caller's project, each with its agent."""
    return service.list_devices(services, caller.project_id, page)


@_clients.get("/devices/{device}", summary="One device", responses=problem_responses(404))
def get_device(caller: Reader, services: ServicesDep, device: DeviceName) -> DeviceView:
    """The device, with its agent's state and the last known conditions."""
    return service.get_device(services, caller.project_id, device)


@_clients.get("/targets", summary="List targets, newest first", responses=problem_responses(404))
def list_targets(
    caller: Reader,
    services: ServicesDep,
    page: PageDep,
    state: Annotated[TargetState | None, Query(description="only targets in this state")] = None,
    device: Annotated[
        str | None, Query(max_length=63, description="only targets of this device: its id or key")
    ] = None,
) -> PageOf[TargetView]:
    """Targets of the caller's project, each with the accuracy of its live predictor."""
    return service.list_targets(services, caller.project_id, page, state=state, device=device)


@_clients.get("/targets/{target_id}", summary="One target", responses=problem_responses(404))
def get_target(caller: Reader, services: ServicesDep, target_id: TargetId) -> TargetView:
    """The target, why it is not ready if it is not, and the accuracy of its live predictor."""
    return service.get_target(services, caller.project_id, target_id)


@_clients.get(
    "/targets/{target_id}/accuracy",
    summary="A target's accuracy card",
    responses=problem_responses(404, 409),
)
def get_accuracy(caller: Caller, services: ServicesDep, target_id: TargetId) -> TargetAccuracy:
    """Errors of the live predictor by family of models, the coverage of its intervals, what it was trained
    on, and when. Any API key of the project may read it, whatever its scopes.
    """
    return service.get_accuracy(services, caller.project_id, target_id)


@_clients.post(
    "/targets/{target_id}/onboarding",
    summary="Onboard a target again",
    status_code=202,
    responses=problem_responses(404, 409),
)
def onboard_again(
    caller: FleetAdmin, services: ServicesDep, key: RequestKeyDep, target_id: TargetId, response: Response
) -> JobView:
    """Measure the reference set once more and adapt a fresh predictor. The live predictor answers
    meanwhile.
    """
    reference_set = stored_reference_set(services.artifacts)
    with services.database.write() as session:
        job = service.onboard_again(session, caller.project_id, target_id, reference_set=reference_set)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return key.answer(session, job)


@_agents.post("/register", summary="Register an agent", status_code=201)
def register(
    token: RegistrationSecret, services: ServicesDep, request: RegisterRequest, response: Response
) -> RegisterReply:
    """First contact, with a one-time registration token; the reply holds the agent's own token, shown this
    once.
    """
    response.headers["Cache-Control"] = "no-store"
    return registration.register(services, token, request)


@_agents.put("/self", summary="Announce an agent's runtimes", responses=problem_responses(409))
def announce(agent: AgentCaller, services: ServicesDep, request: AnnounceRequest) -> AnnounceReply:
    """After a restart: what the machine offers now. New runtimes become targets, missing ones are retired."""
    return registration.announce(services, agent, request)


@_agents.post("/self/heartbeat", summary="Say that the agent is alive")
def heartbeat(agent: AgentCaller, services: ServicesDep, request: HeartbeatRequest) -> HeartbeatReply:
    """Sent beside work; the reply says how often to call from now on."""
    return work.heartbeat(services, agent, request)


@_agents.post("/self/leases", summary="Ask for work")
async def lease(
    agent: AgentCaller, services: ServicesDep, body: LeaseRequest, request: Request
) -> LeaseReply:
    """One job for this device, or none. Waits up to `wait_s`, or less where the server has a lower limit."""
    return await work.wait_for_work(services, agent, body.wait_s, is_gone=request.is_disconnected)


@_agents.post(
    "/self/leases/{job_id}/start", summary="Begin a leased job", responses=problem_responses(404, 409)
)
def start(agent: AgentCaller, services: ServicesDep, job_id: JobId, request: LeaseWrite) -> LeaseState:
    """The measurement begins."""
    return work.start(services, agent, job_id, request)


@_agents.post("/self/leases/{job_id}/renew", summary="Keep a lease", responses=problem_responses(404, 409))
def renew(agent: AgentCaller, services: ServicesDep, job_id: JobId, request: LeaseWrite) -> LeaseState:
    """The measurement goes on; the reply says whether it is still wanted."""
    return work.renew(services, agent, job_id, request)


@_agents.post(
    "/self/leases/{job_id}/complete", summary="Report a measurement", responses=problem_responses(404, 409)
)
def complete(
    agent: AgentCaller, services: ServicesDep, job_id: JobId, request: CompleteRequest
) -> LeaseState:
    """Recorded once, whatever is resent. A measurement that the job did not ask for ends it as failed
    (422).
    """
    return work.complete(services, agent, job_id, request)


@_agents.post(
    "/self/leases/{job_id}/fail", summary="Give a leased job up", responses=problem_responses(404, 409)
)
def fail(agent: AgentCaller, services: ServicesDep, job_id: JobId, request: FailRequest) -> LeaseState:
    """The measurement came to no end; the job is queued again where another try can succeed."""
    return work.fail(services, agent, job_id, request)


@_agents.get(
    "/self/models/{sha256}",
    summary="A leased job's model",
    response_class=FileResponse,
    responses={
        200: {
            "description": "the ONNX file",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        **problem_responses(404),
    },
)
def download_model(
    agent: AgentCaller, services: ServicesDep, sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
) -> FileResponse:
    """The bytes of the model that this agent is to measure now, and of no other."""
    return FileResponse(work.model_file(services, agent, sha256), media_type="application/octet-stream")


router = APIRouter()
router.include_router(_clients)
router.include_router(_agents)
