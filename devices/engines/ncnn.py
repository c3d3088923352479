"""ncnn, on the CPU: the model is converted by pnnx, a program in a wheel of its own.

One session is one target: `threads` is ncnn's `num_threads`, storage and arithmetic in float16 and bfloat16
are off, so that float32 stays float32. ncnn's tensors are those of computer vision: one to four axes of
float32 or int32, and the batch apart, which pnnx finds among the axes of each input and output. Batches of
more than one are taken as far as the layers do: the comparison with ONNX Runtime tells.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import ncnn
import numpy as np
from numpy.typing import NDArray

from devices.clock import SystemClock
from devices.engine import DEFAULT_ONLY, Tensors
from devices.engines.conversion import Conversion, run_converter
from devices.engines.faithful import Reference, check_faithful, forget_peak_memory, run_reference
from devices.engines.offers import cpu_runtimes, require_offered
from devices.engines.onnx_bytes import without_weights_among_inputs
from devices.errors import EngineUnavailable, FailureCode, ModelRejected, WorkFailed
from devices.measurement import LayerProfile, LayerTime
from devices.statistics import median
from devices.target import Runtime

NO_BATCH = 233  # pnnx's number for a tensor without a batch axis
DISCARDED = "/dev/null"
SHAPE_TYPES = {
    "float16": "f16", "float32": "f32", "float64": "f64", "bool": "i8",
    **{f"{sign}int{bits}": f"{sign[:1] or 'i'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
# pnnx writes a program that runs what it converted; it says which axis of each input and output is the batch.
INPUT_AXIS = re.compile(r"ex\.input\(\"in(?P<index>\d+)\".*?batch_index=(?P<axis>\d+)")
OUTPUT_AXIS = re.compile(r"out(?P<index>\d+)\.numpy\(.*?batch_index=(?P<axis>\d+)")
# What pnnx could not turn into a layer of ncnn it keeps under its own name, parameters and all.
UNCONVERTED = re.compile(r"^(?:ignore (?P<kind>\S+) \S+ param|todo (?P<other>\S+))", re.MULTILINE)
# pnnx finds sizes by running the model on ONNX Runtime, and tells what that said.
NOT_RUN = re.compile(r"ort (?:CreateSession|Run) failed (?P<reason>[^\n]+)")


class NcnnSession:
    """A loaded network."""

    def __init__(
        self, folder: Path, runtime: Runtime, reference: Reference, notes: Sequence[str] = ()
    ) -> None:
        self.inputs = reference.inputs
        self.notes = notes
        written = (folder / "model.py").read_text()
        self._input_axes = _batch_axes(INPUT_AXIS, written)
        self._output_axes = _batch_axes(OUTPUT_AXIS, written)
        self._output_names = list(reference.outputs)
        self.net = ncnn.Net()
        _configure(self.net.opt, runtime.threads)
        if self.net.load_param(str(folder / "model.param")) or self.net.load_model(str(folder / "model.bin")):
            raise ModelRejected(
                f"ncnn {ncnn.__version__} cannot load what pnnx converted the model into",
                FailureCode.OPERATOR_UNSUPPORTED,
            )

    def run(self, tensors: Tensors) -> Tensors:
        """Run once; the inputs are copied in, as they are by ncnn's users, and the outputs out."""
        kept = self.matrices(tensors)
        outputs: dict[str, NDArray[np.generic]] = {}
        with self.net.create_extractor() as extractor:
            feed(extractor, kept)
            for index, name in enumerate(self._output_names):
                status, value = extractor.extract(f"out{index}")
                if status:
                    raise WorkFailed(
                        FailureCode.INPUTS_INVALID,
                        f"ncnn computes no output {name!r} with these input shapes (status {status})",
                    )
                outputs[name] = np.array(value.numpy(batch_index=self._output_axes.get(index, NO_BATCH)))
        return outputs

    def matrices(self, tensors: Tensors) -> list[ncnn.Mat]:
        """The inputs in the model's order, as ncnn's tensors: integers of 32 bits, floats of 32 bits."""
        found = []
        for index, spec in enumerate(self.inputs):
            kind = np.float32 if np.dtype(spec.dtype).kind == "f" else np.int32
            array = np.ascontiguousarray(tensors[spec.name], kind)
            found.append(ncnn.Mat(array, batch_index=self._input_axes.get(index, NO_BATCH)).clone())
        return found


