"""The stable codes of all problems, with what each means. `type` of a problem document leads here: `GET
/problems/{code}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from service.errors import NotFound, problem_responses

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        # of every request
        "unauthenticated": "No token was sent, or one that is unknown, expired or revoked.",
        "forbidden": "The API key lacks a scope; `required_scope` names it.",
        "not_found": "The caller's project has nothing of that name.",
        "method_not_allowed": "The path exists, but not with this method; `Allow` has those it knows.",
        "request_invalid": "Parts of the request are missing or wrong; `errors` names each.",
        "value_unstorable": "A text or number cannot be stored, such as a NUL character.",
        "too_large": "The body is larger than the server takes.",
        "cursor_invalid": "The cursor is not one that this list gave.",
        "idempotency_key_reused": "The idempotency key was used for another request.",
        "idempotency_in_progress": "The first request with this idempotency key is still at work.",
        "answer_not_repeatable": "The first answer held a secret, which is not stored.",
        "unavailable": "The database is away or overloaded; `Retry-After` says when to try again.",
        "internal_error": "A defect of the server; the request id names it in the server's log.",
        # models and latencies
        "upload_incomplete": "The connection ended before the whole model came.",
        "model_empty": "The upload has no bytes.",
        "model_malformed": "The bytes are no ONNX model.",
        "model_external_data": "The model keeps tensors in other files.",
        "model_too_large": "The model has more nodes or tensors than the server reads.",
        "content_digest_invalid": "The header `Content-Digest` cannot be read.",
        "content_digest_mismatch": "The bytes are not those that `Content-Digest` names.",
        "missing_input_sizes": "Dynamic axes of the model were not given a size; the detail names them.",
        "inputs_invalid": "The input sizes contradict the model.",
        "malformed": "The body of the request, or the model it names, cannot be read.",
        "external_data": "The model keeps tensors in other files.",
        "operator_unsupported": "An operator of the model has no known cost; a device can still measure it.",
        "no_measurement": "There is no valid measurement of this model on this target.",
        "query_too_large": "The query asks for more answers than the server gives at once.",
        "measurements_not_shared": "The project does not allow that its measurements become training data.",
        "predictor_unusable": "The target's predictor belongs to another version of the service.",
        # devices and targets
        "target_not_ready": "The target has no predictor yet.",
        "target_retired": "The device no longer offers this runtime.",
        "target_key_too_long": "Device key and runtime make too long a name.",
        "onboarding_in_progress": "The target measures its reference set already; `job_id` names the job.",
        "device_changed": "The machine is not the one that the agent registered.",
        # jobs
        "lease_lost": "The job is held by somebody else, or by nobody; its result is not wanted.",
        "parent_ended": "A job that has ended can have no more children.",
        "measurement_mismatch": "The measurement is not of what the job asked for.",
        "measurement_implausible": "The measurement holds numbers that no clock can have said.",
    }
)

router = APIRouter(tags=["problems"])


class ProblemKind(BaseModel):
    """One kind of problem."""

    code: str
    meaning: str


@router.get("/problems/{code}", summary="What a problem's code means", responses=problem_responses(404, 422))
def get_problem_kind(code: Annotated[str, Path(max_length=100)]) -> ProblemKind:
    """Needs no key."""
    if code not in MEANINGS:
        raise NotFound("kind of problem", code)
    return ProblemKind(code=code, meaning=MEANINGS[code])
