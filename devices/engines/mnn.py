"""MNN, on the CPU: the model is converted by MNN's own converter and run through its module interface, which
takes control flow as well.

One session is one target: `threads` is MNN's thread number, precision is high, so that float32 stays float32
on processors that have float16 or bfloat16 (MNN calls those low), and input sizes are fixed. Weights of
float16 are stored and computed with as float32.

The converter is called in its compiled module `_tools`: the Python program around it (`mnnconvert`) tries to
install a package and to send what it converted to its maker's server.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import MNN
import numpy as np
from MNN import expr, nn
from numpy.typing import NDArray

from devices.clock import SystemClock
from devices.engine import DEFAULT_ONLY, Tensors
from devices.engines.conversion import Conversion, run_converter
from devices.engines.faithful import Reference, check_faithful, forget_peak_memory, run_reference
from devices.engines.offers import cpu_runtimes, require_offered
from devices.errors import FailureCode, ModelRejected, WorkFailed
from devices.measurement import LayerProfile
from devices.target import Runtime

CONVERT = """
import sys
sys.path.insert(0, sys.argv[1])
import _tools
_tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", "model.mnn",
                   "--bizCode", "laptime"])
"""
UNSUPPORTED = "These Op Not Support:"
# What MNN takes for an input of each type: it has no 64-bit integers, and floats are of 32 bits.
INPUT_TYPES = {
    "uint8": (expr.uint8, np.uint8), "int8": (expr.int8, np.int8),
    **dict.fromkeys(("float16", "float32", "float64"), (expr.float, np.float32)),
    **dict.fromkeys(("bool", "int16", "uint16", "int32", "uint32", "int64", "uint64"), (expr.int, np.int32)),
}  # fmt: skip
FLOAT16_NOTE = "MNN has no float16 on this processor: the model was computed in float32"


class MnnSession:
    """A loaded module with one placeholder per input."""

    def __init__(self, path: Path, runtime: Runtime, reference: Reference, notes: Sequence[str] = ()) -> None:
        self.inputs = reference.inputs
        self.notes = notes
        self._output_names = list(reference.outputs)
        self._manager = nn.create_runtime_manager(
            ({"backend": "CPU", "numThread": runtime.threads, "precision": "high"},)
        )
        try:
            self._module = nn.load_module_from_file(
                str(path),
                [spec.name for spec in reference.inputs],
                self._output_names,
                runtime_manager=self._manager,
                dynamic=False,
                shape_mutable=False,
                rearrange=True,
            )
        except (SystemError, RuntimeError) as error:
            raise ModelRejected(
                f"MNN {MNN.version()} cannot load what it converted the model into: {error}",
                FailureCode.OPERATOR_UNSUPPORTED,
            ) from error
        self._types = {spec.name: INPUT_TYPES[spec.dtype][1] for spec in reference.inputs}
        self._placeholders = [
            expr.placeholder(list(reference.shapes[spec.name]), expr.NCHW, INPUT_TYPES[spec.dtype][0])
            for spec in reference.inputs
        ]

    def run(self, tensors: Tensors) -> Tensors:
        """Run once; inputs are copied in and outputs copied out, as they are by MNN's users."""
        for placeholder, (name, dtype) in zip(self._placeholders, self._types.items(), strict=True):
            placeholder.write(np.ascontiguousarray(tensors[name], dtype))
        try:
            results = self._module.onForward(self._placeholders)
            values = [_read(result) for result in results]
        except (SystemError, RuntimeError, ValueError) as error:
            raise WorkFailed(
                FailureCode.INPUTS_INVALID, f"MNN cannot run the model with these input shapes: {error}"
            ) from error
        if len(values) != len(self._output_names):
            raise WorkFailed(
                FailureCode.INPUTS_INVALID,
                f"MNN gave {len(values)} of {len(self._output_names)} outputs with these input shapes",
            )
        return dict(zip(self._output_names, values, strict=True))


class MnnEngine:
    """Satisfies `devices.engine.Engine`."""

    name = "mnn"

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.version = str(MNN.version())

    def runtimes(
        self, thread_counts: Sequence[int], optimizations: Sequence[str] = DEFAULT_ONLY
    ) -> Sequence[Runtime]:
        """The CPU, once per thread count."""
        return cpu_runtimes(self.name, self.version, thread_counts, optimizations)

    def load(self, model: bytes, runtime: Runtime, input_shapes: Mapping[str, Sequence[int]]) -> MnnSession:
        """Convert, compare with ONNX Runtime, and load for the given sizes.

        Raises `EngineUnavailable`, `ModelRejected` (model_invalid, operator_unsupported, inputs_invalid,
        conversion_unfaithful), `MissingInputSizes` and `WorkFailed` (out_of_memory, inputs_invalid).
        """
        library = f"MNN {self.version}"
        require_offered(runtime, library=library)
        reference = run_reference(model, input_shapes)
        with TemporaryDirectory() as folder:
            path = convert(model, Path(folder), library)
            forget_peak_memory()
            notes = check_faithful(
                MnnSession(path, runtime, reference), reference, model=model, library=library
            )
            if any(spec.dtype == "float16" for spec in reference.inputs):
                notes = (*notes, FLOAT16_NOTE)
            return MnnSession(path, runtime, reference, notes)

    def profile_layers(
        self, model: bytes, runtime: Runtime, tensors: Tensors, runs: int
    ) -> LayerProfile | None:
        """None: a module does not tell what its operators take."""
        del model, runtime, tensors, runs
        return None


def convert(model: bytes, folder: Path, library: str) -> Path:
    """The path of the converted model in `folder`.

    Raises `ModelRejected` (operator_unsupported, naming the operators; model_invalid) and `WorkFailed`
    (out_of_memory).
    """
    (folder / "model.onnx").write_bytes(model)
    tools = importlib.util.find_spec("_tools")
    where = Path(str(tools.origin)).parent if tools is not None else folder
    conversion = run_converter([sys.executable, "-I", "-c", CONVERT, str(where)], folder)
    path = folder / "model.mnn"
    if conversion.status == 0 and path.is_file() and UNSUPPORTED not in conversion.output:
        return path
    raise failure_of_conversion(conversion, library)


def failure_of_conversion(conversion: Conversion, library: str) -> ModelRejected | WorkFailed:
    """What the end of the converter means."""
    if conversion.ran_out_of_memory:
        return WorkFailed(
            FailureCode.OUT_OF_MEMORY,
            f"{library} needs more memory than the limit to convert the model: {conversion.last_words}",
        )
    _, separator, rest = conversion.output.partition(UNSUPPORTED)
    if separator:
        operators = " ".join(rest.splitlines()[0].split()).replace("ONNX::", "")
        return ModelRejected(
            f"{library} does not convert operator {operators!r}", FailureCode.OPERATOR_UNSUPPORTED
        )
    return ModelRejected(
        f"{library} does not convert the model (its converter ended with status {conversion.status}): "
        f"{conversion.last_words}",
        FailureCode.OPERATOR_UNSUPPORTED,
    )


def _read(result: expr.Var) -> NDArray[np.generic]:
    ordinary = expr.convert(result, expr.NCHW) if result.data_format == expr.NC4HW4 else result
    return np.asarray(ordinary.read())
