"""How well a measurement repeats: the same model measured many times, each time in fresh processes.

    python -m benchmarks.repeatability [--count 20] [--level standard] [--json] [--check]

Three convolutional networks of about 2, 10 and 100 ms on one core of a server are generated here. They are
measured in turn, repetition after repetition, so that drift of the machine hits all alike; beside each
measurement the same model is also timed the naive way, 50 runs in a row in one process. Printed is the
coefficient of variation of the reported median over the repetitions, and of the naive median over the same
repetitions. Each result is appended to a JSON-lines file as soon as it is there, and a second run goes on
where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from devices.agent.usual_speed import AtUsualSpeed
from devices.engines.registry import available_runtimes
from devices.errors import DevicesError, EngineUnavailable
from devices.hardware import read_device
from devices.measurement import PROTOCOL_VERSION, Level, MeasurementPlan
from devices.model_ref import ModelRef, sha256_of
from devices.sandbox import BoxedProcesses, MeasurementRequest, run_measurement
from devices.statistics import coefficient_of_variation, median
from devices.target import Runtime
from devices.timing import TimingTask

NAIVE_RUNS = 50
OPSET, IR_VERSION = 17, 8
MAX_SETTLING = 40  # measurements: an invalid one teaches nothing
MAX_DURATION_S = 300.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure: `depth` 3x3 convolutions of `channels` channels over `size` x `size`, and the bar
    it must meet.
    """

    name: str
    depth: int
    channels: int
    size: int
    bar_percent: float  # at level standard, on a noisy virtual machine


SUBJECTS = (
    Subject("2 ms", depth=6, channels=32, size=56, bar_percent=4.0),
    Subject("10 ms", depth=8, channels=64, size=58, bar_percent=3.5),
    Subject("100 ms", depth=16, channels=128, size=64, bar_percent=2.0),
)


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the file: one repetition of one model."""

    model: str
    sha256: str
    runtime: str
    level: str
    protocol_version: int
    repetition: int
    median_ms: float
    observed_median_ms: float  # before it was brought to the machine's usual speed
    cpu_median_ms: float | None
    standard_error_ms: float
    naive_median_ms: float
    canary_ms: float
    is_valid: bool
    reasons: tuple[str, ...]
    took_s: float

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What a line is the result of."""
        return self.sha256, self.runtime, self.level, self.protocol_version, self.repetition


def build_model(subject: Subject, *, seed: int) -> bytes:
    """The ONNX file of a subject: convolutions with He-scaled weights, each followed by Relu. The same bytes
    for the same seed.
    """
    generator = np.random.default_rng(seed)
    nodes, weights, tensor, channels_in = [], [], "input", 3
    for layer in range(subject.depth):
        shape = (subject.channels, channels_in, 3, 3)
        values = generator.standard_normal(shape) * np.sqrt(2 / (9 * channels_in))
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"weight_{layer}"))
        nodes.append(
            helper.make_node("Conv", [tensor, f"weight_{layer}"], [f"conv_{layer}"], pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"conv_{layer}"], [f"relu_{layer}"]))
        tensor, channels_in = f"relu_{layer}", subject.channels
    image = [1, 3, subject.size, subject.size]
    output = [1, subject.channels, subject.size, subject.size]
    graph = helper.make_graph(
        nodes,
        f"repeatability {subject.name}",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, output)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def measure_once(
    subject: Subject,
    model: bytes,
    measure: AtUsualSpeed,
    *,
    runtime: Runtime,
    plan: MeasurementPlan,
    repetition: int,
) -> Record:
    """One measurement as an agent takes it and, right after it, one the naive way."""
    started = monotonic()
    request = MeasurementRequest(
        device_key=read_device().key, runtime=runtime, model=ModelRef(sha256=sha256_of(model)), plan=plan
    )
    measurement = measure(request, model, on_start=None, cancelled=lambda: False)
    took_s = monotonic() - started
    canary_ns = [median(r.canary_ns) for r in measurement.rounds]
    return Record(
        model=subject.name,
        sha256=request.model.sha256,
        runtime=runtime.key,
        level=plan.level.value,
        protocol_version=PROTOCOL_VERSION,
        repetition=repetition,
        median_ms=measurement.estimate.median_ms,
        observed_median_ms=measurement.estimate.observed_median_ms or measurement.estimate.median_ms,
        cpu_median_ms=measurement.estimate.cpu_median_ms,
        standard_error_ms=measurement.estimate.standard_error_ms,
        naive_median_ms=_naive_median_ms(request, model),
        canary_ms=median(canary_ns) / 1e6,
        is_valid=measurement.verdict.is_valid,
        reasons=measurement.verdict.reasons,
        took_s=took_s,
    )


