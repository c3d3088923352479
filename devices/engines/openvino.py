"""OpenVINO: every device that it reports (the CPU; Intel GPUs and NPUs where there are drivers).

One session is one target: latency hint, one stream, `threads` is `INFERENCE_NUM_THREADS`. Precision `native`
keeps float32 models in float32: left alone, OpenVINO computes in bfloat16 wherever the processor can, and
would answer another question. Input sizes that are given are compiled in, as deployments do; thread pinning
is OpenVINO's default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean

import openvino as ov

from devices.clock import SystemClock
from devices.engine import DEFAULT_ONLY, Tensors
from devices.engines.faithful import Reference, check_faithful, forget_peak_memory, run_reference
from devices.engines.offers import require_offered
from devices.errors import FailureCode, MissingInputSizes, ModelRejected, WorkFailed
from devices.inputs import check_dtype
from devices.measurement import LayerProfile, LayerTime
from devices.model_ref import InputSpec
from devices.target import Runtime

PRECISION_HINTS = {"native": "f32", "fp16": "f16", "bf16": "bf16"}
NUMPY_NAMES = {
    "f16": "float16", "f32": "float32", "f64": "float64", "bf16": "bfloat16", "boolean": "bool",
    "string": "string", **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}  # fmt: skip
UNCONVERTED = (
    re.compile(  # the summary of OpenVINO's conversion; operators are written as Conv-16, with their opset
        r"(?:No conversion rule found for operations|Conversion is failed for): (?P<operators>[^\n]+)"
    )
)
UNREADABLE = "Unable to read the model"
MEMORY_SIGNS = (
    "bad_alloc",
    "Failed to allocate",
    "Cannot allocate memory",
    "out of memory",
    "Out of memory",
    "CL_OUT_OF",
)
RESULT_SUFFIX = "/sink_port_0"  # of the node that stands for an output
MAX_DETAIL_CHARACTERS = 1500
NS_PER_US = 1000


class OpenVinoSession:
    """A compiled model with one infer request."""

    def __init__(
        self, inputs: Sequence[InputSpec], compiled: ov.CompiledModel, notes: Sequence[str] = ()
    ) -> None:
        self.inputs = inputs
        self.notes = notes
        self._names = [_name_of(port, f"output_{index}") for index, port in enumerate(compiled.outputs)]
        self._keys = {spec.name: index for index, spec in enumerate(inputs)}
        self.request = compiled.create_infer_request()

    def run(self, tensors: Tensors) -> Tensors:
        """Run once and wait. Inputs and outputs are shared with the runtime, not copied, as ONNX Runtime
        does.
        """
        feed = {self._keys[name]: tensor for name, tensor in tensors.items()}
        try:
            results = self.request.infer(feed, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise failure_of_run(error) from error
        return dict(zip(self._names, results.values(), strict=True))


class OpenVinoEngine:
    """Satisfies `devices.engine.Engine`."""

    name = "openvino"

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.version = ov.__version__.split("-")[0]
        self._core = _core()
        self._devices = {str(device).lower(): str(device) for device in self._core.available_devices}

    def runtimes(
        self, thread_counts: Sequence[int], optimizations: Sequence[str] = DEFAULT_ONLY
    ) -> Sequence[Runtime]:
        """One per device and thread count; only the CPU's latency depends on threads, others come once."""
        if "default" not in optimizations:
            return []
        found: list[Runtime] = []
        for slug in sorted(self._devices, key=lambda device: device != "cpu"):
            counts = thread_counts if slug == "cpu" else thread_counts[:1]
            found += [
                Runtime(engine=self.name, version=self.version, provider=slug, threads=n) for n in counts
            ]
        return found

    def load(
        self, model: bytes, runtime: Runtime, input_shapes: Mapping[str, Sequence[int]]
    ) -> OpenVinoSession:
        """A compiled model, with the given sizes compiled in; where all sizes are known, compared with ONNX
        Runtime.

        Raises `EngineUnavailable`, `ModelRejected` (model_invalid, operator_unsupported, inputs_invalid,
        conversion_unfaithful) and `WorkFailed` (out_of_memory).
        """
        graph, inputs = self._read(model, runtime, input_shapes)
        reference = _reference(model, input_shapes, runtime)
        forget_peak_memory()
        compiled = self._compile(graph, runtime, {})
        if reference is None:
            return OpenVinoSession(inputs, compiled)
        notes = check_faithful(
            OpenVinoSession(inputs, compiled), reference, model=model, library=f"OpenVINO {self.version}"
        )
        return OpenVinoSession(inputs, compiled, notes)

    def profile_layers(
        self, model: bytes, runtime: Runtime, tensors: Tensors, runs: int
    ) -> LayerProfile | None:
        """From OpenVINO's performance counters, the mean of `runs`. Coverage is over the end-to-end time of
        the same runs. The counters hold means since compilation, so what the first run took, which prepares
        weights and may take a hundred times as long, is taken out of them.
        """
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        graph, inputs = self._read(model, runtime, shapes)
        session = OpenVinoSession(inputs, self._compile(graph, runtime, {"PERF_COUNT": True}))
        session.run(tensors)
        first_ns = _mean_times_ns(session)
        totals_ns: list[int] = []
        for _ in range(runs):
            before = self.clock.wall_ns()
            session.run(tensors)
            totals_ns.append(self.clock.wall_ns() - before)
        layers = tuple(
            LayerTime(
                name=name,
                kind=kind,
                provider=runtime.provider,
                median_ns=round(max((runs + 1) * mean_ns - first_ns.get((name, kind), mean_ns), 0.0) / runs),
            )
            for (name, kind), mean_ns in _mean_times_ns(session).items()
        )
        if not layers:
            return None
        return LayerProfile(
            layers=layers, coverage=sum(layer.median_ns for layer in layers) / fmean(totals_ns)
        )

    def _read(
        self, model: bytes, runtime: Runtime, input_shapes: Mapping[str, Sequence[int]]
    ) -> tuple[ov.Model, list[InputSpec]]:
        """The graph with the given sizes, and its inputs as the file declares them."""
        require_offered(
            runtime,
            library=f"OpenVINO {self.version}",
            providers=tuple(self._devices),
            precisions=tuple(PRECISION_HINTS),
        )
        try:
            graph = self._core.read_model(model, b"")
            inputs = [_declared(port, index) for index, port in enumerate(graph.inputs)]
            _set_sizes(graph, inputs, input_shapes)
        except (RuntimeError, MemoryError) as error:
            raise failure_of_load(error, self.version) from error
        return graph, inputs

    def _compile(self, graph: ov.Model, runtime: Runtime, extra: Mapping[str, object]) -> ov.CompiledModel:
        device = self._devices[runtime.provider]
        try:
            return self._core.compile_model(graph, device, {**_configuration(runtime, device), **extra})
        except (RuntimeError, MemoryError) as error:
            raise failure_of_load(error, self.version) from error


