"""Settings of the server and of the workers: one object per process, read from `LAPTIME_*` environment
variables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SQLITE_FILE = "laptime.sqlite3"


class Settings(BaseSettings):
    """Everything an operator may choose. Lists, limits and leases have defaults that suit one machine."""

    model_config = SettingsConfigDict(env_prefix="LAPTIME_", frozen=True, extra="ignore")

    data_dir: Path = Path(".laptime")  # database (if embedded), artifacts, admin key
    database_url: str | None = (
        None  # None: SQLite in data_dir; else for example postgresql://user@host/laptime
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8731, ge=0, le=65535)
    request_threads: PositiveInt = 32  # requests at work at once, and connections to the database
    max_model_bytes: PositiveInt = 512 << 20
    max_body_bytes: PositiveInt = (
        64 << 20
    )  # of any other request; a measurement with all its samples is below 10 MB
    worker_lease_s: PositiveFloat = 30.0
    agent_lease_s: PositiveFloat = 30.0
    agent_heartbeat_s: PositiveFloat = 10.0
    agent_lease_wait_s: float = Field(default=20.0, ge=0)
    idempotency_ttl_s: PositiveFloat = 86_400.0
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @property
    def silent_after_s(self) -> float:
        """An agent that was not heard of for so long is lost: it missed three heartbeats."""
        return 3 * self.agent_heartbeat_s

    @property
    def is_embedded(self) -> bool:
        """Whether the database is the SQLite file that the server keeps for itself."""
        return self.database_url is None

    @property
    def effective_database_url(self) -> str:
        """Where the database is, whether it was set or not."""
        return self.database_url or f"sqlite:///{(self.data_dir / SQLITE_FILE).resolve()}"

    @property
    def artifacts_dir(self) -> Path:
        """Root of the artifact store."""
        return self.data_dir / "artifacts"

    @property
    def admin_key_file(self) -> Path:
        """Where the first start writes the admin's API key."""
        return self.data_dir / "admin.key"
