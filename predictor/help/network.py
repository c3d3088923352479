"""HELP's latency regressor as a function of its parameters, for many tasks at once.

Every parameter has a leading dimension T: a task is a device of an episode, or a draw of z at test. Weights
are stored as (T, inputs, outputs), so that a layer of all tasks is one batched product.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from predictor.help.config import HelpConfig
from predictor.help.encoding import NODE_TYPES, NODES, cell_adjacency

Parameters = dict[str, Tensor]

GRAPH_LAYERS = ("gc1", "gc2", "gc3", "gc4")
FLAT_LAYERS = ("fc1", "fc2")
HARDWARE_LAYERS = ("hw1", "hw2")
HEAD_LAYERS = ("fc3", "fc4", "fc5")
GRAPH_WEIGHT = 0.05  # weights of graph convolutions are uniform in [-0.05, 0.05]

_ADJACENCY = cell_adjacency()


def initial_parameters(
    encoded: Tensor, config: HelpConfig, *, reference_count: int, generator: Generator
) -> Parameters:
    """Random parameters without the task dimension, for architectures encoded as in `encoding.encode`."""
    width = config.width
    is_graph = encoded.ndim == 3
    names = GRAPH_LAYERS if is_graph else FLAT_LAYERS
    sizes = dict.fromkeys(names, (width, width))
    sizes[names[0]] = (NODE_TYPES if is_graph else encoded.shape[-1], width)
    if config.embedding:
        sizes["hw1"], sizes["hw2"] = (reference_count, width), (width, width)
    joined = 2 * width if config.embedding else width
    sizes.update(fc3=(joined, joined), fc4=(joined, joined), fc5=(joined, 1))
    parameters: Parameters = {}
    for name, (inputs, outputs) in sizes.items():
        bound = 1.0 / math.sqrt(outputs if name in GRAPH_LAYERS else inputs)
        weight_bound = GRAPH_WEIGHT if name in GRAPH_LAYERS else bound
        parameters[f"{name}.weight"] = _uniform((inputs, outputs), weight_bound, generator)
        parameters[f"{name}.bias"] = _uniform((outputs,), bound, generator)
    return parameters


def _uniform(shape: tuple[int, ...], bound: float, generator: Generator) -> Tensor:
    return (2.0 * torch.rand(shape, generator=generator) - 1.0) * bound


def expanded(parameters: Parameters, tasks: int) -> Parameters:
    """The same parameters for each of T tasks, (T, ...), as views."""
    return {name: value.expand(tasks, *value.shape) for name, value in parameters.items()}


def gathered(encoded: Tensor, indices: Tensor) -> Tensor:
    """Inputs of `forward` for architectures `indices` (T, B): (T, 9, B, 8) of graphs, (T, B, F) of rows."""
    chosen = encoded[indices]
    return chosen.transpose(1, 2).contiguous() if encoded.ndim == 3 else chosen


def forward(parameters: Parameters, inputs: Tensor, embedding: Tensor) -> Tensor:
    """Scores (T, B) of T tasks with B architectures each.

    `inputs` as `gathered` returns them, `embedding` (T, R); it is not read where the parameters have no
    hardware branch.
    """
    encode = _graph_rows if inputs.ndim == 4 else _flat_rows
    hidden = encode(parameters, inputs)  # (T, B, L)
    if "hw1.weight" in parameters:
        hardware = embedding[:, None, :]  # (T, 1, R)
        for name in HARDWARE_LAYERS:
            hardware = torch.relu(_linear(parameters, name, hardware))  # (T, 1, L)
        hidden = torch.cat([hidden, hardware.expand(-1, hidden.shape[1], -1)], dim=-1)  # (T, B, 2L)
    for name in HEAD_LAYERS[:-1]:
        hidden = torch.relu(_linear(parameters, name, hidden))
    return _linear(parameters, HEAD_LAYERS[-1], hidden)[..., 0]  # (T, B)


def _linear(parameters: Parameters, name: str, rows: Tensor) -> Tensor:
    return torch.baddbmm(parameters[f"{name}.bias"][:, None, :], rows, parameters[f"{name}.weight"])


def _flat_rows(parameters: Parameters, rows: Tensor) -> Tensor:
    for name in FLAT_LAYERS:
        rows = torch.relu(_linear(parameters, name, rows))
    return rows


def _graph_rows(parameters: Parameters, nodes: Tensor) -> Tensor:
    """The global node's row (T, B, L) after four convolutions A (X W) + b, computed as (A X) W + b.

    Nobody reads the other rows of the last convolution, so it makes none.
    """
    tasks, _, count, _ = nodes.shape  # (T, 9, B, 8)
    for name in GRAPH_LAYERS:
        receivers = _ADJACENCY[-1:] if name == GRAPH_LAYERS[-1] else _ADJACENCY
        summed = torch.matmul(receivers, nodes.reshape(tasks, NODES, -1))  # (T, 9 or 1, B * F)
        rows = summed.reshape(tasks, len(receivers) * count, -1)  # (T, 9 B, F)
        nodes = torch.relu(_linear(parameters, name, rows)).reshape(tasks, len(receivers), count, -1)
    return nodes[:, 0]
