"""ONNX Runtime: every execution provider that the installed build reports and that really runs here.

One session is one target: `threads` is `intra_op_num_threads`, nodes run one after the other (sequential
mode, one inter-op thread). By default all graph optimisations are on; the levels below that (none, basic,
extended) are targets of their own. Spinning stays as ONNX Runtime has it by default,
since that is what users get: with two or more threads the workers wait busily between operators, so processor
time exceeds what the model needs, and between two runs they wait a moment before they sleep.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from devices.clock import SystemClock
from devices.engine import DEFAULT_ONLY, Tensors
from devices.errors import EngineUnavailable, FailureCode, ModelRejected, WorkFailed
from devices.inputs import check_dtype
from devices.measurement import LayerProfile, LayerTime
from devices.model_ref import InputSpec
from devices.statistics import median
from devices.target import Runtime

PROVIDER_SUFFIX = "ExecutionProvider"
# Azure sends the inputs to a remote service: its latency is the network's, and no property of this device.
REMOTE_PROVIDERS = frozenset({"AzureExecutionProvider"})
FALLBACKS = {
    "TensorrtExecutionProvider": ("CUDAExecutionProvider",)
}  # then the CPU, for nodes that neither runs
LEVELS = {
    "default": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
LOG_FATAL_ONLY = 4  # errors arrive as exceptions
PROFILE_PREFIX = "laptime-layers"  # in the working directory: the box's scratch folder

# y = Identity(x), float32 [1], opset 16: the smallest model there is, to try a provider with.
TRIAL_MODEL = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a0808"
    "0112040a02080142040a001011"
)
NUMPY_NAMES = {
    "float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16", "bool": "bool",
    "string": "string",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
OPERATOR_PATTERNS = (
    re.compile(r"No Op registered for (?P<operator>\S+) with domain_version of (?P<version>\d+)"),
    re.compile(r"Fatal error: (?P<operator>\S+)\((?P<version>-?\d+)\) is not a registered function/op"),
    re.compile(r"Could not find an implementation for (?P<operator>[^\s(]+)\((?P<version>\d+)\)"),
    re.compile(r"of operator \((?P<operator>[^)]+)\) in node \([^)]*\) is invalid"),
)
MEMORY_SIGNS = (
    "Failed to allocate memory",
    "output tensor would require more than",  # the limit that ONNX Runtime itself sets for Tile
    "bad_alloc",
    "pthread_create",  # no address space left for the stack of a thread
    "CUDA out of memory",
    "CUDA failure 2:",
    "Available memory of",
)
INITIALIZERS_AS_INPUTS = (
    "{count} weights are listed as graph inputs (as files of IR version 3 are written), so ONNX Runtime must "
    "not treat them as constants: remove them from the inputs, and batch normalisation can be folded"
)


class OnnxRuntimeSession:
    """A loaded model."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.inputs = [_declared(argument) for argument in session.get_inputs()]
        overridable = len(session.get_overridable_initializers())
        self.notes = (INITIALIZERS_AS_INPUTS.format(count=overridable),) if overridable else ()
        self._output_names = [argument.name for argument in session.get_outputs()]
        self._run = session.run

    def run(self, tensors: Tensors) -> Tensors:
        """Run once; waits for accelerators, because outputs are copied to the host."""
        try:
            values = self._run(None, tensors)
        except Exception as error:
            raise failure_of_run(error) from error
        return dict(zip(self._output_names, values, strict=True))


class OnnxRuntimeEngine:
    """Satisfies `devices.engine.Engine`."""

    name = "onnxruntime"

    def __init__(self) -> None:
        self.clock = SystemClock()

    def runtimes(
        self, thread_counts: Sequence[int], optimizations: Sequence[str] = DEFAULT_ONLY
    ) -> Sequence[Runtime]:
        """One per provider that runs a trial model, thread count and optimisation level; accelerators come
        once, with the first count, which only the nodes that stay on the CPU see.
        """
        levels = [level for level in optimizations if level in LEVELS]
        usable = [
            slug_of_provider(provider)
            for provider in ort.get_available_providers()
            if provider not in REMOTE_PROVIDERS and _runs_trial(provider)
        ]
        found: list[Runtime] = []
        for slug in sorted(usable, key=lambda provider: provider != "cpu"):
            counts = thread_counts if slug == "cpu" else thread_counts[:1]
            found += [
                Runtime(
                    engine=self.name, version=ort.__version__, provider=slug, threads=n, optimization=level
                )
                for level in levels
                for n in counts
            ]
        return found

    def load(
        self, model: bytes, runtime: Runtime, input_shapes: Mapping[str, Sequence[int]]
    ) -> OnnxRuntimeSession:
        """A session; ONNX Runtime keeps dynamic axes dynamic, so `input_shapes` is not needed.

        Raises `EngineUnavailable`, `ModelRejected` (model_invalid, operator_unsupported, inputs_invalid) and
        `WorkFailed` (out_of_memory).
        """
        del input_shapes
        session = OnnxRuntimeSession(_session(model, runtime, session_options(runtime)))
        for spec in session.inputs:
            check_dtype(spec)
        return session

    def profile_layers(
        self, model: bytes, runtime: Runtime, tensors: Tensors, runs: int
    ) -> LayerProfile | None:
        """From ONNX Runtime's own profile, a JSON file in the working directory that is removed again."""
        options = session_options(runtime)
        options.enable_profiling = True
        options.profile_file_prefix = PROFILE_PREFIX
        session = _session(model, runtime, options)
        timed = OnnxRuntimeSession(session)
        for _ in range(runs + 1):  # the first is warm-up
            timed.run(tensors)
        path = Path(session.end_profiling())
        try:
            events = json.loads(path.read_text())
        finally:
            path.unlink(missing_ok=True)
        return layer_profile(events)


