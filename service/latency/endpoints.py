"""Models, latency queries and measurements over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from devices.measurement import Measurement
from service.dependencies import DatabaseDep, Measurer, ModelWriter, Reader, ServicesDep
from service.errors import problem_responses
from service.idempotency import IdempotentRoute, RequestKeyDep, StreamedIdempotentRoute
from service.jobs.schemas import JobView
from service.latency import export, queries, service
from service.latency.answers import encoded
from service.latency.query_route import QueryRoute
from service.latency.schemas import (
    LatencyAnswers,
    LatencyQuery,
    MeasurementCreate,
    MeasurementView,
    ModelName,
    ModelView,
    Origin,
)
from service.paging import PageDep, PageOf
from service.targets import OnTarget

_UNLIMITED_BYTES = 1 << 62  # the framework's own limit; the setting's is kept while the bytes come
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "description": "the ONNX file's bytes, self-contained: weights in other files are refused",
        "required": True,
        "content": {"application/octet-stream": _BINARY},
    }
}


ModelPath = Annotated[str, Path(max_length=64, description="a model's id, or the SHA-256 of its bytes")]
MeasurementId = Annotated[str, Path(max_length=40, description="a measurement's id")]
NewName = Annotated[
    str,
    Query(
        max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$", description="what to call it; any text of one line"
    ),
]
ContentLength = Annotated[int | None, Header(include_in_schema=False)]
ContentDigest = Annotated[
    str | None,
    Header(
        max_length=400, description="`sha-256=:<base64>:` (RFC 9530): the upload is refused if it differs"
    ),
]

_uploads = APIRouter(
    prefix="/v1",
    tags=["models"],
    route_class=StreamedIdempotentRoute,
    responses=problem_responses(401, 403, 409, 413, 422),
)
_models = APIRouter(prefix="/v1/models", tags=["models"], responses=problem_responses(401, 403, 422))
query_router = APIRouter(
    prefix="/v1", tags=["latency"], route_class=QueryRoute, responses=problem_responses(401, 403, 404, 422)
)
_latency = APIRouter(
    prefix="/v1",
    tags=["latency"],
    route_class=IdempotentRoute,
    responses=problem_responses(401, 403, 404, 422),
)


@_uploads.post(
    "/models",
    summary="Upload a model",
    status_code=201,
    max_body_size=_UNLIMITED_BYTES,
    openapi_extra=_UPLOAD,
    responses={200: {"model": ModelView, "description": "The project had these bytes already"}},
)
async def upload_model(
    caller: ModelWriter,
    services: ServicesDep,
    key: RequestKeyDep,
    request: Request,
    response: Response,
    name: NewName = "",
    content_length: ContentLength = None,
    content_digest: ContentDigest = None,
) -> ModelView:
    """Stored by its SHA-256. A model with dynamic axes is accepted; sizes are given with each query."""
    async with service.receive_upload(
        services, request.stream(), content_length=content_length, content_digest=content_digest
    ) as upload:
        await key.begin(upload.stored.sha256)
        model, is_new = await run_in_threadpool(
            service.register_upload, services, caller.project_id, upload, name=name
        )
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/models/{model.id}"
    return model


@_models.get("", summary="List models, newest first")
def list_models(
    caller: Reader,
    services: ServicesDep,
    page: PageDep,
    origin: Annotated[Origin | None, Query(description="only models that came from there")] = None,
) -> PageOf[ModelView]:
    """Models of the caller's project."""
    return service.list_models(services, caller.project_id, page, origin=origin)


@_models.get("/{model}", summary="One model", responses=problem_responses(404))
def get_model(caller: Reader, services: ServicesDep, model: ModelPath) -> ModelView:
    """What the file says of itself: inputs with their axes, operators, parameters."""
    return service.get_model(services, caller.project_id, model)


@_models.get(
    "/{model}/content",
    summary="A model's bytes",
    response_class=FileResponse,
    responses={
        200: {"description": "the ONNX file", "content": {"application/onnx": _BINARY}},
        **problem_responses(404),
    },
)
def download_model(caller: Reader, services: ServicesDep, model: ModelPath) -> FileResponse:
    """The ONNX file as it was uploaded, or as a search made it."""
    path, file_name = service.model_file(services, caller.project_id, model)
    return FileResponse(path, media_type="application/onnx", filename=file_name)


