"""Why a command ends with exit code 1: one clear sentence for standard error."""

from __future__ import annotations


class CommandFailed(Exception):
    """The command cannot do what was asked; the message says why and what would help."""
