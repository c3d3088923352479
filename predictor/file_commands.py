"""`laptime-predictor reference-set | adapt | predict`: from files alone, without a server and without an
engine for the target's runtime.

The reference set is written out, measured by whatever runs models on the target, and the measurements come
back as JSON lines (`predictor.measurement_file`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from devices.model_ref import sha256_of
from predictor.adapt import Observation, adapt
from predictor.checkpoint import MAX_CHECKPOINT_BYTES, Checkpoint
from predictor.errors import AdaptationRejected, CheckpointRejected, GraphRejected, PredictorError
from predictor.evaluate import COVERAGE, AccuracyCard, accuracy_card
from predictor.measured_targets import MeasuredTarget, StatedHardware, measured_targets
from predictor.measurement_file import read_lines
from predictor.model_files import MANIFEST, ModelLibrary, read_manifest, stated_shapes
from predictor.predict import LayerShare, Prediction, Predictor
from predictor.reading.reader import read_graph
from predictor.reference_set import reference_candidates, reference_models, stand_ins
from predictor.resemblance import UNKNOWN_PROCESSOR
from predictor.terminal import print_card, shape_argument


@dataclass(frozen=True, slots=True)
class _Answer:
    """One model: a prediction with its layers, where they were asked for, or the code and the text of a
    refusal.
    """

    path: Path
    prediction: Prediction | None = None
    layers: tuple[LayerShare, ...] | None = None
    refusal: tuple[str, str] | None = None


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `reference-set`, `adapt` and `predict` to a command line; `HANDLERS` run them."""
    reference = commands.add_parser(
        "reference-set", help="write the ten models that every new target measures first, and their stand-ins"
    )
    reference.add_argument("--out", type=Path, required=True, metavar="DIR")
    _add_adapt(commands.add_parser("adapt", help="a predictor for a target, from a file of measurements"))
    _add_predict(commands.add_parser("predict", help="latencies of models on the target of a checkpoint"))


def _add_adapt(adapting: argparse.ArgumentParser) -> None:
    adapting.add_argument("--measurements", type=Path, nargs="+", action="extend", required=True,
                          metavar="FILE", help="JSON lines, one measurement each")  # fmt: skip
    adapting.add_argument("--models", type=Path, action="append", default=[], metavar="DIR",
                          help="where to look for measured models, by path or digest")  # fmt: skip
    adapting.add_argument("--target", metavar="KEY", help="needed where the files hold several targets")
    adapting.add_argument("--hardware", type=Path, metavar="FILE",
                          help="JSON object of facts about the target's hardware, some or all")  # fmt: skip
    adapting.add_argument("--pool", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
                          help="more measurements of other targets, to start from")  # fmt: skip
    adapting.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT", help="file to write")
    adapting.add_argument("--json", action="store_true", help="machine-readable output")


def _add_predict(predicting: argparse.ArgumentParser) -> None:
    predicting.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="ONNX files")
    predicting.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="from `adapt`")
    predicting.add_argument("--shape", action="append", default=[], metavar="NAME=1x3x224x224",
                            type=shape_argument,
                            help="size of an input of all models; NAME= alone is a scalar")  # fmt: skip
    predicting.add_argument("--manifest", type=Path, metavar="FILE",
                            help="sizes of inputs by file name (default: manifest.json beside each "
                            "model)")  # fmt: skip
    predicting.add_argument("--coverage", type=float, default=COVERAGE, metavar="P",
                            help="probability that an interval holds the latency (default: "
                            "%(default)s)")  # fmt: skip
    predicting.add_argument("--layers", action="store_true", help="what each kernel takes, in order")
    predicting.add_argument("--json", action="store_true", help="machine-readable output")