def _mean_times_ns(session: OpenVinoSession) -> dict[tuple[str, str], float]:
    """By name and kind of the executed nodes, over all runs so far."""
    means: dict[tuple[str, str], float] = {}
    for node in session.request.profiling_info:
        if node.status == ov.ProfilingInfo.Status.EXECUTED:
            key = (node.node_name, node.node_type)
            means[key] = means.get(key, 0.0) + node.real_time.total_seconds() * 1e6 * NS_PER_US
    return means


@cache
def _core() -> ov.Core:
    """The one core of this process, which is never let go.

    OpenVINO's CPU plugin gives the thread that loads it another signal stack, and when it is unloaded it puts
    the former one back, in the belief that plugins go in the reverse order of their coming. Two cores that do
    not leave the thread with a signal stack that is no longer mapped (2026.4), and the next signal kills the
    process: Python's handlers run on that stack.
    """
    return ov.Core()


def failure_of_load(error: Exception, version: str) -> ModelRejected | WorkFailed:
    """What an error of reading or compiling means."""
    message = str(error)
    if isinstance(error, MemoryError) or any(sign in message for sign in MEMORY_SIGNS):
        return WorkFailed(
            FailureCode.OUT_OF_MEMORY,
            f"compiling the model needs more memory than its limit: {_plain(message)}",
        )
    if match := UNCONVERTED.search(message):
        return ModelRejected(
            f"OpenVINO {version} cannot convert operator {match.group('operators').strip()!r} "
            f"as this model uses it: {_plain(message)}",
            FailureCode.OPERATOR_UNSUPPORTED,
        )
    if UNREADABLE in message:
        return ModelRejected(f"OpenVINO {version} cannot read the file as ONNX", FailureCode.MODEL_INVALID)
    return ModelRejected(
        f"OpenVINO {version} refuses the model: {_plain(message)}", FailureCode.MODEL_INVALID
    )


