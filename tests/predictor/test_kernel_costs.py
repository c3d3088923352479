"""Kernels as arrays, their features and prices, and what of it is checked against slower or simpler ways."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

from devices.measurement import LayerProfile, LayerTime
from devices.target import Hardware, Runtime
from predictor.description import describe, shares_of_kernels
from predictor.graph import ModelGraph
from predictor.kernel_costs.features import FEATURE_COUNT, as_run_by, has_replaceable, kernel_features
from predictor.kernel_costs.layers import timed_kernels
from predictor.kernel_costs.network import MOST, from_arrays, to_arrays
from predictor.kernel_costs.nominal import nominal_times
from predictor.kernel_costs.pricing import NOMINAL_COUNT, Pricer
from predictor.kernel_costs.ranges import SeenKernels
from predictor.kernel_costs.table import (
    CALL_NAME,
    CLASSES,
    Amount,
    KernelTable,
    Neighbour,
    View,
    kernels_in,
    table_of,
    view_of,
)
from predictor.reading.reader import read_graph
from predictor.roofline import KernelClass, Machine, class_of, machine_of, unfolding
from tests.predictor.onnx_graphs import branching, five_nodes, model_of, noise
from tests.predictor.scalar_roofline import times_ms
from tests.predictor.synthetic_target import (
    HARDWARE,
    RUNTIME,
    SOURCES,
    reference_graphs,
    synthetic_meta,
    synthetic_network,
)

GPU = RUNTIME.model_copy(update={"provider": "cuda"})
AVX512 = HARDWARE.model_copy(update={"isa_flags": ("avx", "avx2", "fma", "avx512f", "avx512_vnni")})
EPYC = AVX512.model_copy(update={"cpu_model": "AMD EPYC", "isa_flags": (*AVX512.isa_flags, "avx_vnni")})
TORCH = RUNTIME.model_copy(update={"engine": "torch"})
MACHINES = (
    machine_of(RUNTIME, HARDWARE),
    machine_of(TORCH, EPYC),
    machine_of(RUNTIME.model_copy(update={"threads": 4}), AVX512),
    machine_of(GPU, HARDWARE),
    unfolding(machine_of(RUNTIME, HARDWARE)),
)


def graph_of(model: onnx.ModelProto) -> ModelGraph:
    return read_graph(model.SerializeToString(), {})


def half_precision() -> ModelGraph:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return graph_of(
        model_of(
            [node],
            {"x": [8, 64]},
            ["y"],
            stored={"w": noise(64, 24).astype(np.float16)},
            dtypes={"x": onnx.TensorProto.FLOAT16},
        )
    )


@pytest.mark.parametrize("machine", MACHINES, ids=["cpu", "torch on amd", "four threads", "gpu", "unfolding"])
@pytest.mark.parametrize("view", View)
def test_all_kernels_at_once_take_what_each_takes_alone(machine: Machine, view: View) -> None:
    for graph in (*(graph for _, graph in reference_graphs()), half_precision()):
        kernels = kernels_in(graph, view)
        together = nominal_times(table_of(graph, view), machine)
        weights = sum(kernel.weight_bytes / max(kernel.launches, 1) for kernel in kernels)
        assert len(together.own) == len(kernels) + 1
        for index, kernel in enumerate(kernels):
            alone = times_ms(kernel, machine, weights)
            launch = alone.pop(KernelClass.LAUNCH)
            assert together.launch[index] == pytest.approx(launch, rel=1e-9)
            assert together.own[index] == pytest.approx(sum(alone.values()), rel=1e-9), kernel.anchor.kind
        assert (together.own[-1], together.launch[-1]) == (0.0, pytest.approx(1e3 * machine.call_s))
        assert np.all(together.total > 0)


def test_features_are_finite_and_as_many_as_said() -> None:
    for _, graph in reference_graphs():
        for view in View:
            rows = kernel_features(graph, table_of(graph, view))
            assert rows.shape == (len(kernels_in(graph, view)) + 1, FEATURE_COUNT)
            assert rows.dtype == np.float32
            assert np.all(np.isfinite(rows))
            assert np.abs(rows).max() < 10  # of the order of one


def test_features_depend_on_no_name_and_no_order() -> None:
    written = branching()
    turned = branching(order=(0, 5, 2, 1, 3, 4, 6), rename="other", seed=4)
    for view in View:
        rows = [kernel_features(graph, table_of(graph, view)) for graph in map(graph_of, (written, turned))]
        as_sets = [sorted(row.tobytes() for row in one) for one in rows]
        assert as_sets[0] == as_sets[1]


def test_neighbours_of_a_five_node_graph() -> None:
    """Conv+Relu -> MaxPool -> Flatten (a view) -> Gemm: shares of the bytes read, and of the readers."""
    table = table_of(graph_of(five_nodes()), View.FUSED)
    assert table.names == ("Conv", "MaxPool", "Flatten", "Gemm", CALL_NAME)

    def said(row: Sequence[float]) -> dict[Neighbour, float]:
        return {kind: float(row[kind]) for kind in Neighbour if row[kind]}

    assert [said(row) for row in table.before] == [
        {Neighbour.BORDER: 1.0},
        {Neighbour.NARROW_CONV: 1.0},  # four channels fill no vector
        {Neighbour.OTHER: 1.0},
        {Neighbour.OTHER: 1.0},  # the pool, through the view
        {},
    ]
    assert [said(row) for row in table.behind] == [
        {Neighbour.OTHER: 1.0},
        {Neighbour.MOVE: 1.0},
        {Neighbour.MATMUL: 1.0},
        {Neighbour.BORDER: 1.0},
        {},
    ]


def test_neighbours_count_by_bytes_and_by_readers() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["m"]),
        helper.make_node("Concat", ["e", "m"], ["y"], axis=1),
        helper.make_node("Neg", ["e"], ["z"]),
    ]
    model = model_of(nodes, {"x": [2, 16]}, ["y", "z"], stored={"w": noise(16, 48)})
    table = table_of(graph_of(model), View.FUSED)
    concat = table.names.index("Concat")
    assert table.before[concat, Neighbour.OTHER] == pytest.approx(0.25)  # 16 of 64 columns
    assert table.before[concat, Neighbour.MATMUL] == pytest.approx(0.75)
    behind = table.behind[table.names.index("Exp")]
    assert behind[Neighbour.MATMUL] == behind[Neighbour.MOVE] == behind[Neighbour.OTHER]
    assert behind.sum() == pytest.approx(1.0)


def test_views_of_runtimes() -> None:
    views = {
        ("onnxruntime", "default"): View.FUSED,
        ("onnxruntime", "extended"): View.FUSED,
        ("onnxruntime", "none"): View.LISTED,
        ("onnxruntime", "basic"): View.LISTED,
        ("openvino", "default"): View.CHAINED,
        ("torch", "default"): View.LISTED,
        ("torch", "compiled"): View.CHAINED,
        ("abacus", "default"): View.FUSED,
    }
    for (engine, optimization), view in views.items():
        runtime = Runtime(engine=engine, version="1", provider="cpu", threads=1, optimization=optimization)
        assert view_of(runtime) is view
    graph = graph_of(five_nodes())
    assert [len(kernels_in(graph, view)) for view in View] == [5, 4, 4]


def profile_of(layers: dict[str, int], coverage: float = 1.0) -> LayerProfile:
    timed = tuple(
        LayerTime(name=name, kind="", provider="cpu", median_ns=time_ns) for name, time_ns in layers.items()
    )
    return LayerProfile(layers=timed, coverage=coverage)


def test_executed_layers_belong_to_kernels() -> None:
    """By a member's name, with what runtimes add to it; a reordered layout belongs to nobody."""
    kernels = kernels_in(graph_of(branching()), View.FUSED)
    homes = {op.name: index for index, kernel in enumerate(kernels) for op in kernel.members}
    layers = {
        "Conv_nchwc": 400_000,
        "ReorderOutput": 100_000,
        "fused Mul": 150_000,
        "Sigmoid_token_3": 50_000,
        "AveragePool": 200_000,
    }
    timed = timed_kernels(kernels, profile_of(layers, coverage=0.9), median_ms=0.8, engine="onnxruntime")
    expected = np.full(len(kernels) + 1, np.nan)
    # 0.9 ms of layers, and 0.8 ms were timed: the profiler takes 0.02 ms of each of five
    for name, own_ms in (("Conv", 0.38), ("Mul", 0.13), ("Sigmoid", 0.03), ("AveragePool", 0.18)):
        home = homes[name]
        expected[home] = np.nan_to_num(expected[home]) + own_ms
    np.testing.assert_allclose(timed, expected)
    assert np.isnan(timed[homes["MaxPool"]])
    slow = timed_kernels(kernels, profile_of({"Conv": 1_000_000}), median_ms=100.0, engine="onnxruntime")
    assert slow[homes["Conv"]] == pytest.approx(
        1.2
    )  # a run is never slower without the profiler than with it


