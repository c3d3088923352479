"""`laptime` against a live server on loopback, with a worker and a scripted agent beside it."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import structlog
import uvicorn
from sqlalchemy import select

from predictor.reference_set import reference_models
from service import cli
from service.app import create_app
from service.db import tables
from service.dependencies import Services
from service.fleet.onboarding import onboard, stored_reference_set
from service.presentation import milliseconds
from service.profiling import ProfilePayload
from service.settings import Settings
from service.worker.loop import Worker
from service.worker.stopping import StopRequest
from tests.service import worker_rows as rows
from tests.service.api_world import dense_model

DYNAMIC_MODEL = "dynamic.onnx"


@dataclass(frozen=True)
class Live:
    """A running server with one ready target."""

    url: str
    services: Services
    target: tables.Target
    folder: Path

    @property
    def model(self) -> Path:
        """A file whose input has fixed sizes."""
        return self.folder / "model.onnx"

    @property
    def dynamic_model(self) -> Path:
        """A file whose batch has no size."""
        return self.folder / DYNAMIC_MODEL


def latency_of(payload: ProfilePayload) -> float:
    return 1.0 + payload.model_bytes / 1e5


@pytest.fixture(scope="module", autouse=True)
def _silence() -> Iterator[None]:
    """Server, worker and commands share this process: only what commands say is to be captured."""
    former = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**former)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    settings = Settings(data_dir=folder / "data", database_url=None, log_level="WARNING")
    app = create_app(settings)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
            assert thread.is_alive(), "the server did not start"
        write_models(folder)
        target = onboarded(app.state.services)
        port = listening.getsockname()[1]
        yield Live(f"http://127.0.0.1:{port}", app.state.services, target, folder)
    finally:
        server.should_exit = True
        thread.join(20.0)
        listening.close()


def write_models(folder: Path) -> None:
    reference = reference_models()[0]
    (folder / "model.onnx").write_bytes(reference.model + b"")
    model = onnx.load_from_string(reference.model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    (folder / DYNAMIC_MODEL).write_bytes(model.SerializeToString())


def onboarded(services: Services) -> tables.Target:
    """A target whose reference set was measured by nobody in particular."""
    reference_set = stored_reference_set(services.artifacts)
    with services.database.write() as session:
        project_id = session.scalars(select(tables.Project.id)).one()
        target = rows.add_target(session, project_id)
        onboard(session, target, reference_set)
    while rows.measure_next(services.database, target.device_id, latency_of):
        pass
    assert Worker(services, name="w", stop=StopRequest()).run_once()
    with services.database.read() as session:
        return session.get_one(tables.Target, target.id)


@pytest.fixture
def laptime(
    live: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; exit code, standard output, standard error."""
    monkeypatch.setenv("LAPTIME_URL", live.url)
    monkeypatch.setenv("LAPTIME_DATA_DIR", str(live.services.settings.data_dir))
    monkeypatch.delenv("LAPTIME_API_KEY", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["laptime", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def hands(live: Live) -> Iterator[None]:
    """A worker and a scripted agent that do whatever comes."""
    stop = StopRequest()

    def measure() -> None:
        while not stop.wait(0.05):
            rows.measure_next(live.services.database, live.target.device_id, latency_of)

    worker = Worker(live.services, name="hands", stop=stop)
    threads = [threading.Thread(target=work) for work in (worker.run, measure)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join(60.0)


def parsed(result: tuple[int, str, str]) -> Any:
    """The one JSON document of a command that went well."""
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


# ---- what is there -------------------------------------------------------------------------------


def test_devices_tells_states_and_accuracy(live: Live, laptime: Callable[..., Any]) -> None:
    found = parsed(laptime("devices", "--json"))
    assert [target["key"] for target in found["targets"]] == [live.target.key]
    assert found["devices"][0]["key"] == "board"
    code, out, err = laptime("devices")
    assert (code, err) == (0, "")
    assert live.target.key in out
    assert "ready" in out
    assert "median error over 10 models" in out


# ---- predict and measure -------------------------------------------------------------------------


def test_predict_uploads_a_file_and_says_interval_and_source(live: Live, laptime: Callable[..., Any]) -> None:
    document = parsed(laptime("predict", live.model, "--source", "prediction", "--json"))
    [answer] = document["answers"]
    assert answer["target_key"] == live.target.key
    assert answer["source"] == "prediction"
    assert answer["lower_ms"] < answer["median_ms"] < answer["upper_ms"]
    code, out, _ = laptime("predict", live.model, "--target", live.target.key, "--source", "prediction")
    assert code == 0
    assert milliseconds(answer["median_ms"]) in out
    assert "prediction" in out


def test_predict_takes_the_id_of_a_model_too(live: Live, laptime: Callable[..., Any]) -> None:
    [first] = parsed(laptime("predict", live.model, "--json"))["answers"]
    [second] = parsed(laptime("predict", first["model_id"], "--json"))["answers"]
    assert first == second


def test_dynamic_axes_are_named_and_can_be_given(live: Live, laptime: Callable[..., Any]) -> None:
    code, out, err = laptime("predict", live.dynamic_model, "--json")
    assert (code, out) == (1, "") or json.loads(out)["answers"][0]["error"] is not None
    assert code == 1
    assert "[batch]" in err
    assert "Traceback" not in err
    declared = onnx.load(live.model).graph.input[0]
    sizes = "x".join(str(dim.dim_value) for dim in declared.type.tensor_type.shape.dim)
    [answer] = parsed(
        laptime("predict", live.dynamic_model, "--shape", f"{declared.name}={sizes}", "--json")
    )["answers"]
    assert answer["error"] is None


@pytest.mark.usefixtures("hands")
def test_measure_shows_the_prediction_beside_the_measurement(live: Live, laptime: Callable[..., Any]) -> None:
    done = parsed(laptime("measure", live.model, "--level", "quick", "--json"))
    expected_ms = 1.0 + live.model.stat().st_size / 1e5
    assert done["measurement"]["median_ms"] == pytest.approx(expected_ms)
    assert done["prediction"]["source"] == "prediction"
    [answer] = parsed(laptime("predict", live.model, "--json"))["answers"]
    assert answer["source"] == "measurement"
    code, out, _ = laptime("measure", live.model, "--level", "quick")
    assert code == 0
    assert "predicted" in out
    assert "measured" in out
    assert "against the measurement" in out


@pytest.mark.usefixtures("hands")
def test_predict_measures_what_is_not_known_well_enough(
    live: Live, laptime: Callable[..., Any], tmp_path: Path
) -> None:
    with live.services.database.write() as session:  # somebody looks after the device
        session.add(tables.Agent(id="agt_hands", device_id=live.target.device_id, secret_sha256="0" * 64,
                                 version="1", state="idle", conditions=None))  # fmt: skip
    model = tmp_path / "wide.onnx"
    model.write_bytes(dense_model(width=640))
    arguments = ("predict", model, "--max-relative-error", "0.1", "--json")
    [now] = parsed(laptime(*arguments, "--deadline", "0"))["answers"]
    assert (now["source"], now["decision"], now["job_id"]) == ("prediction", "predicted", None)
    [later] = parsed(laptime(*arguments))["answers"]
    assert (later["source"], later["decision"]) == ("measurement", "measured")
    limit_ms = later["median_ms"] * 2
    code, out, _ = laptime("predict", model, "--below", limit_ms)
    assert code == 0
    assert "fits" in out
    assert "yes" in out
    with live.services.database.write() as session:
        session.delete(session.get_one(tables.Agent, "agt_hands"))


def test_a_job_that_is_not_waited_for_can_be_shown_and_cancelled(
    live: Live, laptime: Callable[..., Any]
) -> None:
    job = parsed(laptime("measure", live.model, "--no-wait", "--json"))
    assert (job["kind"], job["state"]) == ("profile", "queued")
    assert parsed(laptime("jobs", "show", job["id"], "--json"))["id"] == job["id"]
    assert job["id"] in {
        one["id"] for one in parsed(laptime("jobs", "list", "--state", "queued", "--json"))["jobs"]
    }
    assert parsed(laptime("jobs", "cancel", job["id"], "--json"))["state"] == "cancelled"
    code, _, err = laptime("jobs", "watch", job["id"])
    assert code == 1
    assert "was cancelled" in err


# ---- search --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hands")
def test_search_waits_shows_the_front_and_saves_its_models(
    live: Live, laptime: Callable[..., Any], tmp_path: Path
) -> None:
    options = ["--trials", 3, "--population", 2, "--verify", 2, "--level", "quick", "--seed", 5]
    found = parsed(laptime("search", *options, "--out", tmp_path / "front", "--json"))
    assert found["search"]["job"]["state"] == "succeeded"
    verified = found["front"]["verified"]
    assert verified
    assert [Path(file).name for file in found["files"]] == [
        f"trial-{one['number']:04d}.onnx" for one in verified
    ]
    for file in found["files"]:
        onnx.checker.check_model(onnx.load(file))
    code, out, _ = laptime("search", found["search"]["id"])
    assert code == 0
    assert "Verified front" in out
    assert "verified ms" in out


@pytest.mark.usefixtures("hands")
def test_a_published_space_without_accuracies_is_searched_for_latency(
    live: Live, laptime: Callable[..., Any], tmp_path: Path
) -> None:
    options = ["--space", "fbnet", "--trials", 2, "--population", 2, "--verify", 1, "--level", "quick"]
    assert "no table of its accuracies" in one_sentence(laptime("search", *options), code=2)
    wanted = ["--objective", "latency_ms", "--objective", "size_bytes"]
    found = parsed(laptime("search", *options, *wanted, "--out", tmp_path / "front", "--json"))
    [member] = found["front"]["verified"]
    assert set(member["objectives"]) == {"latency_ms", "size_bytes"}
    assert len(member["genome"]) == 22
    onnx.checker.check_model(onnx.load(found["files"][0]))


# ---- access and database -------------------------------------------------------------------------


def test_keys_and_tokens_are_shown_once(laptime: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    key = parsed(laptime("keys", "create", "ci", "--scope", "read", "--scope", "measure", "--json"))
    assert key["scopes"] == ["measure", "read"]
    code, out, _ = laptime("tokens", "create")
    assert (code, out[:7]) == (0, "lt_tok_")
    monkeypatch.setenv("LAPTIME_API_KEY", key["token"])
    assert laptime("devices")[0] == 0
    code, out, err = laptime("tokens", "create", "--json")
    assert (code, out) == (1, "")
    assert "fleet:admin" in err


def test_db_upgrade_says_from_where_to_where(
    laptime: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAPTIME_DATA_DIR", str(tmp_path / "fresh"))
    first = parsed(laptime("db", "upgrade", "--json"))
    assert first["before"] is None
    assert parsed(laptime("db", "upgrade", "--json")) == {"before": first["after"], "after": first["after"]}


# ---- what goes wrong -----------------------------------------------------------------------------


def one_sentence(result: tuple[int, str, str], *, code: int = 1) -> str:
    """What a command that cannot be done says: on standard error, without a traceback."""
    assert result[0] == code, result
    assert result[1] == ""
    assert "Traceback" not in result[2]
    assert result[2].startswith("laptime: ")
    return result[2]


def test_errors_are_one_sentence(
    live: Live, laptime: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "there is no file" in one_sentence(laptime("predict", tmp_path / "none.onnx", "--json"))
    assert "target_not_found" in one_sentence(
        laptime("predict", live.model, "--target", "nobody/x", "--json")
    ) or "nobody/x" in one_sentence(laptime("predict", live.model, "--target", "nobody/x", "--json"))
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"no model")
    assert "model_malformed" in one_sentence(laptime("predict", garbage))
    assert "not_found" in one_sentence(laptime("jobs", "show", "job_none"))
    monkeypatch.setenv("LAPTIME_API_KEY", "lt_key_wrong")
    assert "unauthenticated" in one_sentence(laptime("devices", "--json"))
    monkeypatch.delenv("LAPTIME_API_KEY")
    monkeypatch.setenv("LAPTIME_DATA_DIR", str(tmp_path))
    assert "LAPTIME_API_KEY" in one_sentence(laptime("devices"))
    monkeypatch.setenv("LAPTIME_API_KEY", "lt_key_any")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in one_sentence(laptime("serve", "--port", port))
    monkeypatch.setenv("LAPTIME_URL", f"http://127.0.0.1:{port}")
    assert "laptime serve" in one_sentence(laptime("devices"))


def test_wrong_usage_is_told_from_failure(
    live: Live, laptime: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (
        ["predict"],
        ["no-such-command"],
        ["predict", live.model, "--shape", "x"],
        ["search", "--trials", "0"],
    ):
        code, out, err = laptime(*arguments)
        assert code == 2, arguments
        assert "Traceback" not in out + err
    monkeypatch.setenv("LAPTIME_LOG_LEVEL", "loud")
    assert "log_level" in one_sentence(laptime("serve"), code=2)
    monkeypatch.delenv("LAPTIME_LOG_LEVEL")
    monkeypatch.setenv("LAPTIME_PORT", "many")
    assert "port" in one_sentence(laptime("serve"), code=2)


def test_a_database_that_cannot_be_used_is_one_sentence(
    laptime: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"this is no database" * 100)
    for url, told in (
        ("nonsense", "LAPTIME_DATABASE_URL"),
        ("sqlite:///:memory:", "must be a file"),
        ("oracle://host/name", "LAPTIME_DATABASE_URL"),
        (f"sqlite:///{garbage}", str(garbage)),
        ("postgresql://somebody:hidden@127.0.0.1:1/laptime", "somebody"),
    ):
        monkeypatch.setenv("LAPTIME_DATABASE_URL", url)
        said = one_sentence(laptime("db", "upgrade", "--json"))
        assert told in said
        assert "hidden" not in said


def test_an_address_or_a_key_that_is_none_is_one_sentence(
    laptime: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAPTIME_API_KEY", "lt_key_ö")
    assert "copy it again" in one_sentence(laptime("devices"))
    monkeypatch.setenv("LAPTIME_URL", "http://127.0.0.1:port")
    assert "LAPTIME_URL" in one_sentence(laptime("devices"))


def test_a_proxy_is_not_asked_for_this_machine(
    laptime: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert laptime("devices")[0] == 0


def process(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def last_line(text: str) -> str:
    return text.splitlines()[-1]


def test_a_server_of_many_leaves_upgrading_to_the_operator(empty_postgresql_url: str, tmp_path: Path) -> None:
    environment = {"LAPTIME_DATABASE_URL": empty_postgresql_url, "LAPTIME_DATA_DIR": str(tmp_path)}
    done = process("serve", "--port", "0", environment=environment)
    assert "laptime db upgrade" in one_sentence((done.returncode, done.stdout, last_line(done.stderr)))


@pytest.mark.parametrize(
    "command",
    ["serve", "worker", "predict", "measure", "devices", "search", "demo", "db", "keys", "tokens", "jobs"],
)
def test_every_command_explains_itself(laptime: Callable[..., Any], command: str) -> None:
    code, out, _ = laptime(command, "--help")
    assert code == 0
    assert "Usage: laptime" in out


def test_no_command_loads_torch_and_worker_becomes_its_own_process(tmp_path: Path) -> None:
    program = "import sys, service.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    environment = {"LAPTIME_DATABASE_URL": "sqlite:///:memory:", "LAPTIME_DATA_DIR": str(tmp_path)}
    done = process("worker", "--json", environment=environment)
    assert done.returncode == 1
    assert "laptime worker: a setting is wrong: the database must be a file" in done.stderr
