"""How kernels lie in memory, against small cases worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from predictor.families.encode import encode
from predictor.families.layers import Net
from predictor.families.style import style_of
from predictor.graph import ModelGraph
from predictor.kernel_costs.geometry import NOTHING, Extent, geometry_of
from predictor.kernel_costs.layout import Layouts, layouts_of, need_of
from predictor.kernel_costs.table import Amount, Flag, View, kernels_in, table_of
from predictor.kernels import Kernel
from predictor.reading.reader import read_graph
from predictor.wiring import Connections
from tests.predictor.onnx_graphs import model_of, noise


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int],
    stored: Mapping[str, NDArray[np.generic]] | None = None,
    more: Mapping[str, Sequence[int]] | None = None,
) -> ModelGraph:
    inputs = {"x": list(shape), **{name: list(sizes) for name, sizes in (more or {}).items()}}
    return read_graph(model_of(nodes, inputs, ["y"], stored=stored).SerializeToString(), {})


def kernels_of(graph: ModelGraph) -> tuple[Kernel, ...]:
    return kernels_in(graph, View.LISTED)


def layouts_in(graph: ModelGraph) -> Layouts:
    kernels = kernels_of(graph)
    needs = [need_of(kernel, graph.tensors) for kernel in kernels]
    return layouts_of(kernels, needs, Connections(graph))


def lone(
    kind: str,
    shape: Sequence[int],
    *,
    stored: Mapping[str, NDArray[np.generic]] | None = None,
    more: Mapping[str, Sequence[int]] | None = None,
    **attributes: object,
) -> dict[Extent, float]:
    """Of a graph of one operator, its geometry by name."""
    node = helper.make_node(kind, ["x", *(stored or {}), *(more or {})], ["y"], **attributes)
    graph = graph_of([node], shape, stored, more)
    numbers = geometry_of(kernels_of(graph)[0], graph.tensors, Connections(graph).elements)
    assert len(numbers) == len(NOTHING) == len(Extent)
    return dict(zip(Extent, numbers, strict=True))


@pytest.mark.parametrize(
    ("perm", "shape", "run"),
    [
        ([0, 2, 1, 3], [2, 4, 8, 16], 16),
        ([0, 1, 3, 2], [2, 4, 8, 16], 1),
        ([1, 0, 2, 3], [2, 4, 8, 16], 128),
        ([0, 2, 1, 3], [2, 1, 8, 16], 256),  # only a renaming
        ([0, 3, 1, 2], [1, 5, 1, 3], 1),
    ],
)
def test_a_transposition_copies_as_many_elements_at_once_as_stay_together(
    perm: list[int], shape: list[int], run: float
) -> None:
    assert lone("Transpose", shape, perm=perm)[Extent.RUN] == run


def test_a_sum_runs_until_an_operand_is_repeated() -> None:
    whole = lone("Add", [2, 3, 4, 5], more={"z": [2, 3, 4, 5]})
    assert whole[Extent.RUN] == 120
    assert lone("Add", [2, 3, 4, 5], stored={"z": noise(1, 3, 1, 1)})[Extent.RUN] == 20  # a channel
    assert lone("Mul", [2, 3, 4, 5], stored={"z": noise(5)})[Extent.RUN] == 5
    assert lone("Mul", [2, 3, 4, 5], stored={"z": noise(1)})[Extent.RUN] == 120


def test_scales_of_channels_end_a_run() -> None:
    stored = {"s": np.full(3, 0.1, np.float32), "z": np.zeros(3, np.uint8)}
    assert lone("QuantizeLinear", [2, 3, 4, 5], stored=stored, axis=1)[Extent.RUN] == 20
    assert lone("QuantizeLinear", [2, 5, 4, 3], stored=stored, axis=3)[Extent.RUN] == 1
    one = {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)}
    assert lone("QuantizeLinear", [2, 3, 4, 5], stored=one)[Extent.RUN] == 120


def test_what_is_summed_over() -> None:
    assert lone("Softmax", [2, 3, 8], axis=-1)[Extent.REDUCED] == 8
    along = lone("Softmax", [2, 3, 8], axis=1)
    assert (along[Extent.REDUCED], along[Extent.RUN]) == (3, 8)
    mean = lone("ReduceMean", [2, 6, 4, 5], axes=[2, 3])
    assert (mean[Extent.REDUCED], mean[Extent.RUN]) == (20, 1)
    assert lone("GlobalAveragePool", [2, 6, 4, 5])[Extent.REDUCED] == 20
    pool = lone("MaxPool", [2, 6, 9, 9], kernel_shape=[3, 2])
    assert (pool[Extent.REDUCED], pool[Extent.LAST_WINDOW]) == (6, 2)


def test_a_convolution_tells_its_channels_and_places() -> None:
    conv = lone(
        "Conv", [2, 6, 9, 7], stored={"w": noise(10, 3, 3, 3)}, group=2, pads=[2, 2, 2, 2], dilations=[2, 2],
        kernel_shape=[3, 3],
    )  # fmt: skip
    expected = {
        Extent.WIDTH: 7, Extent.HEIGHT: 9, Extent.BATCH: 2, Extent.CHANNELS_READ: 6,
        Extent.CHANNELS_WRITTEN: 10, Extent.DILATION: 4, Extent.LAST_WINDOW: 3, Extent.RANK: 4,
        Extent.IS_PADDED: 1, Extent.INPUTS: 2,
    }  # fmt: skip
    assert {place: conv[place] for place in expected} == expected


@pytest.mark.parametrize(
    ("side", "window", "more", "share"),
    [
        (7, 3, {"pads": [1] * 4}, (19 / 21) ** 2),  # the first and the last place of a line miss one of three
        (2, 5, {"pads": [2] * 4}, (4 / 10) ** 2),
        (6, 3, {"pads": [1] * 4, "strides": [2, 2]}, (8 / 9) ** 2),  # only the first place misses one
        (6, 3, {"pads": [2] * 4, "dilations": [2, 2]}, (14 / 18) ** 2),
        (6, 3, {"auto_pad": "SAME_UPPER"}, (16 / 18) ** 2),
        (6, 3, {"auto_pad": "VALID"}, 1.0),
        (6, 3, {}, 1.0),
    ],
)
def test_the_share_of_a_filter_that_falls_on_the_image(
    side: int, window: int, more: dict[str, object], share: float
) -> None:
    weight = {"w": noise(4, 1, window, window)}
    found = lone("Conv", [1, 4, side, side], stored=weight, group=4, kernel_shape=[window] * 2, **more)
    assert found[Extent.ON_IMAGE] == pytest.approx(share)
    if "dilations" not in more:
        pooled = lone("MaxPool", [1, 4, side, side], kernel_shape=[window] * 2, **more)
        assert pooled[Extent.ON_IMAGE] == found[Extent.ON_IMAGE]


def test_tables_hold_the_geometry_in_its_order() -> None:
    columns = [amount.name for amount in Amount]
    first = columns.index(Extent.WIDTH.name)
    assert columns[first : first + len(Extent)] == [extent.name for extent in Extent]


def test_a_view_has_no_geometry() -> None:
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    graph = graph_of([node], [2, 6], {"s": np.array([3, 4], np.int64)})
    assert geometry_of(kernels_of(graph)[0], graph.tensors, Connections(graph).elements) == NOTHING


def conv(read: str, written: str, weight: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Conv", [read, weight], [written], **attributes)


def test_poolings_and_sums_run_on_the_blocks_of_convolutions() -> None:
    """Channels 3 -> 32 -> 32, pooled, summed; then 20 channels, which a pooling cannot take in blocks."""
    nodes = [
        conv("x", "a", "v", pads=[1, 1, 1, 1]),
        conv("a", "b", "w", pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("d", "e", "u"),
        helper.make_node("MaxPool", ["e"], ["f"], kernel_shape=[2, 2]),
        helper.make_node("Softmax", ["f"], ["y"]),
    ]
    stored = {"v": noise(32, 3, 3, 3), "w": noise(32, 32, 3, 3), "u": noise(20, 32, 1, 1)}
    graph = graph_of(nodes, [1, 3, 8, 8], stored)
    runs, rearranged = layouts_in(graph)
    assert runs == [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert rearranged == [0.0] * 5 + [20 * 4 * 4 * 4, 0.0, 0.0]
    table = table_of(graph, View.LISTED)
    assert table.amounts[:, Amount.ON_BLOCKS].tolist() == runs
    assert table.amounts[:, Amount.REARRANGED_BYTES].tolist() == rearranged


def test_plain_images_are_rearranged_before_and_blocks_behind() -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["a"]), conv("a", "y", "w")]
    graph = graph_of(nodes, [1, 32, 4, 4], {"w": noise(16, 32, 1, 1)})
    runs, rearranged = layouts_in(graph)
    assert runs == [0.0, 1.0, 0.0]
    assert rearranged == [0.0, 32 * 16 * 4, 16 * 16 * 4]


def test_replaceable_weights_leave_blocks_where_a_runtime_does_not_convert() -> None:
    """The layout is told as if weights were constants, and apart from that where ONNX Runtime has none."""
    nodes = [conv("x", "a", "w"), helper.make_node("Relu", ["a"], ["y"])]
    built = {
        lists: model_of(
            nodes, {"x": [1, 16, 4, 4]}, ["y"], stored={"w": noise(16, 16, 1, 1)}, lists_weights=lists
        )
        for lists in (False, True)
    }
    fixed, replaceable = (
        table_of(read_graph(model.SerializeToString(), {}), View.LISTED).amounts for model in built.values()
    )
    assert fixed[:, Amount.ON_BLOCKS].tolist() == replaceable[:, Amount.ON_BLOCKS].tolist() == [1.0, 1.0, 0.0]
    assert fixed[:, Amount.OFF_BLOCKS].tolist() == [0.0] * 3
    assert replaceable[:, Amount.OFF_BLOCKS].tolist() == [1.0, 1.0, 0.0]


def test_unaligned_channels_and_graphs_without_convolutions_stay_plain() -> None:
    odd = graph_of([conv("x", "y", "w")], [1, 18, 4, 4], {"w": noise(16, 18, 1, 1)})
    assert layouts_in(odd) == ([0.0, 0.0], [0.0, 0.0])
    plain = graph_of([helper.make_node("Relu", ["x"], ["y"])], [1, 16, 4, 4])
    assert layouts_in(plain) == ([0.0, 0.0], [0.0, 0.0])


def test_a_pooling_between_bytes_counts_as_one_of_bytes() -> None:
    scale = {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MaxPool", ["d"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"]),
    ]
    graph = graph_of(nodes, [1, 16, 8, 8], scale)
    (pool,) = [one for one in kernels_in(graph, View.FUSED) if one.anchor.kind == "MaxPool"]
    (listed,) = [one for one in kernels_of(graph) if one.anchor.kind == "MaxPool"]
    assert (pool.precision, listed.precision) == ("int8", "float32")
    assert pool.scalar_cycles < listed.scalar_cycles


@pytest.mark.parametrize("is_by_tanh", [True, False])
def test_how_a_gelu_is_written_is_told(is_by_tanh: bool) -> None:
    style = replace(style_of("net", least_opset=13), has_gemm=is_by_tanh, has_decomposed_curves=True)
    net = Net("net", style)
    net.outputs.append(net.act(net.input("x", 1, 8, 16), "gelu"))
    table = table_of(read_graph(encode(net), dict(net.input_shapes())), View.FUSED)
    assert "Gelu" in table.names
    assert bool(table.flags[:, Flag.BY_TANH].any()) is is_by_tanh
