"""Learners and interrupted meta-trainings in files: safetensors, with JSON in the header. Nothing
executable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from predictor.errors import CheckpointRejected
from predictor.help.config import HelpConfig
from predictor.help.learner import Learner
from predictor.help.network import Parameters

_KEY = "laptime-help"
_CONFIG = TypeAdapter(HelpConfig)

Facts = dict[str, object]


def write_tensors(file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write tensors and JSON facts, all or nothing: a reader never meets half a file."""
    header = {_KEY: json.dumps(facts, sort_keys=True)}
    data = save({name: value.detach().contiguous() for name, value in tensors.items()}, header)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(file: Path) -> tuple[Parameters, Facts]:
    """What `write_tensors` wrote. Raises `CheckpointRejected` for other contents, `OSError` for no file."""
    try:
        with safe_open(file, framework="pt") as opened:
            facts = json.loads((opened.metadata() or {})[_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointRejected(
            f"{file} is not a file of a HELP training: {error}; delete it to train anew"
        ) from error
    if not isinstance(facts, dict):
        raise CheckpointRejected(f"{file} is not a file of a HELP training; delete it to train anew")
    return tensors, facts


def write_learner(file: Path, learner: Learner, facts: Mapping[str, object]) -> None:
    """A meta-trained learner with its configuration and further facts (data, episode, validation score)."""
    write_tensors(file, learner.tensors(), {**facts, "config": learner.config.described()})


def read_learner(file: Path) -> tuple[Learner, Facts]:
    """What `write_learner` wrote, and its facts. Raises as `read_tensors`."""
    tensors, facts = read_tensors(file)
    return Learner.from_tensors(config_of(facts, file), tensors), facts


def config_of(facts: Facts, file: Path) -> HelpConfig:
    """The configuration among the facts of a file. Raises `CheckpointRejected` where there is none."""
    try:
        return _CONFIG.validate_python(facts["config"])
    except (KeyError, ValidationError) as error:
        raise CheckpointRejected(
            f"{file} has no configuration of HELP: {error}; delete it to train anew"
        ) from error
