"""The daemon in this process against a fake server over real HTTP: membership, jobs, delivery, leases,
leaving.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.agent import daemon
from devices.agent.client import TokenRefused
from devices.agent.membership import NotRegistered
from devices.agent.spool import Spool
from devices.agent.state import StateProblem, load_identity, only_daemon
from devices.errors import EngineUnavailable, FailureCode, MissingInputSizes, ServerRefused, WorkFailed
from devices.sandbox import run_measurement
from devices.target import Runtime
from devices.wire import WIRE_VERSION
from tests.devices.agent_fake_server import REGISTRATION_TOKEN, Answer, FakeJob, FakeServer
from tests.devices.agent_harness import DEVICE, Measuring, make_daemon, running, settings_for


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


def join_once(server: FakeServer, state_dir: Path) -> None:
    """Leave a registered agent behind."""
    with running(make_daemon(settings_for(server, state_dir))):
        server.wait_for(lambda: "lease" in server.names(), "the first lease request")
    server.calls.clear()


def work_until(server: FakeServer, state_dir: Path, job: FakeJob, measure: Measuring) -> None:
    """Run a daemon until the job has ended on the server."""
    with running(make_daemon(settings_for(server, state_dir), measure)):
        server.wait_for(lambda: job.state in ("succeeded", "failed"), f"the end of {job.job_id}")


def full_disk(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "no space left")


class TestMembership:
    def test_first_start_registers_and_keeps_its_own_token(self, server: FakeServer, tmp_path: Path) -> None:
        with running(make_daemon(settings_for(server, tmp_path))):
            server.wait_for(lambda: "lease" in server.names(), "a lease request")
        (body,) = server.bodies("register")
        assert body["wire_version"] == WIRE_VERSION
        assert body["device"]["key"] == "box"
        assert body["runtimes"][0]["engine"] == "fake"
        assert all(agent.startswith("laptime-agent/") and "wire/1" in agent for agent in server.user_agents)
        identity = load_identity(tmp_path)
        assert identity is not None
        assert identity.agent_token.get_secret_value() in server.agent_tokens
        assert (identity.server_url, identity.agent_id, identity.device_id) == (server.url, "agt_1", "dev_1")
        assert stat.S_IMODE((tmp_path / "identity.json").stat().st_mode) == 0o600

    def test_later_start_announces_without_a_registration_token(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        join_once(server, tmp_path)
        with running(make_daemon(settings_for(server, tmp_path, token=None))):
            server.wait_for(lambda: "lease" in server.names(), "a lease request")
        assert "register" not in server.names()
        assert [body["agent_version"] for body in server.bodies("announce")] != []

    def test_a_used_registration_token_is_refused_with_a_remedy(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        server.registration_tokens.clear()
        with pytest.raises(NotRegistered, match=r"registration token.*laptime tokens create"):
            make_daemon(settings_for(server, tmp_path)).run()
        assert server.names() == ["register"]  # not retried

    def test_without_identity_and_token_the_message_says_what_to_give(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        with pytest.raises(NotRegistered, match="LAPTIME_AGENT_REGISTRATION_TOKEN"):
            make_daemon(settings_for(server, tmp_path, token=None)).run()

    def test_registering_waits_for_a_server_that_is_down(self, server: FakeServer, tmp_path: Path) -> None:
        server.script(
            "register", Answer(0), Answer.problem(503, "starting"), Answer(200, b"<html>a proxy</html>")
        )
        with running(make_daemon(settings_for(server, tmp_path))):
            server.wait_for(lambda: "lease" in server.names(), "a lease request")
        assert server.names().count("register") == 4

    def test_a_removed_agent_stops_with_the_refusal(self, server: FakeServer, tmp_path: Path) -> None:
        join_once(server, tmp_path)
        server.agent_tokens.clear()
        with pytest.raises(TokenRefused):
            make_daemon(settings_for(server, tmp_path, token=None)).run()
        assert server.names() == ["announce"]

    def test_a_removed_agent_with_a_new_token_registers_again(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        join_once(server, tmp_path)
        server.agent_tokens.clear()
        server.registration_tokens.add(REGISTRATION_TOKEN)
        job = server.add_job()
        work_until(server, tmp_path, job, Measuring())
        assert job.state == "succeeded"
        assert server.names()[:2] == ["announce", "register"]

    def test_removal_during_work_stops_the_agent_and_the_work(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        server.add_job()
        measuring = Measuring(is_instant=False)
        with running(make_daemon(settings_for(server, tmp_path), measuring)) as run:
            assert measuring.started.wait(30)
            with server.changed:
                server.agent_tokens.clear()
            with pytest.raises(TokenRefused):
                run.join()
        assert measuring.cancelled.is_set()

    def test_a_server_that_takes_no_such_version_ends_the_run(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        join_once(server, tmp_path)
        server.script("announce", Answer.problem(422, "wire_version_unsupported", "needs wire version 2"))
        with pytest.raises(ServerRefused, match="needs wire version 2"):
            make_daemon(settings_for(server, tmp_path)).run()

    def test_a_damaged_identity_is_named_and_not_printed(self, server: FakeServer, tmp_path: Path) -> None:
        (tmp_path / "identity.json").write_text('{"agent_token": "lt_agent_secret", "server_url": 3}')
        with pytest.raises(StateProblem, match=r"identity\.json is damaged.*remove it") as caught:
            make_daemon(settings_for(server, tmp_path)).run()
        assert "lt_agent_secret" not in str(caught.value)

    def test_a_full_disk_costs_no_registration_token(
        self, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(StateProblem, match=r"identity\.json.*no space left.*make room"):
            make_daemon(settings_for(server, tmp_path)).run()
        assert server.names() == []

    def test_a_full_disk_does_not_keep_a_registered_agent_from_working(
        self, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        join_once(server, tmp_path)
        monkeypatch.setattr(os, "fsync", full_disk)
        job = server.add_job()
        work_until(server, tmp_path, job, Measuring())
        assert job.state == "succeeded"
        assert load_identity(tmp_path) is not None

    @pytest.mark.parametrize(("machine_id", "announced"), [(None, DEVICE.fingerprint), ("1" * 32, "f" * 64)])
    def test_a_container_made_anew_is_the_device_that_it_was(
        self,
        server: FakeServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        machine_id: str | None,
        announced: str,
    ) -> None:
        """Its host name and address have changed, and with them what a machine without an id is told by."""
        join_once(server, tmp_path)
        monkeypatch.setattr(daemon, "read_machine_id", lambda: machine_id)
        now = DEVICE.model_copy(update={"fingerprint": "f" * 64})
        with running(make_daemon(settings_for(server, tmp_path), device=now)):
            server.wait_for(lambda: "lease" in server.names(), "a lease request")
        assert server.bodies("announce")[0]["device"]["fingerprint"] == announced

    def test_a_directory_in_use_is_refused_with_the_pid(self, server: FakeServer, tmp_path: Path) -> None:
        with only_daemon(tmp_path), pytest.raises(StateProblem, match=f"process {os.getpid()}"):
            make_daemon(settings_for(server, tmp_path)).run()

    def test_drain_before_the_server_answers_ends_the_run(self, server: FakeServer, tmp_path: Path) -> None:
        server.always["register"] = Answer.problem(503, "starting")
        with running(make_daemon(settings_for(server, tmp_path))):
            server.wait_for(lambda: "register" in server.names(), "a try to register")


class TestJobs:
    def test_a_job_is_measured_in_the_box_and_reported(self, server: FakeServer, tmp_path: Path) -> None:
        job = server.add_job(model=b"forty-two bytes of what a model might hold")
        with running(make_daemon(settings_for(server, tmp_path), run_measurement)):
            server.wait_for(lambda: job.reports, "a report")
        (report,) = job.reports
        assert job.state == "succeeded"
        assert report["fence"] == 1
        assert report["measurement"]["sandbox"] == "rlimits"
        assert report["measurement"]["estimate"]["median_ms"] == pytest.approx(0.050084, rel=0.03)
        assert list((tmp_path / "spool").iterdir()) == []
        order = [name for name in server.names() if name not in ("heartbeat", "renew")]
        assert order[:5] == ["register", "lease", "start", "model", "complete"]

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (WorkFailed(FailureCode.OUT_OF_MEMORY, "too big"), "out_of_memory"),
            (EngineUnavailable("no such provider"), "engine_unavailable"),
            (MissingInputSizes("the model has dynamic axes: x[batch]", ("x[batch]",)), "inputs_invalid"),
            (ZeroDivisionError("a bug"), "internal"),
        ],
    )
    def test_a_failure_is_reported_with_its_code(
        self, server: FakeServer, tmp_path: Path, error: Exception, code: str
    ) -> None:
        def measure(*args: object, **kwargs: object) -> None:
            raise error

        job, after = server.add_job(), server.add_job("job_2")
        with running(make_daemon(settings_for(server, tmp_path), measure)):  # type: ignore[arg-type]
            server.wait_for(lambda: after.reports, "the next job's report: the daemon goes on")
        assert job.state == "failed"
        assert job.reports[0]["code"] == code
        assert str(getattr(error, "detail", error)) in job.reports[0]["detail"]

    def test_models_are_downloaded_once(self, server: FakeServer, tmp_path: Path) -> None:
        first, second = server.add_job("job_1"), server.add_job("job_2")
        with running(make_daemon(settings_for(server, tmp_path))):
            server.wait_for(lambda: first.reports and second.reports, "both reports")
        assert server.names().count("model") == 1

    def test_a_download_that_breaks_is_repeated(self, server: FakeServer, tmp_path: Path) -> None:
        job = server.add_job()
        server.script(
            "model", Answer(0), Answer(200, b"half"), Answer(200, b"A model"), Answer.problem(503, "busy")
        )
        work_until(server, tmp_path, job, Measuring())
        assert job.state == "succeeded"
        assert server.names().count("model") == 5

    def test_bytes_that_are_never_the_model_fail_the_job(self, server: FakeServer, tmp_path: Path) -> None:
        job = server.add_job()
        server.always["model"] = Answer(200, b"something much longer than what was announced" * 1000)
        work_until(server, tmp_path, job, measuring := Measuring())
        assert job.reports[0]["code"] == "internal"
        assert "could not be downloaded" in job.reports[0]["detail"]
        assert measuring.count == 0

    def test_a_runtime_that_was_upgraded_is_not_measured_under_its_old_name(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        job = server.add_job(runtime=Runtime(engine="fake", version="0.9", provider="cpu", threads=1))
        work_until(server, tmp_path, job, measuring := Measuring())
        assert job.reports[0]["code"] == "engine_unavailable"
        assert "0.9" in job.reports[0]["detail"]
        assert measuring.count == 0

    def test_heartbeats_go_on_beside_work(self, server: FakeServer, tmp_path: Path) -> None:
        server.add_job()
        measuring = Measuring(is_instant=False)
        with running(make_daemon(settings_for(server, tmp_path), measuring)):
            server.wait_for(
                lambda: [
                    b for b in server.bodies("heartbeat") if b["state"] == "busy" and b["job_id"] == "job_1"
                ][2:],
                "three busy heartbeats",
            )
            measuring.release.set()
        states = [body["state"] for body in server.bodies("heartbeat")]
        assert states[0] == "idle"
        assert states[-1] == "stopped"
        assert server.bodies("heartbeat")[0]["conditions"]["at_unix_s"] > 0


class TestDelivery:
    def test_a_report_is_resent_until_it_is_accepted(self, server: FakeServer, tmp_path: Path) -> None:
        job = server.add_job()
        refusals = (
            Answer.problem(503, "busy"),
            Answer.problem(429, "slow"),
            Answer.problem(408, "late"),
            Answer(0),
        )
        server.script("complete", *refusals)
        work_until(server, tmp_path, job, measuring := Measuring())
        assert job.state == "succeeded"
        assert server.names().count("complete") == 5
        assert measuring.count == 1

    def test_an_answer_that_was_lost_leads_to_a_second_delivery_that_counts_once(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        job, after = server.add_job(), server.add_job("job_2")
        server.script("complete", Answer(0, is_handled=True))
        with running(make_daemon(settings_for(server, tmp_path))):
            server.wait_for(lambda: after.reports, "the next job's report")
        assert len(job.reports) == 1
        first, again = server.bodies("complete")[:2]
        assert first == again

    def test_a_report_is_on_disk_before_it_is_sent(self, server: FakeServer, tmp_path: Path) -> None:
        server.add_job()
        server.always["complete"] = Answer.problem(503, "busy")
        with running(make_daemon(settings_for(server, tmp_path))):
            server.wait_for(lambda: "complete" in server.names(), "a try to deliver")
            (file,) = (tmp_path / "spool").glob("*.json")
            assert json.loads(file.read_text())["complete"]["fence"] == 1
        assert file.exists()  # draining gave up after its patience, and left it for the next start

    def test_what_the_last_run_left_is_sent_first_and_not_measured_again(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        job = server.add_job()
        server.always["complete"] = Answer.problem(503, "busy")
        with running(make_daemon(settings_for(server, tmp_path))):
            server.wait_for(lambda: "complete" in server.names(), "a try to deliver")
        del server.always["complete"]
        server.calls.clear()
        with running(make_daemon(settings_for(server, tmp_path), measuring := Measuring())):
            server.wait_for(lambda: "lease" in server.names(), "a lease request")
        assert server.names()[:2] == ["complete", "announce"]
        assert job.state == "succeeded"
        assert measuring.count == 0
        assert Spool(tmp_path / "spool").reports() == []

    def test_what_was_left_for_a_lease_that_is_lost_is_dropped_and_done_anew(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        job = server.add_job()
        server.always["complete"] = Answer.problem(503, "busy")
        with running(make_daemon(settings_for(server, tmp_path))):
            server.wait_for(lambda: "complete" in server.names(), "a try to deliver")
        del server.always["complete"]
        server.expire(job)
        work_until(server, tmp_path, job, measuring := Measuring())
        assert measuring.count == 1
        assert [report["fence"] for report in job.reports] == [2]

    def test_a_report_refused_for_its_content_fails_the_job_with_the_reason(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        job = server.add_job()
        server.script("complete", Answer.problem(413, "too_large", "at most 1 byte"))
        work_until(server, tmp_path, job, Measuring())
        assert job.reports[0]["code"] == "internal"
        assert "at most 1 byte" in job.reports[0]["detail"]
        assert list((tmp_path / "spool").iterdir()) == []

    def test_a_report_that_cannot_be_taken_does_not_hold_up_other_work(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        """The server breaks on one report for good, and another holder ends that job."""
        first = server.add_job("job_1", lease_s=1.0)
        server.script("complete", *[Answer.problem(500, "broken")] * 10_000)
        with running(make_daemon(settings_for(server, tmp_path))):
            server.wait_for(lambda: server.names().count("complete") > 3, "several tries")
            with server.changed:
                first.state = "failed"
                server.cadence = server.cadence.model_copy(update={"lease_wait_s": 0.05})
            second = server.add_job("job_2")
            server.wait_for(lambda: second.state == "running", "the start of the next job")
            with server.changed:
                server.scripted["complete"].clear()
            server.wait_for(lambda: second.state == "succeeded", "the end of the next job")

    def test_a_server_restart_is_survived(self, server: FakeServer, tmp_path: Path) -> None:
        job = server.add_job()
        measuring = Measuring(is_instant=False)
        with running(make_daemon(settings_for(server, tmp_path), measuring)):
            assert measuring.started.wait(30)
            server.stop()
            measuring.release.set()
            server.start()
            server.wait_for(lambda: job.reports, "the report")
            server.stop()
            server.start()
            after = server.add_job("job_2")
            server.wait_for(lambda: after.reports, "a job after the second restart")
        assert measuring.count == 2

    def test_an_outage_is_one_line_in_the_log(
        self, server: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="devices")
        with running(make_daemon(settings_for(server, tmp_path))):
            server.wait_for(lambda: "lease" in server.names(), "a lease request")
            server.script("heartbeat", *[Answer.problem(503, "busy")] * 3)
            server.wait_for(lambda: not server.scripted["heartbeat"], "three failures")
            seen = len(server.bodies("heartbeat"))
            server.wait_for(lambda: len(server.bodies("heartbeat")) > seen + 1, "heartbeats that are taken")
        lines = [r.getMessage() for r in caplog.records if "what=heartbeat" in r.getMessage()]
        assert [line.split()[0] for line in lines] == ["outage_began", "outage_ended"]


def test_a_broken_heartbeat_ends_the_agent(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(daemon, "read_conditions", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        make_daemon(settings_for(server, tmp_path)).run()
    assert server.bodies("heartbeat")[-1]["state"] == "stopped"


class TestLease:
    def test_a_lost_lease_kills_the_child_and_drops_the_result(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        job = server.add_job(model=b"fake:hang", lease_s=0.6)
        children: list[int] = []

        def measure(request: object, model: bytes, *, on_start: object, cancelled: object) -> object:
            return run_measurement(request, model, on_start=children.append, cancelled=cancelled)  # type: ignore[arg-type]

        with running(make_daemon(settings_for(server, tmp_path), measure)):  # type: ignore[arg-type]
            server.wait_for(lambda: children and "renew" in server.names(), "a child at work")
            with server.changed:  # another holder has it, and does it
                job.fence, job.state = 7, "succeeded"
            after = server.add_job("job_2")
            server.wait_for(lambda: after.reports, "the next job's report")
        assert job.reports == []
        assert [body["fence"] for body in server.bodies("complete")] == [1]  # of job_2
        with pytest.raises(ProcessLookupError):
            os.kill(children[0], 0)

    def test_a_lease_that_cannot_be_renewed_is_given_up(self, server: FakeServer, tmp_path: Path) -> None:
        job = server.add_job(lease_s=0.3)
        measuring = Measuring(is_instant=False)
        with running(make_daemon(settings_for(server, tmp_path), measuring)):
            assert measuring.started.wait(30)
            server.stop()
            assert measuring.cancelled.wait(30)
            server.start()
            server.wait_for(lambda: server.names()[-1:] == ["lease"], "the next lease request")
        assert job.reports == []

    def test_the_lease_is_kept_while_the_model_is_measured(self, server: FakeServer, tmp_path: Path) -> None:
        job = server.add_job(lease_s=1.5)
        measuring = Measuring(is_instant=False)
        with running(make_daemon(settings_for(server, tmp_path), measuring)):
            server.wait_for(
                lambda: server.names().count("renew") > 3, "renewals over more than a lease's time"
            )
            measuring.release.set()
            server.wait_for(lambda: job.reports, "the report")
        assert job.state == "succeeded"

    def test_a_cancelled_job_is_stopped_and_reported(self, server: FakeServer, tmp_path: Path) -> None:
        job = server.add_job(lease_s=1.5)
        measuring = Measuring(is_instant=False)
        with running(make_daemon(settings_for(server, tmp_path), measuring)):
            assert measuring.started.wait(30)
            with server.changed:
                job.is_cancel_requested = True
            server.wait_for(lambda: job.reports, "the report")
        assert measuring.cancelled.is_set()
        assert job.reports[0]["code"] == "cancelled"

    def test_a_job_lost_before_its_start_is_not_measured(self, server: FakeServer, tmp_path: Path) -> None:
        job = server.add_job()
        server.script("start", Answer.problem(409, "lease_lost"))
        measuring = Measuring()
        with running(make_daemon(settings_for(server, tmp_path), measuring)):
            server.wait_for(lambda: "start" in server.names(), "a start")
            server.expire(job)
            server.wait_for(lambda: job.reports, "the second try")
        assert measuring.count == 1
        assert job.reports[0]["fence"] == 2


class TestLeaving:
    def test_drain_lets_the_job_end_and_says_goodbye(self, server: FakeServer, tmp_path: Path) -> None:
        job, after = server.add_job(), server.add_job("job_2")
        measuring = Measuring(is_instant=False)
        with running(make_daemon(settings_for(server, tmp_path), measuring)) as run:
            assert measuring.started.wait(30)
            run.daemon.drain()
            server.wait_for(lambda: server.is_draining, "the news of draining")
            measuring.release.set()
            run.join()
        assert job.state == "succeeded"
        assert after.state == "queued"
        assert server.bodies("heartbeat")[-1]["state"] == "stopped"

    @pytest.mark.parametrize("is_server_helpful", [True, False])
    def test_drain_ends_a_lease_request_that_waits(
        self, server: FakeServer, tmp_path: Path, *, is_server_helpful: bool
    ) -> None:
        """Either the server answers it when it hears of draining, or the agent cuts it: the run ends long
        before the wait.
        """
        server.ends_polls_of_draining_agents = is_server_helpful
        server.cadence = server.cadence.model_copy(update={"lease_wait_s": 60.0})
        agent = make_daemon(settings_for(server, tmp_path), lease_grace_s=60.0 if is_server_helpful else 0.01)
        with running(agent) as run:
            server.wait_for(lambda: "lease" in server.names(), "a lease request")
            agent.drain()
            run.join()
        assert server.names().count("lease") == 1

    def test_a_job_granted_while_draining_goes_back(self, server: FakeServer, tmp_path: Path) -> None:
        server.ends_polls_of_draining_agents = False
        measuring = Measuring()
        with running(make_daemon(settings_for(server, tmp_path), measuring)) as run:
            server.wait_for(lambda: "lease" in server.names(), "a lease request")
            run.daemon.drain()
            server.wait_for(lambda: server.is_draining, "the news of draining")
            job = server.add_job()
            run.join()
        assert measuring.count == 0
        assert (job.reports[0]["code"], job.reports[0]["detail"]) == ("agent_lost", "agent stopped")

    def test_abort_gives_the_job_back(self, server: FakeServer, tmp_path: Path) -> None:
        job = server.add_job()
        measuring = Measuring(is_instant=False)
        with running(make_daemon(settings_for(server, tmp_path), measuring)) as run:
            assert measuring.started.wait(30)
            run.daemon.drain()
            run.daemon.abort()
            run.join()
        assert measuring.cancelled.is_set()
        assert (job.reports[0]["code"], job.reports[0]["detail"]) == ("agent_lost", "agent stopped")
        assert FailureCode(job.reports[0]["code"]).is_retryable
