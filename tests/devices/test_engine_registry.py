"""The registry: what is offered is found out in a child, and the parent loads no runtime library."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import pytest

from devices.engine import Engine
from devices.engines.registry import (
    ENGINES,
    INSTALL_COMMANDS,
    SCRIPTED_ENGINES,
    available_runtimes,
    create_engine,
    offered_runtimes,
)
from devices.errors import EngineUnavailable


def test_every_name_makes_an_engine_of_that_name() -> None:
    made = []
    for name in ENGINES:
        with suppress(EngineUnavailable):  # a library that is not installed
            made.append(create_engine(name))
            assert made[-1].name == name
    assert {"fake", "onnxruntime"} <= {engine.name for engine in made}


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(EngineUnavailable, match="fake, mnn, ncnn, onnxruntime, openvino, torch"):
        available_runtimes(["tensorflow"], [1])


def test_a_library_that_is_missing_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "devices.engines.openvino", None)
    with pytest.raises(EngineUnavailable, match=r"laptime-agent\[openvino\]"):
        create_engine("openvino")
    assert [r.engine for r in offered_runtimes(["openvino", "fake"], [1])] == ["fake"]


def test_the_child_offers_what_the_names_ask_for() -> None:
    found = available_runtimes(["onnxruntime", "fake"], [1, 2])
    assert [(r.engine, r.provider, r.threads) for r in found if r.provider == "cpu"] == [
        ("onnxruntime", "cpu", 1),
        ("onnxruntime", "cpu", 2),
        ("fake", "cpu", 1),
        ("fake", "cpu", 2),
    ]


def test_the_child_offers_the_optimisations_that_are_named() -> None:
    found = available_runtimes(["onnxruntime", "fake"], [1], ["none", "default", "compiled"])
    keys = [r.key.partition("/")[2] for r in found if r.provider == "cpu"]
    assert keys == ["cpu/t1/opt-none", "cpu/t1", "cpu/t1"]


def test_each_engine_says_how_to_install_it() -> None:
    assert set(INSTALL_COMMANDS) == set(ENGINES) - SCRIPTED_ENGINES


def test_the_parent_stays_small() -> None:
    """Neither runtimes nor torch are imported by what the agent imports, and none by probing."""
    program = (
        "import sys; from devices.engines.registry import available_runtimes; import devices.sandbox; "
        "assert available_runtimes(['onnxruntime'], [1]); "
        "print([m for m in ('onnxruntime', 'openvino', 'MNN', 'ncnn', 'torch', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("error", [RuntimeError("no devices"), OSError("libtbb.so.12: wrong version")])
def test_a_library_that_does_not_start_keeps_no_other_from_being_offered(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken() -> Engine:
        raise error

    monkeypatch.setitem(ENGINES, "openvino", broken)
    assert [r.engine for r in offered_runtimes(["openvino", "fake"], [1])] == ["fake"]
    with pytest.raises(EngineUnavailable, match=str(error)):
        create_engine("openvino")
