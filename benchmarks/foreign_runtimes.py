"""How well models are told on runtimes that nobody here has an engine for, from ten measurements made by
hand: OpenCV's networks, and tract, which is written in Rust.

    pip install opencv-python-headless==5.0.0.93 tract==0.23.9
    python -m benchmarks.foreign_runtimes --models DIR --out DIR [--runtime opencv] [--seconds 1] [--passes 3]

Each model runs in a process and on a thread of its own: until 0.3 s are over, and then for so many seconds,
run by run; the reference models first, then the ONNX files of a folder at the sizes in its manifest.json, and
all of them again in each pass, for a machine's speed changes within minutes. What was measured is kept in
`--out` as JSON lines, which `laptime-predictor adapt` reads, and not measured again; what a runtime refuses
is left out. The target is then adapted from the reference models alone, with what is known of this machine,
and the others are predicted; a model took the median of its passes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from devices.hardware import read_device
from devices.inputs import make_tensors
from devices.model_ref import resolve_input_shapes
from predictor.adapt import Observation, adapt
from predictor.errors import PredictorError
from predictor.evaluate import FAR_OFF, card_of
from predictor.measured_targets import MeasuredTarget, measured_targets
from predictor.measurement_file import read_lines
from predictor.model_files import MANIFEST, ModelLibrary, read_manifest, stated_shapes
from predictor.predict import Prediction, Predictor
from predictor.reading.reader import read_inputs
from predictor.reference_set import reference_candidates, telling
from predictor.terminal import print_card

Tensors = Mapping[str, NDArray[np.generic]]
Run = Callable[[], object]

_WARM_S = 0.3
_FEWEST, _MOST = 5, 2000  # runs
_LONGEST_S = 180.0  # of a process
_TRACT_TYPES = {
    "float32": "f32", "float64": "f64", "float16": "f16", "int64": "i64", "int32": "i32", "int16": "i16",
    "int8": "i8", "uint16": "u16", "uint8": "u8", "bool": "bool",
}  # fmt: skip


def _opencv(path: str, tensors: Tensors) -> Run:
    cv2: Any = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(path)
    outputs = net.getUnconnectedOutLayersNames()

    def run() -> object:
        for name, tensor in tensors.items():
            net.setInput(tensor, name)
        return net.forward(outputs)

    return run


def _tract(path: str, tensors: Tensors) -> Run:
    tract: Any = importlib.import_module("tract")
    model = tract.onnx().load(path)
    names = [model.input_name(place) for place in range(model.input_count())]
    for place, name in enumerate(names):
        tensor = tensors[name]
        model.set_input_fact(place, ",".join([*map(str, tensor.shape), _TRACT_TYPES[str(tensor.dtype)]]))
    runnable = model.into_model().into_runnable()
    given = [tract.Tensor.from_numpy(tensors[name]) for name in names]
    return lambda: runnable.run(given)


def _onnx_reference(path: str, tensors: Tensors) -> Run:
    evaluator = ReferenceEvaluator(path)
    return lambda: evaluator.run(None, dict(tensors))


@dataclass(frozen=True, slots=True)
class Foreign:
    """A runtime: the package that has it, and what makes a model ready to run."""

    package: str
    ready: Callable[[str, Tensors], Run]


RUNTIMES = {
    "opencv": Foreign("opencv-python-headless", _opencv),
    "tract": Foreign("tract", _tract),
    "onnx-reference": Foreign("onnx", _onnx_reference),  # numpy, operator by operator: slow, and always there
}


@dataclass(frozen=True, slots=True)
class Told:
    """A model as it was measured, what is said of it, and the class of kernels that it spends its time in."""

    measured: Observation
    prediction: Prediction
    family: str

    @property
    def name(self) -> str:
        """Of the model."""
        return self.measured.name

    @property
    def ratio(self) -> float:
        """Predicted over measured milliseconds."""
        return self.prediction.median_ms / self.measured.median_ms


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parser().parse_args(arguments)
    if options.time is not None:
        shapes = {name: tuple(shape) for name, shape in json.loads(options.shapes).items()}
        print(json.dumps(timed(RUNTIMES[options.runtime[0]], options.time, shapes, options.seconds)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for runtime in options.runtime or ("opencv", "tract"):
        for passed in range(max(options.passes, 1)):
            measured = measure(runtime, options.models, options.out, options.seconds, passed)
        try:
            _print(runtime, told(measured, options.models))
        except PredictorError as error:
            print(f"{runtime}: {error}", file=sys.stderr)
            return 1
    return 0


def timed(runtime: Foreign, path: Path, shapes: Mapping[str, tuple[int, ...]], seconds: float) -> list[int]:
    """Nanoseconds of runs of one model, in this process, on one thread and one core of those at hand."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    specs = read_inputs(path.read_bytes())
    run = runtime.ready(str(path), make_tensors(specs, resolve_input_shapes(specs, shapes), seed=0))
    began = time.perf_counter()
    run()
    while time.perf_counter() - began < min(_WARM_S, seconds):
        run()
    samples: list[int] = []
    began = time.perf_counter()
    while len(samples) < _FEWEST or (time.perf_counter() - began < seconds and len(samples) < _MOST):
        started = time.perf_counter_ns()
        run()
        samples.append(time.perf_counter_ns() - started)
    return samples


