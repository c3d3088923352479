"""The box: what goes in and comes out, and that nothing a model does outlasts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from devices import child_process
from devices.boxed_work import BoxedFailure, BoxedReply, BoxedRequest, ProbeTask, ResourceLimits
from devices.child_process import Box, failure_of_exit, run_in_child
from devices.errors import (
    DevicesError,
    EngineUnavailable,
    FailureCode,
    MissingInputSizes,
    ModelRejected,
    WorkFailed,
)
from devices.measurement import Level, Measurement, MeasurementPlan
from devices.model_ref import ModelRef, sha256_of
from devices.sandbox import MeasurementRequest, run_measurement
from devices.target import Runtime
from devices.timing import TimingTask
from tests.devices import onnx_models

FAKE = Runtime(engine="fake", version="1.0", provider="cpu", threads=1)
ORT = Runtime(engine="onnxruntime", version="1.31", provider="cpu", threads=1)
OPENVINO = Runtime(engine="openvino", version="2026.4", provider="cpu", threads=1)
MIB = 1 << 20


def request(
    model: bytes, runtime: Runtime, shapes: dict[str, tuple[int, ...]], **plan: object
) -> MeasurementRequest:
    return MeasurementRequest(
        device_key="bench",
        runtime=runtime,
        model=ModelRef(sha256=sha256_of(model), input_shapes=shapes),
        plan=MeasurementPlan.model_validate({"level": Level.QUICK, **plan}),
    )


def boxed(
    model: bytes, runtime: Runtime = FAKE, shapes: dict[str, tuple[int, ...]] | None = None, **plan: object
) -> Measurement:
    return run_measurement(request(model, runtime, shapes or {}, **plan), model)


def ended_in(model: bytes, runtime: Runtime = FAKE, **kwargs: object) -> WorkFailed:
    with pytest.raises(WorkFailed) as caught:
        boxed(model, runtime, **kwargs)  # type: ignore[arg-type]
    return caught.value


class TestAMeasurement:
    def test_the_fake_engines_answer_is_exact(self) -> None:
        found = boxed(b"m" * 25_000, shapes={"x": (1, 3)})
        assert found.estimate.median_ms == pytest.approx(0.1)
        assert (found.clock, found.sandbox) == ("scripted", "rlimits")
        assert found.verdict.is_valid

    @pytest.mark.parametrize("runtime", [ORT, OPENVINO])
    def test_a_real_model_with_its_layers(self, runtime: Runtime) -> None:
        if runtime is OPENVINO:
            pytest.importorskip("openvino", reason="openvino is not installed")
        found = boxed(onnx_models.two_layers(), runtime, {"x": (4, 8)}, with_layers=True)
        assert found.model.input_shapes == {"x": (4, 8)}
        assert found.estimate.median_ms > 0
        assert found.peak_memory_bytes is not None
        assert 20 * MIB < found.peak_memory_bytes < 1024 * MIB
        assert found.layer_profile is not None
        assert found.layer_profile.layers
        assert all(r.cpu_ns and r.canary_ns for r in found.rounds)

    def test_processor_time_is_exact_under_the_boxs_limit(self) -> None:
        """The process clock would read in scheduler ticks of some ms here, and most samples of this model as
        nothing.
        """
        found = boxed(onnx_models.convolutions(), ORT)
        samples = [cpu for r in found.rounds for cpu in r.cpu_ns]
        assert sum(cpu == 0 for cpu in samples) < 0.2 * len(samples)

    def test_the_model_is_measured_in_processes_that_are_gone_afterwards(self) -> None:
        started: list[int] = []
        run_measurement(request(b"model", FAKE, {}, level="standard"), b"model", on_start=started.append)
        assert len(started) == 4
        assert not any(psutil.pid_exists(pid) for pid in started)

    def test_other_bytes_than_those_asked_for_are_refused(self) -> None:
        with pytest.raises(ModelRejected, match="SHA-256"):
            run_measurement(request(b"these", FAKE, {}), b"those")


class TestRefusals:
    def test_missing_sizes_are_named(self) -> None:
        with pytest.raises(MissingInputSizes) as caught:
            boxed(onnx_models.two_layers(), ORT)
        assert (caught.value.missing, caught.value.example) == (("x[n]",), {"x": (1, 8)})

    def test_an_unknown_operator_is_named(self) -> None:
        with pytest.raises(ModelRejected, match="Frobnicate") as caught:
            boxed(onnx_models.unknown_operator(), ORT)
        assert caught.value.code is FailureCode.OPERATOR_UNSUPPORTED

    def test_an_engine_that_is_not_there(self) -> None:
        with pytest.raises(EngineUnavailable, match="abacus"):
            boxed(b"model", FAKE.model_copy(update={"engine": "abacus"}))

    @pytest.mark.parametrize(
        "error",
        [
            ModelRejected("no", FailureCode.OPERATOR_UNSUPPORTED),
            MissingInputSizes("sizes", ("x[n]",), {"x": (1, 8)}),
            EngineUnavailable("gone"),
            WorkFailed(FailureCode.OUT_OF_DISK, "full"),
        ],
    )
    def test_errors_cross_the_wall_unchanged(self, error: DevicesError) -> None:
        back = BoxedFailure.model_validate_json(BoxedFailure.from_error(error).model_dump_json()).to_error()
        assert type(back) is type(error)
        assert str(back) == str(error)
        assert vars(back) == vars(error)


class TestHostileModels:
    def test_one_that_never_ends_is_killed_by_the_clock(self) -> None:
        failure = ended_in(onnx_models.infinite_loop(), ORT, max_duration_s=2)
        assert failure.code is FailureCode.TIMED_OUT
        assert "2.0 s" in failure.detail

    @pytest.mark.parametrize(
        ("model", "shapes"),
        [(onnx_models.tensor_bomb(), {"x": (1, 1)}), (onnx_models.growing_bomb(), {"x": (1, 1_000_000)})],
        ids=["one huge tensor", "ever larger tensors"],
    )
    @pytest.mark.parametrize("runtime", [ORT, OPENVINO], ids=["onnxruntime", "openvino"])
    def test_one_that_eats_memory_ends_clearly(
        self, model: bytes, shapes: dict[str, tuple[int, ...]], runtime: Runtime
    ) -> None:
        if runtime is OPENVINO:
            pytest.importorskip("openvino", reason="openvino is not installed")
        failure = ended_in(model, runtime, shapes=shapes, memory_limit_bytes=512 * MIB, max_duration_s=60)
        assert failure.code is FailureCode.OUT_OF_MEMORY, failure

    @pytest.mark.parametrize(
        ("model", "code"),
        [
            (b"fake:hang", FailureCode.TIMED_OUT),
            (b"fake:crash", FailureCode.CRASHED),
            (b"fake:eat", FailureCode.OUT_OF_MEMORY),
        ],
    )
    def test_misbehaviour_has_a_code(self, model: bytes, code: FailureCode) -> None:
        assert ended_in(model, max_duration_s=3).code is code

    def test_a_crash_tells_the_signal(self) -> None:
        assert "SIGABRT" in ended_in(b"fake:crash").detail

    def test_watched_memory_kills_where_it_cannot_be_limited(self) -> None:
        task = TimingTask(
            runtime=FAKE, rounds=1, min_samples=1, span_s=1.0, duty=0.5, warmup_windows=1, budget_s=60.0
        )
        hanging = BoxedRequest(limits=ResourceLimits(processor_s=60), timing=task)
        with pytest.raises(WorkFailed, match="raise memory_limit_bytes"):
            run_in_child(
                [hanging.model_dump_json().encode(), b"fake:hang"], Box(wall_s=60, resident_bytes=MIB)
            )

    def test_a_reply_that_is_too_large_is_cut_off(self) -> None:
        probe = BoxedRequest(
            limits=ResourceLimits(processor_s=60), probe=ProbeTask(engines=("fake",), thread_counts=(1, 2, 3))
        )
        with pytest.raises(WorkFailed, match="over 100 bytes") as caught:
            run_in_child([probe.model_dump_json().encode(), b""], Box(wall_s=60, max_reply_bytes=100))
        assert caught.value.code is FailureCode.CRASHED


class TestCancelling:
    def test_the_child_is_gone_when_the_call_returns(self) -> None:
        started: list[int] = []
        with pytest.raises(WorkFailed) as caught:
            run_measurement(
                request(b"fake:hang", FAKE, {}),
                b"fake:hang",
                on_start=started.append,
                cancelled=lambda: bool(started),
            )
        assert caught.value.code is FailureCode.CANCELLED
        assert not psutil.pid_exists(started[0])

    def test_a_child_that_ignores_the_request_is_killed(self) -> None:
        """A stopped process does not act on SIGTERM, as one stuck in a driver does not."""
        started: list[int] = []

        def stop_it(pid: int) -> None:
            os.kill(pid, signal.SIGSTOP)
            started.append(pid)

        with pytest.raises(WorkFailed) as caught:
            run_measurement(
                request(b"model", FAKE, {}), b"model", on_start=stop_it, cancelled=lambda: bool(started)
            )
        assert caught.value.code is FailureCode.CANCELLED
        assert not psutil.pid_exists(started[0])

    def test_a_child_that_never_reads_its_request_is_killed_too(self) -> None:
        model = b"m" * (4 * MIB)  # far more than a pipe holds
        with pytest.raises(WorkFailed) as caught:
            run_measurement(
                request(model, FAKE, {}, max_duration_s=1),
                model,
                on_start=lambda pid: os.kill(pid, signal.SIGSTOP),
            )
        assert caught.value.code is FailureCode.TIMED_OUT

    def test_a_child_that_floods_stderr_after_its_reply_is_killed_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flood = "import os, sys\nos.close(int(sys.argv[2]))\nwhile True: os.write(2, bytes(65536))"
        monkeypatch.setattr(child_process, "BOOT", flood)
        monkeypatch.setattr(child_process, "EXIT_GRACE_S", 0.5)
        with pytest.raises(WorkFailed, match="did not end") as caught:
            run_in_child([], Box(wall_s=60))
        assert caught.value.code is FailureCode.TIMED_OUT

    def test_an_error_of_the_caller_leaves_no_child_behind(self) -> None:
        started: list[int] = []

        def fail(pid: int) -> None:
            started.append(pid)
            raise LookupError("of the caller")

        with pytest.raises(LookupError):
            run_measurement(request(b"model", FAKE, {}), b"model", on_start=fail)
        assert not psutil.pid_exists(started[0])


class TestTheBox:
    def test_a_killed_parent_takes_its_child_with_it(self, tmp_path: Path) -> None:
        """The parent is an interpreter of its own that measures a model that never ends, and is killed with
        kill -9.
        """
        program = tmp_path / "parent.py"
        program.write_text(
            "from devices.measurement import MeasurementPlan\n"
            "from devices.model_ref import ModelRef, sha256_of\n"
            "from devices.sandbox import MeasurementRequest, run_measurement\n"
            "from devices.target import Runtime\n"
            "runtime = Runtime(engine='fake', version='1.0', provider='cpu', threads=1)\n"
            "ref = ModelRef(sha256=sha256_of(b'fake:hang'))\n"
            "plan = MeasurementPlan()\n"
            "request = MeasurementRequest(device_key='d', runtime=runtime, model=ref, plan=plan)\n"
            "run_measurement(request, b'fake:hang', on_start=lambda pid: print(pid, flush=True))\n"
        )
        root = str(Path(__file__).resolve().parents[2])
        parent = subprocess.Popen(
            [sys.executable, str(program)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root, "TMPDIR": str(tmp_path)},  # it leaves its scratch folder
        )
        with parent:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            time.sleep(1.0)  # past the child's first lines, where it asks to die with its parent
            parent.kill()
        assert psutil.wait_procs([child], timeout=20)[1] == []

    def test_the_child_sees_none_of_its_parents_secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LAPTIME_AGENT_TOKEN", "secret")
        seen: list[dict[str, str]] = []

        def look(pid: int) -> None:
            for _ in range(500):  # between fork and exec it still is its parent
                environment = psutil.Process(pid).environ()
                if "TMPDIR" in environment and "OMP_NUM_THREADS" in environment:
                    break
                time.sleep(0.01)
            seen.append(environment)

        run_measurement(request(b"model", FAKE, {}), b"model", on_start=look)
        assert "LAPTIME_AGENT_TOKEN" not in seen[0]
        assert "HOME" not in seen[0]

    def test_the_scratch_folder_is_gone(self) -> None:
        folders: list[Path] = []
        run_measurement(
            request(b"model", FAKE, {}),
            b"model",
            on_start=lambda pid: folders.append(Path(psutil.Process(pid).cwd())),
        )
        assert folders[0].name.startswith("laptime-box-")
        assert not folders[0].exists()

    def test_it_works_from_a_thread(self) -> None:
        found: list[Measurement] = []
        thread = threading.Thread(target=lambda: found.append(boxed(b"model")))
        thread.start()
        thread.join(timeout=60)
        assert found[0].verdict.is_valid


@pytest.mark.parametrize(
    ("returncode", "stderr", "code", "word"),
    [
        (-signal.SIGSEGV, "", FailureCode.CRASHED, "SIGSEGV"),
        (-signal.SIGABRT, "terminate called: std::bad_alloc", FailureCode.OUT_OF_MEMORY, "memory"),
        (-signal.SIGKILL, "", FailureCode.OUT_OF_MEMORY, "killed from outside"),
        (-signal.SIGXCPU, "", FailureCode.TIMED_OUT, "processor time"),
        (1, "OSError: [Errno 28] No space left on device", FailureCode.OUT_OF_DISK, "no room"),
        (1, "Traceback: ValueError: seven", FailureCode.CRASHED, "seven"),
        (0, "", FailureCode.CRASHED, "no usable reply"),
        (None, "", FailureCode.TIMED_OUT, "did not end"),
    ],
)
def test_what_an_exit_means(returncode: int | None, stderr: str, code: FailureCode, word: str) -> None:
    failure = failure_of_exit(returncode, stderr)
    assert failure.code is code
    assert word in failure.detail


def test_a_reply_is_checked_against_its_schema() -> None:
    with pytest.raises(ValueError, match="rounds"):
        BoxedReply.model_validate_json('{"timing": {"clock": "x", "rounds": "many"}}')


@pytest.mark.parametrize(
    "one_round",
    [{"samples_ns": []}, {"samples_ns": [5, -1]}, {"samples_ns": [5, 6], "cpu_ns": [5]}, None],
    ids=["no samples", "negative", "uneven", "no rounds"],
)
def test_a_report_without_usable_samples_does_not_get_out(one_round: dict[str, list[int]] | None) -> None:
    report = {
        "clock": "x",
        "input_shapes": {},
        "cold_start": {"load_ns": 1, "first_run_ns": 1},
        "rounds": [{"started_at_ns": 0, **one_round}] if one_round else [],
        "is_settled": True,
        "is_complete": True,
    }
    with pytest.raises(ValueError, match=r"rounds|samples"):
        BoxedReply.model_validate({"timing": report})
