"""Why a worker gives a job up: data for the job's row, with a stable code."""

from __future__ import annotations


class WorkRefused(Exception):
    """This job cannot be done as things stand."""

    def __init__(self, code: str, detail: str, *, is_retryable: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.is_retryable = is_retryable
