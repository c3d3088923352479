"""`laptime predict` and `laptime measure`."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any

import typer

from devices.measurement import Level
from service.client import JOB_POLL_S, Client
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
    LatencyQuery,
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


MaxRelativeError = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=1.0,
        help="Measure where half the interval's width is more than this share of the median: 0.1 is 10 %.",
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(min=0.0, metavar="SECONDS", help="Wait so long for a better answer; 0: none is measured."),
]
Below = Annotated[
    float | None,
    typer.Option(min=0.0, metavar="MS", help="Tell where it runs below this limit: yes, no, uncertain."),
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
    max_relative_error: MaxRelativeError = None,
    deadline: Deadline = None,
    below: Below = None,
    as_json: AsJson = False,
) -> None:
    """Tell a model's latency on targets: measured where it was measured, else predicted with an interval.
    What is not known well enough is measured, if there is time.
    """
    terminal = Terminal(as_json=as_json)
    shapes = parse_shapes(shape)
    stated = {"max_relative_error": max_relative_error, "deadline_s": deadline, "below_ms": below}
    with connect() as client:
        found = resolve_model(client, model)
        query = LatencyQuery(
            models=(QueriedModel(model=found.id, input_shapes=shapes),),
            targets=tuple(resolve_targets(client, target)),
            coverage=coverage,
            source=source,
            **{name: value for name, value in stated.items() if value is not None},
        )
        asked = measured_meanwhile(client, query, terminal)
    answers = asked.answers
    terminal.result(sent(asked), answers_table(found.name, answers))
    failed = [answer for answer in answers if answer.error is not None]
    if failed:
        raise CommandFailed(
            "; ".join(f"{a.target_key}: {a.error.detail} ({a.error.code})" for a in failed if a.error)
        )


def measured_meanwhile(client: Client, query: LatencyQuery, terminal: Terminal) -> LatencyAnswers:
    """The answers, once what the server queued for them was measured, or the deadline has passed."""
    started_s = time.monotonic()
    answers = client.ask(query)
    waiting = {answer.job_id for answer in answers.answers if answer.job_id is not None}
    if not waiting:
        return answers
    with terminal.progress(f"measuring on {len(waiting)} target{'s' if len(waiting) > 1 else ''}") as advance:
        while waiting:
            left_s = math.inf
            if query.deadline_s is not None:
                left_s = query.deadline_s - (time.monotonic() - started_s)
            if left_s <= 0:
                break
            jobs = [client.job(job_id) for job_id in sorted(waiting)]
            waiting = {job.id for job in jobs if not job.state.is_ended}
            advance(sum(job.progress for job in jobs) / len(jobs), progress_of(jobs[-1]))
            if waiting:
                time.sleep(min(JOB_POLL_S, left_s))
    return client.ask(query.model_copy(update={"deadline_s": 0.0}))


def sent(answers: LatencyAnswers) -> dict[str, Any]:
    """As the server sent them: without what was not asked."""
    document: dict[str, Any] = answers.model_dump(mode="json", exclude_unset=True)
    return document


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
        prediction = predicted(client, measurement)  # which its own measurement did not change
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
