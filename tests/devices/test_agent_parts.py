"""The agent's parts on their own: files, spool, cache, back-off, settings, log lines, client, noise."""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from devices.agent.client import AgentClient, LeaseLost, ServerUnavailable, TokenRefused
from devices.agent.files import write_durably
from devices.agent.logs import event
from devices.agent.model_cache import ModelCache
from devices.agent.noise import clock_step_ns, estimate_noise
from devices.agent.outages import OutageLog
from devices.agent.retry import Backoff, RetryPolicy
from devices.agent.settings import AgentSettings, thread_counts_for
from devices.agent.spool import Report, Spool
from devices.agent.state import (
    Identity,
    StateProblem,
    load_identity,
    only_daemon,
    running_daemon,
    store_identity,
)
from devices.agent.tables import measurement_as_text
from devices.engines.fake import ScriptedClock
from devices.errors import FailureCode, ServerRefused
from devices.measurement import LayerProfile, LayerTime, MeasurementPlan
from devices.model_ref import ModelRef, sha256_of
from devices.sandbox import MeasurementRequest
from devices.wire import CompleteRequest, FailRequest, HeartbeatRequest, LeaseRequest, LeaseWrite
from tests.devices.agent_fake_server import RUNTIME, Answer, FakeServer
from tests.devices.agent_harness import make_daemon, measured, running, settings_for


def failed(job_id: str = "job_1", fence: int = 1, at_unix_s: float = 0.0) -> Report:
    request = FailRequest(fence=fence, code=FailureCode.CRASHED, detail="died")
    return Report(job_id=job_id, fail=request, spooled_at_unix_s=at_unix_s)


class TestDurability:
    def test_content_and_name_are_synced_in_that_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target, steps = tmp_path / "file", []
        real_sync = os.fsync

        def sync(descriptor: int) -> None:
            is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            steps.append(("directory" if is_directory else "content", target.exists()))
            real_sync(descriptor)

        monkeypatch.setattr(os, "fsync", sync)
        write_durably(target, b"new")
        assert steps == [("content", False), ("directory", True)]
        assert target.read_bytes() == b"new"
        assert stat.S_IMODE(target.stat().st_mode) == 0o600

    def test_a_full_disk_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        target = tmp_path / "file"
        write_durably(target, b"old")

        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "no space left")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            write_durably(target, b"new")
        assert target.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [target]


