"""Values of the API as tables for people. All latencies in milliseconds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.table import Table

from search.objectives import ACCURACY, SIZE_BYTES
from service.fleet.schemas import DeviceView, TargetView
from service.jobs.schemas import JobView
from service.latency.schemas import Answer, MeasurementView
from service.searches.schemas import FrontView, SearchView, TrialView
from service.terminal import table

NOTHING = "–"


def answers_table(model_name: str, answers: Sequence[Answer]) -> Table:
    """One row a target."""
    return table(
        f"Latency of {model_name}",
        ["target", "ms", "interval", "source", "notes"],
        [
            [
                answer.target_key,
                milliseconds(answer.median_ms),
                interval_of(answer),
                source_of(answer),
                notes_of(answer),
            ]
            for answer in answers
        ],
    )


def comparison_table(model_name: str, prediction: Answer | None, measurement: MeasurementView) -> Table:
    """A measurement, and what had been predicted."""
    rows: list[list[str]] = []
    if prediction is not None and prediction.median_ms is not None:
        error = prediction.median_ms / measurement.median_ms - 1
        notes = [f"{error:+.1%} against the measurement", *prediction.reasons]
        rows.append(
            ["predicted", milliseconds(prediction.median_ms), interval_of(prediction), "; ".join(notes)]
        )
    spread = f"± {milliseconds(measurement.standard_error_ms)} standard error"
    verdict = "valid" if measurement.is_valid else "not valid: " + "; ".join(measurement.reasons)
    rows.append(
        ["measured", milliseconds(measurement.median_ms), spread, f"{measurement.level.value}, {verdict}"]
    )
    return table(f"{model_name} on {measurement.target_key}", ["", "ms", "interval", "notes"], rows)


def targets_table(devices: Sequence[DeviceView], targets: Sequence[TargetView]) -> Table:
    """One row a target, and one for a device without any."""
    rows: list[list[str]] = []
    for device in devices:
        agent = NOTHING if device.agent is None else device.agent.state.value
        own = [target for target in targets if target.device_id == device.id]
        rows += [
            [target.key, target.state.value, agent, accuracy_of(target), target.state_reason or ""]
            for target in own
        ]
        if not own:
            rows.append([device.key, NOTHING, agent, NOTHING, "no target"])
    return table("Targets", ["target", "state", "agent", "accuracy", "notes"], rows)


def job_table(jobs: Sequence[JobView]) -> Table:
    """One row a job."""
    return table(
        "Jobs",
        ["job", "kind", "state", "done", "created", "notes"],
        [
            [
                job.id,
                job.kind.value,
                job.state.value,
                f"{job.progress:.0%}",
                f"{job.created_at:%Y-%m-%d %H:%M:%S}",
                "" if job.failure is None else f"{job.failure.code}: {job.failure.detail}",
            ]
            for job in jobs
        ],
    )


def search_table(search: SearchView) -> Table:
    """One search as it stands."""
    return table(
        "Search",
        ["search", "target", "state", "done", "trials"],
        [
            [
                search.id,
                search.target_key,
                search.job.state.value,
                f"{search.job.progress:.0%}",
                f"{search.trial_count} of {search.request.trial_count}",
            ]
        ],
    )


def front_table(front: FrontView) -> Table:
    """The verified front, fastest first, predicted and measured latency side by side."""
    return table(
        "Verified front",
        ["trial", "predicted ms", "verified ms", "accuracy", "kB", "precision", "architecture"],
        [
            [
                str(trial.number),
                milliseconds(trial.predicted_ms),
                milliseconds(trial.measured_ms),
                _objective(trial, ACCURACY, "{:.1%}", 1.0),
                _objective(trial, SIZE_BYTES, "{:.1f}", 1e-3),
                str(trial.genome.get("precision", NOTHING)),
                architecture_of(trial),
            ]
            for trial in front.verified
        ],
    )


def front_summary(front: FrontView) -> str:
    """How well the predictions ranked the front, in one line."""
    summary = front.summary
    if summary is None:
        return "The front is not verified yet."
    counts = f"{summary.measured} of {summary.candidates} candidates have a valid measurement"
    if summary.rank_correlation is None:
        return f"Too few to compare ranks: {counts}."
    error = "" if summary.mape is None else f", mean error of the predictions {summary.mape:.1%}"
    return (
        f"Rank correlation of predicted and verified latency {summary.rank_correlation:.2f}{error}; {counts}."
    )


def architecture_of(trial: TrialView) -> str:
    """Choices beside the precision, short enough for a table; stages beyond the depth have no effect and are
    left out.
    """
    depth = trial.genome.get("depth")
    parts: list[str] = []
    for name, option in sorted(trial.genome.items()):
        stage = re.fullmatch(r"stage(\d+)\..+", name)
        is_unused = stage is not None and isinstance(depth, int) and int(stage[1]) > depth
        if name != "precision" and not is_unused:
            parts.append(f"{name}={option}")
    return " ".join(parts)


def _objective(trial: TrialView, name: str, form: str, scale: float) -> str:
    value = trial.objectives.get(name)
    return NOTHING if value is None else form.format(value * scale)


def failure_of(job: JobView) -> str:
    """One sentence about a job that did not succeed."""
    if job.failure is None:
        return f"job {job.id} was {job.state.value}"
    return f"job {job.id} {job.state.value}: {job.failure.detail} ({job.failure.code})"


def milliseconds(value: float | None) -> str:
    """Four significant digits, without an exponent."""
    if value is None:
        return NOTHING
    decimals = 4 if value < 1 else 3 if value < 10 else 2 if value < 100 else 1
    return f"{value:.{decimals}f}"


def interval_of(answer: Answer) -> str:
    """`1.20 to 1.45 (90 %)`."""
    if answer.lower_ms is None or answer.upper_ms is None or answer.coverage is None:
        return NOTHING
    return f"{milliseconds(answer.lower_ms)} to {milliseconds(answer.upper_ms)} ({answer.coverage:.0%})"


def source_of(answer: Answer) -> str:
    """measurement, prediction, or nothing."""
    return NOTHING if answer.source is None else answer.source.value


def notes_of(answer: Answer) -> str:
    """What to know about the number, or why there is none."""
    if answer.error is not None:
        return f"{answer.error.code}: {answer.error.detail}"
    return "; ".join(answer.reasons)


def accuracy_of(target: TargetView) -> str:
    """The accuracy card in a few words."""
    if target.predictor is None or target.predictor.accuracy.median_ape is None:
        return NOTHING
    card = target.predictor.accuracy
    return f"{card.median_ape:.1%} median error over {card.sample_count} models"
