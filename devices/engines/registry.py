"""Every engine by name, and what this machine offers through them.

A runtime library costs a process tens to hundreds of megabytes and a part of a second, so an engine's module
is imported by name, when the engine is made, and only children make engines: the agent itself stays small.
That is why the dict holds partial constructors, not classes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from devices.boxed_work import BoxedReply, BoxedRequest, ProbeTask, ResourceLimits
from devices.child_process import Box, run_in_child
from devices.engine import DEFAULT_ONLY, Engine
from devices.errors import EngineUnavailable
from devices.target import Runtime

PROBE_WALL_S = 60.0  # importing from a cold disk


def _construct(module: str, name: str) -> Engine:
    return cast(Engine, getattr(importlib.import_module(module), name)())


SCRIPTED_ENGINES = frozenset(("fake",))  # their time is a script's, not the machine's
# Their converters read and write files, so the box must let them, up to the size of the model's memory.
CONVERTING_ENGINES = frozenset(("mnn", "ncnn"))
# How to get an engine that is not here. pnnx names PyTorch as a dependency, which converting ONNX files does
# not need.
INSTALL_COMMANDS = {
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install 'laptime-agent[openvino]'",
    "mnn": "pip install 'laptime-agent[mnn]'",
    "ncnn": "pip install 'laptime-agent[ncnn]' && pip install --no-deps pnnx",
    "torch": "pip install 'laptime-agent[torch]'",
}
ENGINES: dict[str, Callable[[], Engine]] = {
    "onnxruntime": partial(_construct, "devices.engines.onnxruntime", "OnnxRuntimeEngine"),
    "openvino": partial(_construct, "devices.engines.openvino", "OpenVinoEngine"),
    "mnn": partial(_construct, "devices.engines.mnn", "MnnEngine"),
    "ncnn": partial(_construct, "devices.engines.ncnn", "NcnnEngine"),
    "torch": partial(_construct, "devices.engines.torch", "TorchEngine"),
    "fake": partial(_construct, "devices.engines.fake", "FakeEngine"),
}


def create_engine(name: str) -> Engine:
    """The engine of that name; imports its library into this process.

    Raises `EngineUnavailable` for an unknown name and for a library that is not installed, does not load or
    does not start.
    """
    constructor = ENGINES.get(name)
    if constructor is None:
        raise EngineUnavailable(f"no engine is named {name!r}; there are {', '.join(sorted(ENGINES))}")
    try:
        return constructor()
    except (ImportError, OSError, RuntimeError) as error:  # runtimes also find out while they start
        raise EngineUnavailable(
            f"engine {name!r} does not load: {error}; to install it: {INSTALL_COMMANDS[name]}"
        ) from error


def offered_runtimes(
    engine_names: Sequence[str], thread_counts: Sequence[int], optimizations: Sequence[str] = DEFAULT_ONLY
) -> tuple[Runtime, ...]:
    """What the named engines offer here, in this order; a library that is not installed offers nothing.

    Imports the libraries into this process: call it in a child (`available_runtimes`). Raises
    `EngineUnavailable` for an unknown name.
    """
    found: list[Runtime] = []
    for name in engine_names:
        if name not in ENGINES:
            create_engine(name)  # raises, naming those that exist
        try:
            found += create_engine(name).runtimes(thread_counts, optimizations)
        except EngineUnavailable:
            continue
    return tuple(found)


def available_runtimes(
    engine_names: Sequence[str], thread_counts: Sequence[int], optimizations: Sequence[str] = DEFAULT_ONLY
) -> tuple[Runtime, ...]:
    """What the named engines offer on this machine, found out in a child process.

    Raises `EngineUnavailable` for an unknown engine name, and `WorkFailed` where the probing child dies.
    """
    request = BoxedRequest(
        limits=ResourceLimits(processor_s=int(PROBE_WALL_S)),
        probe=ProbeTask(
            engines=tuple(engine_names),
            thread_counts=tuple(thread_counts),
            optimizations=tuple(optimizations),
        ),
    )
    reply = BoxedReply.model_validate_json(
        run_in_child([request.model_dump_json().encode(), b""], Box(wall_s=PROBE_WALL_S))
    )
    if reply.failure is not None:
        raise reply.failure.to_error()
    return reply.runtimes