def test_nodes_that_are_named_by_their_kind_are_found_in_order() -> None:
    """As ONNX Runtime names what it has fused, and OpenVINO what it has made of an operator."""
    nodes = [
        helper.make_node("Gelu", ["x"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "w"], ["b"], name="conv_7", pads=[1, 1, 1, 1]),
        helper.make_node("Gelu", ["b"], ["y"], name="second"),
    ]
    model = model_of(nodes, {"x": [1, 4, 8, 8]}, ["y"], stored={"w": noise(4, 4, 3, 3)}, opsets={"": 20})
    kernels = kernels_in(graph_of(model), View.FUSED)
    layers = {"Gelu_token_3": 300_000, "x_abcd_acdb_conv_7/WithoutBiases": 200_000, "Gelu": 100_000}
    timed = timed_kernels(kernels, profile_of(layers), median_ms=0.6, engine="openvino")
    assert timed[:3].tolist() == [0.3, 0.2, 0.1]
    del layers["Gelu"]
    few = timed_kernels(kernels, profile_of(layers), median_ms=0.5, engine="openvino")
    assert np.isnan(few).tolist() == [True, False, True, True]  # whose it is nobody can tell


def test_what_openvino_names_anew_is_found_by_the_number_in_its_name() -> None:
    """A convolution with a normalisation is a Multiply, a recurrent layer as many sequences as directions;
    branches run in another order than they are numbered in.
    """
    convs = [
        [
            helper.make_node("Conv", [x, "w"], [f"c{y}"], name=f"conv_{y}", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", [f"c{y}", "g", "g", "g", "g"], [y]),
        ]
        for x, y in (("x", "a"), ("a", "b"), ("x", "d"))
    ]
    nodes = [
        *convs[0], *convs[1], *convs[2],
        helper.make_node("Add", ["b", "d"], ["s"]),
        helper.make_node("Relu", ["s"], ["r"], name="relu_9"),
        helper.make_node("Reshape", ["r", "rows"], ["l"]),
        helper.make_node(
            "LSTM", ["l", "wi", "wh"], ["y"], hidden_size=4, direction="bidirectional", name="lstm_8"
        ),
    ]  # fmt: skip
    stored = {
        "w": noise(4, 4, 3, 3), "g": np.ones(4, np.float32), "rows": np.asarray([16, 1, 4], np.int64),
        "wi": noise(2, 16, 4), "wh": noise(2, 16, 4),
    }  # fmt: skip
    graph = graph_of(model_of(nodes, {"x": [1, 4, 4, 4]}, ["y"], stored=stored))
    kernels = kernels_in(graph, View.CHAINED)
    layers = {
        "x_abcd_acdb_Multiply_60": 10_000, "Multiply_60": 100_000, "Multiply_74": 300_000,
        "Multiply_67": 200_000, "relu_9": 50_000, "LSTMSequence_90": 400_000, "LSTMSequence_91": 500_000,
    }  # fmt: skip
    total_ms = sum(layers.values()) / 1e6
    timed = timed_kernels(kernels, profile_of(layers), median_ms=total_ms, engine="openvino")
    told = {kernel.anchor.name or kernel.anchor.kind: ms for kernel, ms in zip(kernels, timed, strict=False)}
    joined_ms = 0.05  # of the sum, which is a node of its own and part of one convolution's kernel
    assert told["conv_a"] == pytest.approx(0.1)
    assert told["conv_b"] == pytest.approx(0.2 + joined_ms)
    assert told["conv_d"] == pytest.approx(0.3)
    assert told["lstm_8"] == pytest.approx(0.9)


def test_what_quantises_while_running_takes_what_the_nodes_take_that_it_is_made_of() -> None:
    """Told apart by what each kernel reads; the second has four times as much."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="first"),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"], name="product_3"),
        helper.make_node("Cast", ["i"], ["f"], name="cast_4", to=onnx.TensorProto.FLOAT),
        helper.make_node("DynamicQuantizeLinear", ["f"], ["y", "t", "u"], name="second"),
    ]
    model = model_of(nodes, {"x": [8, 250]}, ["y"], stored={"w": np.zeros((250, 1250), np.int8)})
    kernels = kernels_in(graph_of(model), View.CHAINED)
    layers = {
        "ReduceMax_7": 60_000, "Multiply_9": 30_000, "Convert_12": 30_000, "product_3": 500_000,
        "Softmax_4": 10_000,
    }  # fmt: skip
    timed = timed_kernels(kernels, profile_of(layers), median_ms=0.63, engine="openvino")
    told = {kernel.anchor.name: ms for kernel, ms in zip(kernels, timed, strict=False)}
    assert told["product_3"] == pytest.approx(0.5)
    assert told["first"] == pytest.approx(0.12 * 12 / (12 + 44))  # 4 kB more than they read
    assert told["second"] == pytest.approx(0.12 * 44 / (12 + 44))


def product(rows: int, kind: str = "MatMul") -> KernelTable:
    nodes = [
        helper.make_node(kind, ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "s"], ["y"]),
    ]
    stored = {"w": noise(32, 32), "s": np.asarray([-1], np.int64)}
    return table_of(graph_of(model_of(nodes, {"x": [rows, 32]}, ["y"], stored=stored)), View.FUSED)


def test_kernels_beyond_what_was_measured_are_strange() -> None:
    seen = SeenKernels.of([product(8), product(32)])
    for rows in (1, 8, 100):  # smaller is never strange, and up to four times larger is not
        assert seen.strangeness(product(rows)) == {}
    assert {what: list(places) for what, places in seen.strangeness(product(160)).items()} == {
        "MatMul, larger": [0]
    }
    curve = table_of(
        graph_of(model_of([helper.make_node("Exp", ["x"], ["y"])], {"x": [4]}, ["y"])), View.FUSED
    )
    assert {what: list(places) for what, places in seen.strangeness(curve).items()} == {"Exp": [0]}
    assert set(SeenKernels({}).strangeness(product(8))) == {"MatMul"}  # neither the view nor the call
    joined = seen.joined(SeenKernels.of([product(160), curve]))
    assert joined.strangeness(product(160)) == joined.strangeness(curve) == {}
    assert joined.strangeness(product(1)) == {}
    np.testing.assert_array_equal(
        joined.bounds["MatMul"], SeenKernels.of([product(8), product(160)]).bounds["MatMul"]
    )


def test_networks_and_arrays_are_the_same() -> None:
    network = synthetic_network(seed=5, members=3)
    arrays = to_arrays(network)
    again = from_arrays(arrays, members=3, layers=3)
    rows = np.random.default_rng(0).normal(size=(20, FEATURE_COUNT)).astype(np.float32)
    np.testing.assert_array_equal(again.log_factors(rows), network.log_factors(rows))
    alone = [member.log_factors(rows) for member in network.members]
    np.testing.assert_allclose(network.log_factors(rows), np.mean(alone, axis=0), rtol=1e-5, atol=1e-6)
    assert np.abs(network.log_factors(1e3 * rows)).max() <= MOST
    with pytest.raises(KeyError):
        from_arrays(arrays, members=4, layers=3)


@pytest.mark.parametrize(("runtime", "hardware"), [(RUNTIME, HARDWARE), (GPU, HARDWARE), (RUNTIME, AVX512)])
def test_prices_add_up(runtime: Runtime, hardware: Hardware) -> None:
    pricer = Pricer.of(synthetic_network(), SOURCES)
    assert pricer.views == (View.FUSED, View.LISTED, View.CHAINED, View.FUSED)
    for _, graph in reference_graphs():
        encoded = pricer.encode(graph)
        priced = pricer.price(encoded, runtime, hardware)
        assert np.all(priced.total_ms > 0)
        np.testing.assert_allclose(priced.class_ms.sum(axis=1), priced.total_ms, rtol=1e-6)
        for view, times in priced.kernel_ms.items():
            columns = [index for index, own in enumerate(pricer.views) if own is view]
            np.testing.assert_allclose(times.sum(axis=0), priced.total_ms[columns], rtol=1e-6)
            factors = pricer.network.log_factors(encoded.features[view])[:, columns]
            nominal = [
                nominal_times(encoded.tables[view], machine, has_generic_paths=False).total
                for machine in (pricer.machines(runtime, hardware)[column] for column in columns)
            ]
            np.testing.assert_allclose(times, np.stack(nominal, 1) * np.exp(factors), rtol=1e-5)  # float32
            assert shares_of_kernels(priced, view).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("threads", [1, 4])
def test_launches_are_priced_apart_from_what_they_launch(threads: int) -> None:
    pricer, runtime = Pricer.of(synthetic_network(), SOURCES), RUNTIME.model_copy(update={"threads": threads})
    machine = machine_of(runtime, HARDWARE)
    launch, call = CLASSES.index(KernelClass.LAUNCH), CLASSES.index(KernelClass.CALL)
    for _, graph in reference_graphs():
        priced = pricer.price(pricer.encode(graph), runtime, HARDWARE)
        times = nominal_times(table_of(graph, View.FUSED), machine)
        for nominal in priced.class_ms[-NOMINAL_COUNT:]:
            assert nominal[launch] == pytest.approx(times.launch[:-1].sum())  # the call stands last
            assert nominal[call] == pytest.approx(1e3 * machine.call_s)
        assert np.all(priced.class_ms[:, launch] > 0)


def test_the_nominal_machines_run_a_graph_as_the_runtime_does() -> None:
    pricer = Pricer.of(synthetic_network(), SOURCES)
    for optimization, view in (("all", View.FUSED), ("none", View.LISTED)):
        runtime = RUNTIME.model_copy(update={"optimization": optimization})
        machine = machine_of(runtime, HARDWARE)
        for _, graph in reference_graphs():
            table = table_of(graph, view)
            said = pricer.price(pricer.encode(graph), runtime, HARDWARE).total_ms[-NOMINAL_COUNT:]
            took = [nominal_times(table, one).total.sum() for one in (machine, unfolding(machine))]
            np.testing.assert_allclose(said, took)


def test_a_view_that_no_source_has_is_priced_as_most_runtimes_run() -> None:
    fusing = Pricer.of(synthetic_network(sources=1), SOURCES[:1])
    for _, graph in reference_graphs():
        encoded = fusing.encode(graph)
        listed, fused = (
            fusing.price(encoded, RUNTIME.model_copy(update={"optimization": optimization}), HARDWARE)
            for optimization in ("basic", "all")
        )
        np.testing.assert_array_equal(listed.total_ms, fused.total_ms)


def test_several_threads_share_the_work_and_cost_a_handover_per_kernel() -> None:
    one, four = (machine_of(RUNTIME.model_copy(update={"threads": n}), HARDWARE) for n in (1, 4))
    assert 3.0 < four.macs_per_s / one.macs_per_s < 4.0
    assert four.launch_s == 2 * one.launch_s


def test_a_processor_that_a_campaign_has_met_has_its_own_rates() -> None:
    """Zen 4 takes vectors of 512 bits in two halves, and reads its shared cache faster."""
    flags = ("avx2", "avx512f", "avx512_vnni")
    rapids = HARDWARE.model_copy(update={"isa_flags": (*flags, "avx_vnni", "amx_int8")})
    zen = HARDWARE.model_copy(update={"cpu_model": "AMD EPYC 9R14", "isa_flags": flags})
    unknown = HARDWARE.model_copy(update={"isa_flags": flags})
    known, other, laptop = (machine_of(RUNTIME, one) for one in (rapids, zen, unknown))
    assert known.lanes == other.lanes == laptop.lanes == 16
    assert other.macs_per_s < 0.7 * known.macs_per_s
    assert other.shared_cache_bytes_per_s > 2 * known.shared_cache_bytes_per_s
    assert known.shared_cache_bytes > 2 * other.shared_cache_bytes
    assert laptop.macs_per_s == known.macs_per_s
    assert laptop.cache_bytes_per_s != known.cache_bytes_per_s


def test_sapphire_rapids_is_known_where_a_virtual_machine_hides_its_tiles() -> None:
    """Its arithmetic in float16 tells; tiles that are hidden multiply no integers."""
    shown = AVX512.model_copy(update={"isa_flags": (*AVX512.isa_flags, "avx512_fp16", "amx_int8")})
    hidden = AVX512.model_copy(update={"isa_flags": (*AVX512.isa_flags, "avx512_fp16")})
    openvino = RUNTIME.model_copy(update={"engine": "openvino"})
    whole, without = machine_of(openvino, shown), machine_of(openvino, hidden)
    assert without.shared_cache_bytes_per_s == whole.shared_cache_bytes_per_s
    assert without.int8_speedup == machine_of(openvino, AVX512).int8_speedup < whole.int8_speedup


def test_torch_multiplies_matrices_with_half_vectors_on_amd() -> None:
    """And convolves with whole ones; ONNX Runtime does both with whole ones, and on Intel so does torch."""
    own, other, intel = machine_of(TORCH, EPYC), machine_of(RUNTIME, EPYC), machine_of(TORCH, AVX512)
    assert own.macs_per_s == other.macs_per_s > 2 * own.product_macs_per_s
    assert other.product_macs_per_s == other.macs_per_s
    assert intel.product_macs_per_s == intel.macs_per_s


def test_tiles_of_integers_serve_engines_that_have_code_for_them() -> None:
    rapids = AVX512.model_copy(update={"isa_flags": (*AVX512.isa_flags, "amx_int8")})
    speedups = {
        engine: machine_of(RUNTIME.model_copy(update={"engine": engine}), rapids).int8_speedup
        for engine in ("onnxruntime", "openvino")
    }
    assert speedups["openvino"] > speedups["onnxruntime"] == machine_of(RUNTIME, AVX512).int8_speedup


@pytest.mark.parametrize(
    ("engine", "slow"),
    [("mnn", ["unranked"]), ("torch", ["ranked"]), ("onnxruntime", ["one", "unranked", "ranked"])],
)
def test_engines_apply_slopes_one_by_one_where_they_are_written_in_a_way_they_have_no_code_for(
    engine: str, slow: list[str]
) -> None:
    machine = machine_of(RUNTIME.model_copy(update={"engine": engine}), HARDWARE)
    one_by_one_ms = 1e3 * 5.0 * 32 * 56 * 56 / machine.cycles_per_s
    taken = {}
    for name, shape in {"one": (1,), "unranked": (32, 1, 1), "ranked": (1, 32, 1, 1)}.items():
        node = helper.make_node("PRelu", ["x", "slopes"], ["y"])
        model = model_of([node], {"x": [1, 32, 56, 56]}, ["y"], stored={"slopes": noise(*shape)})
        taken[name] = nominal_times(table_of(graph_of(model), View.LISTED), machine).total[0]
    assert [name for name, time_ms in taken.items() if time_ms > one_by_one_ms] == slow


def test_zen_5_takes_whole_vectors_of_512_bits() -> None:
    flags = ("avx2", "avx512f", "avx512_vnni")
    zens = [HARDWARE.model_copy(update={"cpu_model": "AMD EPYC", "isa_flags": (*flags, *own)})
            for own in ((), ("avx_vnni",))]  # fmt: skip
    fourth, fifth = (machine_of(RUNTIME, one) for one in zens)
    assert fifth.macs_per_s > 2 * fourth.macs_per_s
    assert fifth.memory_bytes_per_s > 1.5 * fourth.memory_bytes_per_s
    assert fifth.launch_s < 0.7 * fourth.launch_s


def test_replaceable_weights_are_constants_to_engines_that_convert_files() -> None:
    """And to ONNX Runtime's own optimisations they are weights that stay out of blocks."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    fixed, listed = (
        read_graph(
            model_of(
                nodes, {"x": [1, 16, 8, 8]}, ["y"], stored={"w": noise(16, 16, 1, 1)}, lists_weights=lists
            ).SerializeToString(),
            {},
        )
        for lists in (False, True)
    )
    runtimes = [RUNTIME.model_copy(update={"engine": engine}) for engine in ("ncnn", "mnn")] + [RUNTIME]
    pricer = Pricer.of(synthetic_network(sources=len(runtimes)), runtimes)
    priced = [pricer.price(pricer.encode(graph), RUNTIME, HARDWARE).total_ms for graph in (fixed, listed)]
    np.testing.assert_allclose(priced[0][:2], priced[1][:2], rtol=1e-5)
    assert priced[0][2] != pytest.approx(priced[1][2], rel=1e-3)
    features = pricer.encode(listed).features[View.FUSED]
    assert has_replaceable(features)
    assert features[0, Amount.ON_BLOCKS] > 0
    own = as_run_by(features, converts=False)
    assert not own[0, [Amount.ON_BLOCKS, Amount.REARRANGED_BYTES, Amount.OFF_BLOCKS]].any()