class TestSpool:
    def test_reports_come_back_oldest_first_and_unchanged(self, tmp_path: Path) -> None:
        request = MeasurementRequest(
            device_key="box", runtime=RUNTIME, model=ModelRef(sha256="0" * 64), plan=MeasurementPlan()
        )
        complete = CompleteRequest(fence=3, measurement=measured(request))
        young, old = Report.of("job_a", complete), failed("job_b", at_unix_s=1.0)
        spool = Spool(tmp_path)
        spool.put(young)
        spool.put(old)
        assert Spool(tmp_path).reports() == [old, young]
        spool.remove(old)
        spool.remove(old)
        assert Spool(tmp_path).reports() == [young]

    def test_each_fence_of_a_job_has_its_file_and_a_repeat_replaces_it(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path)
        for fence in (1, 2, 2):
            spool.put(failed(fence=fence))
        assert [report.fence for report in spool.reports()] == [1, 2]

    @pytest.mark.parametrize("job_id", ["../../etc/passwd", "a/b", "..", "%2e%2e", "job\n1"])
    def test_no_job_id_is_a_path(self, tmp_path: Path, job_id: str) -> None:
        spool = Spool(tmp_path / "inner" / "spool")
        spool.put(failed(job_id))
        assert [path.parent for path in tmp_path.rglob("*") if path.is_file()] == [
            tmp_path / "inner" / "spool"
        ]
        assert [report.job_id for report in spool.reports()] == [job_id]

    def test_damaged_and_torn_files_are_out_of_the_way(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path)
        spool.put(failed())
        (tmp_path / "job_9.1.json").write_bytes(b'{"job_id": "job_9", "fa')
        (tmp_path / "job_8.1.json.tmp").write_bytes(b"{")
        assert [report.job_id for report in Spool(tmp_path).reports()] == ["job_1"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["job_1.1.json", "job_9.1.json.damaged"]

    def test_a_report_is_one_of_two_things(self) -> None:
        with pytest.raises(ValidationError, match="either complete or fail"):
            Report(job_id="job_1")

    def test_a_disk_that_takes_nothing_costs_no_result(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_spool: Spool, _report: Report) -> None:
            raise OSError(errno.ENOSPC, "no space left")

        monkeypatch.setattr(Spool, "put", full)
        with FakeServer() as server:
            job = server.add_job()
            with running(make_daemon(settings_for(server, tmp_path))):
                server.wait_for(lambda: job.reports, "the report")
        assert job.state == "succeeded"


class TestModelCache:
    def test_the_least_recently_used_go_first(self, tmp_path: Path) -> None:
        cache = ModelCache(tmp_path, capacity_bytes=30)
        models = {sha256_of(data): data for data in (b"a" * 10, b"b" * 10, b"c" * 10, b"d" * 10)}
        a, b, c, d = models
        for age, sha256 in enumerate((a, b, c)):
            cache.put(sha256, models[sha256])
            os.utime(tmp_path / sha256, ns=(age, age))
        assert cache.get(a) == models[a]  # used just now, though it came first
        cache.put(d, models[d])
        assert [cache.get(sha256) is not None for sha256 in (a, b, c, d)] == [True, False, True, True]

    def test_what_changed_on_disk_is_not_used(self, tmp_path: Path) -> None:
        cache = ModelCache(tmp_path, capacity_bytes=100)
        sha256 = sha256_of(b"model")
        cache.put(sha256, b"model")
        (tmp_path / sha256).write_bytes(b"modem")
        assert cache.get(sha256) is None
        assert list(tmp_path.iterdir()) == []

    def test_a_smaller_limit_holds_from_the_next_start_on(self, tmp_path: Path) -> None:
        ModelCache(tmp_path, capacity_bytes=10).put(sha256_of(b"model"), b"model")
        ModelCache(tmp_path, capacity_bytes=0)
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_keeps_nothing_and_no_half_model(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def half(path: Path, data: bytes) -> int:
            with path.open("wb") as file:
                file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "no space left")

        monkeypatch.setattr(Path, "write_bytes", half)
        ModelCache(tmp_path, capacity_bytes=10).put(sha256_of(b"model"), b"model")
        assert list(tmp_path.iterdir()) == []

    def test_a_place_that_cannot_be_used_fails_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "models").touch()
        cache = ModelCache(tmp_path / "models", capacity_bytes=10)
        cache.put(sha256_of(b"model"), b"model")
        assert cache.get(sha256_of(b"model")) is None

    def test_what_does_not_fit_is_not_kept(self, tmp_path: Path) -> None:
        cache = ModelCache(tmp_path, capacity_bytes=4)
        cache.put(sha256_of(b"12345"), b"12345")
        assert list(tmp_path.iterdir()) == []


class TestBackoff:
    @given(
        seed=st.integers(),
        first_s=st.floats(0.001, 10),
        cap_s=st.floats(0.001, 100),
        tries=st.integers(1, 200),
    )
    def test_delays_stay_within_half_and_all_of_the_capped_doubling(
        self, seed: int, first_s: float, cap_s: float, tries: int
    ) -> None:
        backoff = Backoff(RetryPolicy(first_s=first_s, cap_s=cap_s), random.Random(seed))
        for attempt in range(tries):
            ceiling_s = min(cap_s, first_s * 2.0 ** min(attempt, 60))
            assert ceiling_s / 2 <= backoff.next_s() <= ceiling_s

    def test_what_the_server_asks_for_is_granted_up_to_the_cap(self) -> None:
        backoff = Backoff(RetryPolicy(first_s=1, cap_s=30), random.Random(0))
        assert backoff.next_s(at_least_s=20) == 20
        assert backoff.next_s(at_least_s=86_400) == 30

    def test_success_starts_anew(self) -> None:
        backoff = Backoff(RetryPolicy(first_s=1, cap_s=1000), random.Random(0))
        for _ in range(8):
            backoff.next_s()
        backoff.reset()
        assert backoff.next_s() <= 1


