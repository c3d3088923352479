"""Encodings of the three spaces, and the batched network against plain sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Generator

from predictor.help.config import HELP, META_SGD
from predictor.help.encoding import cell_adjacency, encode
from predictor.help.network import expanded, forward, gathered, initial_parameters


def test_cell_is_a_graph_of_typed_nodes() -> None:
    encoded = encode("nb201", np.asarray([[4, 2, 1, 0, 3, 1]]))
    assert encoded.shape == (1, 9, 8)
    types = encoded[0].argmax(dim=1).tolist()
    assert types == [0, 5, 3, 2, 1, 4, 2, 6, 7]  # input, operations plus one, output, global
    assert torch.equal(encoded.sum(dim=2), torch.ones(1, 9))


def test_cell_edges_lead_from_input_to_output_and_to_the_global_node() -> None:
    adjacency = cell_adjacency()
    senders = {row: torch.nonzero(adjacency[row]).flatten().tolist() for row in range(9)}
    assert senders == {
        0: [0],
        1: [0, 1],  # 1<-0 reads the input
        2: [0, 2],
        3: [1, 3],  # 2<-1 reads what 1<-0 made
        4: [0, 4],
        5: [1, 5],
        6: [2, 3, 6],  # 3<-2 reads both that lead to node 2
        7: [4, 5, 6, 7],
        8: list(range(9)),
    }


def test_fbnet_block_has_a_kernel_and_a_kind_and_a_skip_has_nothing() -> None:
    genome = np.full((1, 22), 8)
    genome[0, :3] = [0, 3, 6]
    encoded = encode("fbnet", genome)
    assert encoded.shape == (1, 132)
    blocks = encoded.reshape(22, 6)
    assert blocks[0].tolist() == [1, 0, 1, 0, 0, 0]
    assert blocks[1].tolist() == [1, 0, 0, 0, 0, 1]
    assert blocks[2].tolist() == [0, 1, 0, 0, 1, 0]
    assert not blocks[3:].any()


def test_ofa_blocks_beyond_a_stages_depth_are_absent() -> None:
    genome = np.concatenate([[3, 5, 7, 3] * 5, [3, 4, 6, 6] * 5, [2, 3, 4, 2, 2], [136]])[None]
    encoded = encode("ofa", genome)[0]
    assert encoded.shape == (145,)
    kernels, expansions = encoded[:60].reshape(20, 3), encoded[60:120].reshape(20, 3)
    assert kernels[:4].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert kernels[4:8].sum() == 3
    assert expansions[8:12].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert torch.nonzero(encoded[120:]).flatten().tolist() == [2]  # 128, 132, 136


def test_graph_network_equals_its_formula() -> None:
    genomes = np.random.default_rng(0).integers(0, 5, size=(6, 6))
    encoded = encode("nb201", genomes)
    config = replace(HELP, width=7)
    generator = Generator().manual_seed(1)
    network = initial_parameters(encoded, config, reference_count=10, generator=generator)
    embedding = torch.rand(2, 10, generator=generator)
    indices = torch.asarray([[0, 2, 5], [4, 1, 2]])
    scores = forward(expanded(network, 2), gathered(encoded, indices), embedding)
    assert scores.shape == (2, 3)
    for task in range(2):
        for place in range(3):
            rows = encoded[indices[task, place]]
            for name in ("gc1", "gc2", "gc3", "gc4"):  # A (X W) + b
                rows = cell_adjacency() @ (rows @ network[f"{name}.weight"]) + network[f"{name}.bias"]
                rows = rows.relu()
            hardware = embedding[task]
            for name in ("hw1", "hw2"):
                hardware = (hardware @ network[f"{name}.weight"] + network[f"{name}.bias"]).relu()
            hidden = torch.cat([rows[-1], hardware])
            for name in ("fc3", "fc4"):
                hidden = (hidden @ network[f"{name}.weight"] + network[f"{name}.bias"]).relu()
            expected = hidden @ network["fc5.weight"] + network["fc5.bias"]
            torch.testing.assert_close(scores[task, place], expected[0], rtol=1e-4, atol=1e-6)


def test_without_embedding_the_head_is_half_as_wide() -> None:
    encoded = encode("fbnet", np.zeros((1, 22), dtype=np.int64))
    network = initial_parameters(encoded, META_SGD, reference_count=10, generator=Generator().manual_seed(0))
    assert network["fc3.weight"].shape == (100, 100)
    assert not any(name.startswith("hw") for name in network)
