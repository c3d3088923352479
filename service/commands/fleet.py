"""`laptime devices`, `laptime tokens create` and `laptime keys create`."""

from __future__ import annotations

from typing import Annotated

import typer

from service.commands.connection import connect
from service.commands.options import AsJson
from service.presentation import target_notes, targets_table
from service.security import Scope
from service.terminal import Terminal


def devices(as_json: AsJson = False) -> None:
    """List devices and their targets, with state and accuracy."""
    terminal = Terminal(as_json=as_json)
    with connect() as client:
        machines, targets = list(client.devices()), list(client.targets())
    shown = (
        [targets_table(machines, targets), *target_notes(targets)]
        if machines
        else ["no device yet: laptime tokens create, then laptime-agent run there"]
    )
    terminal.result({"devices": machines, "targets": targets}, *shown)


def create_token(
    expires_in_s: Annotated[
        int, typer.Option(min=1, help="How long the token is good.", metavar="SECONDS")
    ] = 3600,
    as_json: AsJson = False,
) -> None:
    """Make a token with which one agent registers once."""
    with connect() as client:
        created = client.create_registration_token(expires_in_s=expires_in_s)
    Terminal(as_json=as_json).result(created, created.token)


def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[Scope], typer.Option(help="What the key may do; once for each.")] = [Scope.READ],  # noqa: B006
    expires_in_s: Annotated[
        int | None,
        typer.Option(min=1, help="How long the key is good; default: for ever.", metavar="SECONDS"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown this once."""
    with connect() as client:
        created = client.create_key(name, scope, expires_in_s=expires_in_s)
    Terminal(as_json=as_json).result(created, created.token)
