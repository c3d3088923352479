"""Values of the API as tables for people. All latencies in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table

from search.objectives import ACCURACY, SIZE_BYTES
from service.fleet.schemas import DeviceView, TargetView
from service.jobs.schemas import JobView
from service.latency.schemas import Answer, MeasurementView
from service.searches.schemas import FrontView, SearchView, TrialView
from service.terminal import table

NOTHING = "–"
MAX_NAMED_CHOICES = 8  # of a genome in a table


def answers_table(model_name: str, answers: Sequence[Answer]) -> Table:
    """One row a target; where a limit was asked for, the fastest first, and whether each is below it."""
    has_limit = any(answer.fits is not None for answer in answers)
    if has_limit:
        answers = sorted(answers, key=lambda answer: (answer.median_ms is None, answer.median_ms))
    return table(
        f"Latency of {model_name}",
        ["target", "ms", "interval", *(["fits"] if has_limit else []), "source", "notes"],
        [
            [
                answer.target_key,
                milliseconds(answer.median_ms),
                interval_of(answer),
                *([NOTHING if answer.fits is None else answer.fits.value] if has_limit else []),
                source_of(answer),
                notes_of(answer),
            ]
            for answer in answers
        ],
    )


def comparison_table(model_name: str, prediction: Answer | None, measurement: MeasurementView) -> Table:
    """A measurement, and what had been predicted. `validity_note` says more of one that is not valid."""
    rows: list[list[str]] = []
    if prediction is not None and prediction.median_ms is not None:
        error = prediction.median_ms / measurement.median_ms - 1
        notes = [f"{error:+.1%} against the measurement", *prediction.reasons]
        rows.append(
            ["predicted", milliseconds(prediction.median_ms), interval_of(prediction), "; ".join(notes)]
        )
    spread = f"± {milliseconds(measurement.standard_error_ms)} standard error"
    broken = ", ".join(reason.partition(":")[0] for reason in measurement.reasons)
    verdict = "valid" if measurement.is_valid else f"not valid ({broken})"
    rows.append(
        ["measured", milliseconds(measurement.median_ms), spread, f"{measurement.level.value}, {verdict}"]
    )
    return table(f"{model_name} on {measurement.target_key}", ["", "ms", "interval", "notes"], rows)


def validity_note(measurement: MeasurementView) -> list[str]:
    """What an invalid measurement means, and each rule that it breaks, a line each; empty for a valid one."""
    if measurement.is_valid:
        return []
    return [
        f"This measurement breaks rules of its level, {measurement.level.value}. It is kept and shown, but "
        "answers no query and teaches no predictor:",
        *(f"  {reason}" for reason in measurement.reasons),
    ]


def targets_table(devices: Sequence[DeviceView], targets: Sequence[TargetView]) -> Table:
    """One row a target, and one for a device without any."""
    rows: list[list[str]] = []
    for device in devices:
        agent = NOTHING if device.agent is None else device.agent.state.value
        own = [target for target in targets if target.device_id == device.id]
        rows += [
            [target.key, target.state.value, agent, accuracy_of(target), _in_short(target.state_reason)]
            for target in own
        ]
        if not own:
            rows.append([device.key, NOTHING, agent, NOTHING, "no target"])
    return table("Targets", ["target", "state", "agent", "accuracy", "notes"], rows)


def target_notes(targets: Sequence[TargetView]) -> list[str]:
    """What the table of targets only begins to tell, a line a target."""
    return [
        f"{target.key}: {target.state_reason}"
        for target in targets
        if target.state_reason and target.state_reason != _in_short(target.state_reason)
    ]


def _in_short(reason: str | None) -> str:
    """Up to the colon: what follows may name ten models with their reasons."""
    return (reason or "").partition(": ")[0]


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
        ["search", "target", "state", "done", "trials", "notes"],
        [
            [
                search.id,
                search.target_key,
                search.job.state.value,
                f"{search.job.progress:.0%}",
                f"{search.trial_count} of {search.request.trial_count}",
                "" if search.job.failure is None else search.job.failure.detail,
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
    if not summary.candidates:
        return "No network could be verified: all failed, or were slower than the limit."
    if not summary.measured:
        return (
            f"None of the {summary.candidates} candidates has a valid measurement, so nothing is verified; "
            "search again when the device is less busy."
        )
    if summary.rank_correlation is None:
        return f"Too few to compare ranks: {counts}."
    error = "" if summary.mape is None else f", mean error of the predictions {summary.mape:.1%}"
    return (
        f"Rank correlation of predicted and verified latency {summary.rank_correlation:.2f}{error}; {counts}."
    )


def architecture_of(trial: TrialView) -> str:
    """What the genome chose beside the precision, short enough for a table: `3 stages, 16 px, width 24,
    separable 3-5-5`. Choices without words of their own are shown as `name=option`, and many of them as
    options alone, in the order of their names.
    """
    genome = trial.genome
    depth = genome.get("depth")
    if not isinstance(depth, int) or not {"growth", "resolution", "width"} <= genome.keys():
        others = {name: option for name, option in sorted(genome.items()) if name != "precision"}
        if len(others) > MAX_NAMED_CHOICES:
            return " ".join(map(str, others.values()))
        return " ".join(f"{name}={option}" for name, option in others.items())
    stages = [(genome.get(f"stage{i}.block"), genome.get(f"stage{i}.kernel")) for i in range(1, depth + 1)]
    blocks = [
        f"{block} {'-'.join(str(kernel) for _, kernel in alike)}"
        for block, alike in groupby(stages, key=lambda stage: stage[0])
    ]
    doubling = " doubling" if genome["growth"] == 2 else ""
    parts = ["1 stage" if depth == 1 else f"{depth} stages", f"{genome['resolution']} px"]
    return ", ".join([*parts, f"width {genome['width']}{doubling}", *blocks])


def _objective(trial: TrialView, name: str, form: str, scale: float) -> str:
    value = trial.objectives.get(name)
    return NOTHING if value is None else form.format(value * scale)


def failure_of(job: JobView) -> str:
    """One sentence about a job that did not succeed."""
    if job.failure is None:
        return f"job {job.id} was {job.state.value}"
    return f"job {job.id} {job.state.value}: {job.failure.detail} ({job.failure.code})"


def progress_of(job: JobView) -> str:
    """What a job that has not ended is at, in a few words."""
    if job.waiting_for:
        return f"{job.waiting_for} measurement{'s' if job.waiting_for > 1 else ''} to come"
    return job.state.value


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
    return "; ".join([*([] if answer.because is None else [answer.because]), *answer.reasons])


def accuracy_of(target: TargetView) -> str:
    """The accuracy card in a few words."""
    if target.predictor is None or target.predictor.accuracy.median_ape is None:
        return NOTHING
    card = target.predictor.accuracy
    return f"{card.median_ape:.1%} median error over {card.sample_count} models"
