"""What this machine is: the facts that bear on latency, and a stable identity.

Facts come from the kernel's own files where they exist (Linux), else from psutil and the standard library. A
fact that the machine does not tell is left out, never guessed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import socket
import subprocess
import uuid
from pathlib import Path

import psutil

from devices.target import RELEVANT_ISA_FLAGS, Accelerator, Device, Hardware

FINGERPRINT_SALT = (
    b"laptime device fingerprint 1\n"  # machine-id must not leave the machine as it is (man machine-id)
)
NVIDIA_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
NVIDIA_TIMEOUT_S = 10.0
RANDOM_NODE = 1 << 40  # set in an address that Python made up for want of one, anew in each process


def read_device(key: str | None = None) -> Device:
    """This machine as a device. Without a key, the host's name becomes one.

    Raises pydantic's `ValidationError` for a key that is no slug.
    """
    fingerprint = read_fingerprint()
    chosen = key if key is not None else slug_of(socket.gethostname()) or f"device-{fingerprint[:8]}"
    return Device(key=chosen, fingerprint=fingerprint, hardware=read_hardware())


def read_hardware(root: Path = Path("/")) -> Hardware:
    """Facts about this machine; `root` is where `/proc`, `/sys` and `/etc` are found."""
    cpuinfo = parse_cpuinfo(_text(root / "proc/cpuinfo"))
    logical = psutil.cpu_count(logical=True) or os.cpu_count() or 1
    return Hardware(
        cpu_model=_cpu_model(cpuinfo, root),
        architecture=platform.machine() or "unknown",
        physical_cores=min(psutil.cpu_count(logical=False) or logical, logical),
        logical_cores=logical,
        memory_bytes=psutil.virtual_memory().total,
        isa_flags=isa_flags(cpuinfo),
        accelerators=_nvidia_accelerators(),
        operating_system=_operating_system(root),
        is_virtual_machine=_is_virtual_machine(cpuinfo, root),
    )


def read_fingerprint(root: Path = Path("/")) -> str:
    """64 hexadecimal digits that stay the same over reboots and upgrades.

    A salted hash of the machine id. Where there is none (containers, other systems) it is one of host name
    and network address, and only as stable as they are; a machine without a network has no address.
    """
    machine_id = read_machine_id(root)
    if machine_id is not None:
        return _salted(machine_id)
    node = uuid.getnode()
    address = "" if node & RANDOM_NODE else f"{node:012x}"
    return _salted(f"{socket.gethostname()} {address} {platform.machine()}")


def read_machine_id(root: Path = Path("/")) -> str | None:
    """The system's own id, set once when it was installed; None where it has none."""
    for name in ("etc/machine-id", "var/lib/dbus/machine-id"):
        machine_id = _text(root / name).strip()
        if re.fullmatch(r"[0-9a-f]{32}", machine_id):
            return machine_id
    return None


def slug_of(name: str) -> str:
    """The nearest valid device key to a name: lower case, other characters as hyphens; "" if nothing is
    left.
    """
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:63]


def parse_cpuinfo(text: str) -> dict[str, str]:
    """The first value of each field of `/proc/cpuinfo`, with lower-case names."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def isa_flags(cpuinfo: dict[str, str]) -> tuple[str, ...]:
    """Those of `RELEVANT_ISA_FLAGS` that the processor has, in that order (x86: `flags`, ARM: `Features`)."""
    present = set((cpuinfo.get("flags") or cpuinfo.get("features") or "").split())
    return tuple(flag for flag in RELEVANT_ISA_FLAGS if flag in present)


def parse_nvidia_smi(text: str) -> tuple[Accelerator, ...]:
    """One accelerator per line `name, memory in MiB, driver`; lines of another form are left out."""
    found = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[1].isdigit():
            found.append(Accelerator(name=parts[0], memory_bytes=int(parts[1]) << 20, driver=parts[2]))
    return tuple(found)


def _nvidia_accelerators() -> tuple[Accelerator, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        reply = subprocess.run(
            [command, *NVIDIA_QUERY], capture_output=True, text=True, timeout=NVIDIA_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()  # a driver that hangs or is half installed offers no accelerator
    return parse_nvidia_smi(reply.stdout) if reply.returncode == 0 else ()


def _cpu_model(cpuinfo: dict[str, str], root: Path) -> str:
    board = _text(root / "proc/device-tree/model").strip(
        "\0 \n"
    )  # ARM boards name the board here, not the core
    candidates = (
        cpuinfo.get("model name"),
        board,
        cpuinfo.get("hardware"),
        platform.processor(),
        platform.machine(),
    )
    return next((name for name in candidates if name), "unknown")


def _operating_system(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', _text(root / "etc/os-release"), re.MULTILINE)
    return f"{match.group(1) if match else platform.system()}, {platform.system()} {platform.release()}"


def _is_virtual_machine(cpuinfo: dict[str, str], root: Path) -> bool:
    if "hypervisor" in cpuinfo.get("flags", "").split():
        return True
    return (root / "sys/hypervisor/type").exists() or (root / "proc/device-tree/hypervisor").exists()


def _salted(text: str) -> str:
    return hashlib.sha256(FINGERPRINT_SALT + text.encode()).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
