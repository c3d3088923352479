"""`laptime-predictor`: look at a graph, adapt and predict from files, check predictions against measurements
on this machine, measure and learn from model families, and run the benchmarks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from devices.engines.registry import available_runtimes
from devices.errors import DevicesError, EngineUnavailable
from devices.hardware import read_device
from devices.measurement import Level
from devices.target import Runtime
from predictor import file_commands, training_command
from predictor.benchmarks import command as benchmarks
from predictor.benchmarks import graph_command, help_command, study
from predictor.campaign import command as campaign
from predictor.errors import PredictorError
from predictor.graph import ModelGraph, Operator
from predictor.local_study import Bench, MeasurementFile, Row, Study, run_study, subjects_in
from predictor.reading.reader import read_graph, summarise
from predictor.terminal import print_card, shape_argument

ENGINES = ("onnxruntime", "openvino")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        return _HANDLERS[parsed.command](parsed)
    except (PredictorError, DevicesError, OSError) as error:
        print(f"laptime-predictor: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="laptime-predictor", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    graph = commands.add_parser("graph", help="print the costed operators of an ONNX model")
    graph.add_argument("model", type=Path)
    graph.add_argument("--shape", action="append", default=[], metavar="NAME=1x3x224x224",
                       type=shape_argument,
                       help="size of an input with dynamic axes; NAME= alone is a scalar")  # fmt: skip
    graph.add_argument("--json", action="store_true", help="machine-readable output")
    evaluate = commands.add_parser(
        "evaluate",
        help="measure the reference set and a folder of models here, and print the prediction's error",
    )
    evaluate.add_argument(
        "--models", type=Path, required=True, metavar="DIR", help="ONNX files, with a manifest.json or not"
    )
    evaluate.add_argument(
        "--runtime",
        default="onnxruntime/t1",
        metavar="PARTS",
        help="parts of a runtime's key, as in onnxruntime/cpu/t1 (default: %(default)s)",
    )
    evaluate.add_argument("--level", type=Level, choices=list(Level), default=Level.QUICK)
    evaluate.add_argument(
        "--cache", type=Path, metavar="FILE", help="JSON lines of measurements, to resume from"
    )
    evaluate.add_argument("--json", action="store_true", help="machine-readable output")
    file_commands.add_commands(commands)
    benchmarks.add_commands(commands)
    help_command.add_commands(commands)
    study.add_commands(commands)
    graph_command.add_commands(commands)
    campaign.add_commands(commands)
    training_command.add_commands(commands)
    return parser


def _graph(parsed: argparse.Namespace) -> int:
    graph = read_graph(parsed.model.read_bytes(), dict(parsed.shape))
    if parsed.json:
        document = {**summarise(graph), "graph": [_document(graph, op) for op in graph.operators]}
        print(json.dumps(document))
        return 0
    print(
        f"{'operator':40} {'output':>20} {'precision':>9} "
        f"{'MACs':>14} {'read':>11} {'written':>11} {'weights':>11}"
    )
    for op in graph.operators:
        kind = op.full_kind if op.repeats == 1 else f"{op.full_kind} x{op.repeats}"
        print(
            f"{kind:40} {_output(graph, op):>20} {op.precision:>9} {op.macs:>14,} {op.bytes_read:>11,} "
            f"{op.bytes_written:>11,} {op.parameters:>11,}"
        )
    print(
        f"\n{len(graph.operators)} operators, {graph.macs / 1e6:,.2f} million multiply-accumulates, "
        f"{graph.parameters:,} parameters in {graph.weight_bytes:,} bytes, "
        f"{graph.activation_bytes:,} bytes written, "
        f"depth {graph.depth}, opset {graph.opset}\ndigest {graph.digest}"
    )
    for note in graph.notes:
        print(f"note: {note}")
    return 0


def _document(graph: ModelGraph, op: Operator) -> dict[str, object]:
    shapes = {name: list(graph.tensors[name].shape) for name in (*op.inputs, *op.outputs) if name}
    written = asdict(op)
    del written["likeness"]  # an identity within this process
    return {**written, "attributes": dict(op.attributes), "shapes": shapes}


def _output(graph: ModelGraph, op: Operator) -> str:
    return "x".join(map(str, graph.tensors[op.outputs[0]].shape)) if op.outputs and op.outputs[0] else ""


def _evaluate(parsed: argparse.Namespace) -> int:
    subjects = subjects_in(parsed.models)
    device = read_device(None)
    runtime = _runtime(parsed.runtime, sorted({1, device.hardware.physical_cores}))
    bench = Bench(
        device=device, runtime=runtime, level=parsed.level, file=MeasurementFile(parsed.cache),
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    study = run_study(bench, subjects)
    if parsed.json:
        print(json.dumps(_study_document(study)))
    else:
        _print_study(study)
    return 0


def _runtime(parts: str, thread_counts: Sequence[int]) -> Runtime:
    """The first runtime of this machine whose key has all the given parts; `onnxruntime` matches any
    version of it.
    """
    wanted = parts.split("/")
    offered = available_runtimes(ENGINES, thread_counts)
    for runtime in offered:
        has = {*runtime.key.split("/"), runtime.engine}
        if all(part in has for part in wanted):
            return runtime
    keys = ", ".join(runtime.key for runtime in offered) or "none"
    raise EngineUnavailable(f"no runtime here matches {parts!r}; this machine offers {keys}")


def _study_document(study: Study) -> dict[str, object]:
    return {
        "target": study.target_key,
        "accuracy_card": study.card.model_dump(mode="json"),
        "summary": None if study.summary is None else study.summary.model_dump(mode="json"),
        "models": [
            {
                "name": row.name,
                "family": row.family,
                "prediction": None if row.prediction is None else asdict(row.prediction),
                "measured_ms": row.measured_ms,
                "error": row.error,
                "failure": row.failure,
            }
            for row in study.rows
        ],
    }


def _print_study(study: Study) -> None:
    print(f"target {study.target_key}\n")
    print(
        f"{'model':34} {'predicted ms':>12} {'90 % interval':>23} "
        f"{'measured ms':>12} {'error':>8}  extrapolates"
    )
    for row in study.rows:
        print(_line(row))
    print()
    print_card("reference set, each left out in turn", study.card)
    if study.summary is not None:
        print_card("these models", study.summary)


def _line(row: Row) -> str:
    if row.prediction is None:
        return f"{row.name:34} {row.failure}"
    prediction = row.prediction
    interval = f"{prediction.lower_ms:.3f} to {prediction.upper_ms:.3f}"
    measured = f"{row.measured_ms:.3f}" if row.measured_ms is not None else "-"
    error = f"{row.error:+.0%}" if row.error is not None else "-"
    why = row.failure or ("; ".join(prediction.reasons) if prediction.extrapolates else "")
    return f"{row.name:34} {prediction.median_ms:12.3f} {interval:>23} {measured:>12} {error:>8}  {why}"


_HANDLERS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "graph": _graph,
    "evaluate": _evaluate,
    **file_commands.HANDLERS,
    **benchmarks.HANDLERS,
    **help_command.HANDLERS,
    **study.HANDLERS,
    **graph_command.HANDLERS,
    **campaign.HANDLERS,
    **training_command.HANDLERS,
}

if __name__ == "__main__":
    sys.exit(main())
