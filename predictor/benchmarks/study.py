"""The few-shot configuration, tried on devices that no published task tests on.

Every split leaves whole families of devices out (all batch sizes of a GPU, all phones), as a new device would
be. One field of the configuration changes at a time. `laptime-predictor study` prints the table that
`FewShotConfig` was chosen from.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from types import MappingProxyType

from predictor.benchmarks.architectures import architectures_of
from predictor.benchmarks.jobs import Places, rejections_that_travel, run_jobs
from predictor.benchmarks.laptime_method import LaptimeMethod
from predictor.benchmarks.run import Protocol, run_method
from predictor.benchmarks.tables import DATA_VARIABLE, data_folder, load_table
from predictor.benchmarks.tasks import Query, Split, task_of
from predictor.few_shot.config import FewShotConfig

_SAMPLES = (10, 20)
_FIELDS = ("sources", "tally", "common", "by_kind", "by_size", "smooth", "smooth_length", "selection_noise")
_FACTORS = (0.3, 3.0)


def _split(name: str, space: str, train: str, test: str, query: Query) -> Split:
    return Split(name, space, tuple(train.split()), (), tuple(test.split()), query)


# On FBNet no published task tests 1080ti_64, 2080ti_64, titan_rtx_64, titanx_*, titanxp_32, titanxp_64,
# silver_*, gold_6240 and pixel3; on NAS-Bench-201 those of HELP's pool and validation; on OFA all but
# titan_rtx_64.
DEVELOPMENT: tuple[Split, ...] = (
    _split("fbnet-gpus", "fbnet", "silver_4114 silver_4210r gold_6240 pixel3",
           "titanx_1 titanx_32 titan_rtx_64 1080ti_64", "all"),
    _split("fbnet-others", "fbnet", "1080ti_64 2080ti_64 titan_rtx_64 titanx_1 titanx_32 titanx_64 "
           "titanxp_32 titanxp_64", "silver_4114 silver_4210r gold_6240 pixel3", "all"),
    _split("fbnet-mixed", "fbnet", "titanx_1 titanx_32 silver_4114 2080ti_64",
           "pixel3 gold_6240 silver_4210r", "all"),
    _split("nb201-phone", "nb201", "1080ti_1 1080ti_32 1080ti_256 silver_4114 silver_4210r samsung_a50 "
           "essential_ph_1 samsung_s7", "pixel3", "help"),
    _split("nb201-gpus", "nb201", "silver_4114 silver_4210r samsung_a50 pixel3 essential_ph_1 samsung_s7",
           "1080ti_1 1080ti_32 1080ti_256", "help"),
    _split("nb201-servers", "nb201", "1080ti_1 1080ti_32 1080ti_256 samsung_a50 pixel3 essential_ph_1 "
           "samsung_s7", "silver_4114 silver_4210r gold_6240", "help"),
    _split("nb201-phones", "nb201", "1080ti_1 1080ti_32 1080ti_256 silver_4114 silver_4210r pixel3",
           "samsung_a50 essential_ph_1 samsung_s7", "help"),
    _split("ofa-2080ti", "ofa", "titan_xp_1 titan_xp_32 titan_xp_64 v100_1 v100_32 v100_64",
           "2080ti_1 2080ti_32 2080ti_64", "help"),
    _split("ofa-v100", "ofa", "2080ti_1 2080ti_32 2080ti_64 titan_xp_1 titan_xp_32 titan_xp_64",
           "v100_1 v100_32 v100_64", "help"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _StudyJob:
    name: str
    config: FewShotConfig
    split: Split
    protocol: Protocol
    places: Places


@dataclass(frozen=True, slots=True)
class _Outcome:
    spearman: float
    mape: float
    coverage: float


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `study` to a command line; `HANDLERS` run it."""
    parser = commands.add_parser(
        "study", help="variants of the few-shot configuration on devices that no published task tests on"
    )
    parser.add_argument("--fields", default="", metavar="NAMES",
                        help=f"vary these, by commas, of {', '.join(_FIELDS)} (default: none)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--selection", choices=("random", "active"), default="random")
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help=f"folder of the latency tables (default: ${DATA_VARIABLE})")  # fmt: skip
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for tallies")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="(default: %(default)s)")


def run_study(parsed: argparse.Namespace) -> int:
    """Print a row for each variant: mean Spearman, MAPE and coverage over the splits, at 10 and at 20."""
    places = Places(data_folder(parsed.data), parsed.work)
    jobs = [
        _StudyJob(name, config, split, Protocol(samples, parsed.selection, parsed.seeds), places)
        for name, config in _variants([field for field in parsed.fields.split(",") if field])
        for split in DEVELOPMENT
        for samples in _SAMPLES
    ]
    done = run_jobs(_run, jobs, workers=parsed.workers, report=lambda job: None)  # noqa: ARG005
    rows: dict[str, list[_Outcome]] = {}
    for job, outcome in zip(jobs, done, strict=True):
        rows.setdefault(job.name, []).append(outcome)
    columns = [f"{split.name[:11]}/{samples}" for split in DEVELOPMENT for samples in _SAMPLES]
    print(f"{'':22} {'rho':>6} {'MAPE':>6} {'cover':>6}  " + " ".join(f"{name:>14}" for name in columns))
    for name, outcomes in rows.items():
        print(_line(name, outcomes), flush=True)
    return 0


def _variants(fields: list[str]) -> Iterator[tuple[str, FewShotConfig]]:
    chosen = FewShotConfig()
    yield "as configured", chosen
    for field in fields:
        for factor in _FACTORS:
            value = getattr(chosen, field) * factor
            yield f"{field} = {value:.3g}", replace(chosen, **{field: value})


def _run(job: _StudyJob) -> _Outcome:
    with rejections_that_travel(f"{job.name} on {job.split.name}"):
        table = load_table(job.split.space, job.places.data)
        architectures = architectures_of(table.space, table.genomes, job.places.work)
        results = run_method(
            LaptimeMethod(job.config), task_of(job.split, table), table, architectures, protocol=job.protocol
        ).values()
    return _Outcome(
        fmean(one.spearman for one in results),
        fmean(one.mape for one in results),
        fmean(one.coverage90 or 0.0 for one in results),
    )


def _line(name: str, outcomes: list[_Outcome]) -> str:
    means = [fmean(getattr(one, figure) for one in outcomes) for figure in ("spearman", "mape", "coverage")]
    head = f"{name:22} {means[0]:6.4f} {100 * means[1]:6.2f} {100 * means[2]:6.1f}  "
    return head + " ".join(f"{one.spearman:7.3f}/{100 * one.mape:6.2f}" for one in outcomes)


HANDLERS: Mapping[str, Callable[[argparse.Namespace], int]] = MappingProxyType({"study": run_study})