class NcnnEngine:
    """Satisfies `devices.engine.Engine`."""

    name = "ncnn"

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.version = str(ncnn.__version__)
        self._pnnx = find_pnnx()

    def runtimes(
        self, thread_counts: Sequence[int], optimizations: Sequence[str] = DEFAULT_ONLY
    ) -> Sequence[Runtime]:
        """The CPU, once per thread count."""
        return cpu_runtimes(self.name, self.version, thread_counts, optimizations)

    def load(self, model: bytes, runtime: Runtime, input_shapes: Mapping[str, Sequence[int]]) -> NcnnSession:
        """Convert, compare with ONNX Runtime, and load for the given sizes.

        Raises `EngineUnavailable`, `ModelRejected` (model_invalid, operator_unsupported, inputs_invalid,
        conversion_unfaithful), `MissingInputSizes` and `WorkFailed` (out_of_memory, inputs_invalid).
        """
        library = f"ncnn {self.version}"
        require_offered(runtime, library=library)
        reference = run_reference(model, input_shapes)
        with TemporaryDirectory() as name:
            folder = Path(name)
            convert(self._pnnx, model, folder, reference, library)
            forget_peak_memory()
            trial = NcnnSession(folder, runtime, reference)
            notes = check_faithful(trial, reference, model=model, library=library)
            return NcnnSession(folder, runtime, reference, notes)

    def profile_layers(
        self, model: bytes, runtime: Runtime, tensors: Tensors, runs: int
    ) -> LayerProfile | None:
        """By asking for the outputs of one layer after the other: each question runs what is not yet there.
        Coverage is over whole runs of the same session.
        """
        session = self.load(model, runtime, {name: value.shape for name, value in tensors.items()})
        names, kinds = _layers(session.net)
        times_ns: list[list[int]] = [[] for _ in names]
        totals_ns: list[int] = []
        for run in range(runs + 1):  # the first is warm-up
            before = self.clock.wall_ns()
            session.run(tensors)
            totals_ns.append(self.clock.wall_ns() - before)
            for index, took_ns in enumerate(_layer_times(session, tensors, self.clock)):
                if run:
                    times_ns[index].append(took_ns)
        layers = tuple(
            LayerTime(name=name, kind=kind, provider="cpu", median_ns=round(median(values)))
            for name, kind, values in zip(names, kinds, times_ns, strict=True)
        )
        covered_ns = sum(layer.median_ns for layer in layers)
        return LayerProfile(layers=layers, coverage=covered_ns / median(totals_ns[1:])) if layers else None


def find_pnnx() -> Path:
    """The converter, in its own wheel. Its Python package is not imported: that needs PyTorch.

    Raises `EngineUnavailable` where it is not installed.
    """
    spec = importlib.util.find_spec("pnnx")
    for folder in [] if spec is None else spec.submodule_search_locations or []:
        if (path := Path(folder) / "pnnx").is_file():
            return path
    raise EngineUnavailable(
        "ncnn needs its converter to run ONNX models: pip install --no-deps pnnx (PyTorch, which it names as "
        "a dependency, is not needed)"
    )


def feed(extractor: ncnn.Extractor, matrices: Sequence[ncnn.Mat]) -> None:
    """Give an extractor its inputs; the caller keeps them alive."""
    for index, matrix in enumerate(matrices):
        extractor.input(f"in{index}", matrix)


