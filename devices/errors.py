"""Errors of floor 0.

DevicesError
├── ModelRejected          this model can never be measured here: a retry would fail alike
│   └── MissingInputSizes  the model has dynamic axes and the caller did not give their sizes
├── EngineUnavailable      the runtime is not installed, or lacks the provider that was asked for
├── WorkFailed             running the model failed; `code` says how and whether a retry can succeed
└── ServerRefused          the server answered, and the answer was no
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class FailureCode(StrEnum):
    """Why a measurement did not come to an end. Stable: stored, and shown to API clients."""

    MODEL_INVALID = "model_invalid"
    INPUTS_INVALID = "inputs_invalid"
    OPERATOR_UNSUPPORTED = "operator_unsupported"
    CONVERSION_UNFAITHFUL = "conversion_unfaithful"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_DISK = "out_of_disk"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    AGENT_LOST = "agent_lost"
    CANCELLED = "cancelled"
    INTERNAL = "internal"

    @property
    def is_retryable(self) -> bool:
        """Whether another try can succeed: the model and its memory need do not change between tries."""
        return self in {FailureCode.TIMED_OUT, FailureCode.AGENT_LOST, FailureCode.OUT_OF_DISK}


class DevicesError(Exception):
    """Root of floor 0's errors."""


class ModelRejected(DevicesError):
    """This model can never be measured as asked; `code` says why."""

    def __init__(self, message: str, code: FailureCode = FailureCode.MODEL_INVALID) -> None:
        super().__init__(message)
        self.code = code


class MissingInputSizes(ModelRejected):
    """The model has dynamic axes whose sizes were not given.

    `missing` names them as `input[axis]`. `example` has for each of their inputs a complete shape to copy and
    change: sizes that are known, and 1 for those that are missing.
    """

    def __init__(
        self, message: str, missing: tuple[str, ...], example: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        super().__init__(message, FailureCode.INPUTS_INVALID)
        self.missing = missing
        self.example = dict(example or {})


class EngineUnavailable(DevicesError):
    """The runtime asked for cannot run on this machine; the message names what would make it run."""


class WorkFailed(DevicesError):
    """Running the model failed; `code` tells how."""

    def __init__(self, code: FailureCode, detail: str) -> None:
        super().__init__(f"{code.value}: {detail}")
        self.code = code
        self.detail = detail


class ServerRefused(DevicesError):
    """The server answered with an error that a retry would not change."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"server answered {status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
