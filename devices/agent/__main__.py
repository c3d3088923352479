"""The command `laptime-agent`: run (work for a server), profile (measure one model now), doctor (look at this
machine).
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from devices.agent.client import TokenRefused
from devices.agent.daemon import Daemon
from devices.agent.doctor import examine, report_as_text
from devices.agent.exit_codes import EPILOG, ExitCode
from devices.agent.logs import configure_logging, event
from devices.agent.membership import NotRegistered
from devices.agent.profile_command import ProfileOptions, UsageProblem, parse_shape, run_profile
from devices.agent.settings import AgentSettings, thread_counts_for
from devices.agent.signals import WOKEN, SignalInbox
from devices.agent.state import StateProblem
from devices.agent.usual_speed import AtUsualSpeed
from devices.engines.registry import available_runtimes
from devices.errors import DevicesError, ServerRefused
from devices.hardware import read_device
from devices.measurement import Level, MeasurementPlan
from devices.sandbox import run_measurement as run_in_sandbox
from devices.version import agent_version

log = logging.getLogger("devices.agent")

ECHO_S = 0.5  # after the first signal: what comes within it was sent by the same hand


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (`devices.agent.exit_codes`)."""
    options = _parser().parse_args(arguments)
    try:
        settings = _settings(options)
        configure_logging(settings.log_level)
        command = {"run": _run, "profile": _profile, "doctor": _doctor}[options.command]
        return int(command(options, settings))
    except TokenRefused as error:
        return _complain(
            ExitCode.REFUSED,
            f"{error}: this agent was removed; register it again with laptime-agent run "
            "--registration-token TOKEN (made on the server with laptime tokens create)",
        )
    except (NotRegistered, ServerRefused) as error:
        return _complain(ExitCode.REFUSED, str(error))
    except StateProblem as error:
        return _complain(ExitCode.STATE, str(error))
    except UsageProblem as error:
        return _complain(ExitCode.USAGE, str(error))
    except DevicesError as error:
        return _complain(ExitCode.FAILED, str(error))
    except KeyboardInterrupt:
        return _complain(ExitCode.INTERRUPTED, "interrupted")


def _run(_options: argparse.Namespace, settings: AgentSettings) -> ExitCode:
    device = read_device(settings.device_key)
    counts = thread_counts_for(settings.thread_counts, device.hardware.physical_cores)
    runtimes = available_runtimes(settings.engines, counts, settings.optimizations)
    if not runtimes:
        engines = ", ".join(settings.engines) or "none named"
        raise DevicesError(
            f"nothing to measure with here (engines: {engines}); `laptime-agent doctor` says what is missing"
        )
    log.info(
        event(
            "starting", version=agent_version(), device=device.key, runtimes=",".join(r.key for r in runtimes)
        )
    )
    # The jitter of retries must differ between agents, so this generator is seeded by the system.
    daemon = Daemon(
        settings,
        device=device,
        runtimes=runtimes,
        rng=random.Random(),
        run_measurement=AtUsualSpeed(run_in_sandbox, settings.state_dir),
    )
    run_until_stopped(daemon)
    return ExitCode.OK


def run_until_stopped(daemon: Daemon, *, echo_s: float = ECHO_S) -> None:
    """Run the daemon: a SIGTERM or SIGINT drains it, a second gives up its work, a third ends the process.

    Signals within `echo_s` of the first are its echoes: terminals, make and timeout(1) signal a process and
    its group, and one wish to stop must not cancel work.
    """
    with SignalInbox() as inbox, ThreadPoolExecutor(max_workers=1, thread_name_prefix="daemon") as executor:
        running = executor.submit(daemon.run)
        running.add_done_callback(lambda _: inbox.wake())
        if (number := inbox.wait()) != WOKEN:
            echoes_end_s = time.monotonic() + echo_s
            log.info(event("draining", signal=number, hint="a second signal cancels the work"))
            daemon.drain()
            while (number := inbox.wait()) != WOKEN and time.monotonic() < echoes_end_s:
                pass
            if number != WOKEN:
                log.warning(event("cancelling", signal=number))
                inbox.let_through()
                daemon.abort()
        running.result()


