"""One ONNX node as the builders of PyTorch operators see it: attributes, and what is known of its inputs
before the first run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from devices.errors import FailureCode, ModelRejected

Outputs = Tensor | tuple[Tensor, ...]
Function = Callable[..., Outputs]  # of all inputs that the node names, None for those it leaves out


@dataclass(frozen=True, slots=True)
class Node:
    """`examples` are the inputs of one run: their shapes and types hold for all runs, their values only where
    `is_constant` says so.
    """

    kind: str
    name: str
    opset: int
    attributes: Mapping[str, object]
    examples: Sequence[Tensor | None]
    is_constant: Sequence[bool]
    output_count: int

    def integer(self, name: str, default: int | None = None) -> int:
        """An attribute; refuses the node where it is missing and has no default."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise self.refusal(f"attribute {name!r} is missing or no integer")
        return value

    def real(self, name: str, default: float) -> float:
        """An attribute, a float."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int | float):
            raise self.refusal(f"attribute {name!r} is no number")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """An attribute, a string."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """An attribute, a list of integers; None where it is missing and has no default."""
        value = self.attributes.get(name, default)
        return tuple(int(one) for one in value) if isinstance(value, list | tuple) else None

    def has(self, index: int) -> bool:
        """Whether the node names this input."""
        return index < len(self.examples) and self.examples[index] is not None

    def example(self, index: int) -> Tensor:
        """An input of the example run; refuses the node where the input is missing."""
        if not self.has(index):
            raise self.refusal(f"input {index} is missing")
        value = self.examples[index]
        assert value is not None
        return value

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of an input."""
        return tuple(self.example(index).shape)

    def constant(self, index: int) -> Tensor | None:
        """The value of an input that is the same in every run, None where there is no such input; refuses the
        node where it depends on what the model is given.
        """
        if not self.has(index):
            return None
        if not self.is_constant[index]:
            raise self.refusal(f"its input {index} depends on what the model is given")
        return self.examples[index]

    def sizes(self, index: int) -> tuple[int, ...] | None:
        """A constant input of integers."""
        value = self.constant(index)
        return None if value is None else tuple(int(one) for one in value.reshape(-1).tolist())

    def axes(self, index: int) -> tuple[int, ...] | None:
        """Axes: an attribute of that name in old files, this input in new ones."""
        return self.integers("axes") if "axes" in self.attributes else self.sizes(index)

    def refusal(self, reason: str) -> ModelRejected:
        """To be raised: this use of the operator is not there."""
        name = f" (node {self.name!r})" if self.name else ""
        return ModelRejected(
            f"PyTorch {torch.__version__} does not run operator {self.kind!r}{name} as this model uses it: "
            f"{reason}",
            FailureCode.OPERATOR_UNSUPPORTED,
        )


Builder = Callable[[Node], Function]
