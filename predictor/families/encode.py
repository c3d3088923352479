"""The bytes of a draft: an ONNX file, the same for the same draft."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from predictor.families.draft import Draft, Step, Tensor

_CONSTANT_NODE_ELEMENTS = 1 << 16  # larger weights stay initializers, as exporters keep them


def encode(draft: Draft) -> bytes:
    """Unused constants are left out. Raises nothing on a well-formed draft."""
    style = draft.style
    used = {name for step in draft.steps for name in step.inputs} | set(draft.outputs)
    stored = {name: array for name, array in draft.constants.items() if name in used}
    as_nodes = [
        name
        for name, array in stored.items()
        if style.has_constant_nodes and array.size <= _CONSTANT_NODE_ELEMENTS
    ]
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(stored[name]))
        for name in as_nodes
    ]
    initializers = [
        numpy_helper.from_array(array, name) for name, array in stored.items() if name not in set(as_nodes)
    ]
    inputs = [_declared(name, tensor) for name, tensor in draft.inputs.items()]
    if style.has_listed_weights:
        inputs += [
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            for tensor in initializers
        ]
    graph = helper.make_graph(
        [*nodes, *map(_node, draft.steps)],
        draft.name,
        inputs,
        [_declared(name, draft.tensors[name]) for name in draft.outputs],
        initializers,
    )
    domains = {step.domain for step in draft.steps if step.domain}
    opsets = [
        helper.make_opsetid("", style.opset),
        *(helper.make_opsetid(name, 1) for name in sorted(domains)),
    ]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=style.ir_version)
    model.producer_name, model.producer_version = "laptime", "1"
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _declared(name: str, tensor: Tensor) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(name, kind, tensor.shape)


def _node(step: Step) -> onnx.NodeProto:
    node = helper.make_node(step.kind, step.inputs, step.outputs, name=step.outputs[0], domain=step.domain)
    node.attribute.extend(
        helper.make_attribute(name, value) for name, value in sorted(step.attributes.items())
    )
    return node
