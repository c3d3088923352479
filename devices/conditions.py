"""The state of the machine around a measurement: read before and after, kept beside the samples.

Every field may be None: this machine does not tell. Sources are the kernel's files under `/proc` and `/sys`
(Linux); elsewhere only load and memory are known.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from devices.measurement import Conditions

CPU_ZONE_WORDS = ("cpu", "x86_pkg_temp", "soc", "package", "coretemp", "k10temp")
RASPBERRY_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
RASPBERRY_NOW_MASK = (
    0xF  # bits 0 to 3: under-voltage, capped, throttled, soft limit, each "now"; the bits above remember
)

Number = TypeVar("Number", int, float)


def read_conditions(root: Path = Path("/")) -> Conditions:
    """The machine's state now; `root` is where `/proc` and `/sys` are found."""
    return Conditions(
        at_unix_s=time.time(),
        load_1m=_load(),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        frequency_mhz=_frequency_mhz(root),
        temperature_c=_temperature_c(root),
        affinity=_affinity(),
        memory_available_bytes=psutil.virtual_memory().available,
        steal_fraction=_steal_fraction(root),
        is_throttled=_is_throttled(root),
    )


def read_throttle_count(root: Path = Path("/")) -> int | None:
    """How often any core was slowed down by its temperature since boot (x86); None where the kernel does not
    count.

    Two readings that differ prove throttling between them, which `Conditions.is_throttled`, a look at one
    moment, may miss.
    """
    pattern = "sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"
    counts = [_integer(path) for path in root.glob(pattern)]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _affinity() -> tuple[int, ...]:
    if not hasattr(os, "sched_getaffinity"):
        return ()
    return tuple(sorted(os.sched_getaffinity(0)))


def _frequency_mhz(root: Path) -> float | None:
    """Mean over the cores, from the governor's files, else from `/proc/cpuinfo`."""
    kilohertz = [
        _integer(path) for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    ]
    known = [value / 1000 for value in kilohertz if value]
    if not known:
        lines = (_text(root / "proc/cpuinfo") or "").splitlines()
        megahertz = [_number(line.partition(":")[2], float) for line in lines if line.startswith("cpu MHz")]
        known = [value for value in megahertz if value]
    return sum(known) / len(known) if known else None


def _temperature_c(root: Path) -> float | None:
    """The hottest zone that names the processor."""
    hottest: float | None = None
    for zone in root.glob("sys/class/thermal/thermal_zone*"):
        kind, millidegrees = (_text(zone / "type") or "").lower(), _integer(zone / "temp")
        if millidegrees is not None and any(word in kind for word in CPU_ZONE_WORDS):
            hottest = max(millidegrees / 1000, hottest) if hottest is not None else millidegrees / 1000
    return hottest


def _steal_fraction(root: Path) -> float | None:
    """Share of processor time since boot that the hypervisor gave to others: field 8 of the `cpu` line of
    `/proc/stat`.
    """
    line = next(iter((_text(root / "proc/stat") or "").splitlines()), "")
    ticks = [int(field) for field in line.split()[1:9] if field.isdigit()]
    if not line.startswith("cpu ") or len(ticks) < 8 or sum(ticks) == 0:
        return None
    return ticks[7] / sum(ticks)


def _is_throttled(root: Path) -> bool | None:
    firmware = _text(root / RASPBERRY_THROTTLED)
    if firmware is not None:
        bits = _number(firmware, lambda text: int(text, 16))
        return None if bits is None else bool(bits & RASPBERRY_NOW_MASK)
    states = [
        _integer(device / "cur_state")
        for device in root.glob("sys/class/thermal/cooling_device*")
        if any(word in (_text(device / "type") or "").lower() for word in ("processor", "cpufreq", "cpu-"))
    ]
    known = [state for state in states if state is not None]
    return any(state > 0 for state in known) if known else None


def _integer(path: Path) -> int | None:
    return _number(_text(path) or "", int)


def _number(text: str, parse: Callable[[str], Number]) -> Number | None:
    """None for what is no number: an odd kernel costs one fact, not the measurement."""
    try:
        return parse(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
