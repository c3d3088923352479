"""What the commands of the benchmarks take and print alike."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path


def names(text: str) -> tuple[str, ...]:
    """A list by commas; nothing between two of them is no name."""
    return tuple(name for name in text.split(",") if name)


def default_work(folder: str) -> Path:
    """Where a command keeps what it works out once: a folder in the user's cache."""
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "laptime" / folder


def write_document(parsed: argparse.Namespace, document: dict[str, object]) -> None:
    """JSON to the file and to standard output, as asked for."""
    text = json.dumps(document, indent=1)
    if parsed.output:
        parsed.output.write_text(text + "\n")
    if parsed.json:
        print(text)
