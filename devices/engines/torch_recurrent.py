"""ONNX's recurrent layers, as PyTorch modules; their weights are put in PyTorch's order when a model is
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from devices.engines.torch_node import Builder, Function, Node, Outputs

# The order of PyTorch's gates in ONNX's: iofc becomes ifgo, zrh becomes rzn.
GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
MODULES: Mapping[str, Callable[..., nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
SEQUENCE_LENGTHS, FIRST_STATE, PEEPHOLES = 4, 5, 7  # inputs


def _recurrent(node: Node) -> Function:
    _refuse_variants(node)
    hidden, size = node.integer("hidden_size"), node.shape(1)[-1]
    direction = node.text("direction", "forward")
    device, dtype = node.example(0).device, node.example(0).dtype
    module = MODULES[node.kind](
        size, hidden, bidirectional=direction == "bidirectional", device=device, dtype=dtype
    )
    _set_weights(module, node, hidden)
    module = module.eval().requires_grad_(False)
    module.flatten_parameters()  # cuDNN takes them from one block of memory
    is_reversed, is_lstm = direction == "reverse", node.kind == "LSTM"
    states = 2 if is_lstm else 1
    directions = 2 if direction == "bidirectional" else 1

    def run(x: Tensor, *others: Tensor | None) -> Outputs:
        given = others[FIRST_STATE - 1 : FIRST_STATE - 1 + states]
        first = [value.contiguous() for value in given if value is not None]  # cuDNN takes no others
        start = None if len(first) < states else tuple(first) if is_lstm else first[0]
        outputs, last = module(x.flip(0) if is_reversed else x, start)  # (steps, batch, directions * hidden)
        steps, batch = outputs.shape[:2]
        outputs = outputs.reshape(steps, batch, directions, hidden).permute(0, 2, 1, 3)
        outputs = outputs.flip(0) if is_reversed else outputs  # (steps, directions, batch, hidden)
        return (outputs, *last) if is_lstm else (outputs, last)

    return run


def _refuse_variants(node: Node) -> None:
    """What PyTorch's layers cannot be told to do."""
    stated = node.attributes.get("activations")
    names = [bytes(one).decode().lower() for one in stated] if isinstance(stated, list) else []
    usual = ACTIVATIONS[node.kind]
    lengths = node.constant(SEQUENCE_LENGTHS)
    steps = node.shape(0)[0]
    for is_unusual, reason in (
        (any(name != usual[index % len(usual)] for index, name in enumerate(names)), "other activations"),
        ("clip" in node.attributes, "clipped gates"),
        (node.integer("input_forget", 0), "coupled gates"),
        (node.integer("layout", 0), "the batch is its first axis"),
        (node.has(PEEPHOLES), "peepholes"),
        (lengths is not None and bool((lengths != steps).any()), "sequences of different lengths"),
        (node.kind == "GRU" and not node.integer("linear_before_reset", 0), "the reset gate comes first"),
        (node.has(FIRST_STATE) != node.has(FIRST_STATE + 1) and node.kind == "LSTM", "one of two states"),
    ):
        if is_unusual:
            raise node.refusal(reason)


def _set_weights(module: nn.RNNBase, node: Node, hidden: int) -> None:
    inputs, states, bias = node.constant(1), node.constant(2), node.constant(3)
    assert inputs is not None
    assert states is not None
    order, dtype = GATES[node.kind], node.example(0).dtype
    for direction in range(inputs.shape[0]):
        suffix = "_l0_reverse" if direction else "_l0"
        values = {"weight_ih": inputs[direction], "weight_hh": states[direction]}
        both = inputs.new_zeros(2 * len(order) * hidden) if bias is None else bias[direction]
        values["bias_ih"], values["bias_hh"] = both.chunk(2)
        for name, value in values.items():
            getattr(module, name + suffix).data = _reordered(value, order, hidden).to(dtype)


def _reordered(value: Tensor, order: Sequence[int], hidden: int) -> Tensor:
    return torch.cat([value[gate * hidden : (gate + 1) * hidden] for gate in order]).contiguous()


OPERATORS: Mapping[str, Builder] = {"LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent}
