"""`laptime-predictor train`: from a dataset to the meta-learned checkpoint that targets are adapted from.

torch is loaded when the training begins.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from predictor.kernel_costs.training_config import TrainingConfig
from predictor.meta_checkpoint import MetaCheckpoint
from predictor.terminal import say

_TRAINING = "predictor.meta_training"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` to a command line; `HANDLERS` run it."""
    usual = TrainingConfig()
    train = commands.add_parser("train", help="make the meta-learned checkpoint of a dataset (half an hour)")
    train.add_argument("--dataset", type=Path, required=True, metavar="FILE", help="Parquet, from `dataset`")
    train.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors")
    train.add_argument("--steps", type=int, default=usual.steps, metavar="N",
                       help="of each network (default: %(default)s)")  # fmt: skip
    train.add_argument("--members", type=int, default=usual.members, metavar="N",
                       help="networks of the ensemble (default: %(default)s)")  # fmt: skip
    train.add_argument("--seed", type=int, default=usual.seed, metavar="N", help="(default: %(default)s)")


def _train(parsed: argparse.Namespace) -> int:
    # without folders: the checkpoint ships, and which dataset it is of is known by the digest
    command = (
        f"laptime-predictor train --dataset {parsed.dataset.name} --steps {parsed.steps} "
        f"--members {parsed.members} --seed {parsed.seed} --out {parsed.out.name}"
    )
    checkpoint: MetaCheckpoint = import_module(_TRAINING).train_on_file(
        parsed.dataset,
        TrainingConfig(steps=parsed.steps, members=parsed.members, seed=parsed.seed),
        command=command,
        report=say,
    )
    written = checkpoint.to_bytes()
    parsed.out.write_bytes(written)
    facts = checkpoint.facts
    print(
        f"{len(facts.sources)} targets, {facts.model_count} models, {facts.measurement_count} latencies; "
        f"intervals of {facts.widenings.of_known_engines:.2f} deviations, of engines that no source has "
        f"{facts.widenings.of_strangers:.2f}; {len(written):,} bytes"
    )
    return 0


HANDLERS: Mapping[str, Callable[[argparse.Namespace], int]] = MappingProxyType({"train": _train})
