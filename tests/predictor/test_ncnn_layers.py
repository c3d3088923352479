"""ncnn's layers, which bear no operator's name, as kernels of the graph."""

from __future__ import annotations

import numpy as np
import pytest

from devices.measurement import LayerProfile, LayerTime
from predictor.families.encode import encode
from predictor.families.layers import Net
from predictor.families.style import style_of
from predictor.kernel_costs.layers import timed_kernels
from predictor.kernel_costs.ncnn_layers import ncnn_layers_of
from predictor.kernel_costs.table import View, kernels_in
from predictor.kernels import Kernel
from predictor.reading.reader import read_graph


def drawn() -> tuple[Kernel, ...]:
    """A residual block, a depthwise convolution, a gate behind a global pooling, two products of rows."""
    net = Net("net", style_of("net", least_opset=17))
    x = net.conv(net.input("image", 1, 16, 8, 8), 16, 3, act="Relu", has_norm=False)
    x = net.act(net.add(x, net.conv(x, 16, 3, has_norm=False)), "Relu")
    x = net.conv(x, 16, 3, groups=16, act="Tanh", has_norm=False)
    mean = net.op("GlobalAveragePool", x, shape=(1, 16, 1, 1))
    x = net.mul(x, net.conv(mean, 16, 1, act="Sigmoid", has_norm=False))
    rows = net.reshape(x, (1, 64, 16))
    net.outputs.append(net.layer_norm(net.linear(net.linear(rows, 8), 24)))
    return kernels_in(read_graph(encode(net), dict(net.input_shapes())), View.FUSED)


LAYERS = [
    "convrelu_0", "splitncnn_0", "conv_3", "add_0", "relu_4", "convdw_7", "tanh_8", "splitncnn_1", "gap_0",
    "fcsigmoid_0", "mul_1", "reshape_11", "F_linear_0_ncnnreshape0", "gemm_0",
    "F_linear_0_ncnnreshape1", "linear_1", "ln_5",
]  # fmt: skip


def told_by(names: list[str]) -> list[tuple[tuple[str, ...], list[str]]]:
    """The kinds in each kernel that is told, and the layers that it is."""
    kernels = drawn()
    return [
        (tuple(member.kind for member in kernels[home].members), [names[place] for place in places])
        for home, places in sorted(ncnn_layers_of(kernels, names).items())
    ]


def test_layers_are_kernels_of_their_kind_in_the_order_of_running() -> None:
    assert told_by(LAYERS)[:5] == [
        (("Conv", "Relu"), ["convrelu_0"]),
        (("Conv", "Add", "Relu"), ["conv_3", "add_0", "relu_4"]),
        (("Conv", "Tanh"), ["convdw_7", "tanh_8"]),
        (("GlobalAveragePool",), ["gap_0"]),
        (("Conv", "Sigmoid"), ["fcsigmoid_0"]),
    ]
    products = [layers for kinds, layers in told_by(LAYERS) if kinds[0] == "MatMul"]
    assert products == [["F_linear_0_ncnnreshape0", "gemm_0", "F_linear_0_ncnnreshape1"], ["linear_1"]]


@pytest.mark.parametrize(("missing", "kept"), [("convrelu_0", False), ("relu_4", True)])
def test_a_layer_that_is_not_there_leaves_its_kind_untold(missing: str, kept: bool) -> None:
    told = [kinds for kinds, _ in told_by([name for name in LAYERS if name != missing])]
    assert ("Conv", "Add", "Relu") not in told
    assert ("Conv", "Tanh") in told
    assert (("Conv", "Relu") in told) is kept


def test_a_kernel_takes_what_all_of_its_layers_take() -> None:
    timed = tuple(LayerTime(name=name, kind="", provider="cpu", median_ns=100_000) for name in LAYERS)
    kernels = drawn()
    took_ms = timed_kernels(
        kernels, LayerProfile(layers=timed, coverage=1.0), 0.1 * len(LAYERS), engine="ncnn"
    )
    residual = next(place for place, one in enumerate(kernels) if len(one.members) == 3)
    assert took_ms[residual] == pytest.approx(0.3)
    assert np.isnan(took_ms[-1])  # the call


def test_what_copying_an_output_takes_is_none_of_its_layer() -> None:
    """All layers ask for as long; a large output's copy is more of that, and where it is most, none tells."""
    kernels = drawn()
    asked = [LayerTime(name=name, kind="", provider="cpu", median_ns=100_000) for name in LAYERS]
    profile = LayerProfile(layers=tuple(asked), coverage=1.7)
    took_ms = timed_kernels(kernels, profile, 1.0, engine="ncnn")
    pooling = next(place for place, one in enumerate(kernels) if one.anchor.kind == "GlobalAveragePool")
    image, one_each = kernels[0].bytes_written, kernels[pooling].bytes_written
    assert took_ms[0] < took_ms[pooling] < 0.1
    copies = 0.1 - took_ms[[0, pooling]]
    assert copies[0] / copies[1] == pytest.approx((15e3 + image) / (15e3 + one_each))
    hurried = timed_kernels(kernels, profile, 0.4, engine="ncnn")
    assert np.isnan(hurried[0])
