"""What can end a demo: each is one clear message, and nothing is left running.

DemoFailed
├── PortTaken      another program listens where the server wants to
├── AlreadyRunning another demo uses the same data folder
├── ChildDied      server, worker or agent ended by itself or was killed
└── StepFailed     a step of the story came to no good end: the message says what was seen
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class DemoFailed(Exception):
    """Root of the demo's errors; its text is all that the user needs."""


class PortTaken(DemoFailed):
    """Another program listens on the address."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"port {port} on {host} is taken by another program: choose a free one with --port NUMBER "
            f"(make demo PORT=NUMBER) or LAPTIME_PORT"
        )


class AlreadyRunning(DemoFailed):
    """Another demo uses the data folder."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(
            f"another demo is running in {data_dir}: stop it first, or choose another folder with --data-dir"
        )


class ChildDied(DemoFailed):
    """A child ended, with the end of its log."""

    def __init__(self, name: str, returncode: int, log: Path, last_lines: Sequence[str]) -> None:
        how = (
            f"was killed by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"
        )
        shown = "\n".join(f"  | {line}" for line in last_lines) or "  | (it wrote nothing)"
        super().__init__(f"the {name} {how}; the demo stops. The end of {log}:\n{shown}")
        self.name = name


class StepFailed(DemoFailed):
    """A step did not reach its end; the message says what was seen instead."""
