"""Weights come from a cache only where the whole graph's fit it, and a recurrent kernel's state by itself."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

from predictor.kernel_costs.nominal import nominal_times
from predictor.kernel_costs.table import Amount, View, table_of
from predictor.kernel_costs.weight_traffic import weight_traffic
from predictor.reading.reader import read_graph
from predictor.roofline import machine_of
from tests.predictor.onnx_graphs import model_of, noise
from tests.predictor.synthetic_target import HARDWARE, RUNTIME

SIDE = 32
EACH = 4.0 * SIDE * SIDE  # bytes of one product's weights


def products(count: int) -> ModelProto:
    """So many products of one row by equal weights, one after the other."""
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    stored = {f"w{i}": noise(SIDE, SIDE) for i in range(count)}
    return model_of(nodes, {"x0": [1, SIDE]}, [f"x{count}"], stored=stored)


def traffic(model: ModelProto, cache_bytes: float) -> tuple[float, float]:
    """Of the first kernel: bytes from the cache, and from memory."""
    table = table_of(read_graph(model.SerializeToString(), {}), View.LISTED)
    kept, streamed = weight_traffic(table, cache_bytes)
    return float(kept[0]), float(streamed[0])


@pytest.mark.parametrize(
    ("count", "share"), [(1, 1.0), (4, 1.0), (5, 0.5), (6, 0.0), (9, 0.0)], ids=lambda value: str(value)
)
def test_what_is_read_in_turn_must_fit_as_a_whole(count: int, share: float) -> None:
    kept, streamed = traffic(products(count), 4 * EACH)
    assert kept == pytest.approx(share * EACH)
    assert kept + streamed == pytest.approx(EACH)


def gru(steps: int, size: int, hidden: int) -> ModelProto:
    """One direction."""
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=hidden)
    stored = {"w": noise(1, 3 * hidden, size), "r": noise(1, 3 * hidden, hidden)}
    return model_of([node], {"x": [steps, 1, size]}, ["y"], stored=stored)


def test_a_state_is_read_at_every_step_from_where_it_fits() -> None:
    steps, size, hidden = 11, 16, 48
    of_input, of_state = 4.0 * 3 * hidden * size, 4.0 * 3 * hidden * hidden
    everything = of_input + steps * of_state
    assert sum(traffic(gru(steps, size, hidden), 1e3)) == pytest.approx(everything)
    assert traffic(gru(steps, size, hidden), 1e3)[0] == 0
    assert traffic(gru(steps, size, hidden), 1e6) == (pytest.approx(everything), pytest.approx(0, abs=1e-6))
    assert traffic(gru(1, size, hidden), 1e6)[0] == pytest.approx(of_input + of_state)


def test_every_kernel_of_a_view_knows_the_weights_of_all() -> None:
    table = table_of(read_graph(products(3).SerializeToString(), {}), View.FUSED)
    assert np.all(table.amounts[:, Amount.GRAPH_WEIGHT_BYTES] == 3 * EACH)


def convolved(kernel: int, stride: int, groups: int = 1, *, side: int = 8) -> ModelProto:
    """Sixteen channels to sixteen."""
    pads = [kernel // 2] * 4
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=[stride] * 2, group=groups, pads=pads, kernel_shape=[kernel] * 2
    )
    stored = {"w": noise(16, 16 // groups, kernel, kernel)}
    return model_of([node], {"x": [1, 16, side, side]}, ["y"], stored=stored)


@pytest.mark.parametrize(
    ("model", "is_transformed"),
    [
        (convolved(3, 1), True),
        (convolved(3, 2), False),
        (convolved(1, 1), False),
        (convolved(3, 1, 2), False),
    ],
    ids=["3x3", "in-steps-of-two", "1x1", "in-groups"],
)
def test_weights_grow_where_a_library_transforms_them(model: ModelProto, is_transformed: bool) -> None:
    table = table_of(read_graph(model.SerializeToString(), {}), View.FUSED)
    weights = table.amounts[0, Amount.WEIGHT_BYTES]
    assert sum(weight_traffic(table, 1e6))[0] == weights
    growth = 4.0 if is_transformed else 1.0
    assert sum(weight_traffic(table, 1e6, winograd_growth=4.0))[0] == growth * weights
    # and what grows may no longer fit
    assert bool(weight_traffic(table, weights, winograd_growth=4.0)[1][0] > 0) is is_transformed


def test_a_library_that_transforms_images_multiplies_less_and_transforms_for_it() -> None:
    """Four tiles of 4x4 results fill an image of side eight, and one of side five needs as many. Loading the
    weights takes as long as four more.
    """
    ncnn, other = (
        machine_of(RUNTIME.model_copy(update={"engine": engine}), HARDWARE)
        for engine in ("ncnn", "onnxruntime")
    )
    for model, products in ((convolved(3, 1), 0.5), (convolved(3, 1, side=5), 36 * 8 / (9 * 25))):
        table = table_of(read_graph(model.SerializeToString(), {}), View.FUSED)
        side = table.amounts[0, Amount.WIDTH]
        plain, own = (nominal_times(table, one, has_generic_paths=False) for one in (other, ncnn))
        plain_ms = plain.arithmetic[0] * other.macs_per_s / ncnn.macs_per_s
        numbers = 36 * np.ceil(side / 4) ** 2 * (16 + 16)
        transforming_ms = 1e3 * ncnn.habits.winograd_cycles * numbers / ncnn.cycles_per_s
        assert own.arithmetic[0] == pytest.approx(products * plain_ms + transforming_ms)
    untouched = table_of(read_graph(convolved(3, 2).SerializeToString(), {}), View.FUSED)
    assert nominal_times(untouched, ncnn).arithmetic[0] == pytest.approx(
        nominal_times(untouched, other).arithmetic[0] * other.macs_per_s / ncnn.macs_per_s
    )
