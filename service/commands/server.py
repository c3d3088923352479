"""`laptime serve`, `laptime worker` and `laptime db upgrade`."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
import uvicorn
from sqlalchemy.exc import ArgumentError, DatabaseError

from service.app import create_app
from service.commands.errors import CommandFailed
from service.commands.options import AsJson
from service.db.session import Database
from service.db.upgrade import current_revision, ensure_current, upgrade
from service.logs import configure_logs
from service.settings import Settings
from service.terminal import Terminal

SHUTDOWN_S = 3  # for answers on their way; an agent that waits for work asks again
BACKLOG = 128

JsonLogs = Annotated[bool, typer.Option("--json", help="Log JSON lines on a terminal too.")]


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: LAPTIME_HOST or 127.0.0.1.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: LAPTIME_PORT or 8731.")] = None,
    json_logs: JsonLogs = False,
) -> None:
    """Run the server. An embedded SQLite database is upgraded first; any other must be current (`laptime db
    upgrade`).
    """
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = Settings().model_copy(update=given)
    listening = listen(settings.host, settings.port)
    configure_logs(settings.log_level, as_json=json_logs)
    with _opened(settings) as database:
        ensure_current(database, settings)
    app = create_app(settings)
    # What was imported and built stays until the end: a full collection that looks through all of it would
    # let every answer wait for a tenth of a second.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `CommandFailed` where another program has the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off where a socket says that it is TCP's: with it on, the body of every
    # answer waits 40 ms for its header to be acknowledged
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise CommandFailed(
            f"cannot listen on {host} port {port}: {error.strerror}; "
            "choose another with --port or LAPTIME_PORT"
        ) from None
    return listening


def worker(
    name: Annotated[
        str | None, typer.Option(help="What logs and jobs call it; default: host name and process id.")
    ] = None,
    json_logs: JsonLogs = False,
) -> None:
    """Run a worker: it adapts predictors and runs searches. Any number may run side by side."""
    # another process, because a worker needs torch and no other command may wait for that to load
    arguments = [*([] if name is None else ["--name", name]), *(["--json"] if json_logs else [])]
    os.execv(sys.executable, [sys.executable, "-m", "service.worker", *arguments])


def upgrade_database(as_json: AsJson = False) -> None:
    """Bring the database's schema to what this version needs."""
    settings = Settings()
    with _opened(settings) as database:
        before = current_revision(database)
        upgrade(settings.effective_database_url)
        after = current_revision(database)
    text = (
        f"the schema is at {after}, as before"
        if before == after
        else f"upgraded from {before or 'nothing'} to {after}"
    )
    Terminal(as_json=as_json).result({"before": before, "after": after}, text)


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    """The database, for one look at its schema. Raises `CommandFailed` where it cannot be used."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    try:
        database = Database(settings.effective_database_url, pool_size=1)
    except (ValueError, ArgumentError, ImportError) as error:  # no URL, or one for which no driver is here
        raise CommandFailed(f"LAPTIME_DATABASE_URL is wrong: {error}") from None
    try:
        yield database
    except DatabaseError as error:
        url = database.engine.url.render_as_string(hide_password=True)
        raise CommandFailed(f"cannot use the database at {url}: {error.orig}") from None
    finally:
        database.dispose()
