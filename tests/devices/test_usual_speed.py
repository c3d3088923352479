"""Milliseconds at the usual speed: by hand, only where speeds compare, learned once per machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.agent import usual_speed
from devices.agent.usual_speed import FILE, FULL_HISTORY, MIN_HISTORY, AtUsualSpeed
from devices.levels import RULES
from devices.measurement import Level, Measurement, Round, UsualSpeed, Verdict
from devices.model_ref import ModelRef
from devices.profile import MeasurementRequest, estimate_of
from devices.speed import at_usual_speed, process_canaries_ns, speed_of
from devices.target import Runtime
from tests.devices.agent_harness import measured

MS = 1_000_000
USUAL = UsualSpeed(canary_ns=100.0, clock="test")


def one_round(process: int, sample_ms: int, canary_ns: int = 100, **changes: object) -> Round:
    samples = (sample_ms * MS,) * 3
    return Round.model_validate(
        {
            "started_at_ns": 0,
            "process": process,
            "samples_ns": samples,
            "cpu_ns": samples,
            "canary_ns": (canary_ns,) * 5,
            **changes,
        }
    )


def test_a_slow_process_is_brought_to_the_usual_speed_and_the_canaries_stay() -> None:
    rounds = [one_round(0, 20, 200), one_round(1, 10, 100)]  # process 0 ran at half the usual speed
    scaled = at_usual_speed(rounds, USUAL)
    assert [r.samples_ns for r in scaled] == [(10 * MS,) * 3] * 2
    assert [r.cpu_ns for r in scaled] == [(10 * MS,) * 3] * 2
    assert [r.canary_ns for r in scaled] == [(200,) * 5, (100,) * 5]
    assert speed_of(rounds[:1], USUAL) == 0.5


def test_the_estimate_says_what_was_observed_and_how_fast_the_machine_was() -> None:
    rounds = [one_round(0, 20, 200), one_round(0, 20, 200), one_round(0, 99, 100, discarded="preempted")]
    estimate = estimate_of(rounds, RULES[Level.STANDARD], USUAL)
    assert (estimate.median_ms, estimate.observed_median_ms, estimate.speed) == (10, 20, 0.5)
    observed = estimate_of(rounds, RULES[Level.STANDARD])
    assert (observed.median_ms, observed.observed_median_ms, observed.speed) == (20, 20, None)


def test_rounds_without_a_canary_stay_as_they_are() -> None:
    rounds = (one_round(0, 20).model_copy(update={"canary_ns": ()}),)
    assert at_usual_speed(rounds, USUAL) == rounds


def test_canaries_are_told_by_process() -> None:
    rounds = [
        one_round(1, 1, 300),
        one_round(0, 1, 100),
        one_round(0, 1, 200),
        one_round(2, 1).model_copy(update={"canary_ns": ()}),
    ]
    assert process_canaries_ns(rounds) == [150, 300]


class Recorder:
    """Takes requests in place of the sandbox; answers with one process whose canary took `canary_ns`."""

    def __init__(self, canary_ns: int = 100, *, is_valid: bool = True) -> None:
        self.requests: list[MeasurementRequest] = []
        self.canary_ns = canary_ns
        self.is_valid = is_valid

    def __call__(self, request: MeasurementRequest, model: bytes, **_: object) -> Measurement:
        self.requests.append(request)
        found = measured(request)
        rounds = (one_round(0, 1, self.canary_ns),)
        verdict = Verdict(is_valid=self.is_valid)
        return found.model_copy(update={"rounds": rounds, "verdict": verdict, "clock": "test"})


def request_for(**changes: object) -> MeasurementRequest:
    runtime = {"engine": "onnxruntime", "version": "1.31", "provider": "cpu", "threads": 1, **changes}
    return MeasurementRequest(
        device_key="d", runtime=Runtime.model_validate(runtime), model=ModelRef(sha256="0" * 64)
    )


def ask(recorder: Recorder, measure: AtUsualSpeed, times: int = 1, **changes: object) -> UsualSpeed | None:
    for _ in range(times):
        measure(request_for(**changes), b"", on_start=None, cancelled=lambda: False)
    return recorder.requests[-1].usual_speed


def test_the_first_measurements_tell_the_usual_speed_and_then_it_never_moves(tmp_path: Path) -> None:
    recorder = Recorder(100)
    measure = AtUsualSpeed(recorder, tmp_path)
    assert ask(recorder, measure, MIN_HISTORY) is None
    assert ask(recorder, measure) == UsualSpeed(canary_ns=100, clock="test")
    ask(recorder, measure, FULL_HISTORY)
    recorder.canary_ns = 200
    assert ask(recorder, measure, 2 * FULL_HISTORY) == UsualSpeed(canary_ns=100, clock="test")
    restarted = Recorder(300)
    assert ask(restarted, AtUsualSpeed(restarted, tmp_path)) == UsualSpeed(canary_ns=100, clock="test")


def test_invalid_measurements_teach_nothing(tmp_path: Path) -> None:
    recorder = Recorder(is_valid=False)
    assert ask(recorder, AtUsualSpeed(recorder, tmp_path), 2 * FULL_HISTORY) is None


@pytest.mark.parametrize("damage", [b"not json", b"{}", None])
def test_it_is_learned_anew_when_the_file_is_of_no_use(
    tmp_path: Path, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    ask(recorder, AtUsualSpeed(recorder, tmp_path), FULL_HISTORY)
    if damage is None:  # another machine took over the folder
        monkeypatch.setattr(usual_speed, "read_fingerprint", lambda: "f" * 64)
    else:
        (tmp_path / FILE).write_bytes(damage)
    assert ask(recorder, AtUsualSpeed(recorder, tmp_path)) is None


def test_a_folder_that_cannot_be_written_costs_only_the_next_start(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    recorder = Recorder()
    assert ask(recorder, AtUsualSpeed(recorder, blocked / "folder"), MIN_HISTORY + 1) is not None


@pytest.mark.parametrize("changes", [{"provider": "cuda"}, {"engine": "fake"}])
def test_accelerators_and_scripted_clocks_are_reported_as_they_are(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    recorder = Recorder()
    assert ask(recorder, AtUsualSpeed(recorder, tmp_path), FULL_HISTORY, **changes) is None
    assert list(tmp_path.iterdir()) == []
