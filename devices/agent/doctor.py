"""`laptime-agent doctor`: what this machine is, what would be measured with, and what stands in the way of
good numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from devices.agent.client import AgentClient, ServerUnavailable, TokenRefused
from devices.agent.noise import NoiseEstimate, clock_step_ns, estimate_noise
from devices.agent.outages import OutageLog
from devices.agent.settings import AgentSettings, thread_counts_for
from devices.agent.state import StateProblem, load_identity, prepare, running_daemon
from devices.agent.tables import rows_as_text
from devices.clock import SystemClock
from devices.conditions import read_conditions
from devices.engines.registry import ENGINES, INSTALL_COMMANDS, available_runtimes
from devices.errors import EngineUnavailable, ServerRefused, WorkFailed
from devices.hardware import read_device
from devices.measurement import Conditions
from devices.target import Device, Runtime
from devices.timing import numpy_canary
from devices.version import agent_version
from devices.vocabulary import Value

BUSY_LOAD_SHARE = 0.2  # of the logical cores
COARSE_CLOCK_NS = 1000
NOT_FOR_USE = frozenset({"fake"})  # engines that no machine needs


class Status(StrEnum):
    """How a check went. Only `failed` keeps the agent from working."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    FAILED = "failed"


class Check(Value):
    """One finding, and what to do about it."""

    name: str
    status: Status
    detail: str
    advice: str | None = None