@query_router.post(
    "/latency-queries",
    summary="Ask for latencies",
    response_model=LatencyAnswers,
    responses={
        202: {"model": LatencyAnswers, "description": "Answered, and better answers are being measured"},
        **problem_responses(400, 409),
    },
)
def query_latency(
    caller: Reader, services: ServicesDep, key: RequestKeyDep, query: LatencyQuery, response: Response
) -> Response:
    """Every model on every target: measured, or else predicted with an interval.

    A model or target that does not exist, and sizes that are missing, are mistakes of the whole request; a
    target that is not ready yet, or an operator that cannot be costed, is told in the answers it concerns.
    Measurements that were queued are jobs to follow; `Location` leads to the job if there is one only.
    """
    reply = queries.answer_query(services, caller, query)
    if not reply.orders:
        return Response(encoded(reply.answers), media_type="application/json")
    response.status_code = 202
    with services.database.write() as session:
        answers = queries.fulfil(session, caller.project_id, reply)
        jobs = {answer.job_id for answer in answers.answers if answer.job_id is not None}
        if len(jobs) == 1:
            response.headers["Location"] = f"/v1/jobs/{jobs.pop()}"
        body = key.answer(session, answers).model_dump_json()
    return Response(body, 202, response.headers, media_type="application/json")


@_latency.post(
    "/measurements", summary="Order a measurement", status_code=202, responses=problem_responses(400, 409)
)
def order_measurement(
    caller: Measurer, database: DatabaseDep, key: RequestKeyDep, wanted: MeasurementCreate, response: Response
) -> JobView:
    """The device measures when its turn comes; the job's result names the measurement."""
    with database.write() as session:
        job = service.order_measurement(session, caller.project_id, wanted)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return key.answer(session, job)


@_latency.get("/measurements", summary="List measurements, newest first")
def list_measurements(
    caller: Reader,
    services: ServicesDep,
    page: PageDep,
    target: OnTarget = None,
    model: Annotated[ModelName | None, Query(description="only of this model: its id or SHA-256")] = None,
    job_id: Annotated[str | None, Query(max_length=40, description="only the one that this job made")] = None,
) -> PageOf[MeasurementView]:
    """Measurements of the caller's project, invalid ones included."""
    return service.list_measurements(
        services, caller.project_id, page, target=target, model=model, job_id=job_id
    )


@_latency.get(
    "/measurements/export",
    summary="Measurements as training data",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "one measurement a line, oldest first",
            "content": {export.MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        **problem_responses(409),
    },
)
def export_measurements(
    caller: Reader,
    services: ServicesDep,
    target: OnTarget = None,
    samples: Annotated[bool, Query(description="with the raw samples of each")] = False,
) -> StreamingResponse:
    """All valid measurements of a project that shares them (`PATCH /v1/project`), in the format that
    `laptime-predictor adapt --measurements` reads.
    """
    lines = export.exported(services, caller.project_id, target=target, with_samples=samples)
    return StreamingResponse(lines, media_type=export.MEDIA_TYPE)


@_latency.get("/measurements/{measurement_id}", summary="One measurement")
def get_measurement(caller: Reader, services: ServicesDep, measurement_id: MeasurementId) -> MeasurementView:
    """Its statistics and its verdict."""
    return service.get_measurement(services, caller.project_id, measurement_id)


@_latency.get(
    "/measurements/{measurement_id}/document",
    summary="A measurement with its samples",
    response_model=Measurement,
)
def get_document(caller: Reader, services: ServicesDep, measurement_id: MeasurementId) -> Response:
    """All that the device reported: raw samples in nanoseconds, conditions, plan and verdict."""
    text = service.measurement_document(services, caller.project_id, measurement_id)
    return Response(text, media_type="application/json")


router = APIRouter()
router.include_router(_uploads)
router.include_router(_models)
router.include_router(_latency)