def test_a_source_is_priced_with_the_vectors_that_its_engine_uses() -> None:
    """MNN gains nothing from vectors of 512 bits: on no processor, whoever asks."""
    pricer = Pricer.of(synthetic_network(), [RUNTIME, RUNTIME.model_copy(update={"engine": "mnn"})])
    wide = pricer.machines(RUNTIME, AVX512)
    assert wide[0] == wide[-NOMINAL_COUNT] == machine_of(RUNTIME, AVX512)
    assert wide[0].macs_per_s == 2 * wide[1].macs_per_s
    narrow = pricer.machines(RUNTIME, HARDWARE)  # which has vectors of 256 bits
    assert len({machine.macs_per_s for machine in narrow}) == 1


def test_a_description_names_what_a_graph_spends_its_time_in() -> None:
    meta = synthetic_meta()
    families = {}
    for name, graph in reference_graphs():
        described = describe(graph, RUNTIME, HARDWARE, meta)
        assert sum(described.shares.values()) == pytest.approx(1.0)
        assert described.strange == {}
        families[name] = described.family
    assert families["dense-convs"] == "conv"
    assert families["long-rows"] == "gemm"
    assert families["quantised-convs"] == "int8"
    curve = graph_of(model_of([helper.make_node("Acosh", ["x"], ["y"])], {"x": [1 << 20]}, ["y"]))
    described = describe(curve, RUNTIME, HARDWARE, meta)
    assert described.strange == pytest.approx({"Acosh": described.shares["Acosh"]})
    assert described.strange["Acosh"] > 0.9


@pytest.mark.parametrize("module", ["predictor.predict", "predictor.adapt", "service.app"])
def test_answering_loads_no_training_library(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'pyarrow', 'sklearn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_classes_of_tables_are_those_of_kernels() -> None:
    for _, graph in reference_graphs():
        for view in View:
            table = table_of(graph, view)
            kernels = kernels_in(graph, view)
            assert [CLASSES[index] for index in table.classes[:-1]] == [class_of(one) for one in kernels]
