"""A typed client of the REST API, as the command line and the demo use it.

ClientError
├── ServerUnreachable   no answer, however often it was tried
└── ApiProblem          the server answered with a problem document: status, code, detail

Every call may be repeated safely: GETs by nature, POSTs because each carries an `Idempotency-Key`, uploads
because bytes are stored by their hash, and latency queries because what they queue is queued once. So calls
are tried again when no answer came, and when the server says 429 or 503 or that the first try is still at
work.
"""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from service.access import ApiKeyCreate, ApiKeyCreated, RegistrationTokenCreate, RegistrationTokenCreated
from service.errors import Problem
from service.fleet.schemas import DeviceView, TargetAccuracy, TargetView
from service.jobs.schemas import JobEvents, JobView
from service.latency.schemas import (
    Answer,
    LatencyAnswers,
    LatencyQuery,
    MeasurementCreate,
    MeasurementView,
    ModelView,
    QueriedModel,
    Source,
)
from service.paging import PageOf
from service.projects import ProjectChange, ProjectView
from service.searches.schemas import FrontView, SearchCreate, SearchView, TrialView
from service.security import Scope

DEFAULT_URL = "http://127.0.0.1:8731"
RETRY_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
LONGEST_PAUSE_S = 10.0  # whatever Retry-After says
JOB_POLL_S = 0.5
RESTART_S = 60.0  # how long a wait outlasts a server that is away
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})  # what HTTP_PROXY names cannot reach it
_CHUNK_BYTES = 1 << 20

T = TypeVar("T", bound=BaseModel)


class ClientError(Exception):
    """Root of the client's errors."""


