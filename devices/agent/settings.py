"""What the agent's machine decides; everything else (the cadence, the plans, the limits of each model) comes
from the server.

Each field is an environment variable with the prefix LAPTIME_AGENT_, and the common ones are flags of the
command as well.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AnyHttpUrl, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from devices.target import Optimization, Slug

ThreadCount = Annotated[int, Field(ge=1, le=1024)]


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/laptime-agent`, or `~/.local/state/laptime-agent`."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "laptime-agent"


class AgentSettings(BaseSettings):
    """The agent's settings. Lists may be written as JSON or with commas: `onnxruntime,openvino`."""

    model_config = SettingsConfigDict(
        env_prefix="LAPTIME_AGENT_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    server_url: str | None = None  # None: the one that the stored identity was registered with
    registration_token: SecretStr | None = None  # used once, while the server accepts no stored identity
    device_key: Slug | None = None  # readable name of this machine; None: its host name
    state_dir: Path = Field(default_factory=default_state_dir)  # identity, lock, spool and model cache
    engines: Annotated[tuple[Slug, ...], NoDecode] = ("onnxruntime", "openvino", "mnn", "ncnn")
    optimizations: Annotated[tuple[Optimization, ...], NoDecode] = ("default",)  # where engines have a choice
    thread_counts: Annotated[tuple[ThreadCount, ...], NoDecode] = ()  # empty: one, and every physical core
    model_cache_bytes: int = Field(default=2 << 30, ge=0)  # least recently used models go first; 0: no cache
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("engines", "optimizations", "thread_counts", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [part.strip(" \"'") for part in value.strip(" []").split(",") if part.strip()]

    @field_validator("server_url", mode="after")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        return None if value is None else str(AnyHttpUrl(value)).rstrip("/")

    @field_validator("registration_token", mode="after")
    @classmethod
    def _is_a_token(cls, value: SecretStr | None) -> SecretStr | None:
        token = "" if value is None else value.get_secret_value().strip()
        if not token.isascii() or not token.isprintable():
            raise ValueError("a token has only printable ASCII characters; copy it again")
        return SecretStr(token) if token else None

    @field_validator("state_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()


def thread_counts_for(configured: Sequence[int], physical_cores: int) -> tuple[int, ...]:
    """The thread counts to offer, ascending and without repeats: those configured, else one and all physical
    cores.
    """
    return tuple(sorted(set(configured) or {1, physical_cores}))
