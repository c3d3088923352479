"""`laptime search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from devices.measurement import Level
from search.loop import SearchRequest
from service.client import Client
from service.commands.connection import connect
from service.commands.errors import CommandFailed
from service.commands.options import AsJson, TargetOption, resolve_target
from service.jobs.states import JobState
from service.presentation import failure_of, front_summary, front_table, progress_of, search_table
from service.searches.schemas import FrontView, SearchCreate, SearchView
from service.terminal import Terminal

_DEFAULTS = SearchRequest()

SearchArgument = Annotated[
    str | None, typer.Argument(help="Look at this search instead of starting one.", metavar="[SEARCH]")
]
TrialCount = Annotated[int, typer.Option(min=1, help="Networks to train and score.")]
VerifyCount = Annotated[int, typer.Option(min=1, help="Members of the front to measure.")]
VerifyLevel = Annotated[Level, typer.Option(help="How they are measured.")]
Space = Annotated[str, typer.Option(help="What is searched: digits-cnn, nb201, fbnet or ofa.")]
Objectives = Annotated[
    list[str] | None,
    typer.Option(
        "--objective",
        help=f"What to optimise; repeat the option for several. Default: {', '.join(_DEFAULTS.objectives)}.",
    ),
]
StrategyName = Annotated[str, typer.Option(help="How it is searched.")]
Population = Annotated[int, typer.Option(min=2, help="Networks in a generation.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same search.")]
MaxLatency = Annotated[float | None, typer.Option(help="Only networks at most this slow.")]
Name = Annotated[str, typer.Option(help="What to call the search.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the verified front.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Save the verified front's ONNX files here; implies --wait.", metavar="DIR"),
]


def search(
    search_id: SearchArgument = None,
    target: TargetOption = None,
    trials: TrialCount = _DEFAULTS.trial_count,
    verify: VerifyCount = _DEFAULTS.verify_count,
    level: VerifyLevel = _DEFAULTS.verify_level,
    space: Space = _DEFAULTS.space,
    objective: Objectives = None,
    strategy: StrategyName = _DEFAULTS.strategy,
    population: Population = _DEFAULTS.population_size,
    seed: Seed = _DEFAULTS.seed,
    max_latency_ms: MaxLatency = None,
    name: Name = "",
    wait: Wait = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Search for small networks that are good on a target; the device measures the front that is found."""
    request = {
        "trial_count": trials,
        "verify_count": verify,
        "verify_level": level,
        "space": space,
        "objectives": tuple(objective or _DEFAULTS.objectives),
        "strategy": strategy,
        "population_size": population,
        "seed": seed,
        "max_latency_ms": max_latency_ms,
    }
    terminal = Terminal(as_json=as_json)
    with connect() as client:
        if search_id is None:
            key = resolve_target(client, target)
            found = client.start_search(SearchCreate.model_validate({"target": key, "name": name, **request}))
        else:
            found = client.search(search_id)
        if wait or out is not None:
            found = await_search(client, found, terminal)
        front = client.front(found.id)
        saved = [] if out is None else save_front(client, front, out)
    _tell(terminal, found, front, saved)


def await_search(client: Client, search: SearchView, terminal: Terminal) -> SearchView:
    """The search, once it has succeeded. Raises `CommandFailed` where it does not."""
    with terminal.progress("searching") as advance:
        job = client.wait_for_job(
            search.job.id, on_progress=lambda now: advance(now.progress, progress_of(now))
        )
    if job.state is not JobState.SUCCEEDED:
        raise CommandFailed(failure_of(job))
    return client.search(search.id)


def save_front(client: Client, front: FrontView, folder: Path) -> list[Path]:
    """Download the models of the verified front; the files' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    saved: list[Path] = []
    for trial in front.verified:
        if trial.model_id is not None:
            path = folder / f"trial-{trial.number:04d}.onnx"
            client.download_model(trial.model_id, path)
            saved.append(path)
    return saved


def _tell(terminal: Terminal, search: SearchView, front: FrontView, saved: list[Path]) -> None:
    if front.summary is None:
        again = [] if search.job.state.is_ended else [f"Look again: laptime search {search.id}"]
        shown: list[RenderableType] = [search_table(search), *again]
    else:
        shown = [front_table(front), front_summary(front), *(f"Saved {path}" for path in saved)]
    files = [str(path) for path in saved]
    terminal.result({"search": search, "front": front, "files": files}, *shown)
