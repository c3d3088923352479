"""What an engine offers, and the refusal of anything else."""

from __future__ import annotations

from collections.abc import Sequence

from devices.engine import DEFAULT_ONLY
from devices.errors import EngineUnavailable
from devices.target import Runtime


def cpu_runtimes(
    engine: str, version: str, thread_counts: Sequence[int], optimizations: Sequence[str]
) -> list[Runtime]:
    """The processor once per thread count, of an engine without levels of optimisation."""
    if "default" not in optimizations:
        return []
    return [Runtime(engine=engine, version=version, provider="cpu", threads=n) for n in thread_counts]


def require_offered(
    runtime: Runtime,
    *,
    library: str,
    providers: Sequence[str] = ("cpu",),
    precisions: Sequence[str] = ("native",),
    optimizations: Sequence[str] = DEFAULT_ONLY,
) -> None:
    """Raises `EngineUnavailable` where the runtime asks for what its engine does not have; `library` is the
    name and version that the message tells.
    """
    for what, wanted, offered in (
        ("provider", runtime.provider, providers),
        ("precision", runtime.precision, precisions),
        ("optimisation", runtime.optimization, optimizations),
    ):
        if wanted not in offered:
            raise EngineUnavailable(f"{library} has no {what} {wanted!r} here; it has {', '.join(offered)}")
