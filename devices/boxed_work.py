"""What passes between the agent's process and the child in its box: one request in, one reply out, both
checked against their schema.

The child runs foreign models, so its reply is foreign too: nothing in it is believed beyond its form.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from devices.batch_timing import BatchTask
from devices.engine import DEFAULT_ONLY
from devices.errors import (
    DevicesError,
    EngineUnavailable,
    FailureCode,
    MissingInputSizes,
    ModelRejected,
    WorkFailed,
)
from devices.measurement import LayerProfile
from devices.target import Runtime, Slug
from devices.timing import TimingReport, TimingTask
from devices.vocabulary import Value

MAX_MESSAGE_CHARACTERS = 4000  # of an error: runtimes quote whole graphs


class ResourceLimits(Value):
    """What the child forbids itself before it touches the model. Files: 0 bytes except where a
    runtime must write: a profile, a converted model, an accelerator's temporary files.
    """

    memory_bytes: int | None = Field(default=None, ge=1)  # that the model may add; None: not limited
    processor_s: int = Field(ge=1)
    file_bytes: int = Field(default=0, ge=0)
    open_files: int = Field(default=256, ge=16)


class LayerTask(Value):
    """Profile the layers of one model, in a process of its own: profiling disturbs timing."""

    runtime: Runtime
    input_shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    input_seed: int = 0
    runs: int = Field(ge=1)


class ProbeTask(Value):
    """Tell which runtimes some engines offer."""

    engines: tuple[str, ...]
    thread_counts: tuple[int, ...]
    optimizations: tuple[Slug, ...] = DEFAULT_ONLY


class BoxedRequest(Value):
    """Exactly one of the tasks is set."""

    limits: ResourceLimits
    timing: TimingTask | None = None
    batch: BatchTask | None = None
    layers: LayerTask | None = None
    probe: ProbeTask | None = None

    @property
    def model_count(self) -> int:
        """How many models follow the request; a probe is followed by one without bytes."""
        return 1 if self.batch is None else len(self.batch.input_shapes)


class FailureKind(StrEnum):
    """Which of floor 0's errors the child met."""

    REJECTED = "rejected"
    MISSING_SIZES = "missing_sizes"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


class BoxedFailure(Value):
    """An error of floor 0 as data, to be raised again outside the box."""

    kind: FailureKind
    code: FailureCode
    message: str = Field(max_length=MAX_MESSAGE_CHARACTERS)
    missing: tuple[str, ...] = ()
    example: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    @classmethod
    def from_error(cls, error: DevicesError) -> BoxedFailure:
        """The data of an error; a message over the limit keeps its beginning."""
        kind, code, message = FailureKind.FAILED, FailureCode.INTERNAL, str(error)
        missing: tuple[str, ...] = ()
        example: dict[str, tuple[int, ...]] = {}
        if isinstance(error, MissingInputSizes):
            kind, code = FailureKind.MISSING_SIZES, error.code
            missing, example = error.missing, error.example
        elif isinstance(error, ModelRejected):
            kind, code = FailureKind.REJECTED, error.code
        elif isinstance(error, EngineUnavailable):
            kind, code = FailureKind.UNAVAILABLE, FailureCode.ENGINE_UNAVAILABLE
        elif isinstance(error, WorkFailed):
            kind, code, message = FailureKind.FAILED, error.code, error.detail
        return cls(
            kind=kind, code=code, message=message[:MAX_MESSAGE_CHARACTERS], missing=missing, example=example
        )

    def to_error(self) -> DevicesError:
        """The error again."""
        if self.kind is FailureKind.MISSING_SIZES:
            return MissingInputSizes(self.message, self.missing, self.example)
        if self.kind is FailureKind.REJECTED:
            return ModelRejected(self.message, self.code)
        if self.kind is FailureKind.UNAVAILABLE:
            return EngineUnavailable(self.message)
        return WorkFailed(self.code, self.message)


class BoxedOutcome(Value):
    """What became of one model of a batch: a failure, or its timing."""

    failure: BoxedFailure | None = None
    timing: TimingReport | None = None
    layers: LayerProfile | None = None


class BoxedReply(Value):
    """Either a failure, or the answer to the task that was set (`layers` may be None: the runtime cannot
    tell).
    """

    failure: BoxedFailure | None = None
    timing: TimingReport | None = None
    batch: tuple[BoxedOutcome, ...] = ()
    layers: LayerProfile | None = None
    runtimes: tuple[Runtime, ...] = ()
