"""`laptime-predictor help train | test`: meta-train HELP and its kin on published tasks, and score them as
HELP's paper does.

`train` can be interrupted and goes on where it was. `test` reads whole tables, as the published protocol
does; comparisons with counted measurements are the command `bench`. torch is loaded when a training begins.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from predictor.benchmarks.errors import TaskRejected
from predictor.benchmarks.tables import DATA_VARIABLE, data_folder, load_table
from predictor.benchmarks.tasks import Split, read_splits, task_of
from predictor.help.config import CONFIGS
from predictor.terminal import say

_PROTOCOL = "predictor.benchmarks.help_protocol"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `help` to a command line; `HANDLERS` run it."""
    parser = commands.add_parser(
        "help", help="meta-train HELP, MAML or Meta-SGD, and score by HELP's protocol"
    )
    parser.add_argument("action", choices=("train", "test"), help="test trains first where it must")
    parser.add_argument("--task", required=True, metavar="NAME", help="help-nb201, help-fbnet, FD, F1, ...")
    parser.add_argument("--method", choices=sorted(CONFIGS), default="help-published",
                        help="help-published keeps the published code's habits, help mends them "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help=f"folder of the latency tables (default: ${DATA_VARIABLE})")  # fmt: skip
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for checkpoints")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run_help(parsed: argparse.Namespace) -> int:
    """Train, or train and test; the exit status. Raises `PredictorError` or `OSError` for bad data."""
    folder = data_folder(parsed.data)
    split = _split(read_splits(folder), parsed.task, tested=parsed.action == "test")
    table = load_table(split.space, folder)
    document: dict[str, object] = import_module(_PROTOCOL).train_and_score(
        task_of(split, table), table, key=parsed.method, work=parsed.work, report=say,
        tested=parsed.action == "test", threads=parsed.threads,
    )  # fmt: skip
    if parsed.json:
        print(json.dumps(document))
    else:
        print(*(f"{key}: {value}" for key, value in document.items()), sep="\n")
    return 0


def _split(published: Mapping[str, Split], name: str, *, tested: bool) -> Split:
    if name not in published:
        raise TaskRejected(f"task {name!r} is unknown; there are {', '.join(published)}")
    split = published[name]
    if tested and split.query != "help":
        raise TaskRejected(
            f"HELP published no protocol for task {name}: train on it, and compare with `bench`"
        )
    return split


HANDLERS: Mapping[str, Callable[[argparse.Namespace], int]] = MappingProxyType({"help": run_help})
