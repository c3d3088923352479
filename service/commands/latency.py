"""`laptime predict` and `laptime measure`."""

from __future__ import annotations

from typing import Annotated

import typer

from devices.measurement import Level
from service.client import Client
from service.commands.connection import connect
from service.commands.errors import CommandFailed
from service.commands.options import (
    AsJson,
    ModelArgument,
    Shapes,
    TargetOption,
    parse_shapes,
    resolve_model,
    resolve_target,
    resolve_targets,
)
from service.jobs.schemas import JobView
from service.jobs.states import JobState
from service.latency.schemas import (
    Answer,
    LatencyAnswers,
    MeasurementCreate,
    MeasurementView,
    QueriedModel,
    Source,
)
from service.presentation import (
    answers_table,
    comparison_table,
    failure_of,
    job_table,
    progress_of,
    validity_note,
)
from service.terminal import Terminal

Targets = Annotated[
    list[str],
    typer.Option(
        "--target", help="A target's key or id; default: every target that is ready.", metavar="KEY"
    ),
]


def predict(
    model: ModelArgument,
    target: Targets = [],  # noqa: B006 - typer reads it, nobody changes it
    shape: Shapes = [],  # noqa: B006
    coverage: Annotated[
        float, typer.Option(min=0.5, max=0.99, help="Share of true latencies that the interval is to hold.")
    ] = 0.9,
    source: Annotated[
        Source, typer.Option(help="best: a measurement where there is one, else a prediction.")
    ] = Source.BEST,
    as_json: AsJson = False,
) -> None:
    """Tell a model's latency on targets: measured where it was measured, else predicted with an interval."""
    terminal = Terminal(as_json=as_json)
    shapes = parse_shapes(shape)
    with connect() as client:
        found = resolve_model(client, model)
        queried = QueriedModel(model=found.id, input_shapes=shapes)
        answers = client.latencies(
            [queried], resolve_targets(client, target), coverage=coverage, source=source
        )
    terminal.result(LatencyAnswers(answers=answers), answers_table(found.name, answers))
    failed = [answer for answer in answers if answer.error is not None]
    if failed:
        raise CommandFailed(
            "; ".join(f"{a.target_key}: {a.error.detail} ({a.error.code})" for a in failed if a.error)
        )


def measure(
    model: ModelArgument,
    target: TargetOption = None,
    shape: Shapes = [],  # noqa: B006
    level: Annotated[
        Level, typer.Option(help="quick (seconds), standard, or certified (minutes).")
    ] = Level.STANDARD,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also time each layer, in a run of its own.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result.")] = True,
    as_json: AsJson = False,
) -> None:
    """Measure a model on a target, and show what had been predicted beside it."""
    terminal = Terminal(as_json=as_json)
    shapes = parse_shapes(shape)
    with connect() as client:
        found = resolve_model(client, model)
        key = resolve_target(client, target)
        request = MeasurementCreate(
            model=found.id, input_shapes=shapes, target=key, level=level, with_layers=layers
        )
        job = client.measure(request)
        if not wait:
            terminal.result(job, job_table([job]))
            return
        measurement = await_measurement(client, job, terminal)
        prediction = predicted(client, measurement)
    terminal.result(
        {"measurement": measurement, "prediction": prediction},
        comparison_table(found.name, prediction, measurement),
        *validity_note(measurement),
    )


def await_measurement(client: Client, job: JobView, terminal: Terminal) -> MeasurementView:
    """What a measuring job brings, valid or not. Raises `CommandFailed` where it brings nothing."""
    with terminal.progress("measuring") as advance:
        ended = client.wait_for_job(job.id, on_progress=lambda now: advance(now.progress, progress_of(now)))
    if ended.state is not JobState.SUCCEEDED or ended.result is None:
        raise CommandFailed(failure_of(ended))
    return client.measurement(str(ended.result["measurement_id"]))


def predicted(client: Client, measurement: MeasurementView) -> Answer | None:
    """The prediction for what was measured; None where the target has no predictor or the model cannot be
    costed.
    """
    queried = QueriedModel(model=measurement.model_id, input_shapes=measurement.input_shapes)
    answer = client.latencies([queried], [measurement.target_id], source=Source.PREDICTION)[0]
    return None if answer.error is not None else answer