def _profile(options: argparse.Namespace, settings: AgentSettings) -> ExitCode:
    limits: dict[str, float] = {}
    if options.timeout_s is not None:
        limits["max_duration_s"] = options.timeout_s
    if options.memory_limit_mib is not None:
        limits["memory_limit_bytes"] = options.memory_limit_mib << 20
    try:
        plan = MeasurementPlan(
            level=options.level, with_layers=options.layers, input_seed=options.seed, **limits
        )
    except ValidationError as error:
        raise UsageProblem(_first_problem(error)) from error
    profile_options = ProfileOptions(
        model_path=options.model,
        plan=plan,
        input_shapes=dict(parse_shape(text) for text in options.shape),
        runtime=options.runtime,
        threads=options.threads,
        out=options.out,
        is_json=options.json,
        is_validity_required=options.require_valid,
    )
    measure = AtUsualSpeed(run_in_sandbox, settings.state_dir)
    return run_profile(
        profile_options, settings, run_measurement=measure, stdout=sys.stdout, stderr=sys.stderr
    )


def _doctor(options: argparse.Namespace, settings: AgentSettings) -> ExitCode:
    report = examine(settings)
    sys.stdout.write(report.model_dump_json(indent=2) + "\n" if options.json else report_as_text(report))
    return ExitCode.OK if report.is_healthy else ExitCode.FAILED


def _settings(options: argparse.Namespace) -> AgentSettings:
    """Flags win over the environment."""
    given = {name: getattr(options, name, None) for name in AgentSettings.model_fields}
    try:
        return AgentSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise UsageProblem(
            _first_problem(error)
        ) from None  # the cause would print the values, a token among them


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, got {text!r}")
    return int(text)


def _complain(code: ExitCode, message: str) -> int:
    sys.stderr.write(f"laptime-agent: {message}\n")
    return int(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="laptime-agent",
        description="Measures ONNX models on the machine it runs on, alone or for a Laptime server.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"laptime-agent {agent_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{run,profile,doctor}")
    common = _common_flags()
    _add_run(commands.add_parser("run", parents=[common], help="work for a server until stopped"))
    _add_profile(
        commands.add_parser("profile", parents=[common], help="measure one model now, without a server")
    )
    doctor = commands.add_parser(
        "doctor", parents=[common], help="what this machine is, and what stands in the way"
    )
    doctor.add_argument("--json", action="store_true", help="everything, for programs")
    return parser


def _common_flags() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    flags = common.add_argument_group(
        "settings", "each is also a variable: LAPTIME_AGENT_STATE_DIR and so on"
    )
    flags.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="where the agent keeps its identity and results"
    )
    flags.add_argument(
        "--engines", metavar="A,B", help="engines to use, default: all that are installed, but torch"
    )
    flags.add_argument(
        "--optimizations",
        metavar="A,B",
        help="what to do with graphs, where an engine has a choice: default, and none, basic, extended "
        "(onnxruntime), cuda-graph (torch)",
    )
    flags.add_argument("--device-key", metavar="NAME", help="name of this machine, default: its host name")
    flags.add_argument("--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return common


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--server", dest="server_url", metavar="URL", help="for example https://laptime.example.org"
    )
    run.add_argument(
        "--registration-token",
        metavar="TOKEN",
        help="needed once; better as LAPTIME_AGENT_REGISTRATION_TOKEN, which other users cannot see",
    )


def _add_profile(profile: argparse.ArgumentParser) -> None:
    profile.add_argument("model", type=Path, metavar="MODEL.onnx")
    profile.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=1x3x224x224",
        help="sizes of an input with dynamic axes",
    )
    profile.add_argument("--level", choices=[level.value for level in Level], default=Level.STANDARD.value)
    profile.add_argument(
        "--runtime", metavar="SUBSTRING", help="part of a runtime's key, default: the first one"
    )
    profile.add_argument("--threads", type=_positive, metavar="N")
    profile.add_argument("--layers", action="store_true", help="time each layer too, in a run of its own")
    profile.add_argument("--seed", type=int, default=0, help="of the made-up inputs")
    profile.add_argument("--memory-limit-mib", type=_positive, metavar="MIB")
    profile.add_argument("--timeout-s", type=float, metavar="S", help="over all processes")
    profile.add_argument("--out", type=Path, metavar="FILE", help="write the whole measurement there as JSON")
    profile.add_argument("--json", action="store_true", help="print the whole measurement as JSON")
    profile.add_argument(
        "--require-valid", action="store_true", help="exit with 5 if the measurement is not valid"
    )


if __name__ == "__main__":
    sys.exit(main())
