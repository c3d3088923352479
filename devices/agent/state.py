"""The state directory: who this agent is, and that only one daemon works for it at a time.

identity.json   server, agent and device ids, and the agent's own token (0600)
agent.lock      held by the running daemon, with its process id
spool/          results that the server has not accepted yet (`devices.agent.spool`)
models/         downloaded models by SHA-256 (`devices.agent.model_cache`)
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr, ValidationError, field_serializer

from devices.agent.files import write_durably
from devices.errors import DevicesError
from devices.vocabulary import Value

IDENTITY_FILE = "identity.json"
LOCK_FILE = "agent.lock"
PROBE_BYTES = 4096  # more than an identity takes


class StateProblem(DevicesError):
    """The state directory cannot be used as it is; the message says what to do about it."""


class Identity(Value):
    """Who this agent is to its server."""

    server_url: str
    agent_id: str
    device_id: str
    device_key: str
    agent_token: SecretStr
    fingerprint: str | None = None  # that the device was registered with; None: by an older agent

    @field_serializer("agent_token", when_used="json")
    def _reveal(self, token: SecretStr) -> str:
        return token.get_secret_value()


def prepare(state_dir: Path) -> None:
    """Make the directory, private to its owner. Raises `StateProblem` where it cannot be written."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = state_dir / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StateProblem(
            f"the state directory {state_dir} cannot be written ({error.strerror}); "
            "choose another with --state-dir or LAPTIME_AGENT_STATE_DIR"
        ) from error


def load_identity(state_dir: Path) -> Identity | None:
    """The stored identity, or None before the first registration.

    Raises `StateProblem` for a damaged file.
    """
    path = state_dir / IDENTITY_FILE
    try:
        return Identity.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateProblem(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise StateProblem(
            f"{path} is damaged ({error.error_count()} problems, the first: {error.errors()[0]['msg']}); "
            "remove it and register again: laptime-agent run --registration-token TOKEN"
        ) from None  # the cause would print the file's content, the token with it


def store_identity(state_dir: Path, identity: Identity) -> None:
    """Keep the identity, readable by its owner only. Raises `StateProblem` if the disk will not take it."""
    _write(state_dir / IDENTITY_FILE, identity.model_dump_json(indent=2).encode())


def check_room(state_dir: Path) -> None:
    """Raises `StateProblem` where an identity could not be stored: better known before a one-time token is
    spent.
    """
    probe = state_dir / f"{IDENTITY_FILE}.probe"
    _write(probe, bytes(PROBE_BYTES))
    probe.unlink(missing_ok=True)


@contextmanager
def only_daemon(state_dir: Path) -> Iterator[None]:
    """Hold the state directory for this process. Raises `StateProblem` naming the process that holds it
    already.

    The kernel lets go of the lock however the process ends, so a lock file left behind means nothing.
    """
    path = state_dir / LOCK_FILE
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateProblem(
                f"another laptime-agent works with {state_dir} (process {_read_pid(path)}); stop it first, "
                "or give this one its own --state-dir"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def running_daemon(state_dir: Path) -> str | None:
    """The process id of the daemon that holds the directory, or None."""
    path = state_dir / LOCK_FILE
    try:
        with path.open("r", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _read_pid(path)
    return None


def _write(path: Path, data: bytes) -> None:
    try:
        write_durably(path, data)
    except OSError as error:
        raise StateProblem(
            f"{path} cannot be written ({error.strerror}); make room there, or choose another directory with "
            "--state-dir or LAPTIME_AGENT_STATE_DIR"
        ) from error


def _read_pid(path: Path) -> str:
    return path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
