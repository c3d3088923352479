"""One line per event, for people and machines: `event key=value key="value with spaces"` (logfmt)."""

from __future__ import annotations

import json
import logging
import sys
import time


def event(name: str, **fields: object) -> str:
    """The text of a log line. None is left out; line breaks and quotes are escaped."""
    return " ".join(
        [name, *(f"{key}={_written(value)}" for key, value in fields.items() if value is not None)]
    )


def _written(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    is_plain = text.isprintable() and text != "" and not any(c in ' ="' for c in text)
    return text if is_plain else json.dumps(text, ensure_ascii=False)


class LineFormatter(logging.Formatter):
    """`2026-11-22T15:12:00Z INFO event key=value`; a traceback below it only where something broke."""

    converter = staticmethod(time.gmtime)  # no daylight saving, no zones

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ")


def configure_logging(level: str) -> None:
    """Log to standard error, unless the program around this one logs already.

    The HTTP library's own lines stay out.
    """
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LineFormatter())
        root.addHandler(handler)
    logging.getLogger("devices").setLevel(level)
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
