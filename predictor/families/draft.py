"""A network under construction: operators, constants, and of each tensor its shape and how large its numbers
are.

The size of numbers (root mean square) is followed through the network, and weights are scaled against it:
activations stay near one without normalisation, and a quantised copy knows its scales without calibration.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from predictor.families.style import Style
from predictor.networks.onnx_net import uniform

Attribute = int | float | str | Sequence[int] | Sequence[float]
Array = NDArray[np.generic]
_RANDOM = 1 << 20  # numbers in the sequence that weights are slices of
_STEP = 104729  # a prime: no two weights of one network begin at the same place
_INPUT_LEVEL = 0.58  # root mean square of uniform noise in [0, 1)
_UNIFORM = math.sqrt(3.0)  # uniform noise in [-1, 1) times this has variance one


@dataclass(slots=True)
class Step:
    """One operator."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of an activation: `level` is its root mean square, about, `lean` which share of its power
    a rectifier would pass for certain.
    """

    shape: tuple[int, ...]
    level: float = 1.0
    is_positive: bool = False
    lean: float = 0.0
    dtype: str = "float32"


class Draft:
    """Methods add operators and return the names of their results."""

    def __init__(self, name: str, style: Style) -> None:
        self.name = name
        self.style = style
        self.steps: list[Step] = []
        self.constants: dict[str, Array] = {}
        self.tensors: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: list[str] = []
        self._count = zlib.crc32(name.encode()) % 4096
        self._shared: dict[tuple[object, ...], str] = {}

    def input(self, name: str, *shape: int, dtype: str = "float32") -> str:
        """An input of the model: uniform noise if float, else small ids."""
        self.inputs[name] = self.tensors[name] = Tensor(shape, _INPUT_LEVEL, True, 1.0, dtype)
        return name

    def shape(self, x: str) -> tuple[int, ...]:
        """The sizes of a tensor or constant."""
        return self.tensors[x].shape if x in self.tensors else self.constants[x].shape

    def level(self, x: str) -> float:
        """The root mean square of a tensor, about; of a constant, exactly."""
        if x in self.tensors:
            return self.tensors[x].level
        return float(np.sqrt(np.mean(np.square(self.constants[x].astype(np.float64)))))

    def op(
        self,
        kind: str,
        *inputs: str,
        shape: Sequence[int] | None = None,
        level: float | None = None,
        is_positive: bool | None = None,
        dtype: str | None = None,
        domain: str = "",
        **attributes: Attribute,
    ) -> str:
        """An operator with one output: shaped like its inputs broadcast, and as large as the first, unless
        said otherwise.
        """
        (name,) = self.ops(kind, inputs, 1, domain=domain, **attributes)
        first = self.tensors.get(inputs[0]) or next(self.tensors[x] for x in inputs if x in self.tensors)
        sizes = tuple(shape) if shape is not None else np.broadcast_shapes(*map(self.shape, inputs))
        positive = first.is_positive if is_positive is None else is_positive
        lean = first.lean if is_positive is None else float(positive)
        self.tensors[name] = Tensor(
            sizes, first.level if level is None else level, positive, lean, dtype or first.dtype
        )
        return name

    def ops(
        self, kind: str, inputs: Sequence[str], count: int, *, domain: str = "", **attributes: Attribute
    ) -> list[str]:
        """An operator with several outputs, whose shapes the caller enters (`learn`)."""
        self._count += 1
        stem = f"{kind.lower()}_{self._count}"
        outputs = [stem if index == 0 else f"{stem}_{index}" for index in range(count)]
        self.steps.append(Step(kind, list(inputs), outputs, dict(attributes), domain))
        return outputs

    def learn(
        self,
        x: str,
        shape: Sequence[int],
        level: float = 1.0,
        *,
        is_positive: bool = False,
        lean: float = 0.0,
        dtype: str = "float32",
    ) -> str:
        """Enters what is known of an output."""
        self.tensors[x] = Tensor(tuple(shape), level, is_positive, max(lean, float(is_positive)), dtype)
        return x

    def const(self, values: object, dtype: str = "float32") -> str:
        """A constant; small ones that are equal are stored once."""
        array: Array = np.array(values, dtype=dtype, order="C")
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 16 else None
        if key is not None and key in self._shared:
            return self._shared[key]
        self._count += 1
        name = f"constant_{self._count}"
        self.constants[name] = array
        if key is not None:
            self._shared[key] = name
        return name

    def ints(self, *values: int) -> str:
        """A constant vector of integers: axes, shapes."""
        return self.const(values, "int64")

    def noise(self, *shape: int, scale: float = 1.0, centre: float = 0.0) -> str:
        """A float constant: uniform noise with standard deviation `scale` around `centre`."""
        self._count += 1
        name = f"weight_{self._count}"
        count = math.prod(shape)
        start = self._count * _STEP % (_RANDOM // 2)
        numbers = (
            np.resize(_sequence()[start:], count) if count > _RANDOM // 2 else _sequence()[start:][:count]
        )
        self.constants[name] = (numbers * np.float32(_UNIFORM * scale) + np.float32(centre)).reshape(shape)
        return name

    def weight(self, x: str, *shape: int, fan_in: int, level: float = 1.0) -> str:
        """A weight that turns `x` into sums of size `level` over `fan_in` products."""
        return self.noise(*shape, scale=level / (math.sqrt(fan_in) * max(self.level(x), 1e-3)))

    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The sizes of the model's inputs."""
        return {name: tensor.shape for name, tensor in self.inputs.items()}


@lru_cache(maxsize=1)
def _sequence() -> NDArray[np.float32]:
    return uniform(_RANDOM, 0)