def slug_of_provider(provider: str) -> str:
    """`CUDAExecutionProvider` is called cuda."""
    return provider.removesuffix(PROVIDER_SUFFIX).lower()


def session_options(runtime: Runtime) -> ort.SessionOptions:
    """The options of a runtime, as the module's head describes them.

    Raises `EngineUnavailable` for an optimisation that ONNX Runtime does not have.
    """
    if runtime.optimization not in LEVELS:
        raise EngineUnavailable(
            f"ONNX Runtime has no optimisation {runtime.optimization!r}; it offers {', '.join(LEVELS)}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = LEVELS[runtime.optimization]
    options.log_severity_level = LOG_FATAL_ONLY
    return options


def failure_of_load(error: Exception) -> ModelRejected | WorkFailed:
    """What an error of session creation means."""
    message = _plain(error)
    if isinstance(error, MemoryError) or any(sign in message for sign in MEMORY_SIGNS):
        return WorkFailed(
            FailureCode.OUT_OF_MEMORY, f"loading the model needs more memory than its limit: {message}"
        )
    for pattern in OPERATOR_PATTERNS:
        if match := pattern.search(message):
            return ModelRejected(
                f"ONNX Runtime {ort.__version__} does not run operator {match.group('operator')!r} "
                f"as this model uses it: {message}",
                FailureCode.OPERATOR_UNSUPPORTED,
            )
    return ModelRejected(
        f"ONNX Runtime {ort.__version__} refuses the model: {message}", FailureCode.MODEL_INVALID
    )


def failure_of_run(error: Exception) -> WorkFailed:
    """What an error of a run means: memory, or inputs that do not fit the model."""
    message = _plain(error)
    if isinstance(error, MemoryError) or any(sign in message for sign in MEMORY_SIGNS):
        return WorkFailed(
            FailureCode.OUT_OF_MEMORY, f"running the model needs more memory than its limit: {message}"
        )
    if isinstance(error, ort_errors.NotImplemented):
        return WorkFailed(FailureCode.OPERATOR_UNSUPPORTED, f"ONNX Runtime {ort.__version__}: {message}")
    return WorkFailed(
        FailureCode.INPUTS_INVALID, f"ONNX Runtime cannot run the model with these input shapes: {message}"
    )


def layer_profile(events: Sequence[Mapping[str, object]]) -> LayerProfile | None:
    """Per node the median over the profiled runs, the first run left out; None without node events.

    ONNX Runtime writes one `Session`/`model_run` event per run and one `Node` event per executed node, with
    `dur` in microseconds; the nodes of a run precede its `model_run`. A node in a loop body has several
    events a run: its time is their sum.
    """
    totals_ns: list[int] = []
    nodes_ns: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    current: dict[tuple[str, str, str], int] = defaultdict(int)
    for event in events:
        duration_ns = 1000 * int(str(event.get("dur", 0)))
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            current[_node_key(event)] += duration_ns
        elif event.get("cat") == "Session" and event.get("name") == "model_run":
            totals_ns.append(duration_ns)
            if len(totals_ns) > 1:
                for key, value in current.items():
                    nodes_ns[key].append(value)
            current.clear()
    if not nodes_ns:
        return None
    layers = tuple(
        LayerTime(name=name, kind=kind, provider=provider, median_ns=round(median(values)))
        for (name, kind, provider), values in nodes_ns.items()
    )
    return LayerProfile(
        layers=layers, coverage=sum(layer.median_ns for layer in layers) / median(totals_ns[1:])
    )


def _node_key(event: Mapping[str, object]) -> tuple[str, str, str]:
    arguments = event.get("args")
    details = arguments if isinstance(arguments, dict) else {}
    kind, provider = str(details.get("op_name", "")), str(details.get("provider", ""))
    return str(event["name"]).removesuffix("_kernel_time"), kind, slug_of_provider(provider)


def _session(model: bytes, runtime: Runtime, options: ort.SessionOptions) -> ort.InferenceSession:
    provider = next(
        (p for p in ort.get_available_providers() if slug_of_provider(p) == runtime.provider), None
    )
    if provider is None or provider in REMOTE_PROVIDERS:
        raise EngineUnavailable(
            f"ONNX Runtime {ort.__version__} has no provider {runtime.provider!r} here; it has "
            f"{', '.join(map(slug_of_provider, ort.get_available_providers()))}"
        )
    try:
        session = ort.InferenceSession(model, options, providers=_with_fallbacks(provider))
    except Exception as error:
        raise failure_of_load(error) from error
    if provider not in session.get_providers():  # ONNX Runtime falls back to the CPU without an error
        raise EngineUnavailable(
            f"ONNX Runtime lists provider {runtime.provider!r}, but its libraries do not load here"
        )
    return session


def _runs_trial(provider: str) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = LOG_FATAL_ONLY
    try:
        session = ort.InferenceSession(TRIAL_MODEL, options, providers=_with_fallbacks(provider))
        session.run(None, {"x": np.zeros(1, np.float32)})
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors share no base class but Exception
        return False
    return provider in session.get_providers()


def _with_fallbacks(provider: str) -> list[str]:
    return list(dict.fromkeys((provider, *FALLBACKS.get(provider, ()), "CPUExecutionProvider")))


def _declared(argument: ort.NodeArg) -> InputSpec:
    match = re.fullmatch(r"tensor\((\w+)\)", argument.type)
    if match is None:
        raise ModelRejected(
            f"input {argument.name!r} is a {argument.type}, not a tensor; "
            "measure the part of the model behind it",
            FailureCode.INPUTS_INVALID,
        )
    dtype = NUMPY_NAMES.get(match.group(1), match.group(1))
    return InputSpec.declared(argument.name, dtype, argument.shape)


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())
