"""`laptime demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.options import AsJson, Shapes, parse_shapes
from service.demo.supervisor import DemoOptions, run
from service.settings import Settings
from service.terminal import Terminal


def demo(
    once: Annotated[bool, typer.Option("--once", help="Leave at the end instead of staying up.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            help="An ONNX file to ask about; default: one that is installed.", exists=True, dir_okay=False
        ),
    ] = None,
    shape: Shapes = [],  # noqa: B006 - typer reads it, nobody changes it
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept; default: LAPTIME_DATA_DIR or .laptime.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the server; default: LAPTIME_PORT or 8731.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole path on this machine: onboard it, predict, measure, search. A second run reuses what the
    first did.
    """
    settings = Settings()
    options = DemoOptions(
        data_dir=(data_dir or settings.data_dir).resolve(),
        host=settings.host,
        port=port or settings.port,
        model=model,
        input_shapes=parse_shapes(shape),
        is_once=once,
    )
    run(options, Terminal(as_json=as_json))