def run_reference_set(parsed: argparse.Namespace) -> int:
    """Write the reference set; the exit status. Raises `PredictorError` rather than write over other
    files.
    """
    manifest = {
        f"{model.name}.onnx": {
            "input_shapes": {name: list(shape) for name, shape in model.input_shapes.items()},
            "sha256": sha256_of(model.model),
            "why": model.why,
        }
        for model in reference_candidates()
    }
    files = {f"{model.name}.onnx": model.model for model in reference_candidates()}
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    folder: Path = parsed.out
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if (folder / name).exists() and (folder / name).read_bytes() != content:
            raise PredictorError(f"{folder / name} is another file; give --out a new folder")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for model in reference_models():
        print(f"{folder / model.name}.onnx  {model.why}")
    print(f"where the runtime refuses some of these {len(reference_models())}, in their place:")
    for model in stand_ins():
        print(f"{folder / model.name}.onnx  {model.why}")
    print(f"{folder / MANIFEST}  sizes of the inputs; measure ten models, then `laptime-predictor adapt`")
    return 0


def run_adapt(parsed: argparse.Namespace) -> int:
    """Adapt to one target and write its checkpoint; the exit status. Raises `PredictorError` or
    `OSError`.
    """
    target, pool, notes = _measured(parsed)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    started_s = time.perf_counter()
    checkpoint = adapt(target.facts, target.observations, pool)
    adapted_s = time.perf_counter()
    card = accuracy_card(target.facts, target.observations, pool)
    examined_s = time.perf_counter()
    content = checkpoint.to_bytes()
    parsed.out.write_bytes(content)
    document: dict[str, object] = {
        "target": target.facts.model_dump(mode="json"),
        "measurements": len(target.observations),
        "accuracy_card": card.model_dump(mode="json"),
        "checkpoint": {"path": str(parsed.out), "bytes": len(content), "sha256": sha256_of(content)},
        "adapt_s": adapted_s - started_s,
        "card_s": examined_s - adapted_s,
        "notes": notes,
    }
    if parsed.json:
        print(json.dumps(document))
    else:
        _print_adapted(target, card)
        print(
            f"adapted in {adapted_s - started_s:.2f} s, examined in {examined_s - adapted_s:.2f} s; "
            f"{len(content):,} bytes in {parsed.out}"
        )
    return 0


def _measured(parsed: argparse.Namespace) -> tuple[MeasuredTarget, list[Observation], list[str]]:
    """The target to adapt to, what all other targets measured, and what the user should know."""
    entries = [entry for path in parsed.measurements for entry in read_lines(path)]
    key = _chosen(sorted({entry.line.target for entry in entries}), parsed.target)
    others = [entry for path in parsed.pool for entry in read_lines(path)]
    pooled = [entry for entry in others if entry.line.target != key]
    targets = measured_targets([*entries, *pooled], ModelLibrary(parsed.models), _hardware(parsed, key))
    target = targets.pop(key)
    notes: list[str] = []
    if len(pooled) < len(others):
        notes.append(
            f"{len(others) - len(pooled)} measurements of {key} itself are in the pool and not used; "
            "name their file with --measurements to adapt to them"
        )
    if target.facts.hardware.cpu_model == UNKNOWN_PROCESSOR:
        notes.append(
            f"nothing is known of {key}'s processor, so adaptation starts from a neutral one; tell its "
            "cpu_model, architecture and isa_flags with --hardware or on a line"
        )
    pool = [observation for other in targets.values() for observation in other.observations]
    return target, pool, notes


def _chosen(keys: Sequence[str], wanted: str | None) -> str:
    there = ", ".join(keys)
    if wanted is None:
        if len(keys) == 1:
            return keys[0]
        raise AdaptationRejected(
            f"the measurements are of {len(keys)} targets: {there}; choose one with --target"
        )
    if wanted not in keys:
        raise AdaptationRejected(f"no measurement of target {wanted!r}; there are some of {there}")
    return wanted


def _hardware(parsed: argparse.Namespace, key: str) -> StatedHardware | None:
    if parsed.hardware is None:
        return None
    try:
        facts = json.loads(parsed.hardware.read_bytes())
    except ValueError as error:
        raise PredictorError(f"{parsed.hardware} is not JSON: {error}") from error
    if not isinstance(facts, dict):
        raise PredictorError(f"{parsed.hardware} must hold a JSON object of facts, got {facts!r:.80}")
    return StatedHardware(key, str(parsed.hardware), facts)


