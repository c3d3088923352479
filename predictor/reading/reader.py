"""ModelGraph from the bytes of an ONNX file. Nothing is written, no other file is opened, and no weight is
looked at.

A file that cannot be read, or holds something that cannot be costed, is refused with `GraphRejected`, which
names the operator, tensor or axis: nothing is guessed silently. What was assumed stands in the graph's
`notes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from functools import partial

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # onnx brings it, without stubs

from devices.errors import MissingInputSizes, ModelRejected
from devices.model_ref import MAX_INPUT_BYTES, InputSpec, resolve_input_shapes
from predictor.costs import Cost, cost_of
from predictor.digest import digest_of
from predictor.errors import GraphCode, GraphRejected
from predictor.graph import Likeness, ModelGraph, Operator, TensorInfo
from predictor.kinds import DEQUANTISES
from predictor.reading.control import CONTROL
from predictor.reading.decoded import FileGraph, check_texts, decoded
from predictor.reading.functions import without_functions
from predictor.reading.nodes import Node
from predictor.reading.slots import MAX_RANK, Slot, dtype_of
from predictor.reading.walk import Scope, Walk
from predictor.reading.weights import without_weights
from predictor.reading.wire import check_parsed_size

MAX_MODEL_BYTES = 1 << 30
MAX_OPERATOR_COST = 1 << 46  # an hour of one operator; the sums over all operators still fit 64 bits
_MAX_DIGEST_INTEGERS = 32
_MAX_OPSET = 1 << 20
_MAX_COSTS = 8  # of nodes that are alike, by their repeats
_MULTIPLIES = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))


def read_inputs(model: bytes) -> tuple[InputSpec, ...]:
    """What the model declares as inputs, without those that are initializers. Raises `GraphRejected`."""
    parsed = _parsed(model)
    return _declared_inputs(parsed, decoded(parsed))


def read_graph(model: bytes, input_shapes: Mapping[str, Sequence[int]]) -> ModelGraph:
    """The costed graph at the given input sizes; inputs whose sizes the file fixes need none.

    Raises `GraphRejected`: `missing_input_sizes` names every dynamic axis without a size, `inputs_invalid`
    sizes that do not fit, `operator_unsupported` an operator without a known cost or with an unknowable
    size, `malformed`, `external_data`, `too_large`.
    """
    light = without_weights(model) if len(model) <= MAX_MODEL_BYTES else None
    if light is not None:
        with suppress(GraphRejected):  # which is told of the whole file
            return _graph_of(light.model, light.cut_bytes, input_shapes)
    return _graph_of(model, {}, input_shapes)


def _graph_of(
    model: bytes, cut_bytes: Mapping[int, int], input_shapes: Mapping[str, Sequence[int]]
) -> ModelGraph:
    parsed = _parsed(model)
    graph = decoded(parsed, cut_bytes)
    if parsed.functions:
        parsed = without_functions(parsed)
        graph = decoded(parsed)  # a function in a branch of a function: nesting adds up
    return _read(parsed, graph, input_shapes)


def summarise(graph: ModelGraph) -> dict[str, object]:
    """The figures that a listing of models shows; plain data, ready for JSON."""
    return {
        "operators": dict(sorted(Counter(op.full_kind for op in graph.operators).items())),
        "operator_count": len(graph.operators),
        "parameters": graph.parameters,
        "weight_bytes": graph.weight_bytes,
        "macs": graph.macs,
        "macs_by_precision": _macs_by_precision(graph),
        "activation_bytes": graph.activation_bytes,
        "depth": graph.depth,
        "opset": graph.opset,
        "digest": graph.digest,
        "notes": list(graph.notes),
    }


def _macs_by_precision(graph: ModelGraph) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for op in graph.operators:
        if op.macs:
            totals[op.precision] += op.macs
    return dict(sorted(totals.items()))


def _parsed(model: bytes) -> onnx.ModelProto:
    if len(model) > MAX_MODEL_BYTES:
        raise GraphRejected(
            f"the model has {len(model)} bytes, at most {MAX_MODEL_BYTES} are allowed", GraphCode.TOO_LARGE
        )
    check_parsed_size(model)
    try:
        parsed: onnx.ModelProto = onnx.ModelProto.FromString(model)
    except DecodeError as error:
        raise GraphRejected(
            f"these bytes are not an ONNX file, or it is cut off: {error}", GraphCode.MALFORMED
        ) from error
    if not parsed.HasField("graph") or not parsed.graph.output:
        raise GraphRejected(
            "these bytes are not an ONNX file: no graph with an output is in them", GraphCode.MALFORMED
        )
    return parsed


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    opsets = {
        "" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import
    }
    if not opsets and model.ir_version < 3:
        return {"": 1}  # before IR version 3 files had no such list
    for domain, version in opsets.items():
        if not 1 <= version <= _MAX_OPSET:
            raise GraphRejected(
                f"the file imports version {version} of {domain or 'ai.onnx'!r}, which cannot exist",
                GraphCode.MALFORMED,
            )
    return opsets


def _declared_inputs(model: onnx.ModelProto, graph: FileGraph) -> tuple[InputSpec, ...]:
    stored = {name for name, _ in (*graph.tensors, *graph.sparse)}
    specs: list[InputSpec] = []
    for name, declared in zip(graph.inputs, model.graph.input, strict=True):
        if name in stored:
            continue
        if not declared.type.HasField("tensor_type"):
            raise GraphRejected(
                f"input {name!r} is not a tensor; give the model tensors as inputs",
                GraphCode.OPERATOR_UNSUPPORTED,
            )
        tensor = declared.type.tensor_type
        if not tensor.HasField("shape"):
            raise GraphRejected(
                f"input {name!r} does not say how many axes it has; declare its shape, "
                "with names for dynamic axes",
                GraphCode.INPUTS_INVALID,
            )
        if len(tensor.shape.dim) > MAX_RANK:
            raise GraphRejected(
                f"input {name!r} has {len(tensor.shape.dim)} axes, at most {MAX_RANK} are allowed",
                GraphCode.TOO_LARGE,
            )
        axes: list[int | str | None] = [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim
        ]
        check_texts(axis for axis in axes if axis is not None and not isinstance(axis, int))
        dtype = dtype_of(tensor.elem_type, f"input {name!r}")
        specs.append(InputSpec.declared(name, dtype, axes))
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise GraphRejected(f"input {twice!r} is declared twice", GraphCode.MALFORMED)
    return tuple(specs)


def _resolved(specs: Sequence[InputSpec], given: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    try:
        return resolve_input_shapes(specs, given)
    except MissingInputSizes as error:
        raise GraphRejected(str(error), GraphCode.MISSING_INPUT_SIZES, error.missing) from error
    except ModelRejected as error:
        raise GraphRejected(str(error), GraphCode.INPUTS_INVALID) from error


def _read(model: onnx.ModelProto, graph: FileGraph, input_shapes: Mapping[str, Sequence[int]]) -> ModelGraph:
    specs = _declared_inputs(model, graph)
    shapes = _resolved(specs, input_shapes)
    opsets = _opsets(model)
    walk = Walk(
        opsets=opsets,
        ir_version=model.ir_version,
        has_fixed_inputs=not any(spec.is_dynamic for spec in specs),
        control=CONTROL,
    )
    scope = Scope()
    inputs = [walk.slot((spec.dtype, shapes[spec.name]), spec.name, "input") for spec in specs]
    for slot in inputs:
        if slot.info.size_bytes > MAX_INPUT_BYTES:
            raise GraphRejected(
                f"input {slot.name!r} takes {slot.info.size_bytes} bytes at {list(slot.shape)}, "
                f"at most {MAX_INPUT_BYTES} are allowed; give smaller sizes",
                GraphCode.TOO_LARGE,
            )
        scope[slot.name] = slot
    outputs = walk.graph(graph, scope)
    if any(slot.items is not None for slot in outputs):
        raise GraphRejected(
            "an output is a sequence of tensors; make it a tensor", GraphCode.OPERATOR_UNSUPPORTED
        )
    return _finished(walk, inputs, outputs, notes=(*_findings(graph, walk), *walk.notes))


def _findings(graph: FileGraph, walk: Walk) -> list[str]:
    """What in the file costs time for nothing."""
    listed = set(graph.inputs)
    replaceable = [name for name, _ in graph.tensors if name in listed]
    if walk.ir_version < 4 or not replaceable:
        return []
    return [
        f"{len(replaceable)} weights are also listed as inputs of the graph ({replaceable[0]!r}, ...): "
        "a runtime must expect other values at each call and may not fold them into their operators; "
        "remove them from the inputs"
    ]


def _finished(
    walk: Walk, inputs: Sequence[Slot], outputs: Sequence[Slot], *, notes: Sequence[str]
) -> ModelGraph:
    live = _live(walk.nodes, outputs)
    tensors: dict[str, TensorInfo] = {}
    integers: dict[str, tuple[int, ...]] = {}
    for slots in (*[(*node.inputs, *node.outputs) for node in live], inputs, outputs):
        for slot in slots:
            if slot is not None and (name := slot.name) not in tensors:
                tensors[name] = TensorInfo(name, slot.dtype, slot.shape, slot.role)
                if slot.value is not None and (value := _short_integers(slot)) is not None:
                    integers[name] = value
    quantised = _quantised_products(live)
    operators = tuple([_operator(node, tensors, quantised.get(index)) for index, node in enumerate(live)])
    ends = tuple(tensors[slot.name] for slot in outputs)
    starts = tuple(tensors[slot.name] for slot in inputs)
    opset = walk.opsets.get("", 0)
    unpacked = frozenset(walk.unpacked.intersection(tensors))
    identify = partial(
        digest_of, operators, tensors, inputs=starts, outputs=ends, integers=integers, opset=opset,
        unpacks_weights=bool(unpacked), folded_bytes=walk.folded_bytes,
    )  # fmt: skip
    return ModelGraph(
        inputs=starts,
        outputs=ends,
        operators=operators,
        tensors=tensors,
        opset=opset,
        identify=identify,
        notes=tuple(notes),
        unpacked=unpacked,
        folded_bytes=walk.folded_bytes,
    )


def _short_integers(slot: Slot) -> tuple[int, ...] | None:
    if slot.role not in ("constant", "overridable") or slot.dtype != "int64" or slot.value is None:
        return None
    return tuple(slot.value.ravel().tolist()) if slot.value.size <= _MAX_DIGEST_INTEGERS else None


def _live(nodes: Sequence[Node], outputs: Sequence[Slot]) -> list[Node]:
    """Operators that an output needs, as a runtime keeps them. Decisions (an If without outputs of its
    own) are kept.
    """
    needed = {slot.name for slot in outputs}
    live: list[Node] = []
    for node in reversed(nodes):
        if _is_needed(node, needed):
            live.append(node)
            for slot in node.inputs:
                if slot is not None:
                    needed.add(slot.name)
    live.reverse()
    return live


def _is_needed(node: Node, needed: Set[str]) -> bool:
    is_decision = True
    for slot in node.outputs:
        if slot is not None:
            if slot.name in needed:
                return True
            is_decision = False
    return is_decision


def _quantised_products(nodes: Sequence[Node]) -> dict[int, str]:
    """Which products run on integers although the file writes them on floats between DequantizeLinear nodes
    (QDQ).

    Both operands dequantised from 8 bits: int8. Only the right one, from at most 8 bits and of a matrix
    product: weight-only, named after the weight's dtype. Everything else is computed as written.
    """
    dequantised: dict[str, str] = {}
    found: dict[int, str] = {}
    for index, node in enumerate(nodes):
        if node.full_kind in DEQUANTISES and node.inputs[0] is not None and node.outputs[0] is not None:
            dequantised[node.outputs[0].name] = node.inputs[0].dtype
        elif dequantised and node.full_kind in _MULTIPLIES and len(node.inputs) > 1:
            left, right = (
                dequantised.get(slot.name, "") if slot is not None else "" for slot in node.inputs[:2]
            )
            if left.endswith("int8") and right.endswith("int8"):
                found[index] = "int8"
            elif not left and right in ("int4", "uint4", "int2", "uint2") and node.kind in ("MatMul", "Gemm"):
                found[index] = right.removeprefix("u")
    return found


def _operator(node: Node, tensors: Mapping[str, TensorInfo], precision: str | None) -> Operator:
    likeness, cost = _cost(node, tensors, precision)
    operator = Operator(
        node.name,
        node.kind,
        node.domain,
        node.attributes,
        tuple(["" if slot is None else slot.name for slot in node.inputs]),
        tuple(["" if slot is None else slot.name for slot in node.outputs]),
        cost.macs,
        cost.bytes_read,
        cost.bytes_written,
        cost.parameters,
        cost.precision,
        node.repeats,
    )
    operator.likeness = likeness
    return operator


def _cost(
    node: Node, tensors: Mapping[str, TensorInfo], precision: str | None
) -> tuple[Likeness | None, Cost]:
    """What all repetitions cost, worked out once for nodes that are alike. `precision`: where it is not the
    one that the node says.
    """
    if node.outcome is None:
        return None, _cost_of(node, tensors, precision)
    costs, question = node.outcome.costs, (node.repeats, precision)
    known = costs.get(question)
    if known is None:
        if len(costs) >= _MAX_COSTS:
            costs.clear()
        known = costs[question] = Likeness(), _cost_of(node, tensors, precision)
    return known


def _cost_of(node: Node, tensors: Mapping[str, TensorInfo], precision: str | None) -> Cost:
    inputs = [None if slot is None else tensors[slot.name] for slot in node.inputs]
    outputs = [None if slot is None else tensors[slot.name] for slot in node.outputs]
    cost, repeats = cost_of(node.full_kind, node.attributes, inputs=inputs, outputs=outputs), node.repeats
    macs, bytes_read = cost.macs * repeats, cost.bytes_read * repeats
    bytes_written = cost.bytes_written * repeats
    largest = max(macs, bytes_read, bytes_written, repeats)
    if largest > MAX_OPERATOR_COST:
        raise GraphRejected(
            f"operator {node.full_kind} ({node.name!r}) takes {largest} steps for one inference, at most "
            f"{MAX_OPERATOR_COST} are allowed; give smaller input sizes, or loops fewer trips",
            GraphCode.TOO_LARGE,
        )
    return Cost(macs, bytes_read, bytes_written, cost.parameters, precision or cost.precision)
