"""`laptime`: the command line. Tables for people, `--json` for programs; errors are one sentence on standard
error.

Exit codes: 0 done, 1 it could not be done, 2 wrong usage, 130 interrupted. No command here imports torch:
the worker, which needs it, is a process of its own.
"""

from __future__ import annotations

import sys

import typer
from pydantic import ValidationError

from service.client import ClientError
from service.commands import demo, fleet, jobs, latency, searches, server
from service.commands.errors import CommandFailed
from service.db.upgrade import SchemaOutdated
from service.demo.errors import DemoFailed

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="laptime",
    help="Predict, measure and search neural-network latency on real hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(name=name, help=text, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group)
    return group


app.command()(server.serve)
app.command()(server.worker)
app.command()(latency.predict)
app.command()(latency.measure)
app.command()(fleet.devices)
app.command()(searches.search)
app.command()(demo.demo)
_group("db", "The database's schema.").command("upgrade")(server.upgrade_database)
_group("keys", "API keys.").command("create")(fleet.create_key)
_group("tokens", "Registration tokens of agents.").command("create")(fleet.create_token)
_jobs = _group("jobs", "Work that is queued, running or done.")
_jobs.command("list")(jobs.list_jobs)
_jobs.command("show")(jobs.show_job)
_jobs.command("watch")(jobs.watch_job)
_jobs.command("cancel")(jobs.cancel_job)


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    try:
        app(prog_name="laptime")
    except (CommandFailed, ClientError, DemoFailed, SchemaOutdated) as error:
        _leave(EXIT_FAILED, str(error))
    except ValidationError as error:
        _leave(EXIT_USAGE, _first_of(error))
    except OSError as error:  # a file that cannot be read or written
        _leave(EXIT_FAILED, str(error))
    except KeyboardInterrupt:
        _leave(EXIT_INTERRUPTED, "interrupted")


def _leave(code: int, message: str) -> None:
    print(f"laptime: {message}", file=sys.stderr)
    sys.exit(code)


def _first_of(error: ValidationError) -> str:
    """Of what a setting or an argument breaks, the first."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or error.title
    return f"{where}: {first['msg']}, got {first['input']!r}"


if __name__ == "__main__":
    main()