class ServerUnreachable(ClientError):
    """No answer came."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no answer from the server at {url} ({reason}): is `laptime serve` running there?")


class ApiProblem(ClientError):
    """The server said no. `code` is stable, `detail` is for people; `fields` holds what a code adds."""

    def __init__(self, status: int, code: str, detail: str, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{detail} ({code})")
        self.status = status
        self.code = code
        self.detail = detail
        self.fields = dict(fields or {})


class Client:
    """One server and one API key. Synchronous; a context that closes its connections. Raises httpx.InvalidURL
    for what is no URL, UnicodeEncodeError for what is no key.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        timeout = httpx.Timeout(timeout_s, connect=5.0)
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=timeout,
            transport=transport,
            trust_env=httpx.URL(self.url).host not in LOOPBACK,
        )
        self._sleep = sleep

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # ---- models ----------------------------------------------------------------------------------

    def upload_model(self, path: Path, *, name: str | None = None) -> tuple[ModelView, bool]:
        """Send an ONNX file; the model, and whether it is new to the project. Raises OSError for a file that
        cannot be read.
        """
        digest = _digest_header(path)

        def send() -> httpx.Response:
            with path.open("rb") as file:
                return self._http.post(
                    "/v1/models",
                    params={"name": name or path.name},
                    content=iter(lambda: file.read(_CHUNK_BYTES), b""),
                    headers={"Content-Type": "application/onnx", "Content-Digest": digest},
                )

        response = self._tried(send)
        return _parsed(ModelView, response), response.status_code == httpx.codes.CREATED

    def models(self) -> Iterator[ModelView]:
        """All models, newest first."""
        return self._pages(ModelView, "/v1/models", {})

    def model(self, model: str) -> ModelView:
        """By id or SHA-256."""
        return self._get(ModelView, f"/v1/models/{model}")

    def download_model(self, model: str, path: Path) -> int:
        """Write a model's bytes to a file, whole or not at all; their number."""
        return self._saved(f"/v1/models/{model}/content", path)

    # ---- fleet -----------------------------------------------------------------------------------

    def devices(self) -> Iterator[DeviceView]:
        """All devices with their agents."""
        return self._pages(DeviceView, "/v1/devices", {})

    def targets(self, **filters: str) -> Iterator[TargetView]:
        """All targets; `state` and `device` narrow them."""
        return self._pages(TargetView, "/v1/targets", filters)

    def onboard(self, target_id: str) -> JobView:
        """Measure the reference set on a target again and adapt a fresh predictor; the adapt job."""
        return self._post(JobView, f"/v1/targets/{target_id}/onboarding", None)

    # ---- latency ---------------------------------------------------------------------------------

    def latencies(
        self,
        models: Sequence[QueriedModel],
        targets: Sequence[str],
        *,
        coverage: float = 0.9,
        source: Source = Source.BEST,
    ) -> list[Answer]:
        """Every model asked of every target, models first."""
        query = LatencyQuery(models=tuple(models), targets=tuple(targets), coverage=coverage, source=source)
        return self.ask(query).answers

    def ask(self, query: LatencyQuery) -> LatencyAnswers:
        """All that a query may ask: an error that answers may have, a deadline, a limit, a ranking. Answers
        whose `decision` is `queued` name the job that measures; ask again when it has ended.
        """
        document = query.model_dump(mode="json", exclude_unset=True)  # without a key: see above
        path = "/v1/latency-queries"
        return _parsed(LatencyAnswers, self._tried(lambda: self._http.post(path, json=document)))

    def accuracy(self, target_id: str) -> TargetAccuracy:
        """How well a target's live predictor does on the target's own measurements."""
        return self._get(TargetAccuracy, f"/v1/targets/{target_id}/accuracy")

    def measure(self, request: MeasurementCreate, *, idempotency_key: str | None = None) -> JobView:
        """Queue a measurement; its job."""
        return self._post(JobView, "/v1/measurements", request, key=idempotency_key)

    def measurement(self, measurement_id: str) -> MeasurementView:
        """One finished measurement."""
        return self._get(MeasurementView, f"/v1/measurements/{measurement_id}")

    def export_measurements(
        self, path: Path, *, target: str | None = None, with_samples: bool = False
    ) -> int:
        """Write the project's shared measurements to a file, whole or not at all; the number of bytes."""
        params = {"samples": str(with_samples).lower()} | ({} if target is None else {"target": target})
        return self._saved("/v1/measurements/export", path, params)

    # ---- project ---------------------------------------------------------------------------------

    def project(self) -> ProjectView:
        """The key's own."""
        return self._get(ProjectView, "/v1/project")

    def change_project(self, change: ProjectChange) -> ProjectView:
        """Whether its measurements may become training data."""
        document = change.model_dump(mode="json", exclude_unset=True)
        return _parsed(ProjectView, self._tried(lambda: self._http.patch("/v1/project", json=document)))

    # ---- searches --------------------------------------------------------------------------------

    def start_search(self, request: SearchCreate, *, idempotency_key: str | None = None) -> SearchView:
        """Queue a search, or find the one that this key started."""
        return self._post(SearchView, "/v1/searches", request, key=idempotency_key)

    def searches(self) -> Iterator[SearchView]:
        """All searches, newest first."""
        return self._pages(SearchView, "/v1/searches", {})

    def search(self, search_id: str) -> SearchView:
        """One search."""
        return self._get(SearchView, f"/v1/searches/{search_id}")

    def trials(self, search_id: str) -> Iterator[TrialView]:
        """All trials of a search."""
        return self._pages(TrialView, f"/v1/searches/{search_id}/trials", {})

    def front(self, search_id: str) -> FrontView:
        """A search's predicted and verified fronts."""
        return self._get(FrontView, f"/v1/searches/{search_id}/front")

    # ---- jobs ------------------------------------------------------------------------------------

    def jobs(self, **filters: str) -> Iterator[JobView]:
        """All jobs, newest first; `state`, `kind` and `parent_id` narrow them."""
        return self._pages(JobView, "/v1/jobs", filters)

    def job(self, job_id: str) -> JobView:
        """One job."""
        return self._get(JobView, f"/v1/jobs/{job_id}")

    def cancel_job(self, job_id: str) -> JobView:
        """Cancel a job and its children."""
        return self._post(JobView, f"/v1/jobs/{job_id}/cancel", None)

    def job_events(self, job_id: str, *, after: int = 0) -> JobEvents:
        """Some of a job's history, oldest first."""
        return self._get(JobEvents, f"/v1/jobs/{job_id}/events", {"after": str(after)})

    def wait_for_job(self, job_id: str, *, on_progress: Callable[[JobView], None] | None = None) -> JobView:
        """The job, once it has ended. Waits as long as that takes; raises `ServerUnreachable` if the server
        goes away for long.
        """
        answered_s = time.monotonic()
        while True:
            try:
                job = self.job(job_id)
            except ServerUnreachable:
                if time.monotonic() - answered_s > RESTART_S:
                    raise
                continue
            answered_s = time.monotonic()
            if on_progress is not None:
                on_progress(job)
            if job.state.is_ended:
                return job
            self._sleep(JOB_POLL_S)

    # ---- access ----------------------------------------------------------------------------------

    def create_key(
        self, name: str, scopes: Collection[Scope], *, expires_in_s: int | None = None
    ) -> ApiKeyCreated:
        """A new API key, whose secret is in this answer only."""
        wanted = ApiKeyCreate(name=name, scopes=frozenset(scopes), expires_in_s=expires_in_s)
        return self._post(ApiKeyCreated, "/v1/api-keys", wanted)

    def create_registration_token(self, *, expires_in_s: int = 3600) -> RegistrationTokenCreated:
        """A token with which one agent may register once."""
        wanted = RegistrationTokenCreate(expires_in_s=expires_in_s)
        return self._post(RegistrationTokenCreated, "/v1/registration-tokens", wanted)

    def is_healthy(self) -> bool:
        """Whether the server answers now, tried once."""
        try:
            return self._http.get("/v1/health", timeout=2.0).is_success
        except httpx.TransportError:
            return False

    # ---- transport -------------------------------------------------------------------------------

    def _get(self, kind: type[T], path: str, params: Mapping[str, str] | None = None) -> T:
        return _parsed(kind, self._tried(lambda: self._http.get(path, params=dict(params or {}))))

    def _saved(self, address: str, path: Path, params: Mapping[str, str] | None = None) -> int:
        """What is there, as a file; the number of its bytes."""
        partial = path.with_name(f".{path.name}.part")
        try:
            response = self._tried(lambda: self._http.get(address, params=dict(params or {})))
            partial.write_bytes(response.content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return len(response.content)

    def _post(
        self, kind: type[T], path: str, body: BaseModel | Mapping[str, Any] | None, *, key: str | None = None
    ) -> T:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        document = body.model_dump(mode="json", exclude_unset=True) if isinstance(body, BaseModel) else body
        return _parsed(kind, self._tried(lambda: self._http.post(path, json=document, headers=headers)))

    def _pages(self, kind: type[T], path: str, filters: Mapping[str, str]) -> Iterator[T]:
        cursor: str | None = None
        while True:
            params = {**filters, "limit": "200"} | ({} if cursor is None else {"cursor": cursor})
            page = self._get(PageOf[kind], path, params)  # type: ignore[valid-type]
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def _tried(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        """The first good answer. Raises `ApiProblem` for what a repetition would not change, else
        `ServerUnreachable`.
        """
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                response = call()
            except httpx.TransportError as error:
                if pause_s is None:
                    raise ServerUnreachable(self.url, str(error) or type(error).__name__) from None
                self._sleep(pause_s)
                continue
            if response.is_success:
                return response
            problem = _problem(response)
            if pause_s is None or not _is_worth_retrying(problem):
                raise problem
            self._sleep(_asked_pause_s(response) or pause_s)
        raise AssertionError("the last try returns or raises")


def _is_worth_retrying(problem: ApiProblem) -> bool:
    return problem.status in {429, 503} or problem.code == "idempotency_in_progress"


def _asked_pause_s(response: httpx.Response) -> float | None:
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_PAUSE_S) if asked.isdigit() else None


def _problem(response: httpx.Response) -> ApiProblem:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        detail = (
            f"the server answered {response.status_code} {response.reason_phrase}: {response.text[:200]!r}"
        )
        return ApiProblem(response.status_code, "unexpected_answer", detail)
    return ApiProblem(response.status_code, problem.code, problem.detail, problem.model_extra)


def _parsed(kind: type[T], response: httpx.Response) -> T:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        detail = f"the answer is no {kind.__name__}: is this a Laptime server of the same version? {error}"
        raise ApiProblem(response.status_code, "unexpected_answer", detail) from None


def _digest_header(path: Path) -> str:
    """`Content-Digest` as RFC 9530 writes it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return f"sha-256=:{base64.b64encode(digest).decode()}:"