class DoctorReport(Value):
    """Everything that `doctor` found."""

    agent_version: str
    device: Device
    runtimes: tuple[Runtime, ...]
    conditions: Conditions
    noise: NoiseEstimate
    checks: tuple[Check, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether the agent can work here."""
        return all(check.status is not Status.FAILED for check in self.checks)


def examine(settings: AgentSettings) -> DoctorReport:
    """Look at everything; takes a few seconds. Changes nothing, on the server neither."""
    device = read_device(settings.device_key)
    counts = thread_counts_for(settings.thread_counts, device.hardware.physical_cores)
    conditions = read_conditions()
    runtimes, engine_checks = _check_engines(settings, counts)
    noise = estimate_noise(numpy_canary(), SystemClock())
    checks = (
        *engine_checks,
        _check_sandbox(),
        _check_clock(),
        _check_governor(conditions),
        _check_load(conditions, device.hardware.logical_cores),
        _check_noise(noise),
        *_check_state(settings.state_dir),
        _check_server(settings),
    )
    return DoctorReport(
        agent_version=agent_version(),
        device=device,
        runtimes=runtimes,
        conditions=conditions,
        noise=noise,
        checks=checks,
    )


def report_as_text(report: DoctorReport) -> str:
    """For people: facts first, then the checks with their advice."""
    hardware = report.device.hardware
    facts = [
        ("agent", f"laptime-agent {report.agent_version}"),
        ("device", f"{report.device.key} (fingerprint {report.device.fingerprint[:12]}...)"),
        (
            "processor",
            f"{hardware.cpu_model}, {hardware.architecture}, "
            f"{hardware.physical_cores} cores, {hardware.logical_cores} threads",
        ),
        ("memory", f"{hardware.memory_bytes / 2**30:.1f} GiB"),
        ("instructions", " ".join(hardware.isa_flags) or "none that matter"),
        (
            "accelerators",
            "\n".join(f"{a.name}, driver {a.driver}" for a in hardware.accelerators) or "none found",
        ),
        (
            "system",
            hardware.operating_system + (", a virtual machine" if hardware.is_virtual_machine else ""),
        ),
        ("runtimes", "\n".join(f"{r.key} ({r.version})" for r in report.runtimes) or "none"),
    ]
    checks = [
        (
            f"[{check.status.value}] {check.name}",
            check.detail + (f"\n-> {check.advice}" if check.advice else ""),
        )
        for check in report.checks
    ]
    return rows_as_text(facts) + "\n" + rows_as_text(checks)


def _check_engines(
    settings: AgentSettings, thread_counts: Sequence[int]
) -> tuple[tuple[Runtime, ...], list[Check]]:
    wanted = settings.engines
    runtimes: list[Runtime] = []
    checks: list[Check] = []
    names = dict.fromkeys([*wanted, *sorted(set(ENGINES) - NOT_FOR_USE)])
    for name in names:
        try:
            offered = available_runtimes((name,), thread_counts, settings.optimizations)
        except (EngineUnavailable, WorkFailed) as error:
            checks.append(Check(name=f"engine {name}", status=Status.WARNING, detail=str(error)))
            continue
        checks.append(_check_engine(name, offered, is_wanted=name in wanted))
        runtimes += offered if name in wanted else ()
    if not runtimes:
        advice = (
            "pip install onnxruntime, name it in LAPTIME_AGENT_ENGINES, and have default among "
            "LAPTIME_AGENT_OPTIMIZATIONS"
        )
        checks.append(
            Check(name="runtimes", status=Status.FAILED, detail="nothing to measure with", advice=advice)
        )
    return tuple(runtimes), checks


def _check_engine(name: str, offered: Sequence[Runtime], *, is_wanted: bool) -> Check:
    label = f"engine {name}"
    if offered:
        detail = f"version {offered[0].version}: {', '.join(runtime.key for runtime in offered)}"
        advice = None if is_wanted else "not offered to the server: add it to LAPTIME_AGENT_ENGINES"
        return Check(name=label, status=Status.OK if is_wanted else Status.INFO, detail=detail, advice=advice)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        advice = INSTALL_COMMANDS.get(name)
        return Check(name=label, status=Status.INFO, detail="not installed", advice=advice)
    return Check(
        name=label,
        status=Status.WARNING,
        detail=(
            f"version {version} is installed, but does not load, finds no usable device or has none of the "
            "optimisations asked for"
        ),
        advice=f"python -c 'from devices.engines.registry import *; create_engine(\"{name}\")' shows why",
    )


def _check_sandbox() -> Check:
    limits = "memory, processor time, files and wall time of each model are limited"
    if sys.platform == "linux":
        return Check(name="sandbox", status=Status.OK, detail=f"rlimits: {limits}")
    advice = "kill children that are left over by hand if the agent itself is killed"
    detail = f"rlimits: {limits}, but a child may outlive a killed agent on {sys.platform}"
    return Check(name="sandbox", status=Status.WARNING, detail=detail, advice=advice)


def _check_clock() -> Check:
    clock = SystemClock()
    step_ns = clock_step_ns(clock)
    if step_ns > COARSE_CLOCK_NS:
        advice = "models faster than a millisecond cannot be timed well on this clock"
        return Check(
            name="clock", status=Status.WARNING, detail=f"{clock.name} steps by {step_ns} ns", advice=advice
        )
    return Check(name="clock", status=Status.OK, detail=f"{clock.name} steps by {step_ns} ns or less")


def _check_governor(conditions: Conditions) -> Check:
    governor = conditions.governor
    if governor is None:
        return Check(
            name="governor",
            status=Status.INFO,
            detail="this machine does not tell (usual for virtual machines)",
        )
    if governor == "performance":
        return Check(name="governor", status=Status.OK, detail=governor)
    advice = "for steady numbers: sudo cpupower frequency-set -g performance"
    return Check(name="governor", status=Status.WARNING, detail=governor, advice=advice)


def _check_load(conditions: Conditions, logical_cores: int) -> Check:
    if conditions.load_1m is None:
        return Check(name="load", status=Status.INFO, detail="this machine does not tell")
    is_busy = conditions.load_1m > BUSY_LOAD_SHARE * logical_cores
    return Check(
        name="load",
        status=Status.WARNING if is_busy else Status.OK,
        detail=f"{conditions.load_1m:.2f} over the last minute, on {logical_cores} logical cores",
        advice="stop other programs while measuring" if is_busy else None,
    )


def _check_noise(noise: NoiseEstimate) -> Check:
    return Check(
        name="noise",
        status=Status.OK if noise.advice is None else Status.WARNING,
        detail=(
            f"a fixed workload varied by {100 * noise.variation:.1f} % between {noise.round_count} rounds "
            f"(slowest {100 * noise.spread:.0f} % over fastest); "
            f"wall time was {noise.wall_over_cpu:.2f} x processor time"
        ),
        advice=noise.advice,
    )


def _check_state(state_dir: Path) -> list[Check]:
    try:
        prepare(state_dir)
        identity = load_identity(state_dir)
    except StateProblem as error:
        return [Check(name="state directory", status=Status.FAILED, detail=str(error))]
    who = "not registered yet" if identity is None else f"agent {identity.agent_id} of {identity.server_url}"
    checks = [Check(name="state directory", status=Status.OK, detail=f"{state_dir} is writable; {who}")]
    pid = running_daemon(state_dir)
    if pid is not None:
        advice = "it measures at the same time as anything else you measure now"
        checks.append(
            Check(name="daemon", status=Status.INFO, detail=f"running, process {pid}", advice=advice)
        )
    return checks


def _check_server(settings: AgentSettings) -> Check:
    try:
        identity = load_identity(settings.state_dir)
    except StateProblem:
        identity = None
    server_url = settings.server_url or (None if identity is None else identity.server_url)
    if server_url is None:
        return Check(
            name="server", status=Status.INFO, detail="none configured; `laptime-agent profile` needs none"
        )
    token = "none" if identity is None else identity.agent_token.get_secret_value()
    client = AgentClient(server_url, token, agent_version=agent_version(), outages=OutageLog())
    try:
        client.check_token()
    except ServerUnavailable as error:
        return Check(name="server", status=Status.FAILED, detail=f"{server_url} does not answer: {error}")
    except TokenRefused:
        if identity is None:
            return Check(
                name="server",
                status=Status.OK,
                detail=f"{server_url} answers; this agent is not registered yet",
            )
        advice = "register it again: laptime-agent run --registration-token TOKEN"
        return Check(
            name="server",
            status=Status.FAILED,
            detail=f"{server_url} does not know this agent",
            advice=advice,
        )
    except ServerRefused as error:
        return Check(name="server", status=Status.WARNING, detail=f"{server_url} answers strangely: {error}")
    finally:
        client.close()
    return Check(name="server", status=Status.OK, detail=f"{server_url} answers and knows this agent")