def run(
    subjects: Sequence[Subject],
    *,
    count: int,
    runtime: Runtime,
    plan: MeasurementPlan,
    seed: int,
    output: Path,
) -> Iterator[Record]:
    """All records, those that the file already holds first; new ones are appended as they come, the models in
    turn.
    """
    models = [build_model(subject, seed=seed) for subject in subjects]
    known = {record.key: record for record in read_records(output)}
    output.parent.mkdir(parents=True, exist_ok=True)
    measure = AtUsualSpeed(run_measurement, output.parent)
    if len(known) < count * len(subjects):
        _settle(measure, models[0], runtime=runtime)
    for repetition in range(count):
        for subject, model in zip(subjects, models, strict=True):
            key = (sha256_of(model), runtime.key, plan.level.value, PROTOCOL_VERSION, repetition)
            record = known.get(key)
            if record is None:
                record = measure_once(
                    subject, model, measure, runtime=runtime, plan=plan, repetition=repetition
                )
                _append(output, record)
            yield record


def _settle(measure: AtUsualSpeed, model: bytes, *, runtime: Runtime) -> None:
    """Learn the machine's usual speed, as an agent does from the reference models before anybody's model is
    measured.
    """
    request = MeasurementRequest(
        device_key=read_device().key,
        runtime=runtime,
        model=ModelRef(sha256=sha256_of(model)),
        plan=MeasurementPlan(level=Level.QUICK, max_duration_s=MAX_DURATION_S),
    )
    for _ in range(MAX_SETTLING):
        if measure.is_settled:
            return
        measure(request, model, on_start=None, cancelled=lambda: False)


def read_records(path: Path) -> list[Record]:
    """The records of a file; none if there is no file. A last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    rows = [json.loads(line) for line in whole.splitlines()]
    return [Record(**{**fields, "reasons": tuple(fields["reasons"])}) for fields in rows]


def summarise(subject: Subject, records: Sequence[Record]) -> dict[str, float | int | str | bool | None]:
    """Means and coefficients of variation of one model's records, in per cent.

    Beside the reported median, which is at the machine's usual speed: the same as it was observed; the naive
    one; and the median of processor time, which preemption does not touch.
    """
    medians = [record.median_ms for record in records]
    mean_ms = float(np.mean(medians))
    cpu_medians = [record.cpu_median_ms for record in records if record.cpu_median_ms is not None]
    cv = 100 * coefficient_of_variation(medians)
    return {
        "model": subject.name,
        "n": len(records),
        "mean_ms": mean_ms,
        "cv_percent": cv,
        "cv_cpu_percent": 100 * coefficient_of_variation(cpu_medians) if len(cpu_medians) > 1 else None,
        "cv_observed_percent": 100 * coefficient_of_variation([r.observed_median_ms for r in records]),
        "cv_naive_percent": 100 * coefficient_of_variation([record.naive_median_ms for record in records]),
        "stated_error_percent": 100 * float(np.mean([r.standard_error_ms / r.median_ms for r in records])),
        "invalid": sum(not record.is_valid for record in records),
        "mean_duration_s": float(np.mean([record.took_s for record in records])),
        "bar_percent": subject.bar_percent,
        "meets_bar": cv <= subject.bar_percent,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and with `--check` return 1 where a bar is missed."""
    options = _parser().parse_args(arguments)
    try:
        runtime = _cpu_runtime(options.engine, options.threads)
        plan = MeasurementPlan(
            level=Level(options.level), input_seed=options.seed, max_duration_s=MAX_DURATION_S
        )
        records = []
        for record in run(
            SUBJECTS,
            count=options.count,
            runtime=runtime,
            plan=plan,
            seed=options.seed,
            output=options.output,
        ):
            records.append(record)
            if not options.json:
                print(_progress(record, options.count), file=sys.stderr)
    except DevicesError as error:
        print(f"cannot measure with {options.engine} on this machine: {error}", file=sys.stderr)
        return 1
    rows = [summarise(subject, [r for r in records if r.model == subject.name]) for subject in SUBJECTS]
    if options.json:
        print(
            json.dumps({"level": options.level, "runtime": runtime.key, "seed": options.seed, "models": rows})
        )
    else:
        _print_table(
            rows, f"{runtime.key}, level {options.level}, seed {options.seed}, file {options.output}"
        )
    return 1 if options.check and not all(row["meets_bar"] for row in rows) else 0


