"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from service.client import Client
from service.commands.errors import CommandFailed
from service.fleet.schemas import TargetState, TargetView
from service.latency.schemas import ModelView

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else there.")
]
Shapes = Annotated[
    list[str],
    typer.Option(
        "--shape",
        help="Sizes of an input with dynamic axes, as name=1x3x224x224; once for each.",
        metavar="NAME=SIZES",
    ),
]
ModelArgument = Annotated[
    str, typer.Argument(help="An ONNX file, or the id or SHA-256 of a model on the server.", metavar="MODEL")
]

TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target", help="A target's key or id; default: the only one that is ready.", metavar="KEY"
    ),
]

_SHAPE = re.compile(r"(.+)=(\d+(?:[x,]\d+)*)")


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`name=1x3x224x224` each. Raises `typer.BadParameter`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise typer.BadParameter(
                f"{text!r} is no shape: write NAME=SIZES, as in input=1x3x224x224", param_hint="--shape"
            )
        if match[1] in shapes:
            raise typer.BadParameter(f"input {match[1]!r} has two shapes", param_hint="--shape")
        shapes[match[1]] = tuple(int(size) for size in re.split("[x,]", match[2]))
    return shapes


def resolve_model(client: Client, name: str) -> ModelView:
    """A file is sent to the server, which keeps it once; anything else names a model that is there."""
    path = Path(name)
    if path.is_file():
        return client.upload_model(path)[0]
    if not re.fullmatch(r"mdl_[0-9a-z]+|[0-9a-f]{64}", name):
        raise CommandFailed(f"there is no file {name}, and it is no model id (mdl_...) or SHA-256 either")
    return client.model(name)


def resolve_targets(client: Client, names: Sequence[str]) -> list[str]:
    """The targets that were named, else every target that is ready. Raises `CommandFailed` where there is
    none.
    """
    if names:
        return list(names)
    ready = [target.key for target in client.targets(state=TargetState.READY.value)]
    if not ready:
        raise CommandFailed(f"no target is ready: {_what_there_is(list(client.targets()))}")
    return ready


def resolve_target(client: Client, name: str | None) -> str:
    """The target that was named, else the only one that is ready. Raises `CommandFailed` where there are
    several.
    """
    if name is not None:
        return name
    ready = resolve_targets(client, [])
    if len(ready) > 1:
        raise CommandFailed(f"{len(ready)} targets are ready, choose one with --target: {', '.join(ready)}")
    return ready[0]


def _what_there_is(targets: Sequence[TargetView]) -> str:
    if not targets:
        return "no agent has registered yet (laptime tokens create, then laptime-agent run on the device)"
    return "; ".join(f"{target.key} is {target.state.value}" for target in targets)
