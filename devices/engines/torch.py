"""PyTorch: the model's graph as the PyTorch calls that its author would have written, run eagerly; on CUDA
also recorded as a CUDA graph, and in half precision.

One session is one target: `threads` is PyTorch's number of threads within an operator, which holds for the
whole process; gradients are off (inference mode), input sizes are fixed. What depends on sizes alone is
computed when the model is loaded (`devices.engines.torch_graph`).

A run takes its inputs from the processor's memory and brings its outputs back there, as a caller has them.
Where PyTorch computes convolutions in TF32 by default it does so here.

`torch.compile` is not offered: each fresh process of a measurement would spend one to two minutes in a C++
compiler, which the box's empty environment does not find, for programs that ran no faster on the processor
(2.13, two small convolutional networks).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from devices.clock import SystemClock
from devices.engine import DEFAULT_ONLY, Tensors
from devices.engines.faithful import Reference, check_faithful, forget_peak_memory, run_reference
from devices.engines.offers import cpu_runtimes, require_offered
from devices.engines.torch_capture import CapturedProgram
from devices.engines.torch_graph import Program, perform, read_program
from devices.errors import FailureCode, WorkFailed
from devices.measurement import LayerProfile, LayerTime
from devices.statistics import median
from devices.target import Runtime

EAGER, CAPTURED = "default", "cuda-graph"
PRECISIONS: Mapping[str, torch.dtype] = {
    "native": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
}  # fmt: skip
MEMORY_SIGNS = ("bad_alloc", "can't allocate memory", "not enough memory", "out of memory")


class TorchSession:
    """A program on a device, with what runs it: the program itself, or what was recorded of it."""

    def __init__(
        self,
        program: Program,
        runner: Callable[..., list[torch.Tensor]],
        device: torch.device,
        reference: Reference,
        notes: Sequence[str] = (),
    ) -> None:
        self.inputs = reference.inputs
        self.notes = notes
        self.program = program
        self.device = device
        self._runner = runner
        self._output_names = list(reference.outputs)

    def run(self, tensors: Tensors) -> Tensors:
        """Run once. Arrays are shared with PyTorch where it runs on the processor; from an accelerator they
        are copied, which waits for it.
        """
        try:
            with torch.inference_mode():
                results = self._runner(*self.given(tensors))
                values = [result.cpu().numpy() for result in results]
        except (RuntimeError, IndexError) as error:
            raise failure_of_run(error) from error
        return dict(zip(self._output_names, values, strict=True))

    def given(self, tensors: Tensors) -> list[torch.Tensor]:
        """The inputs in the model's order, on the session's device."""
        return [as_tensor(tensors[spec.name]).to(self.device) for spec in self.inputs]


class TorchEngine:
    """Satisfies `devices.engine.Engine`."""

    name = "torch"

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.version = torch.__version__.split("+")[0]
        self._providers = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

    def runtimes(
        self, thread_counts: Sequence[int], optimizations: Sequence[str] = DEFAULT_ONLY
    ) -> Sequence[Runtime]:
        """The CPU once per thread count, and CUDA in each precision, with the first of them."""
        found = []
        if EAGER in optimizations:
            found += cpu_runtimes(self.name, self.version, thread_counts, optimizations)
        if "cuda" in self._providers:
            found += [
                Runtime(
                    engine=self.name, version=self.version, provider="cuda", threads=n,
                    precision=precision, optimization=optimization,
                )
                for optimization in (EAGER, CAPTURED) if optimization in optimizations
                for precision in PRECISIONS
                for n in thread_counts[:1]
            ]  # fmt: skip
        return found

    def load(self, model: bytes, runtime: Runtime, input_shapes: Mapping[str, Sequence[int]]) -> TorchSession:
        """Read the graph, fold what is known, and compare with ONNX Runtime.

        Raises `EngineUnavailable`, `ModelRejected` (model_invalid, operator_unsupported, inputs_invalid,
        conversion_unfaithful), `MissingInputSizes` and `WorkFailed` (out_of_memory, inputs_invalid).
        """
        library, is_cpu = f"PyTorch {self.version}", runtime.provider == "cpu"
        require_offered(
            runtime,
            library=library,
            providers=self._providers,
            precisions=("native",) if is_cpu else tuple(PRECISIONS),
            optimizations=DEFAULT_ONLY if is_cpu else (EAGER, CAPTURED),
        )
        reference = run_reference(model, input_shapes, precision=runtime.precision)
        forget_peak_memory()
        torch.set_num_threads(runtime.threads)
        device = torch.device(runtime.provider)
        examples = {name: as_tensor(value) for name, value in reference.tensors.items()}
        try:
            with torch.no_grad():
                program = read_program(model, examples, device, PRECISIONS[runtime.precision])
            runner: Callable[..., list[torch.Tensor]] = program
            if runtime.optimization == CAPTURED:
                with torch.inference_mode():
                    runner = CapturedProgram(program, list(examples.values()), device)
        except (RuntimeError, MemoryError) as error:
            raise failure_of_run(error) from error
        trial = TorchSession(program, runner, device, reference)
        notes = check_faithful(trial, reference, model=model, library=library)
        return TorchSession(program, runner, device, reference, notes)

    def profile_layers(
        self, model: bytes, runtime: Runtime, tensors: Tensors, runs: int
    ) -> LayerProfile | None:
        """Each call timed by itself; on an accelerator each is waited for, which whole runs do not do, so
        coverage may exceed 1 there. A recorded graph tells of no calls.
        """
        if runtime.optimization == CAPTURED:
            return None
        session = self.load(model, runtime, {name: value.shape for name, value in tensors.items()})
        steps = session.program.steps
        times_ns: list[list[int]] = [[] for _ in steps]
        totals_ns: list[int] = []
        for run in range(runs + 1):  # the first is warm-up
            before = self.clock.wall_ns()
            session.run(tensors)
            totals_ns.append(self.clock.wall_ns() - before)
            for index, took_ns in enumerate(self._step_times(session, tensors)):
                if run:
                    times_ns[index].append(took_ns)
        if not steps:
            return None
        layers = tuple(
            LayerTime(
                name=step.name, kind=step.kind, provider=runtime.provider, median_ns=round(median(values))
            )
            for step, values in zip(steps, times_ns, strict=True)
        )
        covered_ns = sum(layer.median_ns for layer in layers)
        return LayerProfile(layers=layers, coverage=covered_ns / median(totals_ns[1:]))

    def _step_times(self, session: TorchSession, tensors: Tensors) -> list[int]:
        program, is_accelerator = session.program, session.device.type != "cpu"
        values = list(program.constants)
        for place, value in zip(program.inputs, session.given(tensors), strict=True):
            values[place] = value
        times_ns: list[int] = []
        with torch.inference_mode():
            for step in program.steps:
                before = self.clock.wall_ns()
                perform(step, values)
                if is_accelerator:
                    torch.cuda.synchronize()
                times_ns.append(self.clock.wall_ns() - before)
        return times_ns


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor, shared if it may be written to: PyTorch knows no other tensors."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def failure_of_run(error: Exception) -> WorkFailed:
    """What an error of a run means: memory, or inputs that do not fit the model."""
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(sign in message for sign in MEMORY_SIGNS):
        return WorkFailed(
            FailureCode.OUT_OF_MEMORY, f"running the model needs more memory than its limit: {message}"
        )
    return WorkFailed(
        FailureCode.INPUTS_INVALID, f"PyTorch cannot run the model with these input shapes: {message}"
    )
