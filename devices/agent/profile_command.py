"""`laptime-agent profile`: measure one model file on this machine, without a server, in the same box as the
daemon's work.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from devices.agent.exit_codes import ExitCode
from devices.agent.logs import event
from devices.agent.settings import AgentSettings, thread_counts_for
from devices.agent.tables import measurement_as_text, printable
from devices.agent.work import RunMeasurement
from devices.engines.registry import available_runtimes
from devices.errors import DevicesError, EngineUnavailable, MissingInputSizes, ModelRejected, WorkFailed
from devices.hardware import read_device
from devices.measurement import Measurement, MeasurementPlan
from devices.model_ref import ModelRef, sha256_of
from devices.sandbox import MeasurementRequest
from devices.scratch import remove_stale_folders
from devices.target import Runtime

MAX_SIZE = 2**31  # of `devices.model_ref.Size`
SHAPE_FORM = re.compile(r"[1-9]\d{0,9}(x[1-9]\d{0,9})*|scalar")


class UsageProblem(DevicesError):
    """What was asked for cannot be done as it was written; the message says how to write it."""


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """What to measure.

    `threads` None: as the settings say; `runtime` None: the first that this machine offers.
    """

    model_path: Path
    plan: MeasurementPlan
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    runtime: str | None = None
    threads: int | None = None
    out: Path | None = None
    is_json: bool = False
    is_validity_required: bool = False


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`input=1x3x224x224` as name and sizes; `input=scalar` for no axes. Raises `UsageProblem`."""
    name, separator, sizes = text.rpartition("=")
    if not separator or not name or not SHAPE_FORM.fullmatch(sizes):
        raise UsageProblem(
            f"a shape is written NAME=1x3x224x224, with whole sizes of at least 1, got {text!r}"
        )
    shape = () if sizes == "scalar" else tuple(int(size) for size in sizes.split("x"))
    if any(size > MAX_SIZE for size in shape):
        raise UsageProblem(
            f"a size is at most {MAX_SIZE}, and a shape is written NAME=1x3x224x224, got {text!r}"
        )
    return name, shape


def run_profile(
    options: ProfileOptions,
    settings: AgentSettings,
    *,
    run_measurement: RunMeasurement,
    stdout: TextIO,
    stderr: TextIO,
) -> ExitCode:
    """Measure, print, and say how it went."""
    try:
        measurement = _measure(options, settings, run_measurement, stderr)
    except MissingInputSizes as error:
        stderr.write(f"error: {printable(str(error))}\n{_flags_for(error.example)}\n")
        return ExitCode.USAGE
    except ModelRejected as error:
        stderr.write(f"error: the model was rejected ({error.code.value}): {printable(str(error))}\n")
        return ExitCode.MODEL_REJECTED
    except (EngineUnavailable, WorkFailed) as error:
        stderr.write(f"error: {printable(str(error))}\n")
        return ExitCode.FAILED
    _deliver(measurement, options, stdout)
    is_good = measurement.verdict.is_valid or not options.is_validity_required
    return ExitCode.OK if is_good else ExitCode.NOT_VALID


def choose_runtime(offered: Sequence[Runtime], wanted: str | None) -> Runtime:
    """The first runtime whose key contains `wanted`.

    Raises `EngineUnavailable` listing those that there are.
    """
    for runtime in offered:
        if wanted is None or wanted.lower() in runtime.key:
            return runtime
    if not offered:
        raise EngineUnavailable(
            "no runtime is installed here: pip install onnxruntime; `laptime-agent doctor` tells more"
        )
    keys = ", ".join(runtime.key for runtime in offered)
    raise EngineUnavailable(f"no runtime's key contains {wanted!r}; this machine offers {keys}")


def _measure(
    options: ProfileOptions, settings: AgentSettings, run_measurement: RunMeasurement, stderr: TextIO
) -> Measurement:
    try:
        model = options.model_path.read_bytes()
    except OSError as error:
        raise UsageProblem(f"{options.model_path} cannot be read: {error.strerror}") from error
    if options.out is not None and not options.out.absolute().parent.is_dir():
        raise UsageProblem(f"--out {options.out}: there is no directory {options.out.absolute().parent}")
    remove_stale_folders()
    device = read_device(settings.device_key)
    counts = thread_counts_for(settings.thread_counts, device.hardware.physical_cores)
    offered = available_runtimes(
        settings.engines,
        counts if options.threads is None else (options.threads,),
        settings.optimizations,
    )
    request = MeasurementRequest(
        device_key=device.key,
        runtime=choose_runtime(offered, options.runtime),
        model=ModelRef(sha256=sha256_of(model), input_shapes=dict(options.input_shapes)),
        plan=options.plan,
    )
    stderr.write(
        event(
            "measuring",
            model=options.model_path.name,
            runtime=request.runtime.key,
            level=options.plan.level.value,
        )
        + "\n"
    )
    stderr.flush()
    return run_measurement(request, model, on_start=None, cancelled=lambda: False)


def _deliver(measurement: Measurement, options: ProfileOptions, stdout: TextIO) -> None:
    document = measurement.model_dump_json(indent=2) + "\n"
    if options.out is not None:
        try:
            options.out.write_text(document, encoding="utf-8")
        except OSError as error:
            stdout.write(document)  # minutes of work go to the terminal rather than nowhere
            raise UsageProblem(f"--out {options.out} cannot be written: {error.strerror}") from error
    stdout.write(document if options.is_json else measurement_as_text(measurement, options.model_path.name))


def _flags_for(example: Mapping[str, Sequence[int]]) -> str:
    """What to add to the command line, ready to be copied into a shell."""
    flags = [
        f"--shape {shlex.quote(printable(name))}={'x'.join(map(str, shape))}"
        for name, shape in example.items()
    ]
    return f"give every axis of these inputs in order, with your sizes: {' '.join(flags)}"
