"""Reports that the server has not accepted yet, on disk: minutes of measuring must survive a kill, a reboot
and a dead network.

One file for each (job, fence), written and synced before the first try to send it, removed once the server
has answered for good.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from urllib.parse import quote

from pydantic import Field, ValidationError, model_validator

from devices.agent.files import sync_directory, write_durably
from devices.agent.logs import event
from devices.vocabulary import Value
from devices.wire import CompleteRequest, FailRequest

log = logging.getLogger(__name__)

SPOOL_VERSION = 1
DAMAGED_SUFFIX = ".damaged"


class Report(Value):
    """How one leased job ended here: exactly one of `complete` and `fail`."""

    spool_version: int = SPOOL_VERSION
    job_id: str
    spooled_at_unix_s: float = Field(default_factory=time.time)  # for people; decides nothing
    complete: CompleteRequest | None = None
    fail: FailRequest | None = None

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Report:
        if (self.complete is None) == (self.fail is None):
            raise ValueError("a report is either complete or fail")
        return self

    @classmethod
    def of(cls, job_id: str, request: CompleteRequest | FailRequest) -> Report:
        """The report of one of the two ends."""
        if isinstance(request, CompleteRequest):
            return cls(job_id=job_id, complete=request)
        return cls(job_id=job_id, fail=request)

    @property
    def request(self) -> CompleteRequest | FailRequest:
        """What is to be sent."""
        request = self.complete if self.complete is not None else self.fail
        assert request is not None  # `_is_one_of_two`
        return request

    @property
    def fence(self) -> int:
        """The fence of the lease under which the work was done."""
        return self.request.fence


class Spool:
    """The reports of one state directory, used by one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for torn in directory.glob("*.tmp"):  # killed while writing: it was never promised to anyone
            torn.unlink()

    def put(self, report: Report) -> None:
        """Keep a report until `remove`. Durable on return; raises OSError if the disk will not take it."""
        write_durably(self._path(report), report.model_dump_json().encode())

    def remove(self, report: Report) -> None:
        """The server has answered for good. Removing twice is harmless."""
        self._path(report).unlink(missing_ok=True)
        sync_directory(self._directory)

    def reports(self) -> list[Report]:
        """All reports, oldest first.

        A damaged file is set aside, with a log line, and never in the way of the others.
        """
        found: list[Report] = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(Report.model_validate_json(path.read_bytes()))
            except ValidationError as error:
                aside = path.with_name(path.name + DAMAGED_SUFFIX)
                path.replace(aside)
                log.error(
                    event(
                        "spool_damaged",
                        file=aside,
                        problem=error.errors()[0]["msg"],
                        then="set aside, not sent",
                    )
                )
        return sorted(found, key=lambda report: report.spooled_at_unix_s)

    def _path(self, report: Report) -> Path:
        # Job ids come from the server: quoted, so that none of them is ever a path.
        return self._directory / f"{quote(report.job_id, safe='')}.{report.fence}.json"