def _print_adapted(target: MeasuredTarget, card: AccuracyCard) -> None:
    facts = target.facts
    runtime = facts.runtime
    flags = " ".join(facts.hardware.isa_flags) or "no vector instructions"
    print(
        f"target {facts.key}\n"
        f"runtime {runtime.engine} {runtime.version} on {runtime.provider}, {runtime.threads} threads, "
        f"precision {runtime.precision}\n"
        f"hardware {facts.hardware.cpu_model}, {facts.hardware.architecture}, "
        f"{facts.hardware.physical_cores} cores, {flags}\n"
        f"prior from {len(card.pooled_targets)} other targets\n"
    )
    print_card("its own measurements, each left out in turn", card)


def run_predict(parsed: argparse.Namespace) -> int:
    """Predict every model; the exit status is 1 where one was refused. Raises `PredictorError` or `OSError`
    for a checkpoint, a manifest or a coverage that serves for none.
    """
    predictor = Predictor(_checkpoint(parsed.checkpoint))
    if not 0.0 < parsed.coverage < 1.0:
        raise PredictorError(f"coverage must lie between 0 and 1, got {parsed.coverage}")
    if parsed.manifest is not None and not parsed.manifest.exists():
        raise PredictorError(f"{parsed.manifest} is not there; correct the path of the manifest")
    answers = [_answer(predictor, path, parsed) for path in parsed.models]
    target_key = predictor.checkpoint.target_key
    if parsed.json:
        print(json.dumps({"target": target_key, "models": [_document(answer) for answer in answers]}))
    else:
        print(f"target {target_key}\n")
        _print_answers(answers, parsed.coverage)
    return 1 if any(answer.refusal for answer in answers) else 0


def _checkpoint(path: Path) -> Checkpoint:
    try:
        if path.stat().st_size > MAX_CHECKPOINT_BYTES:
            raise CheckpointRejected(
                f"it has {path.stat().st_size} bytes, at most {MAX_CHECKPOINT_BYTES} are allowed"
            )
        return Checkpoint.from_bytes(path.read_bytes())
    except CheckpointRejected as error:
        raise CheckpointRejected(f"{path}: {error}") from error


def _answer(predictor: Predictor, path: Path, parsed: argparse.Namespace) -> _Answer:
    manifest: Path = parsed.manifest or path.parent / MANIFEST
    try:
        shapes = {**stated_shapes(read_manifest(manifest), path.name, manifest), **dict(parsed.shape)}
        graph = read_graph(path.read_bytes(), shapes)
        layers = predictor.breakdown(graph) if parsed.layers else None
        return _Answer(path, predictor.predict(graph, parsed.coverage), layers)
    except GraphRejected as error:
        return _Answer(path, refusal=(error.code.value, str(error)))
    except PredictorError as error:
        return _Answer(path, refusal=("rejected", str(error)))
    except OSError as error:
        return _Answer(path, refusal=("unreadable", str(error)))


def _document(answer: _Answer) -> dict[str, object]:
    refusal = None if answer.refusal is None else dict(zip(("code", "message"), answer.refusal, strict=True))
    return {
        "model": str(answer.path),
        "prediction": None if answer.prediction is None else asdict(answer.prediction),
        "layers": None if answer.layers is None else [asdict(layer) for layer in answer.layers],
        "refusal": refusal,
    }


def _print_answers(answers: Sequence[_Answer], coverage: float) -> None:
    width = max(len("model"), *(len(str(answer.path)) for answer in answers))
    print(f"{'model':{width}} {'predicted ms':>12} {f'{coverage:.0%} interval':>23}  extrapolates")
    for answer in answers:
        if answer.prediction is None:
            print(f"{answer.path!s:{width}} refused: {': '.join(answer.refusal or ())}")
            continue
        one = answer.prediction
        interval = f"{one.lower_ms:.3f} to {one.upper_ms:.3f}"
        print(f"{answer.path!s:{width}} {one.median_ms:12.3f} {interval:>23}  {'; '.join(one.reasons)}")
        for layer in answer.layers or ():
            share = layer.ms / one.median_ms
            operators = " + ".join(layer.operators)
            print(f"    {layer.ms:10.4f} ms {share:6.1%}  {layer.kind:12} {layer.name}  {operators}")


HANDLERS: Mapping[str, Callable[[argparse.Namespace], int]] = MappingProxyType(
    {"reference-set": run_reference_set, "adapt": run_adapt, "predict": run_predict}
)
