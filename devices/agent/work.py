"""One job: get the model, measure it in the sandbox, and turn whatever happens into a report."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from devices.agent.client import AgentClient, FetchCancelled, ServerUnavailable, TokenRefused
from devices.agent.logs import event
from devices.agent.model_cache import ModelCache
from devices.agent.retry import Backoff, RetryPolicy
from devices.errors import EngineUnavailable, FailureCode, ModelRejected, ServerRefused, WorkFailed
from devices.measurement import Measurement
from devices.sandbox import MeasurementRequest
from devices.target import Runtime
from devices.wire import CompleteRequest, FailRequest, ProfileWork

log = logging.getLogger(__name__)

FETCH_TRIES = 6  # with the default policy about a minute; the lease is renewed meanwhile
LOOK_S = 0.1  # how soon a pause notices that the work was given up
MAX_DETAIL_CHARACTERS = 4000  # of FailRequest.detail


class RunMeasurement(Protocol):
    """What measures: `devices.sandbox.run_measurement`, or a test's own.

    Raises `ModelRejected`, `EngineUnavailable` or `WorkFailed`; with code `cancelled` soon after
    `cancelled()` has become true.
    """

    def __call__(
        self,
        request: MeasurementRequest,
        model: bytes,
        *,
        on_start: Callable[[int], None] | None,
        cancelled: Callable[[], bool],
    ) -> Measurement: ...


@dataclass(frozen=True, slots=True)
class Bench:
    """All that measuring a leased job needs."""

    client: AgentClient
    cache: ModelCache
    runtimes: Sequence[Runtime]  # what this machine announced
    run_measurement: RunMeasurement
    policy: RetryPolicy
    rng: random.Random

    def perform(self, work: ProfileWork, *, cancelled: Callable[[], bool]) -> CompleteRequest | FailRequest:
        """Do the job.

        A failure is data: only `TokenRefused` is raised. Code `cancelled`: given up because `cancelled()`
        said so.
        """
        try:
            self._check(work)
            measurement = self._measure(work, self._obtain_model(work, cancelled), cancelled)
        except TokenRefused:
            raise
        except FetchCancelled as error:
            return failure(work, FailureCode.CANCELLED, str(error))
        except ModelRejected as error:
            return failure(work, error.code, str(error))
        except EngineUnavailable as error:
            return failure(work, FailureCode.ENGINE_UNAVAILABLE, str(error))
        except WorkFailed as error:
            return failure(work, error.code, error.detail)
        except Exception as error:  # a bug here fails this job with its reason, and not the daemon
            log.exception(event("job_broke", job=work.job_id, error=repr(error)))
            return failure(work, FailureCode.INTERNAL, f"the agent failed: {error!r}")
        return CompleteRequest(fence=work.fence, measurement=measurement)

    def _check(self, work: ProfileWork) -> None:
        """Refuse what would be measured under a wrong name, or would not fit."""
        if work.runtime not in self.runtimes:
            offered = ", ".join(f"{runtime.key} ({runtime.version})" for runtime in self.runtimes)
            raise EngineUnavailable(
                f"this machine does not offer {work.runtime.key} ({work.runtime.version}) any more; "
                f"it offers {offered}"
            )
        limit_bytes = work.plan.memory_limit_bytes
        if work.model_bytes > limit_bytes:
            raise WorkFailed(
                FailureCode.OUT_OF_MEMORY,
                f"the model's {work.model_bytes} bytes are over the plan's memory limit of {limit_bytes}",
            )

    def _obtain_model(self, work: ProfileWork, cancelled: Callable[[], bool]) -> bytes:
        sha256 = work.model.sha256
        cached = self.cache.get(sha256)
        if cached is not None:
            return cached
        backoff = Backoff(self.policy, self.rng)
        for _ in range(FETCH_TRIES):
            try:
                data = self.client.fetch_model(sha256, size_bytes=work.model_bytes, is_cancelled=cancelled)
            except ServerUnavailable as error:
                last_problem = str(error)
                _pause(backoff.next_s(error.retry_after_s), cancelled)
            except TokenRefused:
                raise
            except ServerRefused as error:
                raise WorkFailed(
                    FailureCode.INTERNAL, f"the server does not give out the model: {error}"
                ) from error
            else:
                self.cache.put(sha256, data)
                return data
        raise WorkFailed(
            FailureCode.INTERNAL, f"the model could not be downloaded in {FETCH_TRIES} tries: {last_problem}"
        )

    def _measure(self, work: ProfileWork, model: bytes, cancelled: Callable[[], bool]) -> Measurement:
        request = MeasurementRequest(
            device_key=work.device_key, runtime=work.runtime, model=work.model, plan=work.plan
        )
        return self.run_measurement(
            request,
            model,
            on_start=lambda pid: log.info(event("measuring", job=work.job_id, child=pid)),
            cancelled=cancelled,
        )


def failure(work: ProfileWork, code: FailureCode, detail: str) -> FailRequest:
    """The report of a job that came to no end; what is too long to send is cut."""
    return FailRequest(fence=work.fence, code=code, detail=detail[:MAX_DETAIL_CHARACTERS])


def _pause(duration_s: float, cancelled: Callable[[], bool]) -> None:
    end_s = time.monotonic() + duration_s
    while not cancelled() and (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(LOOK_S, left_s))
    if cancelled():
        raise FetchCancelled("the work was given up before the model could be downloaded")
