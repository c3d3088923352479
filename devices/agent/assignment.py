"""One leased job under its lease: begun on the server, carried out, and turned into what is to be reported,
or into nothing.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from devices.agent.client import AgentClient, ServerUnavailable, TokenRefused
from devices.agent.lease import LeaseKeeper
from devices.agent.logs import event
from devices.agent.retry import Backoff
from devices.agent.work import Bench, failure
from devices.errors import FailureCode, ServerRefused
from devices.target import Target
from devices.wire import CompleteRequest, FailRequest, LeaseWrite, ProfileWork

log = logging.getLogger(__name__)

STOPPED_DETAIL = "agent stopped"
Outcome = CompleteRequest | FailRequest


@dataclass(frozen=True, slots=True)
class Assignment:
    """A job, what it needs, and who may end it early: the server, its owner, and this agent's stop."""

    work: ProfileWork
    client: AgentClient
    bench: Bench
    keeper: LeaseKeeper
    draining: threading.Event
    aborting: threading.Event

    def carry_out(self) -> Outcome | None:
        """Do the job; None when it is not this agent's any more, and nothing is to be reported.

        Raises `TokenRefused`. A job granted while the agent was already told to stop goes back at once.
        """
        self._log_lease()
        if self.draining.is_set():
            return self._logged(failure(self.work, FailureCode.AGENT_LOST, STOPPED_DETAIL))
        if not self._begin():
            return None
        outcome = self.bench.perform(self.work, cancelled=self._is_given_up)
        if self.keeper.is_lost:
            self.keeper.lose("it ran out unnoticed")
            return None
        if self.keeper.is_cancel_requested:
            outcome = failure(self.work, FailureCode.CANCELLED, "cancelled on request")
        elif isinstance(outcome, FailRequest) and outcome.code is FailureCode.CANCELLED:
            outcome = failure(self.work, FailureCode.AGENT_LOST, STOPPED_DETAIL)
        return self._logged(outcome)

    def _begin(self) -> bool:
        """Tell the server that the work begins; whether the lease held until it knew."""
        backoff = Backoff(self.bench.policy, self.bench.rng)
        while not self.keeper.is_lost:
            try:
                self.keeper.observe(self.client.start(self.work.job_id, LeaseWrite(fence=self.work.fence)))
                return not self.keeper.is_lost
            except ServerUnavailable as error:
                if self.aborting.wait(backoff.next_s(error.retry_after_s)):
                    return True  # the work is given up at once, and that is reported
            except TokenRefused:
                raise
            except ServerRefused as error:
                self.keeper.lose(str(error))
        return False

    def _is_given_up(self) -> bool:
        return self.keeper.is_lost or self.keeper.is_cancel_requested or self.aborting.is_set()

    def _log_lease(self) -> None:
        work = self.work
        log.info(
            event(
                "job_leased",
                job=work.job_id,
                fence=work.fence,
                target=Target(device_key=work.device_key, runtime=work.runtime).key,
                model=work.model.sha256[:12],
                level=work.plan.level.value,
            )
        )

    def _logged(self, outcome: Outcome) -> Outcome:
        job, fence = self.work.job_id, self.work.fence
        if isinstance(outcome, FailRequest):
            code, detail = outcome.code.value, outcome.detail
            log.warning(event("job_failed", job=job, fence=fence, code=code, detail=detail))
            return outcome
        estimate, verdict = outcome.measurement.estimate, outcome.measurement.verdict
        reasons = "; ".join(verdict.reasons) or None
        log.info(
            event(
                "job_measured",
                job=job,
                fence=fence,
                median_ms=estimate.median_ms,
                valid=verdict.is_valid,
                reasons=reasons,
            )
        )
        return outcome
