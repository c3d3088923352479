"""The version of the installed agent distribution, written into every measurement."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "laptime-agent"
SOURCE_VERSION = "0+source"  # a checkout that was never installed


def agent_version() -> str:
    """Version of `laptime-agent` as installed, or `0+source`."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return SOURCE_VERSION
