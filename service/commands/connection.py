"""Where commands find the server and the key: `LAPTIME_URL`, and `LAPTIME_API_KEY` or the admin's key in the
data folder.
"""

from __future__ import annotations

import os

import httpx

from service.client import DEFAULT_URL, Client
from service.commands.errors import CommandFailed
from service.settings import Settings


def connect() -> Client:
    """A client for the server that the environment names. Raises `CommandFailed` without a key."""
    settings = Settings()
    url, key = server_url(settings), api_key(settings)
    try:
        return Client(url, key)
    except httpx.InvalidURL as error:
        raise CommandFailed(f"LAPTIME_URL is no address, got {url!r}: {error}") from None
    except UnicodeEncodeError:
        raise CommandFailed("the API key has characters that no key has: copy it again") from None


def server_url(settings: Settings) -> str:
    """What `LAPTIME_URL` says, else this machine's server at the configured port."""
    local = DEFAULT_URL.rpartition(":")[0] + f":{settings.port}"
    return os.environ.get("LAPTIME_URL") or local


def api_key(settings: Settings) -> str:
    """What `LAPTIME_API_KEY` says, else the key that the server's first start wrote.

    Raises `CommandFailed`.
    """
    given = os.environ.get("LAPTIME_API_KEY")
    if given:
        return given.strip()
    try:
        return settings.admin_key_file.read_text().strip()
    except OSError as error:
        raise CommandFailed(
            "no API key: set LAPTIME_API_KEY, or LAPTIME_DATA_DIR to the server's data folder "
            f"({error.strerror}: {error.filename})"
        ) from None
