"""ModelRef: an ONNX file, named by the SHA-256 of its bytes, with the sizes of its inputs.

A model with dynamic axes has no latency until those axes have sizes, so sizes are part of what is asked.
They are never guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, StringConstraints

from devices.errors import FailureCode, MissingInputSizes, ModelRejected
from devices.vocabulary import Value

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1, le=2**31)]
MAX_INPUT_BYTES = 1 << 30  # of one input tensor: more is a mistyped size


class InputSpec(Value):
    """One declared input. An axis is a fixed size, the name of a dynamic axis, or None: dynamic, unnamed."""

    name: str
    dtype: str  # numpy's name: float32, float16, int64, bool, ...
    shape: tuple[int | str | None, ...]

    @classmethod
    def declared(cls, name: str, dtype: str, axes: Sequence[int | str | None]) -> InputSpec:
        """From what a file or a runtime says.

        Exporters also write a dynamic axis as -1, 0, "" or "?": those are unnamed.
        """
        shape = tuple(
            None if axis in ("", "?") or (isinstance(axis, int) and axis < 1) else axis for axis in axes
        )
        return cls(name=name, dtype=dtype, shape=shape)

    @property
    def is_dynamic(self) -> bool:
        """Whether any axis lacks a size."""
        return any(not isinstance(size, int) for size in self.shape)


class ModelRef(Value):
    """An ONNX file by the SHA-256 of its bytes, with the complete shape of each input."""

    sha256: Sha256
    input_shapes: dict[str, tuple[Size, ...]] = Field(default_factory=dict)


def sha256_of(data: bytes) -> str:
    """The name of some bytes: lower-case hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def resolve_input_shapes(
    declared: Sequence[InputSpec], given: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """The complete shape of every declared input.

    Fixed inputs need not be given. Raises `MissingInputSizes` naming every dynamic axis without a size,
    and `ModelRejected` (code `inputs_invalid`) for an unknown input, a wrong rank, a contradicted fixed
    size, two sizes for one named axis, or a size below 1.
    """
    known = {spec.name for spec in declared}
    unknown = sorted(set(given) - known)
    if unknown:
        raise _invalid(
            f"no input is named {', '.join(map(repr, unknown))}; the model's inputs are {sorted(known)}"
        )
    axis_sizes: dict[str, int] = {}
    for spec in declared:
        if spec.name in given:
            _check_against_declared(spec, given[spec.name], axis_sizes)
    resolved: dict[str, tuple[int, ...]] = {}
    missing: dict[str, list[str]] = {}
    for spec in declared:
        if spec.name in given:
            resolved[spec.name] = tuple(given[spec.name])
            continue
        resolved[spec.name], unknown_axes = _resolve(spec, axis_sizes)
        if unknown_axes:
            missing[spec.name] = unknown_axes
    if missing:
        raise _missing_sizes(missing, {name: resolved[name] for name in missing})
    return resolved


def _check_against_declared(spec: InputSpec, shape: Sequence[int], axis_sizes: dict[str, int]) -> None:
    if len(shape) != len(spec.shape):
        raise _invalid(
            f"input {spec.name!r} has {len(spec.shape)} axes {list(spec.shape)}, "
            f"got {len(shape)}: {list(shape)}"
        )
    for axis, (declared, size) in enumerate(zip(spec.shape, shape, strict=True)):
        if size < 1:
            raise _invalid(f"input {spec.name!r} axis {axis} must be at least 1, got {size}")
        if isinstance(declared, int) and declared != size:
            raise _invalid(f"input {spec.name!r} axis {axis} is fixed at {declared}, got {size}")
        if isinstance(declared, str) and axis_sizes.setdefault(declared, size) != size:
            raise _invalid(
                f"axis {declared!r} has two sizes: {axis_sizes[declared]} and {size} (input {spec.name!r})"
            )


def _resolve(spec: InputSpec, axis_sizes: Mapping[str, int]) -> tuple[tuple[int, ...], list[str]]:
    """The shape of an input that was not given, and the axes that are 1 in it because nothing tells their
    size.
    """
    sizes: list[int] = []
    unknown: list[str] = []
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int):
            sizes.append(size)
        elif size is not None and size in axis_sizes:  # the same named axis was given with another input
            sizes.append(axis_sizes[size])
        else:
            unknown.append(str(axis) if size is None else size)
            sizes.append(1)
    return tuple(sizes), unknown


def _missing_sizes(
    missing: Mapping[str, Sequence[str]], example: Mapping[str, tuple[int, ...]]
) -> MissingInputSizes:
    names = tuple(f"{name}[{axis}]" for name, axes in missing.items() for axis in axes)
    return MissingInputSizes(
        f"the model has dynamic axes without a size: {', '.join(names)}; "
        f"give input_shapes for these inputs, for example {json.dumps(example)}",
        names,
        example,
    )


def _invalid(message: str) -> ModelRejected:
    return ModelRejected(message, FailureCode.INPUTS_INVALID)
