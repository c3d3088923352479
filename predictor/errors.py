"""Errors of floor 1.

PredictorError
├── GraphRejected       this ONNX file cannot become a graph; `code` says why, the message names what in it
├── CheckpointRejected  these bytes are no checkpoint that this version can read
├── AdaptationRejected  these observations cannot adapt a predictor
├── LinesRejected       lines of a measurement file that cannot be used; the message names each of them
└── GenomeRejected      this row of integers is no architecture of its space
"""

from __future__ import annotations

from enum import StrEnum


class GraphCode(StrEnum):
    """Why a graph was rejected. Stable: stored, and shown to API clients."""

    MALFORMED = "malformed"
    EXTERNAL_DATA = "external_data"
    TOO_LARGE = "too_large"
    OPERATOR_UNSUPPORTED = "operator_unsupported"
    INPUTS_INVALID = "inputs_invalid"
    MISSING_INPUT_SIZES = "missing_input_sizes"


class PredictorError(Exception):
    """Root of floor 1's errors."""


class GraphRejected(PredictorError):
    """This model, at these input sizes, cannot be turned into a costed graph.

    `missing` names the dynamic axes without a size (`input[axis]`) when `code` is `missing_input_sizes`,
    and is empty otherwise.
    """

    def __init__(self, message: str, code: GraphCode, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.missing = missing


class CheckpointRejected(PredictorError):
    """These bytes are not a checkpoint, or one of another feature version; the message says what to do."""


class AdaptationRejected(PredictorError):
    """These observations cannot adapt a predictor: none, of another target, or not positive."""


class LinesRejected(PredictorError):
    """Lines of a measurement file cannot be used; the message names file, line, field, value and remedy."""


class GenomeRejected(PredictorError):
    """This row of integers is no architecture of its space; the message names position, value and bounds."""
