"""Who makes and who reads the tensors of a graph, and operators that were found to run as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from predictor.graph import ModelGraph, Operator, TensorInfo
from predictor.kinds import DEQUANTISES


@dataclass(frozen=True, slots=True)
class Fused:
    """Operators that run as the one that `anchor` describes.

    `members` are places in the graph, ascending; the last one gives the result. `spared` are those among
    them whose own work the anchor's work stands for.
    """

    anchor: Operator
    members: tuple[int, ...]
    spared: frozenset[int]


class Connections:
    """What every way to run a graph asks of it, worked out once: who makes a tensor and who reads it (each
    once), which tensors leave the graph and which are weights, full kinds of operators; of each tensor its
    elements and its bytes, densely packed.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.operators = operators = graph.operators
        self.tensors = tensors = graph.tensors
        self.kinds = [op.full_kind if op.domain else op.kind for op in operators]
        self.has_quantised = not DEQUANTISES.isdisjoint(self.kinds)
        self.ends = frozenset([tensor.name for tensor in graph.outputs])
        self.producer: dict[str, int] = {}
        self.uses: dict[str, list[int]] = {}
        self.elements: Mapping[str, int] = _Elements(tensors)
        self.size_bytes: Mapping[str, int] = _SizeBytes(tensors)
        self.constants = {name for name, tensor in tensors.items() if tensor.role == "constant"}
        self.weights = self.constants | {
            name for name, tensor in tensors.items() if tensor.role == "overridable"
        }
        self.has_overridable = len(self.weights) > len(self.constants)  # by the caller
        self._connect()

    def known(self, *, is_generated: bool) -> set[str]:
        """What a runtime may compute with in advance. A code generator converts the file, and takes weights
        that a caller may replace as they are.
        """
        return self.weights if is_generated else self.constants

    def _connect(self) -> None:
        producer, uses, operators = self.producer, self.uses, self.operators
        for index, op in enumerate(operators):
            for name in op.outputs:
                if name:
                    producer[name] = index
            for name in op.inputs:
                known = uses.get(name)
                if known is None:
                    if name:
                        uses[name] = [index]
                elif known[-1] != index:  # once, however often the operator reads it
                    known.append(index)


class _Elements(dict[str, int]):
    """Of tensors by their names, each counted when it is first asked for: most never are."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        super().__init__()
        self._tensors = tensors

    def __missing__(self, name: str) -> int:
        self[name] = count = self._tensors[name].elements
        return count


class _SizeBytes(_Elements):
    def __missing__(self, name: str) -> int:
        self[name] = size = self._tensors[name].size_bytes
        return size


@dataclass(frozen=True, slots=True)
class Wiring:
    """Who makes a tensor, who reads it (each once), and which tensors leave the graph. `kinds` are the
    operators' full ones.
    """

    operators: Sequence[Operator]
    kinds: Sequence[str]
    tensors: Mapping[str, TensorInfo]
    producer: Mapping[str, int]
    uses: Mapping[str, Sequence[int]]
    ends: frozenset[str]
    known: set[str]  # when the model is loaded
    fuses_chains: bool

    def maker(self, name: str, *kinds: str) -> int | None:
        """The operator behind a tensor, if it is of one of these kinds."""
        place = self.producer.get(name)
        return place if place is not None and self.kinds[place] in kinds else None

    def reader(self, place: int, *kinds: str) -> int | None:
        """The only operator that reads this one's result, if it is of one of these kinds."""
        name = self.operators[place].outputs[0]
        uses = self.uses.get(name, ())
        is_alone = len(uses) == 1 and name not in self.ends
        return uses[0] if is_alone and self.kinds[uses[0]] in kinds else None

    def is_constant(self, name: str) -> bool:
        """Known when the model is loaded."""
        return name in self.known

    def is_number(self, name: str) -> bool:
        """A single constant."""
        return self.is_constant(name) and self.tensors[name].elements == 1

    def other(self, place: int, name: str) -> str:
        """What an operator of two inputs reads beside `name`; "" if it is no such operator."""
        inputs = self.operators[place].inputs
        if len(inputs) != 2 or name not in inputs:
            return ""
        return inputs[1] if inputs[0] == name else inputs[0]

    def beside_number(self, place: int) -> str:
        """What an operator of two inputs combines with a single constant, or divides by it; "" if it does
        not.
        """
        inputs = self.operators[place].inputs
        if len(inputs) != 2:
            return ""
        if self.is_number(inputs[1]):
            return inputs[0]
        is_symmetric = self.operators[place].kind in ("Add", "Mul")
        return inputs[1] if is_symmetric and self.is_number(inputs[0]) else ""

    def is_split(self, name: str) -> bool:
        """Whether ONNX Runtime gives each reader a dequantised copy of its own."""
        return (
            not self.fuses_chains
            and self.producer.get(name) is not None
            and self.kinds[self.producer[name]] in DEQUANTISES
            and len(self.uses[name]) > 1
        )

    def is_short(self, name: str) -> bool:
        """Whether ONNX Runtime, which converts short floats around most operators, has lost the pattern."""
        return not self.fuses_chains and self.tensors[name].dtype in ("float16", "bfloat16")

    def is_closed(self, members: frozenset[int]) -> bool:
        """Whether nothing but the last result leaves, and all run equally often."""
        last = max(members)
        repeats = self.operators[last].repeats
        for place in members:
            op = self.operators[place]
            if op.repeats != repeats:
                return False
            if place == last:
                continue
            for name in op.outputs:
                if name and (name in self.ends or not members.issuperset(self.uses.get(name, ()))):
                    return False
        return True


def put_together(wiring: Wiring, members: set[int], kind: str, inputs: tuple[str, ...]) -> Fused | None:
    """A pattern that runs as an operator of this kind; None if a member's result is needed elsewhere."""
    inner = frozenset(members)
    if not wiring.is_closed(inner) or wiring.is_split(inputs[0]):
        return None
    last = max(inner)
    op = wiring.operators[last]
    anchor = Operator(
        name=op.name,
        kind=kind,
        domain="",
        attributes={},
        inputs=inputs,
        outputs=op.outputs,
        macs=op.macs,
        bytes_read=op.bytes_read,
        bytes_written=op.bytes_written,
        parameters=op.parameters,
        precision=op.precision,
        repeats=op.repeats,
    )
    return Fused(anchor, tuple(sorted(inner)), inner)
