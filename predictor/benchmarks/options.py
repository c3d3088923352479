"""Options that the commands of the benchmarks share."""

from __future__ import annotations

import os
from pathlib import Path


def names(text: str) -> tuple[str, ...]:
    """A list by commas; nothing between two of them is no name."""
    return tuple(name for name in text.split(",") if name)


def default_work(folder: str) -> Path:
    """Where a command keeps what it works out once: a folder in the user's cache."""
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "laptime" / folder
