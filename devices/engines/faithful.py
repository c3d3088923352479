"""A conversion that changes the numbers measures another model: it is refused.

Every engine that converts a model into a form of its own compares one run with ONNX Runtime's outputs for the
same bytes and the same made-up inputs, before anything is timed. Float outputs are compared by their
signal-to-noise ratio, which for errors unrelated to the signal is the cosine in other words (27 dB: .999) and
sees a wrong scale as well. What two correct runtimes may differ in is let through: rounding, where the model
is quantised; ties between labels; outputs that are zero, not finite, or random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices.engine import Session, Tensors
from devices.engines.onnxruntime import OnnxRuntimeEngine
from devices.errors import FailureCode, ModelRejected
from devices.inputs import make_tensors
from devices.model_ref import InputSpec, resolve_input_shapes
from devices.target import Runtime

MIN_FLOAT_DB = 27.0  # a relative error of 4.5 %
# With few bits two runtimes round differently, and a step more or less is carried through all later layers.
MIN_ROUNDED_DB, MIN_ROUNDED_COSINE = 10.0, 0.95
NEGLIGIBLE = 1e-6  # root mean square of an error: inputs are of the order of 1, and 1 is rounded by 1e-7
HUGE = 1e30  # written instead of an infinity, to mask attention
MAX_DIFFERING_SHARE = 0.05  # of an integer output: labels whose scores tie
LEAST_SIGNIFICANT_BYTES = 2  # integers this small are quantised numbers, which may be rounded differently
QUANTISED_SIGNS = (b"QuantizeLinear", b"DynamicQuantize", b"QLinear", b"MatMulInteger", b"ConvInteger",
                   b"MatMulNBits", b"QAttention", b"QGemm")  # fmt: skip
INPUT_SEED = 0
NOT_COMPARED = "no output can be compared with ONNX Runtime's: they are random, or not numbers"
PEAK_FILE = Path("/proc/self/clear_refs")  # proc(5): writing 5 there resets VmHWM


@dataclass(frozen=True, slots=True)
class Reference:
    """What ONNX Runtime makes of a model: declared inputs, complete shapes, made-up inputs and the outputs
    for them, in the model's order.
    """

    inputs: Sequence[InputSpec]
    shapes: Mapping[str, tuple[int, ...]]
    tensors: Tensors
    outputs: Tensors
    is_rounded: bool  # the model, or its runtime by order, computes with fewer bits than float32 has


def run_reference(
    model: bytes, input_shapes: Mapping[str, Sequence[int]], *, precision: str = "native", runs: int = 1
) -> Reference:
    """Run the model on ONNX Runtime, which is gone again at the end; the outputs are those of the last run.

    Fusions that compute with other numbers than the file says are left out (level basic). `precision` is that
    of the runtime to be compared. Raises
    `ModelRejected` for what is no model, names files outside itself or has an operator that ONNX Runtime does
    not know either, `MissingInputSizes`, and `WorkFailed` (inputs_invalid, out_of_memory).
    """
    engine = OnnxRuntimeEngine()
    runtime = Runtime(engine=engine.name, version="1", provider="cpu", threads=1, optimization="basic")
    session = engine.load(model, runtime, input_shapes)
    shapes = resolve_input_shapes(session.inputs, input_shapes)
    tensors = make_tensors(session.inputs, shapes, seed=INPUT_SEED)
    return Reference(
        inputs=tuple(session.inputs),
        shapes=shapes,
        tensors=tensors,
        outputs=[session.run(tensors) for _ in range(runs)][-1],
        is_rounded=precision != "native" or any(sign in model for sign in QUANTISED_SIGNS),
    )


def check_faithful(session: Session, reference: Reference, *, model: bytes, library: str) -> tuple[str, ...]:
    """Run `session` once and compare. Notes for the user: empty where everything was compared.

    Raises `ModelRejected` (conversion_unfaithful) for outputs other than the reference's.
    """
    found = session.run(reference.tensors)
    fault = find_fault(reference.outputs, found, is_rounded=reference.is_rounded)
    if fault is None:
        return () if any(map(_is_numeric, reference.outputs.values())) else (NOT_COMPARED,)
    # Only now is it worth knowing whether the model repeats itself: a second run draws other random numbers.
    again = run_reference(model, reference.shapes, runs=2).outputs
    steady = {
        name: value
        for name, value in reference.outputs.items()
        if find_fault({name: value}, again, is_rounded=reference.is_rounded) is None
    }
    fault = find_fault(steady, found, is_rounded=reference.is_rounded) if steady else None
    if fault is None:
        return (NOT_COMPARED,)
    raise ModelRejected(
        f"{library} computes other numbers than ONNX Runtime for this model: {fault}; "
        "measure it with another engine, or export it without what this one converts wrongly",
        FailureCode.CONVERSION_UNFAITHFUL,
    )


def find_fault(expected: Tensors, found: Tensors, *, is_rounded: bool) -> str | None:
    """The first expected output that was not found as it should be, and by how much; None if all were."""
    has_floats = any(np.asarray(value).dtype.kind == "f" for value in expected.values())
    for name, value in expected.items():
        if not _is_numeric(value):
            continue
        if name not in found:
            return f"output {name!r} is missing"
        fault = _compare(
            np.asarray(value), np.asarray(found[name]), is_rounded=is_rounded, is_vouched=has_floats
        )
        if fault is not None:
            return f"output {name!r} {fault}"
    return None


def forget_peak_memory() -> None:
    """Let the peak of resident memory begin anew: what was compared and converted is no need of the model."""
    with suppress(OSError):  # not Linux, or not allowed: the peak then includes it
        PEAK_FILE.write_text("5")


def signal_to_noise_db(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """10 log10 of the energy of the expected values over the energy of the difference; infinite for none."""
    noise = float(np.sum((expected - found) ** 2))
    signal = float(np.sum(expected**2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _compare(
    expected: NDArray[np.generic], found: NDArray[np.generic], *, is_rounded: bool, is_vouched: bool
) -> str | None:
    if expected.size != found.size:
        return f"has shape {list(found.shape)} where {list(expected.shape)} is expected"
    if expected.dtype.kind == "f":
        return _compare_floats(expected, found, is_rounded=is_rounded)
    return _compare_integers(expected, found, is_vouched=is_vouched)


def _compare_floats(
    expected: NDArray[np.generic], found: NDArray[np.generic], *, is_rounded: bool
) -> str | None:
    wanted = np.asarray(expected, np.float64).ravel()  # (size,)
    got = np.asarray(found, np.float64).ravel()
    with np.errstate(invalid="ignore"):
        usual = np.abs(wanted) < HUGE  # neither infinite nor NaN
        lost = int(np.count_nonzero(usual & ~(np.abs(got) < HUGE)))
    if lost:
        return f"has {lost} of {wanted.size} values that are not finite"
    wanted, got = wanted[usual], got[usual]
    if not wanted.size or math.sqrt(float(np.mean((wanted - got) ** 2))) <= NEGLIGIBLE:
        return None
    ratio_db = signal_to_noise_db(wanted, got)
    if ratio_db >= (MIN_ROUNDED_DB if is_rounded else MIN_FLOAT_DB):
        return None
    if not is_rounded:
        return f"has a signal-to-noise ratio of {ratio_db:.1f} dB, at least {MIN_FLOAT_DB:g} is expected"
    norms = math.sqrt(float(wanted @ wanted)) * math.sqrt(float(got @ got))
    cosine = float(wanted @ got) / norms if norms > 0 else 0.0
    if cosine >= MIN_ROUNDED_COSINE:
        return None
    return (
        f"has a signal-to-noise ratio of {ratio_db:.1f} dB and a cosine of {cosine:.3f}, "
        f"at least {MIN_ROUNDED_DB:g} dB or {MIN_ROUNDED_COSINE} is expected of a quantised one"
    )


def _compare_integers(
    expected: NDArray[np.generic], found: NDArray[np.generic], *, is_vouched: bool
) -> str | None:
    """`is_vouched`: other outputs are floats, so that a label may differ where two scores tie."""
    tolerance = 1 if expected.dtype.kind in "iu" and expected.dtype.itemsize <= LEAST_SIGNIFICANT_BYTES else 0
    distance = np.abs(np.asarray(expected, np.float64).ravel() - np.asarray(found, np.float64).ravel())
    differing = int(np.count_nonzero(~(distance <= tolerance)))
    allowed = max(int(MAX_DIFFERING_SHARE * expected.size), 1 if is_vouched else 0)
    if differing <= allowed:
        return None
    return f"differs in {differing} of {expected.size} integers, at most {allowed} is expected"


def _is_numeric(value: object) -> bool:
    return np.asarray(value).dtype.kind in "fiub"