def _cpu_runtime(engine: str, threads: int) -> Runtime:
    for runtime in available_runtimes([engine], [threads]):
        if runtime.provider == "cpu":
            return runtime
    raise EngineUnavailable("it is not installed or offers no CPU; `laptime-agent doctor` tells more")


def _append(path: Path, record: Record) -> None:
    """Write a line after the last whole one: what a kill left of the line behind that is overwritten."""
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(asdict(record)).encode() + b"\n")


def _naive_median_ms(request: MeasurementRequest, model: bytes) -> float:
    processes = BoxedProcesses(
        request=request,
        model=model,
        deadline_s=monotonic() + MAX_DURATION_S,
        on_start=None,
        cancelled=lambda: False,
    )
    task = TimingTask(
        runtime=request.runtime,
        input_seed=request.plan.input_seed,
        rounds=1,
        min_samples=NAIVE_RUNS,
        span_s=1e-3,
        duty=1.0,
        warmup_windows=1,
        budget_s=MAX_DURATION_S,
    )
    return median(processes.time(task).rounds[0].samples_ns) / 1e6


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.repeatability", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--count", type=_at_least_two, default=20, help="repetitions of each model (default 20)"
    )
    parser.add_argument("--level", choices=[level.value for level in Level], default=Level.STANDARD.value)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default 0)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(".laptime/repeatability.jsonl"),
        help="JSON-lines file of results: a run goes on where the file ends; another file starts afresh",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--check", action="store_true", help="exit 1 where the variation is over its bar")
    return parser


def _at_least_two(text: str) -> int:
    count = int(text)
    if count < 2:
        raise argparse.ArgumentTypeError(f"variation needs at least 2 repetitions, got {count}")
    return count


def _progress(record: Record, count: int) -> str:
    state = "valid" if record.is_valid else "; ".join(record.reasons)
    return (
        f"[{record.repetition + 1}/{count}] {record.model}: {record.median_ms:.3f} ms "
        f"(naive {record.naive_median_ms:.3f}), {record.took_s:.1f} s, {state}"
    )


def _print_table(rows: Sequence[dict[str, float | int | str | bool | None]], head: str) -> None:
    columns = {
        "model": "model", "n": "n", "mean ms": "mean_ms", "CV %": "cv_percent", "bar %": "bar_percent",
        "observed %": "cv_observed_percent", "naive %": "cv_naive_percent",
        "processor time %": "cv_cpu_percent", "stated error %": "stated_error_percent",
        "invalid": "invalid",
    }  # fmt: skip
    print(head)
    print("  ".join(columns))
    for row in rows:
        print("  ".join(_cell(row[key]).rjust(len(title)) for title, key in columns.items()))


def _cell(value: float | int | str | bool | None) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
