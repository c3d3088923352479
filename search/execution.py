"""Running built models on this machine, through the same engine seam that devices measure with.

Accuracy does not depend on the device as latency does, so one CPU thread here stands for the target. Models
run in this process: they are our own export, not a caller's file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from devices.engine import Engine
from devices.engines.registry import create_engine
from devices.errors import EngineUnavailable, ModelRejected, WorkFailed
from devices.target import Runtime
from search.errors import BuildFailed
from search.space import BuiltModel

ENGINE = "onnxruntime"


@dataclass(frozen=True, slots=True)
class ModelRunner:
    """Runs models of one input and one output on an engine."""

    engine: Engine
    runtime: Runtime

    def outputs(self, built: BuiltModel, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(N, ...)` outputs of `(N, ...)` samples, run in batches of the model's fixed size.

        The last batch is filled up with zeros. Raises `BuildFailed` if the model cannot be loaded or run,
        or gives values that are not finite.
        """
        [(name, shape)] = built.input_shapes.items()
        batches: list[NDArray[np.float32]] = []
        try:
            session = self.engine.load(built.model, self.runtime, built.input_shapes)
            for start in range(0, len(samples), shape[0]):
                part = samples[start : start + shape[0]]
                batch = np.zeros(shape, dtype=np.float32)
                batch[: len(part)] = part
                [output] = session.run({name: batch}).values()
                batches.append(np.asarray(output, dtype=np.float32)[: len(part)])
        except (ModelRejected, WorkFailed) as error:
            raise BuildFailed(f"{self.engine.name} does not run the built model: {error}") from error
        outputs = np.concatenate(batches)
        if not np.isfinite(outputs).all():
            raise BuildFailed("the built model's outputs are not finite")
        return outputs


@cache
def cpu_runner() -> ModelRunner:
    """ONNX Runtime on one CPU thread. Raises `EngineUnavailable` where it is not installed."""
    engine = create_engine(ENGINE)
    for runtime in engine.runtimes((1,)):
        if runtime.provider == "cpu":
            return ModelRunner(engine, runtime)
    raise EngineUnavailable(f"{ENGINE} offers no CPU provider here; install the package {ENGINE!r}")