def failure_of_run(error: Exception) -> WorkFailed:
    """What an error of a run means: memory, or inputs that do not fit the model."""
    message = str(error)
    if any(sign in message for sign in MEMORY_SIGNS):
        return WorkFailed(
            FailureCode.OUT_OF_MEMORY,
            f"running the model needs more memory than its limit: {_plain(message)}",
        )
    return WorkFailed(
        FailureCode.INPUTS_INVALID,
        f"OpenVINO cannot run the model with these input shapes: {_plain(message)}",
    )


def _reference(model: bytes, input_shapes: Mapping[str, Sequence[int]], runtime: Runtime) -> Reference | None:
    """None where there is nothing to compare with: sizes are missing, or ONNX Runtime lacks an operator."""
    try:
        return run_reference(model, input_shapes, precision=runtime.precision)
    except MissingInputSizes:
        return None
    except ModelRejected as error:
        if error.code is FailureCode.OPERATOR_UNSUPPORTED:
            return None
        raise


def _configuration(runtime: Runtime, device: str) -> dict[str, object]:
    configuration: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[runtime.precision],
        "NUM_STREAMS": 1,
    }
    if device == "CPU":
        configuration["INFERENCE_NUM_THREADS"] = runtime.threads
    return configuration


def _set_sizes(
    graph: ov.Model, inputs: Sequence[InputSpec], input_shapes: Mapping[str, Sequence[int]]
) -> None:
    """Compile-time sizes of the inputs that were given. Raises `ModelRejected` where they do not fit the
    graph.
    """
    unknown = sorted(set(input_shapes) - {spec.name for spec in inputs})
    if unknown:
        raise ModelRejected(
            f"no input is named {', '.join(map(repr, unknown))}; "
            f"the model's inputs are {[spec.name for spec in inputs]}",
            FailureCode.INPUTS_INVALID,
        )
    shapes = {
        index: ov.PartialShape(list(input_shapes[spec.name]))
        for index, spec in enumerate(inputs)
        if spec.name in input_shapes and spec.is_dynamic
    }
    if not shapes:
        return
    try:
        graph.reshape(shapes)
    except RuntimeError as error:
        raise ModelRejected(
            f"the graph does not fit input shapes {dict(input_shapes)}: {_plain(str(error))}",
            FailureCode.INPUTS_INVALID,
        ) from error


def _declared(port: ov.Output, index: int) -> InputSpec:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise ModelRejected(
            f"input {_name_of(port, f'input_{index}')!r} declares no rank; export the model with one",
            FailureCode.INPUTS_INVALID,
        )
    axes = [None if axis.is_dynamic else axis.get_length() for axis in shape]
    kind = port.get_element_type().get_type_name()
    spec = InputSpec.declared(_name_of(port, f"input_{index}"), NUMPY_NAMES.get(kind, kind), axes)
    check_dtype(spec)
    return spec


def _name_of(port: ov.Output, otherwise: str) -> str:
    """A tensor that nodes only pass on has the names of all of them; the node of an input or output has the
    file's own.
    """
    own = port.get_node().get_friendly_name().removesuffix(RESULT_SUFFIX)
    names = sorted(port.get_names())
    if own in names:
        return str(own)
    return names[0] if names else otherwise


def _plain(message: str) -> str:
    return " ".join(message.split())[:MAX_DETAIL_CHARACTERS]