def convert(pnnx: Path, model: bytes, folder: Path, reference: Reference, library: str) -> None:
    """Write `model.param`, `model.bin` and `model.py` into `folder`.

    Raises `ModelRejected` (operator_unsupported) where the model is none for ncnn, and `WorkFailed`
    (out_of_memory).
    """
    for name, shape in reference.shapes.items():
        if not shape:
            raise ModelRejected(
                f"{library} takes no input without axes, such as {name!r}; export the model with its value "
                "inside",
                FailureCode.OPERATOR_UNSUPPORTED,
            )
    # pnnx takes every listed input for one that is given, weights too.
    (folder / "model.onnx").write_bytes(without_weights_among_inputs(model))
    command = [str(pnnx), "model.onnx", "fp16=0"]
    if any(spec.is_dynamic for spec in reference.inputs):
        sizes = [
            f"{list(reference.shapes[spec.name])}{SHAPE_TYPES[spec.dtype]}".replace(" ", "")
            for spec in reference.inputs
        ]
        command.append(f"inputshape={','.join(sizes)}")
    command += ["ncnnparam=model.param", "ncnnbin=model.bin", "ncnnpy=model.py"]
    command += [f"{unused}={DISCARDED}" for unused in ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx")]
    conversion = run_converter(command, folder)
    is_complete = all((folder / f"model.{end}").is_file() for end in ("param", "bin", "py"))
    unconverted = [match["kind"] or match["other"] for match in UNCONVERTED.finditer(conversion.output)]
    if is_complete:
        unconverted += _unknown_layers((folder / "model.param").read_text())
    if conversion.status or not is_complete or unconverted:
        raise failure_of_conversion(conversion, unconverted, library)


def failure_of_conversion(
    conversion: Conversion, unconverted: Sequence[str], library: str
) -> ModelRejected | WorkFailed:
    """What the end of the converter means; `unconverted`: operators that it named."""
    if conversion.ran_out_of_memory:
        return WorkFailed(
            FailureCode.OUT_OF_MEMORY,
            f"{library} needs more memory than the limit to convert the model: {conversion.last_words}",
        )
    if unconverted:
        names = ", ".join(dict.fromkeys(unconverted))
        return ModelRejected(
            f"{library} does not convert operator {names!r} as this model uses it",
            FailureCode.OPERATOR_UNSUPPORTED,
        )
    match = NOT_RUN.search(conversion.output)
    reason = match["reason"] if match else conversion.last_words
    return ModelRejected(
        f"{library} does not convert the operators of this model (pnnx ended with status "
        f"{conversion.status}): {reason}",
        FailureCode.OPERATOR_UNSUPPORTED,
    )


def _unknown_layers(param: str) -> list[str]:
    """Kinds in a network's description that ncnn has no layer for; two lines of head come first."""
    kinds = [line.split()[0] for line in param.splitlines()[2:] if line.strip()]
    return [kind for kind in kinds if ncnn.layer_to_index(kind) < 0]


def _batch_axes(pattern: re.Pattern[str], written: str) -> dict[int, int]:
    return {int(match["index"]): int(match["axis"]) for match in pattern.finditer(written)}


def _configure(options: ncnn.Option, threads: int) -> None:
    options.num_threads = threads
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(options, f"use_{name}", False)


def _layers(net: ncnn.Net) -> tuple[list[str], list[str]]:
    computed = [layer for layer in net.layers() if layer.type != "Input" and layer.tops]
    return [layer.name for layer in computed], [layer.type for layer in computed]


def _layer_times(session: NcnnSession, tensors: Tensors, clock: SystemClock) -> list[int]:
    blobs = session.net.blobs()
    kept = session.matrices(tensors)
    times_ns: list[int] = []
    with session.net.create_extractor() as extractor:
        extractor.set_light_mode(False)  # keep what later questions need
        feed(extractor, kept)
        for layer in session.net.layers():
            if layer.type != "Input" and layer.tops:
                before = clock.wall_ns()
                extractor.extract(blobs[layer.tops[0]].name)
                times_ns.append(clock.wall_ns() - before)
    return times_ns
