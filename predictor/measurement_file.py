"""Measurements made anywhere, as JSON lines: one measurement a line, whatever runtime made it.

    {"model": "mixed-rows", "target": "pixel6/tflite-2.20/gpu", "samples_ns": [1843000, 1850500, 1839900]}
    {"model": "nets/det.onnx", "input_shapes": {"x": [1, 3, 320, 320]}, "target": "...", "median_ms": 41.5}

The fields are those of `MeasurementLine` (documented in `docs/predicting.md`); what the lines of a target
leave open, `predictor.measured_targets` reads from its key. A line that cannot be used is an error, and all
of a file are named at once. Paths are followed wherever they lead: read only files of your own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from devices.model_ref import Size
from devices.statistics import median, standard_error_of_median
from devices.target import Hardware, Runtime
from predictor.errors import LinesRejected

Name = Annotated[str, StringConstraints(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_SHOWN_PROBLEMS = 10
_REMEDIES = {
    "": "write one JSON object on each line",
    "model": "give a path, a SHA-256, the digest of a graph, or the name of a reference model",
    "graph_digest": "give 64 hexadecimal digits, or leave it out",
    "input_shapes": 'give sizes of at least 1 by input, as in {"image": [1, 3, 224, 224]}',
    "target": 'give a key, as in "pixel6/tflite-2.20/gpu"',
    "samples_ns": "give whole nanoseconds above 0, one for each run, without the warm-ups",
    "median_ms": "give milliseconds above 0",
    "standard_error_ms": "give milliseconds of at least 0, or leave it out",
    "runtime": "give an object with fields of a runtime, or leave it out",
    "hardware": "give an object with facts about the hardware, or leave it out",
    "name": "give a text on one line, or leave it out",
}


class MeasurementLine(BaseModel):
    """One measurement. `samples_ns` or `median_ms` must be there; a median that is given stands, whatever
    the samples say: it may refer to the usual speed of its device.

    `model`: path (relative to the file), SHA-256, digest of a graph or name of a reference model;
    `graph_digest`: a second name, for where those bytes are not at hand. `runtime` and `hardware`: fields of
    `devices.target`, some or all; `name`: what the accuracy card calls the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: Name
    graph_digest: Digest | None = None
    input_shapes: dict[str, tuple[Size, ...]] = Field(default_factory=dict)
    target: Name
    median_ms: Milliseconds | None = None
    standard_error_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    samples_ns: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] | None = None
    runtime: dict[str, JsonValue] = Field(default_factory=dict)
    hardware: dict[str, JsonValue] = Field(default_factory=dict)
    name: Name | None = None

    @model_validator(mode="after")
    def _has_a_latency(self) -> Self:
        if self.samples_ns is None and self.median_ms is None:
            raise ValueError("neither samples_ns nor median_ms is there")
        return self

    def latency_ms(self) -> tuple[float, float]:
        """Median and its standard error, from the samples where they are not given.

        An error that neither tells is 0: the predictor then takes all scatter for its own.
        """
        if self.samples_ns is None:
            return self.median_ms or 0.0, self.standard_error_ms or 0.0
        observed_ns = median(self.samples_ns)
        median_ms = observed_ns * 1e-6 if self.median_ms is None else self.median_ms
        if self.standard_error_ms is not None:
            return median_ms, self.standard_error_ms
        return median_ms, standard_error_of_median([self.samples_ns]) / observed_ns * median_ms


@dataclass(frozen=True, slots=True)
class Entry:
    """A line and where it was read: `number` counts from 1."""

    file: Path
    number: int
    line: MeasurementLine

    @property
    def place(self) -> str:
        """How an error calls it."""
        return f"{self.file}, line {self.number}"


def line_of(
    *,
    model_sha256: str,
    graph_digest: str | None,
    input_shapes: Mapping[str, Sequence[int]],
    target_key: str,
    runtime: Runtime,
    hardware: Hardware,
    median_ms: float,
    standard_error_ms: float,
    samples_ns: Sequence[int] = (),
    name: str | None = None,
) -> MeasurementLine:
    """A measurement that is known in full. Raises pydantic's `ValidationError` for values that no line may
    have.
    """
    return MeasurementLine(
        model=model_sha256,
        graph_digest=graph_digest,
        input_shapes={name: tuple(shape) for name, shape in input_shapes.items()},
        target=target_key,
        median_ms=median_ms,
        standard_error_ms=standard_error_ms,
        samples_ns=tuple(samples_ns) or None,
        runtime=runtime.model_dump(mode="json", exclude_none=True),
        hardware=hardware.model_dump(mode="json", exclude_none=True),
        name=name,
    )


def text_of(line: MeasurementLine) -> str:
    """The line as it stands in a file, its line feed included."""
    return line.model_dump_json(exclude_defaults=True) + "\n"


def write_lines(path: Path, lines: Iterable[MeasurementLine]) -> None:
    """Write a measurement file, over whatever was there. Raises `OSError`."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(text_of(line) for line in lines)


def read_lines(path: Path) -> tuple[Entry, ...]:
    """All measurements of a file; empty lines are none.

    Raises `LinesRejected` naming every line that is malformed, or a file without any measurement, and
    `OSError`.
    """
    entries: list[Entry] = []
    problems: list[str] = []
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            stripped = text.removeprefix(b"\xef\xbb\xbf").strip()  # editors of one system mark UTF-8 so
            if not stripped:
                continue
            try:
                entries.append(Entry(path, number, MeasurementLine.model_validate_json(stripped)))
            except ValidationError as error:
                problems += [f"{path}, line {number}: {problem}" for problem in problems_of(error)]
    reject(problems)
    if not entries:
        raise LinesRejected(f"{path} holds no measurement; write one JSON object on each line")
    return tuple(entries)


def reject(problems: Sequence[str]) -> None:
    """Raise `LinesRejected` with the first of the problems and the number of the others, if there are any."""
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = [*problems[:_SHOWN_PROBLEMS], *([f"and {more} more problems"] if more > 0 else [])]
        raise LinesRejected("\n".join(shown))


def problems_of(error: ValidationError, within: str = "") -> list[str]:
    """Field, value, what is wrong with it, and what to write instead. `within`: the field that was
    validated, where it is not the whole line.
    """
    problems: list[str] = []
    for one in error.errors(include_url=False):
        parts = [*([within] if within else []), *map(str, one["loc"])]
        called = ".".join(parts) or "the line"
        remedy = _REMEDIES.get(parts[0] if parts else "", "")
        given = json.dumps(one["input"]) if isinstance(one["input"], str) else repr(one["input"])
        said = one["msg"][0].lower() + one["msg"][1:].replace(" at line 1 column ", " at column ")
        if one["type"] == "value_error":  # of the line as a whole
            problems.append(f"{one['ctx']['error']}; give one of them")
        elif one["type"] == "missing":
            problems.append(f"{called} is missing; {remedy}")
        elif one["type"] == "extra_forbidden":
            fields = ", ".join(MeasurementLine.model_fields)
            problems.append(f"{called} is no field of a measurement; fields are {fields}")
        else:
            problems.append(f"{called} is {given[:80]}: {said}; {remedy}")
    return problems
