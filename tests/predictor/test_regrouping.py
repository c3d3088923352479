"""Which products a runtime of computer vision puts back into axes."""

from __future__ import annotations

import pytest

from devices.target import Runtime
from predictor.families.encode import encode
from predictor.families.layers import Net
from predictor.families.style import style_of
from predictor.kernel_costs.nominal import nominal_times
from predictor.kernel_costs.table import CLASSES, Amount, KernelTable, View, table_of
from predictor.reading.reader import read_graph
from predictor.roofline import KernelClass, machine_of
from tests.predictor.synthetic_target import HARDWARE, RUNTIME

NCNN = RUNTIME.model_copy(update={"engine": "ncnn"})


def drawn(*shape: int, is_normed: bool = False, is_recurrent: bool = False) -> KernelTable:
    """A product with 24 columns, alone or behind a layer that tells which axis is the batch."""
    net = Net("product", style_of("product", least_opset=17))
    x = net.input("x", *shape)
    if is_normed:
        x = net.layer_norm(x)
    if is_recurrent:  # time first
        weights = net.noise(1, 4 * shape[2], shape[2]), net.noise(1, 4 * shape[2], shape[2])
        (y,) = net.ops("LSTM", [net.transpose(x, 1, 0, 2), *weights], 1, hidden_size=shape[2])
        net.learn(y, (shape[1], 1, shape[0], shape[2]))
        x = net.reshape(y, (shape[1], shape[0], shape[2]))
    net.outputs.append(net.matmul(x, 24))
    return table_of(read_graph(encode(net), dict(net.input_shapes())), View.FUSED)


@pytest.mark.parametrize(
    ("table", "elements"),
    [
        (drawn(8, 16), 0),
        (drawn(1, 8, 16), 8 * 24),
        (drawn(1, 6, 16), 0),
        (drawn(1, 1, 16), 0),
        (drawn(1, 8, 16, is_normed=True), 0),
        (drawn(1, 4, 2, 16, is_normed=True), 8 * 24),
        (drawn(2, 8, 16, is_recurrent=True), 16 * 24),
        (drawn(1, 8, 16, is_recurrent=True), 0),
    ],
    ids=["matrix", "untold", "rows-apart", "one-row", "told", "four-axes", "time-first", "rows-by-time"],
)
def test_a_product_is_put_back_into_axes_where_more_than_a_matrix_is_left(
    table: KernelTable, elements: int
) -> None:
    assert table.amounts[:, Amount.REGROUPED].sum() == elements


def test_a_product_of_two_results_is_left_as_it_is_even_with_a_scale() -> None:
    net = Net("product", style_of("product", least_opset=17))
    x, y = net.input("x", 1, 2, 8, 16), net.input("y", 1, 2, 16, 8)
    net.outputs.append(net.scaled(net.product(x, y), 0.25))
    table = table_of(read_graph(encode(net), dict(net.input_shapes())), View.FUSED)
    assert table.amounts[:, Amount.WEIGHT_BYTES].any()
    assert not table.amounts[:, Amount.REGROUPED].any()


@pytest.mark.parametrize(("runtime", "is_slower"), [(RUNTIME, False), (NCNN, True)])
def test_only_a_runtime_that_regroups_pays_for_it(runtime: Runtime, is_slower: bool) -> None:
    machine = machine_of(runtime, HARDWARE)
    told, untold = (
        nominal_times(drawn(1, 64, 16, is_normed=is_told), machine).own.max() for is_told in (True, False)
    )
    assert bool(untold > 5 * told) is is_slower


def windowed(*window: int, is_computed: bool = True) -> KernelTable:
    """Rows of a model with batch 1, laid out as `window` says, normed there or put in another order, and put
    back.
    """
    net = Net("windows", style_of("windows", least_opset=17))
    x = net.reshape(net.input("x", 1, 64, 16), window)
    x = net.layer_norm(x) if is_computed else net.transpose(x, 1, 0, *range(2, len(window)))
    net.outputs.append(net.act(net.reshape(x, (1, 64, 16)), "Relu"))
    return table_of(read_graph(encode(net), dict(net.input_shapes())), View.FUSED)


@pytest.mark.parametrize(
    ("table", "elements"),
    [
        (windowed(4, 16, 16), 2 * 1024),
        (windowed(1, 32, 32), 0),
        (windowed(64, 16), 0),
        (windowed(4, 4, 4, 16), 0),
        (windowed(32, 2, 16, is_computed=False), 0),
    ],
    ids=["windows", "same-batch", "matrix", "grid", "shuffle"],
)
def test_rows_that_get_another_batch_are_moved_one_by_one(table: KernelTable, elements: int) -> None:
    assert table.amounts[:, Amount.REGROUPED].sum() == pytest.approx(0.6 * elements)
    for runtime, is_work in ((RUNTIME, False), (NCNN, elements > 0)):
        times = nominal_times(table, machine_of(runtime, HARDWARE))
        is_view = table.classes == CLASSES.index(KernelClass.LAUNCH)
        assert bool((times.own[is_view] > 0).any()) is is_work
