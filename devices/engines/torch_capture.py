"""A program of PyTorch calls as one CUDA graph: what it launches is recorded once and replayed as a whole.

Launching from Python costs a few microseconds for each call, which is most of the time of small models on a
large GPU; a replay does without (PyTorch's `torch.cuda.CUDAGraph`). Inputs and outputs live in fixed places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from devices.engines.torch_graph import Program
from devices.errors import FailureCode, ModelRejected

_WARM_UPS = 3  # on a stream of their own before the recording, as PyTorch asks


class CapturedProgram:
    """Runs as the program does, for inputs of the sizes and types of `examples` (in the model's order)."""

    def __init__(self, program: Program, examples: Sequence[Tensor], device: torch.device) -> None:
        self._inputs = [example.to(device, copy=True) for example in examples]
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    program(*self._inputs)
            torch.cuda.current_stream(device).wait_stream(stream)
            with torch.cuda.graph(self._graph):
                self._outputs = program(*self._inputs)
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            raise ModelRejected(
                "CUDA cannot record this model as a graph, because a call of it waits for the GPU: "
                f"{' '.join(str(error).split())}; measure it without cuda-graph",
                FailureCode.OPERATOR_UNSUPPORTED,
            ) from error

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Copy the inputs into their places and replay. The outputs' places are used again by the next
        run.
        """
        for place, value in zip(self._inputs, inputs, strict=True):
            place.copy_(value)
        self._graph.replay()
        return self._outputs
