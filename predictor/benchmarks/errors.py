"""Errors of the benchmarks.

PredictorError
└── BenchmarkRejected
    ├── TableRejected   a file of latencies is missing or is not what it should be
    ├── TaskRejected    this task cannot be run on these tables; the message names what is missing
    └── NotGranted      a method asked for what its protocol does not grant
        └── BudgetExceeded  one measurement too many
"""

from __future__ import annotations

from predictor.errors import PredictorError


class BenchmarkRejected(PredictorError):
    """Root of the benchmarks' errors."""


class TableRejected(BenchmarkRejected):
    """A file of published latencies is missing, or is not what it should be."""


class TaskRejected(BenchmarkRejected):
    """This task cannot be run: unknown, or of devices that the tables do not hold."""


class NotGranted(BenchmarkRejected):
    """A method asked for a latency that its protocol does not grant."""


class BudgetExceeded(NotGranted):
    """A method asked for more measurements than the protocol grants."""
