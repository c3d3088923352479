"""Targets as measurement files describe them: what each one is, and the observations that it has.

Facts come from the lines first (said once on any line, they hold for all lines of that target), then from
the target's key, then from a neutral default. The default hardware is an x86 core with AVX2 and as many
cores as threads are used: the middle of what there is, eight numbers to a vector. What a target really does
is learned from its measurements, one factor for each class of kernels; facts only say where that starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from devices.hardware import slug_of
from devices.target import Hardware, Runtime
from devices.vocabulary import Value
from predictor.adapt import Observation, TargetFacts
from predictor.errors import LinesRejected, PredictorError
from predictor.measurement_file import Entry, MeasurementLine, problems_of, reject
from predictor.model_files import Found, ModelLibrary
from predictor.resemblance import UNKNOWN_PROCESSOR

_PRECISIONS = frozenset(("fp32", "fp16", "bf16", "int8", "int4"))
_ACCELERATORS = frozenset((
    "gpu", "cuda", "tensorrt", "rocm", "metal", "mps", "coreml", "ane", "nnapi", "npu", "tpu", "edgetpu",
    "dsp", "hexagon", "qnn", "vulkan", "opencl", "webgpu", "directml", "xpu", "migraphx",
))  # fmt: skip
UNKNOWN = "unknown"
_NEUTRAL_ISA_FLAGS = ("avx", "fma", "avx2")

_Facts = TypeVar("_Facts", bound=Value)


@dataclass(frozen=True, slots=True)
class MeasuredTarget:
    """A target and all its measurements, in the order of the lines."""

    facts: TargetFacts
    observations: tuple[Observation, ...]


@dataclass(frozen=True, slots=True)
class StatedHardware:
    """Facts about the hardware of one target from elsewhere; `place`: where, as an error calls it."""

    target_key: str
    place: str
    facts: Mapping[str, JsonValue]


def measured_targets(
    entries: Sequence[Entry],
    library: ModelLibrary,
    hardware: StatedHardware | None = None,
) -> dict[str, MeasuredTarget]:
    """The targets of some lines by key, in the order in which they first appear.

    `hardware` stands before what the lines say. Raises `LinesRejected` naming each line whose model is not
    found or makes no graph, and the facts that `Runtime` and `Hardware` do not allow, or that differ between
    lines of one target.
    """
    problems: list[str] = []
    models: dict[int, Found] = {}
    facts: dict[str, TargetFacts] = {}
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(entry.line.target, []).append(index)
        try:
            models[index] = _found(entry, library)
        except (PredictorError, OSError) as error:
            problems.append(f"{entry.place}: model is {entry.line.model!r}: {error}")
    for key, indices in groups.items():
        try:
            facts[key] = _facts(key, [entries[index] for index in indices], hardware)
        except LinesRejected as error:
            problems.append(str(error))
    reject(problems)
    return {
        key: MeasuredTarget(
            facts[key], tuple(_observation(facts[key], entries[index], models[index]) for index in indices)
        )
        for key, indices in groups.items()
    }


def runtime_of_key(key: str) -> dict[str, JsonValue]:
    """What a target's key says of its runtime; our own keys, as in `rpi5-8gb/onnxruntime-1.31/cpu/t4`, say
    all.

    The second part is the engine with its version, a part `t4` the threads (else 1). The provider is the
    first later part that names a kind of accelerator, else cpu: taken for an accelerator, a processor would
    be off by orders of magnitude. A part that nothing explains, behind the threads of a key of our own form,
    is the power mode.
    """
    parts = [slug_of(part) for part in key.split("/")]
    rest = parts[2:]
    engine, version = _engine_and_version(parts[1] if len(parts) > 1 else parts[0])
    threads = next((part for part in rest if re.fullmatch(r"t[1-9]\d{0,3}", part)), None)
    is_ours = threads is not None and rest.index(threads) == 1
    said: dict[str, JsonValue] = {
        "engine": engine or UNKNOWN,
        "version": version or UNKNOWN,
        "provider": next((part for part in rest if part in _ACCELERATORS), "cpu"),
        "threads": int(threads[1:]) if threads is not None else 1,
    }
    for part in rest[2:] if is_ours else rest:
        if part in _PRECISIONS:
            said["precision"] = part
        elif part.startswith("opt-") and len(part) > len("opt-"):
            said["optimization"] = part.removeprefix("opt-")
        elif is_ours and part:
            said["power_mode"] = part
    return said


def neutral_hardware(given: Mapping[str, JsonValue], threads: int) -> dict[str, JsonValue]:
    """Facts that stand in for those that are not given. A processor that is said to be no x86 has no
    instruction sets but those that are given.
    """
    logical = given.get("logical_cores", given.get("physical_cores", threads))
    is_x86 = given.get("architecture", UNKNOWN) in (UNKNOWN, "x86_64", "amd64", "AMD64")
    return {
        "cpu_model": UNKNOWN_PROCESSOR,
        "architecture": UNKNOWN,
        "physical_cores": logical,
        "logical_cores": logical,
        "memory_bytes": 8 << 30,
        "isa_flags": list(_NEUTRAL_ISA_FLAGS) if is_x86 else [],
        "operating_system": UNKNOWN,
    }


def _found(entry: Entry, library: ModelLibrary) -> Found:
    line = entry.line
    return library.find(
        line.model, line.input_shapes, beside=entry.file.parent, graph_digest=line.graph_digest
    )


def _facts(key: str, entries: Sequence[Entry], hardware: StatedHardware | None) -> TargetFacts:
    """Raises `LinesRejected` for facts that no runtime or hardware has, or that contradict one another."""
    runtime = _validated(
        Runtime, "runtime", _merged(entries, "runtime", lambda line: line.runtime), runtime_of_key(key)
    )
    said = _merged(entries, "hardware", lambda line: line.hardware)
    if hardware is not None and hardware.target_key == key:
        said |= {field: (hardware.place, value) for field, value in hardware.facts.items()}
    given = {field: value for field, (_, value) in said.items()}
    machine = _validated(Hardware, "hardware", said, neutral_hardware(given, runtime.threads))
    return TargetFacts(key=key, runtime=runtime, hardware=machine)


def _merged(
    entries: Sequence[Entry], called: str, of: Callable[[MeasurementLine], Mapping[str, JsonValue]]
) -> dict[str, tuple[str, JsonValue]]:
    """What the lines of one target say of it, with the place of each fact."""
    said: dict[str, tuple[str, JsonValue]] = {}
    for entry in entries:
        for field, value in of(entry.line).items():
            place, known = said.setdefault(field, (entry.place, value))
            if known != value:
                raise LinesRejected(
                    f"{entry.place}: {called}.{field} is {value!r}, but {place} says {known!r} of the same "
                    f"target {entry.line.target}; give one of them a target key of its own"
                )
    return said


def _validated(
    kind: type[_Facts],
    called: str,
    said: Mapping[str, tuple[str, JsonValue]],
    otherwise: Mapping[str, JsonValue],
) -> _Facts:
    problems = [
        f"{place}: {called}.{field} is no field of {called}; fields are {', '.join(kind.model_fields)}"
        for field, (place, _) in said.items()
        if field not in kind.model_fields
    ]
    reject(problems)
    try:
        return kind.model_validate({**otherwise, **{field: value for field, (_, value) in said.items()}})
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        place = said[field][0] if field in said else "the target's key"
        raise LinesRejected(f"{place}: {problems_of(error, called)[0]}") from error


def _observation(facts: TargetFacts, entry: Entry, model: Found) -> Observation:
    median_ms, standard_error_ms = entry.line.latency_ms()
    return Observation(
        target_key=facts.key,
        runtime=facts.runtime,
        hardware=facts.hardware,
        graph=model.graph,
        median_ms=median_ms,
        standard_error_ms=standard_error_ms,
        name=entry.line.name or model.name,
    )


def _engine_and_version(part: str) -> tuple[str, str]:
    """`onnxruntime-1.31` is both; a part without a number behind a hyphen is an engine alone."""
    match = re.fullmatch(r"(.+?)-v?(\d[a-z0-9._-]*)", part)
    return (match.group(1), match.group(2)) if match else (part, "")