class TestSettings:
    def test_the_environment_is_read(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("LAPTIME_AGENT_SERVER_URL", "https://laptime.example.org/")
        monkeypatch.setenv("LAPTIME_AGENT_ENGINES", "fake, onnxruntime")
        monkeypatch.setenv("LAPTIME_AGENT_OPTIMIZATIONS", "default,none")
        monkeypatch.setenv("LAPTIME_AGENT_THREAD_COUNTS", "[4, 1]")
        monkeypatch.setenv("LAPTIME_AGENT_STATE_DIR", str(tmp_path))
        monkeypatch.setenv("LAPTIME_AGENT_REGISTRATION_TOKEN", "lt_reg_secret\n")
        settings = AgentSettings()
        assert settings.server_url == "https://laptime.example.org"
        assert settings.engines == ("fake", "onnxruntime")
        assert settings.optimizations == ("default", "none")
        assert settings.thread_counts == (4, 1)
        assert settings.state_dir == tmp_path
        assert settings.registration_token == SecretStr("lt_reg_secret")
        assert "lt_reg_secret" not in repr(settings)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"server_url": "laptime.example.org"},
            {"server_url": "http://laptime.example.org:99999"},
            {"registration_token": "lt_reg_\u00e4"},
            {"thread_counts": "0"},
            {"engines": "No Such"},
            {"optimizations": "bsic"},
        ],
    )
    def test_what_makes_no_sense_is_refused(self, wrong: dict[str, str]) -> None:
        with pytest.raises(ValidationError):
            AgentSettings.model_validate(wrong)

    def test_thread_counts(self) -> None:
        assert thread_counts_for((), 8) == (1, 8)
        assert thread_counts_for((), 1) == (1,)
        assert thread_counts_for((4, 2, 4), 8) == (2, 4)


class TestState:
    def test_an_identity_comes_back_with_its_token(self, tmp_path: Path) -> None:
        identity = Identity(
            server_url="http://s",
            agent_id="a",
            device_id="d",
            device_key="box",
            agent_token=SecretStr("lt_agent_x"),
        )
        assert load_identity(tmp_path) is None
        store_identity(tmp_path, identity)
        assert load_identity(tmp_path) == identity
        assert "lt_agent_x" not in repr(identity)

    def test_the_lock_is_held_once_and_let_go(self, tmp_path: Path) -> None:
        assert running_daemon(tmp_path) is None
        with only_daemon(tmp_path):
            assert running_daemon(tmp_path) == str(os.getpid())
            with pytest.raises(StateProblem, match=f"process {os.getpid()}"), only_daemon(tmp_path):
                pass
        assert running_daemon(tmp_path) is None
        with only_daemon(tmp_path):
            assert running_daemon(tmp_path) == str(os.getpid())


def test_a_log_line_is_one_line_whatever_it_holds() -> None:
    line = event(
        "failed", job="job_1", detail='two\nlines "quoted" \x1b[31m', ratio=0.123456789, nothing=None
    )
    assert line == 'failed job=job_1 detail="two\\nlines \\"quoted\\" \\u001b[31m" ratio=0.123457'


