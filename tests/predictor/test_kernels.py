"""Fusion into kernels, their classes, and their nominal times."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper

from devices.target import Hardware, Runtime
from predictor.graph import ModelGraph
from predictor.kernel_costs.nominal import NominalTimes, nominal_times
from predictor.kernel_costs.pricing import as_loaded_by
from predictor.kernel_costs.table import View, table_of
from predictor.kernels import kernels_of
from predictor.reading.reader import read_graph
from predictor.roofline import KernelClass, class_of, machine_of, unfolding
from tests.predictor.onnx_graphs import model_of, noise

LAPTOP = Hardware(
    cpu_model="a laptop",
    architecture="x86_64",
    physical_cores=4,
    logical_cores=8,
    memory_bytes=1 << 34,
    isa_flags=("avx", "avx2", "fma"),
    operating_system="Linux",
)
ONE_THREAD = Runtime(engine="onnxruntime", version="1.32.0", provider="cpu", threads=1)


def graph_of(model: onnx.ModelProto) -> ModelGraph:
    return read_graph(model.SerializeToString(), {})


def anchors(graph: ModelGraph, *, fuses_chains: bool = False) -> list[tuple[str, int]]:
    """Anchor and number of members of each kernel."""
    return [(one.anchor.kind, len(one.members)) for one in kernels_of(graph, fuses_chains=fuses_chains)]


def nominal(graph: ModelGraph, runtime: Runtime = ONE_THREAD, hardware: Hardware = LAPTOP) -> NominalTimes:
    """Milliseconds of each kernel as most runtimes fuse, the call last."""
    return nominal_times(table_of(graph, View.FUSED), machine_of(runtime, hardware))


def residual(lists_weights: bool = False) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "g", "g", "g"], ["n"]),
        helper.make_node("Add", ["n", "x"], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("Exp", ["r"], ["e"]),
        helper.make_node("Neg", ["e"], ["y"]),
    ]
    stored = {"w": noise(16, 16, 3, 3), "g": np.ones(16, np.float32)}
    return model_of(nodes, {"x": [1, 16, 8, 8]}, ["y"], stored=stored, lists_weights=lists_weights)


def test_what_follows_a_convolution_is_applied_in_registers() -> None:
    graph = graph_of(residual())
    assert anchors(graph) == [("Conv", 4), ("Exp", 1), ("Neg", 1)]
    assert anchors(graph, fuses_chains=True) == [("Conv", 4), ("Exp", 2)]
    conv = kernels_of(graph, fuses_chains=False)[0]
    # image and residual, weights and batch normalisation come in, one image goes out
    assert (conv.bytes_read, conv.bytes_written) == (4 * (1024 + 2304 + 16 + 1024), 4 * 1024)
    assert (conv.rows, conv.inner, conv.columns) == (64, 144, 16)
    assert conv.work == 2 * 1024  # the sum and the activation; batch normalisation is folded into the weights


def test_replaceable_weights_stop_folding_and_layout() -> None:
    graph = graph_of(residual(lists_weights=True))
    assert anchors(graph)[:2] == [("Conv", 1), ("BatchNormalization", 1)]
    assert nominal(graph).arithmetic[0] > nominal(graph_of(residual())).arithmetic[0]


def test_what_converts_a_file_folds_weights_that_a_caller_may_replace() -> None:
    listed, plain = graph_of(residual(lists_weights=True)), graph_of(residual())
    mnn = ONE_THREAD.model_copy(update={"engine": "mnn"})
    assert as_loaded_by(listed, ONE_THREAD) is listed
    assert as_loaded_by(plain, mnn) is plain
    loaded = as_loaded_by(listed, mnn)
    assert anchors(loaded) == anchors(plain) == [("Conv", 4), ("Exp", 1), ("Neg", 1)]
    np.testing.assert_array_equal(nominal(loaded, mnn).total, nominal(plain, mnn).total)
    assert anchors(listed)[:2] == [
        ("Conv", 1),
        ("BatchNormalization", 1),
    ]  # which it was before, and is still


def quantised() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        helper.make_node("Conv", ["d", "v"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    stored = {
        "w": np.zeros((8, 8, 1, 1), np.int8),
        "s": np.asarray(0.1, np.float32),
        "z": np.asarray(0, np.uint8),
    }
    return model_of(nodes, {"x": [1, 8, 4, 4]}, ["y"], stored=stored)


@pytest.mark.parametrize(
    ("kind", "is_integer"), [("Sigmoid", True), ("Softmax", True), ("Tanh", False), ("LRN", False)]
)
def test_an_operator_between_quantisers_runs_on_integers_where_runtimes_have_such_a_kernel(
    kind: str, is_integer: bool
) -> None:
    attributes = {"size": 5} if kind == "LRN" else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node(kind, ["d"], ["c"], **attributes),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    stored = {"s": np.asarray(0.1, np.float32), "z": np.asarray(0, np.uint8)}
    graph = graph_of(model_of(nodes, {"x": [1, 8, 4, 4]}, ["y"], stored=stored))
    whole = [("QuantizeLinear", 1), (kind, 3), ("DequantizeLinear", 1)]
    apart = [(node.op_type, 1) for node in nodes]
    assert anchors(graph) == (whole if is_integer else apart)
    assert anchors(graph, fuses_chains=True) == whole


def test_a_convolution_between_quantisers_is_one_integer_kernel() -> None:
    graph = graph_of(quantised())
    assert anchors(graph) == [("QuantizeLinear", 1), ("Conv", 5), ("DequantizeLinear", 1)]
    conv = kernels_of(graph, fuses_chains=False)[1]
    assert class_of(conv) is KernelClass.INT8
    assert conv.bytes_written == 128  # one byte an element
    assert (
        conv.bytes_read == 128 + 64 + 3 * (4 + 1) - 1
    )  # two dequantisers and a quantiser, one without a zero point


def test_a_product_that_quantises_its_inputs_while_running_is_of_a_class_of_its_own() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["y"]),
    ]
    graph = graph_of(model_of(nodes, {"x": [4, 32]}, ["y"], stored={"w": np.zeros((32, 16), np.int8)}))
    assert class_of(kernels_of(graph, fuses_chains=False)[-1]) is KernelClass.DYNAMIC_INT8


_PRODUCT = [
    helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "t", "z"]),
    helper.make_node("MatMulInteger", ["q", "w", "z"], ["y"]),
]
_RECURRENT = [
    helper.make_node(
        "DynamicQuantizeLSTM", ["x", "i", "h", *[""] * 5, *"spsp"], ["y"], domain="com.microsoft",
        hidden_size=16, direction="bidirectional",
    )
]  # fmt: skip


@pytest.mark.parametrize("nodes", [_PRODUCT, _RECURRENT])
def test_what_is_quantised_while_running_is_multiplied_as_floats_where_code_is_generated(
    nodes: list[onnx.NodeProto],
) -> None:
    """As OpenVINO does: it unpacks the weights when it loads them."""
    stored = {
        "w": np.zeros((32, 16), np.int8), "i": np.zeros((2, 32, 64), np.int8),
        "h": np.zeros((2, 16, 64), np.int8), "s": np.ones(2, np.float32), "p": np.zeros(2, np.int8),
    }  # fmt: skip
    read = {name for node in nodes for name in node.input}
    used = {name: stored[name] for name in stored if name in read}
    graph = graph_of(model_of(nodes, {"x": [4, 1, 32]}, ["y"], stored=used))
    whole, floats = (kernels_of(graph, fuses_chains=is_generated)[-1] for is_generated in (False, True))
    assert (whole.precision, floats.precision) == ("int8", "float32")
    assert floats.weight_bytes == 4 * whole.weight_bytes > 0
    assert floats.bytes_read - whole.bytes_read == 3 * whole.weight_bytes
    assert floats.macs == whole.macs


def packed(width: int = 128) -> onnx.ModelProto:
    """A product with a weight that the file stores in eight bits, casts and scales."""
    nodes = [
        helper.make_node("Cast", ["q"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    stored = {"q": np.ones((width, width), np.int8), "s": noise(1, width)}
    return model_of(nodes, {"x": [64, width]}, ["y"], stored=stored)


def test_packed_weights_stay_packed_where_a_code_generator_keeps_them() -> None:
    graph = graph_of(packed())
    (floats,), (kept,) = (kernels_of(graph, fuses_chains=keeps) for keeps in (False, True))
    assert (class_of(floats), class_of(kept)) == (KernelClass.GEMM, KernelClass.INT8)
    assert (floats.weight_bytes, kept.weight_bytes) == (4 * 128 * 128, 128 * 128)
    assert floats.bytes_read - kept.bytes_read == 3 * 128 * 128


def test_constants_are_made_in_every_run_where_nothing_is_folded() -> None:
    graph = graph_of(packed())
    read, written = 128 * 128 + 4 * 128 * 128 + 4 * 128, 2 * 4 * 128 * 128
    assert graph.folded_bytes == read + written
    table = table_of(graph, View.LISTED)
    call_ms = [
        nominal_times(table, machine_of(ONE_THREAD.model_copy(update={"optimization": name}), LAPTOP)).total[
            -1
        ]
        for name in ("basic", "none")
    ]
    rate = machine_of(ONE_THREAD, LAPTOP).shared_cache_bytes_per_s
    assert call_ms[1] - call_ms[0] == pytest.approx(1e3 * graph.folded_bytes / rate)


@pytest.mark.parametrize(
    ("shape", "order", "runs"),
    [
        ([4, 6, 5], [2, 1, 0], 120),
        ([4, 6, 5], [1, 0, 2], 0),  # one axis moves
        ([4, 6, 5], [2, 0, 1], 0),  # two that stay beside each other
        ([4, 3, 2, 5], [2, 1, 0, 3], 24),  # in rows of five
        ([4, 3, 2, 5], [2, 3, 0, 1], 0),
        ([1, 4, 1, 30], [3, 2, 1, 0], 120),  # axes of one element are in the way
        ([4, 1, 30], [1, 0, 2], 0),  # nothing moves in memory
    ],
)
def test_transpositions_of_several_axes_go_run_by_run(shape: list[int], order: list[int], runs: int) -> None:
    node = helper.make_node("Transpose", ["x"], ["y"], perm=order)
    table = table_of(graph_of(model_of([node], {"x": shape}, ["y"])), View.LISTED)
    machine = machine_of(ONE_THREAD, LAPTOP)
    plain = dataclasses.replace(machine, habits=machine.habits._replace(scattered_cycles=0.0))
    more = nominal_times(table, machine).own - nominal_times(table, plain).own
    assert more.tolist() == pytest.approx([1e4 * runs / machine.cycles_per_s, 0.0])


@pytest.mark.parametrize(
    ("window", "size", "is_unfolded"),
    [(3, 256, True), (3, 16, False), (1, 256, False)],  # the second fits into the cache near the core
)
def test_large_windows_are_written_out_by_engines_that_unfold(
    window: int, size: int, is_unfolded: bool
) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[window] * 2, pads=[window // 2] * 4)
    stored = {"w": np.ones((16, 8, window, window), np.float32)}
    table = table_of(graph_of(model_of([node], {"x": [2, 8, size, size]}, ["y"], stored=stored)), View.FUSED)
    machine = machine_of(ONE_THREAD, LAPTOP)
    more = nominal_times(table, unfolding(machine)).own - nominal_times(table, machine).own
    written = 2 * size**2 * 8 * window**2
    cycles = unfolding(machine).habits.unfold_cycles
    assert more[0] == pytest.approx(1e3 * cycles * written / machine.cycles_per_s if is_unfolded else 0.0)


@pytest.mark.parametrize("is_behind", [False, True])
@pytest.mark.parametrize("optimization", ["all", "extended"])
def test_pools_of_bytes_are_fast_behind_a_convolution_that_keeps_channels_together(
    is_behind: bool, optimization: str
) -> None:
    """On ONNX Runtime with all optimisations; otherwise they go byte by byte."""
    first = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"]),
        helper.make_node("DequantizeLinear", ["w", "s", "o"], ["v"]),
        helper.make_node("Conv", ["f", "v"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["p"]),
    ]
    pool = [
        helper.make_node("DequantizeLinear", ["p" if is_behind else "q", "s", "z"], ["d"]),
        helper.make_node("MaxPool", ["d"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["n"]),
        helper.make_node("DequantizeLinear", ["n", "s", "z"], ["y"]),
    ]
    stored = {
        "s": np.float32(0.1), "z": np.uint8(8), "o": np.int8(0), "w": np.ones((16, 16, 1, 1), np.int8),
    }  # fmt: skip
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), *(first if is_behind else []), *pool]
    graph = graph_of(model_of(nodes, {"x": [1, 16, 8, 8]}, ["y"], stored=stored))
    place = [kernel.anchor.kind for kernel in kernels_of(graph, fuses_chains=False)].index("MaxPool")
    runtime = ONE_THREAD.model_copy(update={"engine": "onnxruntime", "optimization": optimization})
    machine = machine_of(runtime, LAPTOP)
    took_ms = nominal_times(table_of(graph, View.FUSED), machine).own[place]
    bytes_ms = 1e3 * 16 * 4 * 4 * (26.0 + 4 * 4.6) / machine.cycles_per_s
    assert (took_ms > bytes_ms) is not (is_behind and optimization == "all")


@pytest.mark.parametrize(
    ("rows", "weights", "expected"),
    [(1, True, KernelClass.GEMV), (64, True, KernelClass.GEMM), (1, False, KernelClass.GEMM)],
)
def test_few_rows_against_a_weight_are_bound_by_reading_it(
    rows: int, weights: bool, expected: KernelClass
) -> None:
    inputs, stored = {"x": [rows, 32]}, {}
    if weights:
        stored = {"w": noise(32, 16)}
    else:
        inputs["w"] = [32, 16]
    graph = graph_of(model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], inputs, ["y"], stored=stored))
    assert [class_of(kernel) for kernel in kernels_of(graph, fuses_chains=False)] == [expected]


def test_a_kernel_takes_its_arithmetic_and_its_memory() -> None:
    """By hand: a product of 256 x 512 x 512 computes, one with a single row reads."""
    machine = machine_of(ONE_THREAD, LAPTOP)
    assert machine.macs_per_s == 2 * 8 * 3e9

    def time(rows: int) -> float:
        model = model_of(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            {"x": [rows, 512]},
            ["y"],
            stored={"w": noise(512, 512)},
        )
        return float(nominal(graph_of(model)).own[0])

    def by_hand(rows: int) -> float:
        return 1e3 * (rows * 512 * 512 / (48e9 * 0.7 * 512 / 528) + 4 * (512 * 512 + rows * 1024) / 6e10)

    assert time(256) == pytest.approx(by_hand(256))
    assert time(1) == pytest.approx(by_hand(1))


def test_omitted_inputs_and_outputs_connect_nothing() -> None:
    """Two LSTMs in parallel leave out states and sequences: "" is no tensor between them."""
    stored = {"w": noise(1, 16, 6), "r": noise(1, 16, 4), "s": noise(1, 1, 4)}
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "", "", "s"], ["", "a"], hidden_size=4),
        helper.make_node("LSTM", ["x", "w", "r", "", "", "s"], ["", "b"], hidden_size=4),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    graph = graph_of(model_of(nodes, {"x": [5, 1, 6]}, ["y"], stored=stored))
    assert anchors(graph) == [("LSTM", 1), ("LSTM", 1), ("Add", 1)]
    assert graph.depth == 2
    assert np.all(nominal(graph).total > 0)


def test_more_threads_and_wider_vectors_are_nominally_faster() -> None:
    graph = graph_of(residual())
    one = nominal(graph).own[0]
    assert nominal(graph, ONE_THREAD.model_copy(update={"threads": 4})).own[0] < one
    plain = LAPTOP.model_copy(update={"isa_flags": ()})
    assert nominal(graph, hardware=plain).own[0] > one


def test_a_lookup_in_a_half_precision_table_takes_time() -> None:
    """It reads a few rows: the table's other rows are not taken off the time of what it converts."""
    node = helper.make_node("Gather", ["table", "rows"], ["y"])
    table = noise(4096, 64).astype(np.float16)
    model = model_of(
        [node], {"rows": [1, 3]}, ["y"], stored={"table": table}, dtypes={"rows": onnx.TensorProto.INT64}
    )
    times = nominal(graph_of(model))
    converted = times.own[0] - times.arithmetic[0] - times.memory[0]
    assert 1e-6 < converted < 1.0


def test_a_call_is_apart_from_the_launches_within_it() -> None:
    """A runtime that starts kernels twice as fast as another is not therefore entered and left faster."""
    machine = machine_of(ONE_THREAD, LAPTOP)
    for count in (1, 3):
        names = ["x", "a", "b", "y"][-count - 1 :]
        nodes = [helper.make_node("Exp", [names[i]], [names[i + 1]]) for i in range(count)]
        times = nominal(graph_of(model_of(nodes, {names[0]: [4]}, ["y"])))
        assert times.launch == pytest.approx([1e3 * machine.launch_s] * count + [1e3 * machine.call_s])
        assert times.own[-1] == 0.0


def test_a_sum_of_many_is_a_kernel_of_its_own() -> None:
    names = [f"c{i}" for i in range(6)]
    nodes = [helper.make_node("Conv", ["x", "w"], [name]) for name in names]
    nodes.append(helper.make_node("Sum", names, ["y"]))
    graph = graph_of(model_of(nodes, {"x": [1, 4, 4, 4]}, ["y"], stored={"w": noise(4, 4, 1, 1)}))
    assert anchors(graph) == [("Conv", 1)] * 6 + [("Sum", 1)]
