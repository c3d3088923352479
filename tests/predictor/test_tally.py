"""Tallies of a graph that can be counted by hand."""

from __future__ import annotations

import numpy as np

from predictor.few_shot.tally import SIZE_OCTAVES, TALLY_SHAPE, Law, Work, tally_kernels, tally_operators
from predictor.networks.layers import LayerNet
from predictor.reading.reader import read_graph


def small_model() -> bytes:
    """3x3 convolution to 8 channels with ReLU, depthwise, 1x1, pooling, classifier: 8 x 8 images."""
    net = LayerNet("small", size=8, batch=1)
    x = net.convolved(net.image, 8, 3, activation="Relu")
    x = net.convolved(x, 8, 3, groups=8)
    x = net.convolved(x, 16, 1)
    return net.classified(net.pooled(x), 10)


def test_operators_and_kernels_by_hand() -> None:
    graph = read_graph(small_model(), {"image": (1, 3, 8, 8)})
    operators, kernels = tally_operators(graph), tally_kernels(graph)
    assert operators.shape == kernels.shape == TALLY_SHAPE
    launches = operators[:, Law.LAUNCHES].sum(axis=1)
    kinds = (Work.CONV, Work.DEPTHWISE, Work.POINTWISE, Work.PRODUCT, Work.ELEMENTWISE)
    assert [round(launches[kind]) for kind in kinds] == [1, 1, 1, 1, 1]
    assert np.isclose(operators[Work.CONV, Law.MACS].sum(), 64 * 8 * 27)
    assert np.isclose(operators[Work.DEPTHWISE, Law.MACS].sum(), 64 * 8 * 9)
    assert np.isclose(operators[Work.POINTWISE, Law.MACS].sum(), 64 * 8 * 16)
    assert np.isclose(operators[Work.PRODUCT, Law.MACS].sum(), 160)
    assert np.isclose(operators[:, Law.MACS].sum(), graph.macs)
    # The ReLU joins its convolution; nothing is launched for it, and its result is written once.
    assert kernels[Work.ELEMENTWISE, Law.LAUNCHES].sum() == 0
    assert np.isclose(kernels[:, Law.MACS].sum(), graph.macs)
    bytes_by_operators = operators[:, Law.ACTIVATION_BYTES].sum()
    assert kernels[:, Law.ACTIVATION_BYTES].sum() == bytes_by_operators - 2 * 64 * 8 * 4


def test_a_size_between_two_octaves_counts_for_both() -> None:
    graph = read_graph(small_model(), {"image": (1, 3, 8, 8)})
    pointwise = tally_operators(graph)[Work.POINTWISE, Law.LAUNCHES]
    moved = 4 * (64 * 8 + 64 * 16 + 8 * 16 + 16)  # maps in and out, weight and bias
    assert np.isclose(pointwise @ SIZE_OCTAVES, np.log2(moved))
    assert (pointwise > 0).sum() == 2
