"""Made-up inputs of a model. Latency hardly depends on values, but a wrong value can stop a run: an id
outside its table, an empty mask.

The rules go by dtype and name: floats are uniform noise in [0, 1), integers of 32 and 64 bits are small
positive ids, integers of 8 and 16 bits (quantised data, pixels, audio) use their whole range, masks are ones,
segment ids zeros, a sampling rate is 16 kHz.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from devices.errors import FailureCode, ModelRejected
from devices.model_ref import MAX_INPUT_BYTES, InputSpec

SMALLEST_ID, LARGEST_ID = 1, 9  # inside any vocabulary that exists
SEGMENT_WORDS = ("token_type", "segment")  # ids into a table of two rows
SAMPLING_RATE_NAMES = ("sr", "sampling_rate", "sample_rate")
SAMPLING_RATE_HZ = 16_000
SUPPORTED_DTYPES = (
    "float16", "float32", "float64", "bool",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip


def make_tensors(
    specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]], *, seed: int
) -> dict[str, NDArray[np.generic]]:
    """One contiguous array per declared input, the same for the same seed.

    `shapes` holds the complete shape of each input (`devices.model_ref.resolve_input_shapes`). Raises
    `ModelRejected` (code `inputs_invalid`) for a dtype that cannot be made up, and for a tensor over
    `MAX_INPUT_BYTES`.
    """
    generator = np.random.default_rng(seed)
    return {spec.name: _make(spec, tuple(shapes[spec.name]), generator) for spec in specs}


def check_dtype(spec: InputSpec) -> None:
    """Raises `ModelRejected` (code `inputs_invalid`) for a dtype that cannot be made up."""
    if spec.dtype in SUPPORTED_DTYPES:
        return
    reason = (
        "text has no typical value to measure with" if spec.dtype == "string" else "numpy has no such type"
    )
    raise ModelRejected(
        f"input {spec.name!r} is of type {spec.dtype}: {reason}; measure the part of the model behind it, "
        f"whose inputs are one of {', '.join(SUPPORTED_DTYPES)}",
        FailureCode.INPUTS_INVALID,
    )


def _make(spec: InputSpec, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.generic]:
    check_dtype(spec)
    dtype = np.dtype(spec.dtype)
    size_bytes = math.prod(shape) * dtype.itemsize
    if size_bytes > MAX_INPUT_BYTES:
        raise ModelRejected(
            f"input {spec.name!r} of shape {list(shape)} needs {size_bytes} bytes; "
            f"the limit is {MAX_INPUT_BYTES}: give smaller input_shapes",
            FailureCode.INPUTS_INVALID,
        )
    name = spec.name.lower()
    if "mask" in name:
        return np.ones(shape, dtype)
    if name in SAMPLING_RATE_NAMES and math.prod(shape) == 1 and dtype.kind in "iu" and dtype.itemsize >= 4:
        return np.full(shape, SAMPLING_RATE_HZ, dtype)
    if dtype.kind == "f":
        return np.asarray(generator.random(shape, dtype=np.float32), dtype)
    if dtype.kind == "b":
        return np.asarray(generator.integers(0, 2, shape), dtype)
    return _integers(name, dtype, shape, generator)


def _integers(
    name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...], generator: np.random.Generator
) -> NDArray[np.generic]:
    if dtype.itemsize <= 2:
        whole_range = np.iinfo(dtype.name)
        return np.asarray(generator.integers(whole_range.min, whole_range.max, shape, endpoint=True), dtype)
    if any(word in name for word in SEGMENT_WORDS):
        return np.zeros(shape, dtype)
    return np.asarray(generator.integers(SMALLEST_ID, LARGEST_ID, shape, endpoint=True), dtype)
