"""`laptime-agent profile` and `doctor`, in this process and as a program."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from devices.agent import doctor, noise
from devices.agent.__main__ import main
from devices.agent.doctor import DoctorReport
from devices.agent.exit_codes import EPILOG, ExitCode
from devices.agent.profile_command import (
    ProfileOptions,
    UsageProblem,
    choose_runtime,
    parse_shape,
    run_profile,
)
from devices.agent.settings import AgentSettings
from devices.errors import EngineUnavailable
from devices.measurement import Measurement, MeasurementPlan, Verdict
from devices.model_ref import sha256_of
from devices.sandbox import MeasurementRequest
from devices.target import Runtime
from tests.devices.agent_fake_server import RUNTIME, FakeServer
from tests.devices.agent_harness import make_daemon, measured, running, settings_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("LAPTIME_AGENT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAPTIME_AGENT_STATE_DIR", str(tmp_path / "state"))


def write_model(tmp_path: Path, content: bytes = b"a model of the fake engine") -> str:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    return str(path)


def dynamic_model() -> bytes:
    """One Relu over (batch, 3, width)."""
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, "width"])
        for name in ("in", "out")
    ]
    graph = helper.make_graph([helper.make_node("Relu", ["in"], ["out"])], "dynamic", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class TestProfile:
    def test_the_table_tells_numbers_verdict_and_layers(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = write_model(tmp_path)
        assert main(["profile", model, "--engines", "fake", "--shape", "x=1x3", "--layers"]) == ExitCode.OK
        out = capsys.readouterr().out
        for label in (
            "median",
            "percentiles",
            "verdict",
            "valid",
            "cold start",
            "before",
            "x 1x3",
            "layers: 2",
        ):
            assert label in out

    def test_as_a_program_it_prints_the_whole_measurement(self, tmp_path: Path) -> None:
        model, out = write_model(tmp_path, b"0123456789" * 10), tmp_path / "measured.json"
        arguments = [
            "--engines",
            "fake",
            "--shape",
            "x=1x3",
            "--level",
            "quick",
            "--seed",
            "7",
            "--threads",
            "3",
        ]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "devices.agent",
                "profile",
                model,
                *arguments,
                "--json",
                "--out",
                str(out),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == ExitCode.OK, done.stderr
        measurement = Measurement.model_validate_json(done.stdout)
        assert measurement == Measurement.model_validate_json(out.read_text())
        assert measurement.model.sha256 == sha256_of(b"0123456789" * 10)
        assert measurement.runtime.threads == 3
        assert measurement.plan.input_seed == 7
        assert measurement.estimate.median_ms == pytest.approx(0.05020, rel=0.03)

    def test_a_dynamic_axis_without_a_size_is_named_with_the_flag(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = write_model(tmp_path, dynamic_model())
        arguments = ["profile", model, "--engines", "onnxruntime", "--level", "quick", "--json"]
        assert main(arguments) == ExitCode.USAGE
        error = capsys.readouterr().err
        assert "in[batch]" in error
        assert "in[width]" in error
        assert "--shape in=1x3x1\n" in error
        assert main([*arguments, "--shape", "in=2x3x5"]) == ExitCode.OK
        assert json.loads(capsys.readouterr().out)["model"]["input_shapes"] == {"in": [2, 3, 5]}

    @pytest.mark.parametrize(
        ("content", "status", "words"),
        [
            (b"fake:reject", ExitCode.MODEL_REJECTED, "rejected (model_invalid)"),
            (b"fake:crash", ExitCode.FAILED, "crashed"),
        ],
    )
    def test_what_goes_wrong_has_its_status(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, status: ExitCode, words: str
    ) -> None:
        assert main(["profile", write_model(tmp_path, content), "--engines", "fake"]) == status
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.out == ""

    def test_a_model_that_never_ends_is_stopped_in_time(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = write_model(tmp_path, b"fake:hang")
        assert main(["profile", model, "--engines", "fake", "--timeout-s", "1"]) == ExitCode.FAILED
        assert "timed_out" in capsys.readouterr().err

    @pytest.mark.parametrize("is_required", [False, True])
    def test_a_measurement_that_is_not_valid_is_a_result(self, tmp_path: Path, *, is_required: bool) -> None:
        def unsteady(
            request: MeasurementRequest,
            model: bytes,
            *,
            on_start: Callable[[int], None] | None,
            cancelled: Callable[[], bool],
        ) -> Measurement:
            verdict = Verdict(is_valid=False, reasons=("rounds disagree by 40 %",))
            return measured(request).model_copy(update={"verdict": verdict})

        options = ProfileOptions(
            Path(write_model(tmp_path)), MeasurementPlan(), is_validity_required=is_required
        )
        out = io.StringIO()
        status = run_profile(
            options,
            AgentSettings(engines=("fake",)),
            run_measurement=unsteady,
            stdout=out,
            stderr=io.StringIO(),
        )
        assert status == (ExitCode.NOT_VALID if is_required else ExitCode.OK)
        assert "NOT VALID" in out.getvalue()
        assert "rounds disagree by 40 %" in out.getvalue()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["{model}.missing"], "cannot be read"),
            (["{model}", "--shape", "x=1x0"], "x=1x0"),
            (["{model}", "--out", "/no/such/directory/file"], "there is no directory"),
            (["{model}", "--timeout-s", "-1"], "max_duration_s"),
            (["{model}", "--timeout-s", "inf"], "max_duration_s"),
            (["{model}", "--seed", "-1"], "input_seed"),
            (["{model}", "--engines", "No Such"], "engines"),
        ],
    )
    def test_wrong_usage_says_what_is_wrong(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
    ) -> None:
        model = write_model(tmp_path)
        assert main(["profile", *(a.format(model=model) for a in arguments)]) == ExitCode.USAGE
        assert words in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("text", "parsed"),
        [
            ("x=1x3x224x224", ("x", (1, 3, 224, 224))),
            ("a=b=7", ("a=b", (7,))),
            ("sr=scalar", ("sr", ())),
        ],
    )
    def test_shapes(self, text: str, parsed: tuple[str, tuple[int, ...]]) -> None:
        assert parse_shape(text) == parsed

    @pytest.mark.parametrize("text", ["x", "=1", "x=", "x=1x", "x=-1", "x=1,2", "x=1 x 2", "x=2147483649"])
    def test_shapes_that_are_none(self, text: str) -> None:
        with pytest.raises(UsageProblem, match="NAME=1x3x224x224"):
            parse_shape(text)

    def test_a_runtime_is_chosen_by_a_part_of_its_key(self) -> None:
        offered = [Runtime(engine="fake", version="1.0", provider="cpu", threads=n) for n in (1, 4)]
        assert choose_runtime(offered, None).threads == 1
        assert choose_runtime(offered, "T4").threads == 4
        with pytest.raises(EngineUnavailable, match=r"fake-1.0/cpu/t1, fake-1.0/cpu/t4"):
            choose_runtime(offered, "cuda")


class TestDoctor:
    @pytest.fixture(autouse=True)
    def _without_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(noise, "PAUSE_S", 0.0)

    def test_it_reports_everything_for_programs_and_people(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with FakeServer() as server:
            settings = settings_for(server, tmp_path / "state")
            with running(make_daemon(settings)):
                server.wait_for(lambda: "lease" in server.names(), "a lease request")
            assert main(["doctor", "--engines", "fake", "--json"]) == ExitCode.OK
            report = DoctorReport.model_validate_json(capsys.readouterr().out)
            names = {check.name for check in report.checks}
            wanted = {
                "engine onnxruntime",
                "engine openvino",
                "sandbox",
                "clock",
                "governor",
                "load",
                "noise",
                "server",
            }
            assert wanted <= names
            assert {runtime.engine for runtime in report.runtimes} == {"fake"}
            calls = len(server.calls)
            server.agent_tokens.clear()
            assert main(["doctor", "--engines", "fake"]) == ExitCode.FAILED
            assert set(server.names()[calls:]) == {"model"}  # it only looks
        text = capsys.readouterr().out
        assert "[failed] server" in text
        assert "register it again" in text

    def test_an_agent_that_is_not_registered_can_look_at_its_server(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(doctor, "available_runtimes", lambda *_: (RUNTIME,))
        with FakeServer() as server:
            monkeypatch.setenv("LAPTIME_AGENT_SERVER_URL", server.url)
            assert main(["doctor"]) == ExitCode.OK
        assert "answers; this agent is not registered yet" in capsys.readouterr().out

    def test_a_server_that_is_away_and_a_machine_without_runtimes_fail(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LAPTIME_AGENT_SERVER_URL", "http://127.0.0.1:1")
        assert main(["doctor", "--engines", "nonesuch", "--json"]) == ExitCode.FAILED
        report = DoctorReport.model_validate_json(capsys.readouterr().out)
        failed = {check.name: check for check in report.checks if check.status == "failed"}
        assert set(failed) == {"runtimes", "server"}
        assert "does not answer" in failed["server"].detail


def test_the_exit_codes_are_documented() -> None:
    documented = {int(line.split()[0]) for line in EPILOG.splitlines()[1:]}
    assert documented == {int(code) for code in ExitCode}


def test_run_without_a_runtime_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--engines", ",", "--server", "http://127.0.0.1:1"]) == ExitCode.FAILED
    assert "doctor" in capsys.readouterr().err


def test_a_wrong_setting_is_named_and_secrets_are_not_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPTIME_AGENT_REGISTRATION_TOKEN", "lt_reg_secret")
    assert main(["run", "--server", "not a url"]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "server_url" in error
    assert "lt_reg_secret" not in error
