"""`laptime-predictor campaign` and `dataset`: measure the families on this machine, and make Parquet of what
was found.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, get_args

from devices.engines.registry import ENGINES, available_runtimes
from devices.hardware import read_device
from devices.target import Optimization, Precision, Runtime
from predictor.campaign.dataset import write_dataset
from predictor.campaign.run import Campaign, Subject, reference_subjects
from predictor.campaign.store import CampaignFolder
from predictor.errors import PredictorError
from predictor.families.registry import FAMILY_VERSION, Specimen, specimens
from predictor.local_study import Subject as FileSubject
from predictor.local_study import subjects_in
from predictor.terminal import say

_DEFAULT_TARGETS = "onnxruntime/t1,openvino/t1"
_KINDS = ("networks", "medleys", "sweeps")
_THREADS = re.compile(r"t([1-9]\d{0,3})")


class _Wanted(NamedTuple):
    """A target as `--targets` names it."""

    engine: str
    threads: int = 1
    provider: str = "cpu"
    precision: str = "native"
    optimization: str = "default"

    def __str__(self) -> str:
        return f"{self.engine}/{self.provider}/t{self.threads}/{self.precision}/{self.optimization}"

    def is_of(self, runtime: Runtime) -> bool:
        """Whether it names this runtime."""
        return (self.provider, self.precision, self.optimization) == (
            runtime.provider,
            runtime.precision,
            runtime.optimization,
        )


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `campaign` and `dataset` to a command line; `HANDLERS` run them."""
    campaign = commands.add_parser(
        "campaign", help="measure the model families on this machine's targets; goes on where it stopped"
    )
    campaign.add_argument("--out", type=Path, required=True, metavar="DIR", help="what was found so far")
    campaign.add_argument(
        "--targets",
        type=_targets,
        default=_DEFAULT_TARGETS,
        metavar="LIST",
        help="engine[/provider][/tTHREADS][/precision][/optimization], by commas, as in onnxruntime/t2/basic "
        "or torch/cuda/fp16/cuda-graph (default: %(default)s)",
    )
    campaign.add_argument(
        "--models", type=Path, metavar="DIR", help="measure these ONNX files instead of the families"
    )
    campaign.add_argument("--passes", type=int, default=2, metavar="N", help="(default: %(default)s)")
    campaign.add_argument(
        "--only", metavar="TEXT", default="", help="of the families, those whose name contains this"
    )
    campaign.add_argument(
        "--kinds",
        type=_kinds,
        default=",".join(_KINDS),
        metavar="LIST",
        help="of the families: whole networks, medleys of random blocks, sweeps of single operators "
        "(default: %(default)s)",
    )
    campaign.add_argument(
        "--device", metavar="KEY", help="what to call this machine in the targets' keys (default: its name)"
    )
    campaign.add_argument(
        "--like", type=Path, metavar="DIR",
        help="an earlier campaign of this machine, whose usual speed is taken over: without it two campaigns "
        "of a machine are off each other by what its speed has changed",
    )  # fmt: skip
    campaign.add_argument(
        "--precisions", metavar="LIST", default="", help="of the models, those of these precisions, by commas"
    )
    campaign.add_argument(
        "--with-layers", action="store_true", help="time each layer too, where the runtime can tell"
    )
    dataset = commands.add_parser("dataset", help="make Parquet of what a campaign has found")
    dataset.add_argument("--campaign", type=Path, required=True, metavar="DIR", help="its folder")
    dataset.add_argument("--out", type=Path, required=True, metavar="FILE", help="Parquet")
    dataset.add_argument(
        "--add", type=Path, nargs="*", default=[], metavar="FILE",
        help="datasets of other machines, or of earlier campaigns, whose rows are taken over",
    )  # fmt: skip


