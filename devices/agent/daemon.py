"""The daemon: leases one job at a time, measures it, reports it, until it is told to stop.

What runs at once (threads, because each of them only waits):

    caller of `run`   join, then: send reports -> lease -> measure -> report
    heartbeat         tells the server that this agent lives, all the time
    renew-<job>       keeps the lease of the job in work (`devices.agent.lease`)
    drain-watch       ends a lease request that still waits when the agent is told to stop
    a child process   runs the foreign model (`devices.sandbox`)

Stop is not cancel: `drain` lets the job in work end and its report arrive; `abort` gives it up, and reports
that another may do it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from devices.agent.assignment import Assignment
from devices.agent.client import AgentClient, ServerUnavailable, TokenRefused
from devices.agent.courier import Courier
from devices.agent.heartbeat import Heartbeat
from devices.agent.lease import LeaseKeeper
from devices.agent.logs import event
from devices.agent.membership import (
    Joined,
    Stopped,
    announce,
    as_registered,
    register,
    warn_of_plain_http,
)
from devices.agent.model_cache import ModelCache
from devices.agent.outages import OutageLog
from devices.agent.retry import Backoff, RetryPolicy
from devices.agent.settings import AgentSettings
from devices.agent.spool import Report, Spool
from devices.agent.state import Identity, load_identity, only_daemon, prepare
from devices.agent.work import Bench, RunMeasurement
from devices.conditions import read_conditions
from devices.errors import ServerRefused
from devices.hardware import read_machine_id
from devices.sandbox import run_measurement as run_in_sandbox
from devices.scratch import remove_stale_folders
from devices.target import Device, Runtime
from devices.version import agent_version
from devices.wire import (
    AgentState,
    AnnounceRequest,
    HeartbeatRequest,
    LeaseRequest,
    ProfileWork,
)

log = logging.getLogger(__name__)

MAX_LEASE_WAIT_S = 60.0  # the bound of LeaseRequest.wait_s
LEASE_GRACE_S = 2.0  # for the server to end a waiting lease request itself, once told of the drain
DRAIN_PATIENCE_S = 30.0  # for the last reports; what the server has not taken by then stays in the spool


class Daemon:
    """One agent on one device. `run` once; `drain` and `abort` from any other thread."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        device: Device,
        runtimes: Sequence[Runtime],
        rng: random.Random,
        run_measurement: RunMeasurement = run_in_sandbox,
        policy: RetryPolicy | None = None,
        lease_grace_s: float = LEASE_GRACE_S,
        drain_patience_s: float = DRAIN_PATIENCE_S,
    ) -> None:
        self._settings = settings
        self._announcement = AnnounceRequest(
            agent_version=agent_version(), device=device, runtimes=tuple(runtimes)
        )
        self._rng = rng
        self._run_measurement = run_measurement
        self._policy = policy or RetryPolicy()
        self._lease_grace_s = lease_grace_s
        self._drain_patience_s = drain_patience_s
        self._outages = OutageLog()
        self._draining = threading.Event()
        self._aborting = threading.Event()
        self._left = threading.Event()  # the work loop has ended
        self._fatal: Exception | None = None
        self._job_id: str | None = None

    def drain(self) -> None:
        """Take no more work; `run` returns when the job in work has ended and its report was sent."""
        self._draining.set()

    def abort(self) -> None:
        """As `drain`, and give up the job in work: it is reported as one that another agent may do."""
        self._aborting.set()
        self._draining.set()

    def run(self) -> None:
        """Work until told to stop.

        Raises `StateProblem` (directory in use, damaged), `NotRegistered`, `TokenRefused` (the agent was
        removed) and `ServerRefused` (the server will not take this agent as it is, for instance its version).
        """
        state_dir = self._settings.state_dir
        prepare(state_dir)
        with only_daemon(state_dir), ExitStack() as stack:
            if (count := remove_stale_folders()) > 0:
                log.info(event("scratch_removed", folders=count, why="left behind by a killed process"))
            spool = Spool(state_dir / "spool")
            try:
                client, courier, joined = self._join(spool, stack)
            except Stopped:
                log.info(event("stopped", before="the server answered"))
                return
            self._work_for(client, courier, joined)
        if self._fatal is not None:
            raise self._fatal

    def _join(self, spool: Spool, stack: ExitStack) -> tuple[AgentClient, Courier, Joined]:
        """With a stored identity: send what the last run left behind, then announce.

        Without one that is valid: register.
        """
        server_url = self._settings.server_url
        identity = load_identity(self._settings.state_dir)
        if identity is not None:
            server_url = server_url or identity.server_url
            identity = identity.model_copy(update={"server_url": server_url})
            if read_machine_id() is None:
                self._announcement = as_registered(self._announcement, identity)
            try:
                return self._rejoin(identity, spool, stack)
            except TokenRefused:
                if self._settings.registration_token is None:
                    raise
                log.warning(
                    event(
                        "identity_refused",
                        server=server_url,
                        agent=identity.agent_id,
                        then="registering anew",
                    )
                )
        joined = register(
            self._announcement,
            server_url=server_url,
            token=self._settings.registration_token,
            state_dir=self._settings.state_dir,
            outages=self._outages,
            backoff=self._backoff(),
            stop=self._draining,
        )
        return *self._connect(joined.identity, spool, stack), joined

    def _rejoin(
        self, identity: Identity, spool: Spool, stack: ExitStack
    ) -> tuple[AgentClient, Courier, Joined]:
        warn_of_plain_http(identity.server_url)
        client, courier = self._connect(identity, spool, stack)
        courier.send_due()
        joined = announce(
            client,
            identity,
            self._announcement,
            state_dir=self._settings.state_dir,
            backoff=self._backoff(),
            stop=self._draining,
        )
        courier.hurry()  # the server answers: what it could not take a moment ago goes before any new work
        return client, courier, joined

    def _connect(self, identity: Identity, spool: Spool, stack: ExitStack) -> tuple[AgentClient, Courier]:
        client = AgentClient(
            identity.server_url,
            identity.agent_token.get_secret_value(),
            agent_version=self._announcement.agent_version,
            outages=self._outages,
        )
        stack.callback(client.close)
        return client, Courier(client, spool, policy=self._policy, rng=self._rng)

    def _work_for(self, client: AgentClient, courier: Courier, joined: Joined) -> None:
        heartbeat = Heartbeat(
            client, cadence=joined.cadence, compose=self._compose_heartbeat, on_fatal=self._end_with
        )
        bench = Bench(
            client=client,
            cache=ModelCache(
                self._settings.state_dir / "models", capacity_bytes=self._settings.model_cache_bytes
            ),
            runtimes=self._announcement.runtimes,
            run_measurement=self._run_measurement,
            policy=self._policy,
            rng=self._rng,
        )
        watch = threading.Thread(target=self._watch_for_drain, args=(client, heartbeat), name="drain-watch")
        heartbeat.start()
        watch.start()
        try:
            self._loop(client, courier, heartbeat, bench)
            courier.send_all(give_up=self._aborting, patience_s=self._drain_patience_s)
        except TokenRefused as error:
            self._end_with(error)
        finally:
            self._left.set()
            self._draining.set()
            watch.join()
            farewell = HeartbeatRequest(state=AgentState.STOPPED)
            heartbeat.end(None if isinstance(self._fatal, TokenRefused) else farewell)
        log.info(event("stopped", reports_left=len(courier) or None))

    def _loop(self, client: AgentClient, courier: Courier, heartbeat: Heartbeat, bench: Bench) -> None:
        backoff = self._backoff()
        is_refused = False
        while not self._draining.is_set():
            courier.send_due()
            due_s = courier.next_due_s  # no lease request may hold up a report
            longest_s = MAX_LEASE_WAIT_S if due_s is None else min(due_s, MAX_LEASE_WAIT_S)
            try:
                wait_s = min(heartbeat.cadence.lease_wait_s, longest_s)
                work = client.lease(LeaseRequest(wait_s=wait_s)).work
            except ServerUnavailable as error:
                self._draining.wait(backoff.next_s(error.retry_after_s))
                continue
            except TokenRefused:
                raise
            except ServerRefused as error:
                if not is_refused:  # say so once, and go on asking: it can only be mended on the server
                    log.error(event("lease_refused", answer=error, then="asking again later"))
                is_refused = True
                self._draining.wait(backoff.next_s())
                continue
            is_refused = False
            backoff.reset()
            if work is None:
                self._draining.wait(heartbeat.cadence.idle_pause_s)
            else:
                self._do(work, client, courier, bench)

    def _do(self, work: ProfileWork, client: AgentClient, courier: Courier, bench: Bench) -> None:
        self._job_id = work.job_id
        keeper = LeaseKeeper(client, work, leased_at_s=time.monotonic(), on_fatal=self._end_with)
        try:
            with keeper:
                outcome = Assignment(
                    work, client, bench, keeper, draining=self._draining, aborting=self._aborting
                ).carry_out()
                if outcome is None:
                    return
                keeper.reported()
                courier.accept(Report.of(work.job_id, outcome))
                # The lease is kept while the server is slow to take the report. Leaving has its own patience.
                courier.send_all(give_up=self._draining, patience_s=work.lease_s)
        finally:
            self._job_id = None

    def _watch_for_drain(self, client: AgentClient, heartbeat: Heartbeat) -> None:
        """A drained agent leases no more, also when a lease request waits: the server is told first, and may
        then answer it.

        A job granted just before is thereby still received and reported. After the grace the request is cut;
        if the server grants a job into the cut connection all the same, the lease's end gives it back.
        """
        self._draining.wait()
        heartbeat.beat_now()
        if not self._left.wait(0.0 if self._aborting.is_set() else self._lease_grace_s):
            client.stop_leasing()

    def _compose_heartbeat(self) -> HeartbeatRequest:
        job_id = self._job_id
        if self._draining.is_set():
            return HeartbeatRequest(state=AgentState.DRAINING, job_id=job_id)
        if job_id is not None:  # a busy machine is left alone; the measurement records its own conditions
            return HeartbeatRequest(state=AgentState.BUSY, job_id=job_id)
        return HeartbeatRequest(state=AgentState.IDLE, conditions=read_conditions())

    def _end_with(self, error: Exception) -> None:
        """Give everything up; `run` raises this error, or the first such."""
        if self._fatal is None:
            self._fatal = error
        self.abort()

    def _backoff(self) -> Backoff:
        return Backoff(self._policy, self._rng)