class TestClient:
    @pytest.fixture
    def server(self) -> Iterator[FakeServer]:
        with FakeServer() as fake:
            fake.agent_tokens.add("lt_agent_1")
            yield fake

    @pytest.fixture
    def client(self, server: FakeServer) -> Iterator[AgentClient]:
        client = AgentClient(server.url, "lt_agent_1", agent_version="9", outages=OutageLog())
        yield client
        client.close()

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (Answer(0), ServerUnavailable),
            (Answer.problem(500, "internal"), ServerUnavailable),
            (Answer.problem(408, "timeout"), ServerUnavailable),
            (Answer.problem(429, "slow_down"), ServerUnavailable),
            (Answer(302, b"", {"Location": "http://portal.example"}), ServerUnavailable),
            (Answer(200, b"<html>not the server</html>"), ServerUnavailable),
            (Answer(200, b'{"job_id": 3}'), ServerUnavailable),
            (Answer.problem(401, "unauthenticated"), TokenRefused),
            (Answer.problem(409, "lease_lost"), LeaseLost),
            (Answer.problem(422, "invalid"), ServerRefused),
            (Answer(404, b"not json"), ServerRefused),
        ],
    )
    def test_every_answer_has_one_meaning(
        self, server: FakeServer, client: AgentClient, answer: Answer, error: type[Exception]
    ) -> None:
        server.script("renew", answer)
        with pytest.raises(error) as caught:
            client.renew("job_1", LeaseWrite(fence=1), timeout_s=5.0)
        assert type(caught.value) is error

    def test_what_the_server_asks_for_is_heard(self, server: FakeServer, client: AgentClient) -> None:
        server.script("renew", Answer(503, b"{}", {"Retry-After": "7"}))
        with pytest.raises(ServerUnavailable) as caught:
            client.renew("job_1", LeaseWrite(fence=1), timeout_s=5.0)
        assert caught.value.retry_after_s == 7

    def test_a_waiting_lease_request_is_cut_and_nothing_else(
        self, server: FakeServer, client: AgentClient
    ) -> None:
        errors: list[Exception] = []

        def lease() -> None:
            try:
                client.lease(LeaseRequest(wait_s=60))
            except ServerUnavailable as error:
                errors.append(error)

        thread = threading.Thread(target=lease)
        thread.start()
        server.wait_for(lambda: "lease" in server.names(), "the lease request")
        client.stop_leasing()
        thread.join(30)
        assert len(errors) == 1
        with pytest.raises(ServerUnavailable, match="stopped leasing"):
            client.lease(LeaseRequest(wait_s=0))
        client.heartbeat(HeartbeatRequest(state="idle"))

    def test_a_model_is_verified_and_never_larger_than_announced(
        self, server: FakeServer, client: AgentClient
    ) -> None:
        server.add_job(model=b"the model")
        sha256 = sha256_of(b"the model")
        assert client.fetch_model(sha256, size_bytes=9, is_cancelled=lambda: False) == b"the model"
        with pytest.raises(ServerUnavailable, match="not the model"):
            client.fetch_model(sha256, size_bytes=5, is_cancelled=lambda: False)

    def test_the_token_check_changes_nothing(self, server: FakeServer, client: AgentClient) -> None:
        client.check_token()
        server.agent_tokens.clear()
        with pytest.raises(TokenRefused):
            client.check_token()
        assert set(server.names()) == {"model"}


class TestNoise:
    def test_a_steady_machine_needs_no_advice(self) -> None:
        clock = ScriptedClock()
        noise = estimate_noise(lambda: clock.advance(1000, 1000), clock)
        assert (noise.variation, noise.spread, noise.wall_over_cpu, noise.advice) == (0, 0, 1, None)

    def test_a_drifting_machine_is_noticed(self) -> None:
        clock = ScriptedClock()

        def drifting() -> None:  # 30 % slower in every other second
            step_ns = 1300 if clock.now_ns // 10**9 % 2 else 1000
            clock.advance(step_ns, step_ns)

        noise = estimate_noise(drifting, clock)
        assert noise.spread == pytest.approx(0.3)
        assert noise.advice is not None
        assert "drifts" in noise.advice

    def test_a_busy_neighbour_is_noticed(self) -> None:
        clock = ScriptedClock()
        noise = estimate_noise(lambda: clock.advance(1000, 800), clock)
        assert noise.wall_over_cpu == pytest.approx(1.25)
        assert noise.advice is not None
        assert "other programs" in noise.advice

    def test_the_step_of_a_clock(self) -> None:
        times = iter([0, 0, 100, 100, 300])

        class Coarse(ScriptedClock):
            def wall_ns(self) -> int:
                return next(times)

        assert clock_step_ns(Coarse(), readings=5) == 100


def test_foreign_names_reach_the_terminal_harmless() -> None:
    request = MeasurementRequest(
        device_key="box",
        runtime=RUNTIME,
        model=ModelRef(sha256="0" * 64, input_shapes={"in\x1b[2J": (1, 2)}),
        plan=MeasurementPlan(),
    )
    layer = LayerTime(name="evil\x1b]0;title\x07", kind="Conv", provider="cpu", median_ns=1_500_000)
    measurement = measured(request, median_ms=2.0).model_copy(
        update={"layer_profile": LayerProfile(layers=(layer,), coverage=0.75)}
    )
    text = measurement_as_text(measurement, "model.onnx")
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "2 ms" in text
    assert "1.5000 ms 100.0 %" in text
    assert "75 %" in text
