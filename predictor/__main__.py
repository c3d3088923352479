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

from devices.errors import DevicesError
from predictor import evaluate_command, file_commands, training_command
from predictor.benchmarks import command as benchmarks
from predictor.benchmarks import graph_command, help_command, study
from predictor.campaign import command as campaign
from predictor.errors import PredictorError
from predictor.graph import ModelGraph, Operator
from predictor.reading.reader import read_graph, summarise
from predictor.terminal import shape_argument


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
    evaluate_command.add_commands(commands)
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


_HANDLERS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "graph": _graph,
    **evaluate_command.HANDLERS,
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
