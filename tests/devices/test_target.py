"""Keys of targets read like paths and keep apart what differs in latency."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from devices.target import Runtime, Target


def runtime(**changes: object) -> Runtime:
    facts: dict[str, object] = {"engine": "onnxruntime", "version": "1.31.1", "provider": "cpu", "threads": 4}
    return Runtime.model_validate(facts | changes)


def test_a_key_reads_like_a_path() -> None:
    assert Target(device_key="rpi5-8gb", runtime=runtime()).key == "rpi5-8gb/onnxruntime-1.31/cpu/t4"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"version": "2026.4.1-22186-abc"}, "onnxruntime-2026.4/cpu/t4"),
        ({"version": "10"}, "onnxruntime-10/cpu/t4"),
        ({"version": "Nightly Build"}, "onnxruntime-nightly-build/cpu/t4"),
        ({"precision": "fp16"}, "onnxruntime-1.31/cpu/t4/fp16"),
        ({"precision": "fp16", "power_mode": "15w"}, "onnxruntime-1.31/cpu/t4/fp16/15w"),
        ({"optimization": "basic"}, "onnxruntime-1.31/cpu/t4/opt-basic"),
        ({"optimization": "none", "power_mode": "15w"}, "onnxruntime-1.31/cpu/t4/opt-none/15w"),
    ],
)
def test_a_runtime_key_holds_what_decides_about_kernels(changes: dict[str, object], key: str) -> None:
    assert runtime(**changes).key == key


def test_what_was_stored_before_there_were_optimisations_still_parses() -> None:
    stored = {name: value for name, value in runtime().model_dump().items() if name != "optimization"}
    assert Runtime.model_validate(stored) == runtime(optimization="default")


def test_values_are_immutable_and_tolerate_fields_of_a_newer_peer() -> None:
    one = Runtime.model_validate(runtime().model_dump() | {"invented_later": 1})
    assert one == runtime()
    with pytest.raises(ValidationError, match="frozen"):
        one.threads = 8


@pytest.mark.parametrize("changes", [{"threads": 0}, {"engine": "Onnx Runtime"}, {"version": ""}])
def test_nonsense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        runtime(**changes)
