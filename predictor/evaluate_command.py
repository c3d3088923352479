"""`laptime-predictor evaluate`: predictions beside measurements, taken on this machine or by a campaign."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from devices.engines.registry import available_runtimes
from devices.errors import EngineUnavailable
from devices.hardware import read_device
from devices.measurement import Level
from devices.target import Runtime
from predictor.campaign.dataset import read_dataset
from predictor.campaign.models import Builders, model_builders
from predictor.campaign_study import campaign_studies
from predictor.errors import PredictorError
from predictor.evaluate import FAR_OFF
from predictor.local_study import Bench, MeasurementFile, Row, Study, run_study, subjects_in
from predictor.meta_checkpoint import MetaCheckpoint, shipped
from predictor.reference_set import reference_candidates
from predictor.terminal import print_card, say

ENGINES = ("onnxruntime", "openvino")
_DEFAULT_RUNTIME = "onnxruntime/t1"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `evaluate` to a command line; `HANDLERS` run it."""
    evaluate = commands.add_parser(
        "evaluate",
        help="the prediction's error: measure the reference set and a folder of models here, or take what a "
        "campaign has measured",
    )
    evaluate.add_argument("--models", type=Path, metavar="DIR",
                          help="ONNX files, with a manifest.json or not; needed but for the families that a "
                          "campaign has measured")  # fmt: skip
    evaluate.add_argument("--campaign", type=Path, metavar="FILE",
                          help="Parquet, from `dataset`: on each of its targets, adapted from its reference "
                          "models; nothing is measured")  # fmt: skip
    evaluate.add_argument("--meta", type=Path, metavar="FILE",
                          help="with --campaign: from `train` (default: the shipped one)")  # fmt: skip
    evaluate.add_argument("--runtime", metavar="PARTS",
                          help="parts of a runtime's key, as in onnxruntime/cpu/t1 (default: "
                          f"{_DEFAULT_RUNTIME})")  # fmt: skip
    evaluate.add_argument("--level", type=Level, choices=list(Level), help="(default: quick)")
    evaluate.add_argument("--cache", type=Path, metavar="FILE",
                          help="JSON lines of measurements, to resume from")  # fmt: skip
    evaluate.add_argument("--json", action="store_true", help="machine-readable output")


def run_evaluate(parsed: argparse.Namespace) -> int:
    """Print the study, or one for each target of a campaign; the exit status. Raises `PredictorError` or
    `DevicesError`.
    """
    _check(parsed)
    if parsed.campaign is not None:
        return _of_campaign(parsed)
    device = read_device(None)
    runtime = _runtime(parsed.runtime or _DEFAULT_RUNTIME, sorted({1, device.hardware.physical_cores}))
    bench = Bench(
        device=device, runtime=runtime, level=parsed.level or Level.QUICK, file=MeasurementFile(parsed.cache),
        report=say,
    )  # fmt: skip
    study = run_study(bench, subjects_in(parsed.models))
    if parsed.json:
        print(json.dumps(_document(study)))
    else:
        _print_study(study)
    return 0


def _check(parsed: argparse.Namespace) -> None:
    if parsed.campaign is None:
        if parsed.models is None:
            raise PredictorError("give --models, a folder of ONNX files, or --campaign, what was measured")
        if parsed.meta is not None:
            raise PredictorError("--meta goes with --campaign; here the shipped checkpoint is evaluated")
    else:
        given = {"--runtime": parsed.runtime, "--level": parsed.level, "--cache": parsed.cache}
        if measuring := [name for name, value in given.items() if value is not None]:
            raise PredictorError(f"{', '.join(measuring)}: with --campaign nothing is measured; leave it out")


def _of_campaign(parsed: argparse.Namespace) -> int:
    meta = shipped() if parsed.meta is None else MetaCheckpoint.from_bytes(parsed.meta.read_bytes())
    measured = read_dataset(parsed.campaign)
    studies = campaign_studies(measured, _builders(parsed.models), meta=meta, report=say)
    if not studies:
        raise PredictorError(
            f"no target of {parsed.campaign} has run reference models and one of the models to predict; "
            "models from files need --models, the folder that was measured"
        )
    if parsed.json:
        print(json.dumps([_document(study) for study in studies]))
    else:
        for study in studies:
            _print_summary(study)
    return 0


def _builders(folder: Path | None) -> Builders:
    """The families, or the files of a folder in their place; the reference set in both."""
    known = model_builders()
    if folder is None:
        return known
    references = {one.name: known[one.name] for one in reference_candidates()}
    return references | {one.name: one.built for one in subjects_in(folder)}


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


def _document(study: Study) -> dict[str, object]:
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


def _print_summary(study: Study) -> None:
    """A card, and the models that are far off without a warning."""
    if study.summary is None:
        return
    print_card(study.target_key, study.summary)
    for row in study.rows:
        if row.error is None or row.prediction is None or row.prediction.extrapolates:
            continue
        if not 1.0 / FAR_OFF <= 1.0 + row.error <= FAR_OFF:
            print(f"    off by more than a factor of {FAR_OFF:g} without a warning: {_line(row)}")


def _line(row: Row) -> str:
    if row.prediction is None:
        return f"{row.name:34} {row.failure}"
    prediction = row.prediction
    interval = f"{prediction.lower_ms:.3f} to {prediction.upper_ms:.3f}"
    measured = f"{row.measured_ms:.3f}" if row.measured_ms is not None else "-"
    error = f"{row.error:+.0%}" if row.error is not None else "-"
    why = row.failure or ("; ".join(prediction.reasons) if prediction.extrapolates else "")
    return f"{row.name:34} {prediction.median_ms:12.3f} {interval:>23} {measured:>12} {error:>8}  {why}"


HANDLERS: Mapping[str, Callable[[argparse.Namespace], int]] = MappingProxyType({"evaluate": run_evaluate})