def _targets(text: str) -> tuple[_Wanted, ...]:
    """What a list names, in its order. Raises what argparse shows."""
    wanted = tuple(_wanted(part) for part in _parts(text))
    if not wanted:
        raise argparse.ArgumentTypeError("name one target or more, as in onnxruntime/t1")
    return wanted


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _wanted(part: str) -> _Wanted:
    engine, *others = part.split("/")
    if engine not in ENGINES:
        raise argparse.ArgumentTypeError(f"{part!r} names no engine; there are {', '.join(sorted(ENGINES))}")
    said: dict[str, str] = {}
    for other in others:
        kind = _kind_of_part(other)
        if kind in said or not other:
            raise argparse.ArgumentTypeError(
                f"{part!r} does not look like engine[/provider][/tTHREADS][/precision][/optimization], as in "
                "onnxruntime/t2/basic or torch/cuda/fp16"
            )
        said[kind] = other
    threads = int(said.pop("threads", "t1")[1:])
    return _Wanted(engine, threads, **said)


def _kind_of_part(part: str) -> str:
    """What a part of a target names; what is nothing else names a provider."""
    if _THREADS.fullmatch(part):
        return "threads"
    if part in get_args(Precision):
        return "precision"
    return "optimization" if part in get_args(Optimization) else "provider"


def _campaign(parsed: argparse.Namespace) -> int:
    device, folder = read_device(parsed.device), CampaignFolder(parsed.out)
    if parsed.like is not None:
        folder.take_over(parsed.like, device)
    campaign = Campaign(
        device=device,
        runtimes=[_runtime(wanted) for wanted in parsed.targets],
        subjects=_subjects(parsed),
        folder=folder,
        report=say,
        with_layers=parsed.with_layers,
    )
    campaign.run(parsed.passes)
    return 0


def _runtime(wanted: _Wanted) -> Runtime:
    """The runtime of this machine. Raises `PredictorError` where it is not here."""
    offered = available_runtimes((wanted.engine,), (wanted.threads,), (wanted.optimization,))
    for runtime in offered:
        if wanted.is_of(runtime):
            return runtime
    raise PredictorError(
        f"this machine does not offer {wanted}; `laptime-agent doctor` says which engines and thread counts "
        "it has, docs/measuring.md which precisions and optimisations"
    )


def _subjects(parsed: argparse.Namespace) -> list[Subject]:
    if parsed.models is not None:
        return reference_subjects() + [_of_file(one) for one in subjects_in(parsed.models)]
    wanted = set(_parts(parsed.precisions))
    chosen = [
        _of_specimen(one)
        for one in specimens()
        if parsed.only in one.family
        and (not wanted or one.precision in wanted)
        and _kind_of(one) in parsed.kinds
    ]
    return reference_subjects() + chosen


def _kind_of(one: Specimen) -> str:
    if not one.is_sweep:
        return "networks"
    return "medleys" if one.family.startswith("medley-") else "sweeps"


def _kinds(text: str) -> frozenset[str]:
    """What a list of kinds names. Raises what argparse shows."""
    named = frozenset(_parts(text))
    if not named or named - set(_KINDS):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of {', '.join(_KINDS)}")
    return named


def _of_file(one: FileSubject) -> Subject:
    return Subject("published", one.name, "mixed", False, one.built)


def _of_specimen(one: Specimen) -> Subject:
    return Subject(one.family, one.name, one.precision, one.is_sweep, one.build)


def _dataset(parsed: argparse.Namespace) -> int:
    folder = CampaignFolder(parsed.campaign)
    campaigner = folder.campaigner(read_device(None))
    if campaigner is None:
        raise PredictorError(f"{parsed.campaign} holds no campaign; `laptime-predictor campaign` makes one")
    count = write_dataset(
        parsed.out, folder.records(), campaigner, family_version=FAMILY_VERSION, others=parsed.add
    )
    print(f"{count} rows, {parsed.out.stat().st_size:,} bytes")
    return 0


HANDLERS: Mapping[str, Callable[[argparse.Namespace], int]] = MappingProxyType(
    {"campaign": _campaign, "dataset": _dataset}
)