def measure(runtime: str, models: Path, out: Path, seconds: float, passed: int = 0) -> Path:
    """The file of measurements of a runtime, with those of a pass that were missing; refusals stand in a file
    beside it.
    """
    file, refused = out / f"{runtime}.jsonl", out / f"{runtime}.refused.jsonl"
    known = Counter(line["model"] for line in _lines(file))
    known.update({line["model"]: passed + 1 for line in _lines(refused)})
    device = read_device(None)
    version = importlib.metadata.version(RUNTIMES[runtime].package)
    for path, shapes in _subjects(models, out / "reference"):
        model = os.path.relpath(path, out)
        if known[model] > passed:
            continue
        line: dict[str, object] = {"model": model, "input_shapes": shapes, "name": path.stem}
        samples, error = _in_a_process(runtime, path, shapes, seconds)
        if samples is None:
            with refused.open("a") as stream:
                stream.write(json.dumps(line | {"error": error}) + "\n")
            continue
        line |= {"target": f"{device.key}/{runtime}-{version}/cpu/t1", "samples_ns": samples}
        line |= {"hardware": device.hardware.model_dump(mode="json")}
        with file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
    return file


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _subjects(models: Path, references: Path) -> Iterator[tuple[Path, dict[str, list[int]]]]:
    """Files and the sizes of their inputs; the reference models are written to a folder."""
    references.mkdir(parents=True, exist_ok=True)
    for model in reference_candidates():
        path = references / f"{model.name}.onnx"
        path.write_bytes(model.model)
        yield path, {name: list(shape) for name, shape in model.input_shapes.items()}
    manifest = models / MANIFEST
    described = read_manifest(manifest)
    for path in sorted(models.glob("*.onnx")):
        shapes = stated_shapes(described, path.name, manifest)
        yield path, {name: list(shape) for name, shape in shapes.items()}


def _in_a_process(
    runtime: str, path: Path, shapes: Mapping[str, Sequence[int]], seconds: float
) -> tuple[list[int] | None, str]:
    """The samples, or None and the last line of what the process had to say."""
    command = [sys.executable, "-m", "benchmarks.foreign_runtimes", "--runtime", runtime]
    command += ["--time", str(path), "--shapes", json.dumps(shapes), "--seconds", str(seconds)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    try:
        ran = subprocess.run(
            command, env=os.environ | threads, capture_output=True, text=True, timeout=_LONGEST_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"longer than {_LONGEST_S:g} s"
    if ran.returncode:
        return None, (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
    return json.loads(ran.stdout.splitlines()[-1]), ""


def told(file: Path, models: Path) -> list[Told]:
    """What each model of the folder is said to take, from the first reference models that ran. Models whose
    graphs are refused are left out.
    """
    references = {model.name for model in reference_candidates()}
    library = ModelLibrary([models])
    targets: list[MeasuredTarget] = []
    refused: dict[str, str] = {}
    for entry in read_lines(file):
        try:
            targets += measured_targets([entry], library).values()
        except PredictorError as error:
            refused[entry.line.model] = str(error)
    print(*refused.values(), sep="\n", end="\n" if refused else "", file=sys.stderr)
    passes: dict[str, list[Observation]] = defaultdict(list)
    for target in targets:
        for one in target.observations:
            passes[one.name].append(one)
    observations = {
        name: replace(own[0], median_ms=median([one.median_ms for one in own]))
        for name, own in passes.items()
    }
    support = [observations[name] for name in telling(references & observations.keys())]
    others = [one for name, one in observations.items() if name not in references]
    predictor = Predictor(adapt(targets[0].facts, support))
    described = [predictor.describe(one.graph) for one in others]
    said = predictor.predict_described(described)
    return [
        Told(measured, prediction, about.family)
        for measured, prediction, about in zip(others, said, described, strict=True)
    ]


def _print(runtime: str, models: Sequence[Told]) -> None:
    predictions, measured_ms = [one.prediction for one in models], [one.measured.median_ms for one in models]
    print_card(runtime, card_of(predictions, measured_ms, [one.family for one in models]))
    far = [one for one in models if not 1.0 / FAR_OFF <= one.ratio <= FAR_OFF]
    for one in sorted(far, key=lambda one: one.ratio):
        warned = "with a warning" if one.prediction.extrapolates else "without a warning"
        print(f"    {one.name}: {one.ratio:.2f} times what it takes, {warned}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.foreign_runtimes")
    parser.add_argument("--models", type=Path, metavar="DIR", default=Path(),
                        help="ONNX files, with a manifest.json or not")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("foreign-runtimes"),
                        help="where the measurements go (default: foreign-runtimes)")  # fmt: skip
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, help="(default: opencv and tract)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of runs, for each model and pass")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)  # a process of its own
    parser.add_argument("--shapes", default="{}", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
