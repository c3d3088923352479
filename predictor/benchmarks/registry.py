"""The methods that the benchmarks compare, by key.

A module is named by its path and loaded when its method is asked for: half of them need torch, which takes
seconds to load and which a comparison of closed forms can do without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from predictor.benchmarks.errors import TaskRejected
from predictor.benchmarks.method import Method

# Each module has a function `make(key, work)`: a Method; `work` is a folder for what it trained.
METHODS: Mapping[str, str] = MappingProxyType(
    {
        "laptime": "predictor.benchmarks.laptime_method",
        "help": "predictor.benchmarks.help_method",
        "maml": "predictor.benchmarks.help_method",
        "metasgd": "predictor.benchmarks.help_method",
        "brpnas": "predictor.benchmarks.brpnas",
        "ridge": "predictor.benchmarks.ridge",
        "mixture": "predictor.benchmarks.mixture",
        "flops": "predictor.benchmarks.flops",
    }
)


def check_methods(keys: Sequence[str]) -> None:
    """Raises `TaskRejected` for an unknown key, or for none at all."""
    unknown = [key for key in keys if key not in METHODS]
    if unknown or not keys:
        raise TaskRejected(f"method {', '.join(unknown)} is unknown; there are {', '.join(METHODS)}")


def make_methods(keys: Sequence[str], work: Path) -> dict[str, Method]:
    """The methods by key, in the order asked for. Raises `TaskRejected` for an unknown key."""
    check_methods(keys)
    return {key: import_module(METHODS[key]).make(key, work) for key in keys}
