"""The published spaces as real networks: they run, cost what the papers report, and hold what genomes say."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from predictor.errors import GenomeRejected
from predictor.graph import ModelGraph
from predictor.kernels import kernels_of
from predictor.networks import fbnet, nb201, ofa_mbv3
from predictor.networks.layers import divisible
from predictor.networks.registry import FAMILIES, NetworkFamily, family_of
from predictor.reading.reader import read_graph

NONE, SKIP, CONV_1X1, CONV_3X3, POOL = range(5)
OFA_SMALLEST = (3,) * 40 + (2,) * 5 + (128,)
OFA_LARGEST = (7,) * 20 + (6,) * 20 + (4,) * 5 + (224,)
EXTREMES = {
    "nb201": [(NONE,) * 6, (SKIP,) * 6, (CONV_3X3,) * 6, (CONV_3X3, NONE, NONE, NONE, POOL, NONE)],
    "fbnet": [(8,) * 22, (7,) * 22, (1,) * 22],
    "ofa": [OFA_SMALLEST, OFA_LARGEST, (5,) * 20 + (4,) * 20 + (2, 3, 4, 3, 2, 172)],
}
CASES = [
    pytest.param(FAMILIES[name], row, id=f"{name}-{i}")
    for name in EXTREMES
    for i, row in enumerate(EXTREMES[name])
]

# Another hash is another network: features and predictions that were made of the old one no longer fit.
GOLDEN = {
    "nb201": "a84c8769142e476c0449d3ea1c4bfacc46c50608bf2f15718cc1b3934aa64744",
    "fbnet": "2199613993fa67fa21143d0a232764e3781c54e07cb17d9a4857aa767e896f41",
    "ofa": "1ef20ed2145e195a57805910bcaee8133e0e020855ee8a4df0a3721bb0752f45",
}


def random_rows(family: NetworkFamily, count: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(7)
    return [tuple(int(rng.choice(options)) for options in family.options) for _ in range(count)]


def graph_of(family: NetworkFamily, row: tuple[int, ...]) -> ModelGraph:
    return read_graph(family.network(row), family.input_shapes(row))


@pytest.mark.parametrize(("family", "row"), CASES)
def test_extremes_run_and_give_finite_logits(family: NetworkFamily, row: tuple[int, ...]) -> None:
    model, shapes = family.network(row, batch=2), family.input_shapes(row, batch=2)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=shapes["image"]).astype(np.float32)
    [logits] = session.run(None, {"image": image})
    assert logits.shape == (2, 1000 if family.name == "ofa" else 100)
    assert np.isfinite(logits).all()
    assert logits.std() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_macs_are_those_of_the_graph(name: str) -> None:
    family = FAMILIES[name]
    for row in (*EXTREMES[name], *random_rows(family, 12)):
        graph = graph_of(family, row)
        assert family.macs(row) == graph.macs
        assert graph.notes == ()


@pytest.mark.parametrize("name", FAMILIES)
def test_bytes_are_the_same_everywhere(name: str) -> None:
    row = EXTREMES[name][2]
    assert hashlib.sha256(FAMILIES[name].network(row)).hexdigest() == GOLDEN[name]
    assert FAMILIES[name].network(np.asarray(row, dtype=np.int16)) == FAMILIES[name].network(row)


@pytest.mark.parametrize("name", FAMILIES)
def test_canonical_genomes_have_the_same_model(name: str) -> None:
    family = FAMILIES[name]
    changed = 0
    for row in random_rows(family, 30):
        canonical = family.canonical(row)
        assert family.canonical(canonical) == canonical
        if canonical != row:
            changed += 1
            assert family.network(canonical) == family.network(row)
            assert family.macs(canonical) == family.macs(row)
    assert (changed > 5) == (name != "fbnet")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_reads_a_weight_of_its_own(name: str) -> None:
    """Files store a few filters of a weight; a runtime must read all, from one place for each layer."""
    graph = graph_of(FAMILIES[name], EXTREMES[name][1])
    layers = [op for op in graph.operators if op.kind in ("Conv", "Gemm")]
    assert len({op.inputs[1] for op in layers}) == len(layers) > 5
    assert all(
        op.parameters == graph.tensors[op.inputs[1]].elements + graph.tensors[op.inputs[2]].elements
        for op in layers
    )


def test_what_is_no_genome_is_refused_by_position() -> None:
    with pytest.raises(GenomeRejected, match="6 positions, got 5"):
        nb201.check([0] * 5)
    with pytest.raises(GenomeRejected, match=r"position 4 .*\[0, 1, 2, 3, 4\], got 5"):
        nb201.network([0, 0, 0, 0, 5, 0])
    with pytest.raises(GenomeRejected, match=r"position 21 .*got -1"):
        fbnet.macs([0] * 21 + [-1])
    with pytest.raises(GenomeRejected, match=r"position 45 .*got 130"):
        ofa_mbv3.input_shapes([*OFA_SMALLEST[:-1], 130])
    with pytest.raises(GenomeRejected, match=r"position 0 .*got 3\.5"):
        ofa_mbv3.check([3.5, *OFA_SMALLEST[1:]])
    with pytest.raises(GenomeRejected, match="'darts'"):
        family_of("darts")


# ---- NAS-Bench-201 ---------------------------------------------------------------------------------


def test_nb201_costs_what_the_benchmark_reports() -> None:
    """220.12 million operations for 3x3 convolutions throughout and 7.78 for nothing but skips, with ten
    classes.
    """
    more_classes = 64 * 90
    assert (nb201.macs([CONV_3X3] * 6) - more_classes) / 1e6 == pytest.approx(220.12, abs=0.005)
    assert (nb201.macs([SKIP] * 6) - more_classes) / 1e6 == pytest.approx(7.78, abs=0.005)


def test_nb201_drops_what_is_dead_or_fed_by_nothing() -> None:
    kinds = Counter(
        op.kind for op in graph_of(FAMILIES["nb201"], (CONV_3X3, NONE, POOL, NONE, CONV_1X1, NONE)).operators
    )
    around = 1 + 2 * 3  # stem, and both residual blocks
    assert (
        kinds["Conv"] == around + 15 * 2
    )  # 1 <- 0 and 3 <- 1; the pooling ends in node 2, which nobody reads
    assert kinds["AveragePool"] == 2
    assert nb201.facts((NONE, NONE, CONV_3X3, CONV_1X1, CONV_3X3, POOL)) == nb201.CellFacts(
        live=(3,), counts=(2, 0, 1, 2, 1), live_counts=(0, 0, 1, 0, 0), sums=0, depth=1, conv_depth=1
    )


def test_nb201_facts_of_a_full_cell() -> None:
    found = nb201.facts((SKIP, CONV_3X3, POOL, CONV_1X1, CONV_3X3, CONV_1X1))
    assert found.live == (0, 1, 2, 3, 4, 5)
    assert found.live_counts == (0, 1, 2, 2, 1)
    assert (found.sums, found.depth, found.conv_depth) == (3, 2, 2)
    graph = graph_of(FAMILIES["nb201"], (SKIP, CONV_3X3, POOL, CONV_1X1, CONV_3X3, CONV_1X1))
    assert Counter(op.kind for op in graph.operators)["Add"] == 15 * found.sums + 2


def test_nb201_without_a_way_through_is_a_constant_that_still_runs() -> None:
    row = (CONV_3X3, CONV_3X3, CONV_3X3, NONE, NONE, NONE)
    assert nb201.facts(row).is_constant
    assert nb201.canonical(row) == (NONE,) * 6
    graph = graph_of(FAMILIES["nb201"], row)
    assert graph.macs == 0
    assert graph.operators


# ---- FBNet -----------------------------------------------------------------------------------------

PUBLISHED = {
    "A": (
        249e6,
        "skip k3_e3 k3_e1 skip skip k5_e6 k3_e3 k5_e1 k3_e3 k5_e6 k5_e3 k5_e1_g2 k5_e6 k3_e6 k5_e1_g2 k5_e3"
        " k3_e1_g2 k5_e6 k5_e6 k5_e3 k5_e6 k5_e6",
    ),
    "B": (
        295e6,
        "k3_e1 k3_e6 k5_e1 k3_e1 k3_e1 k5_e6 k5_e3 k3_e6 k5_e6 k5_e6 k5_e6 skip k5_e3 k5_e6 k3_e1 k5_e1 k5_e3"
        " k5_e6 k5_e1 k5_e6 k5_e6 k3_e6",
    ),
    "C": (
        375e6,
        "k3_e1 k3_e6 skip k3_e1 k3_e1 k5_e6 k5_e3 k5_e6 k3_e6 k5_e6 k5_e3 k5_e6 k5_e6 k5_e6 k5_e6 k5_e6 k5_e3"
        " k5_e6 k5_e6 k5_e6 k5_e6 k3_e6",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_fbnet_costs_what_the_paper_reports(name: str) -> None:
    """Table 3 of arXiv 1812.03443, at 224 x 224."""
    published, blocks = PUBLISHED[name]
    row = [fbnet.OPERATIONS.index(block) for block in blocks.split()]
    assert fbnet.macs(row, macro=fbnet.IMAGENET) == pytest.approx(published, rel=0.01)
    graph = read_graph(fbnet.network(row, macro=fbnet.IMAGENET), {})
    assert graph.inputs[0].shape == (1, 3, 224, 224)
    assert graph.macs == fbnet.macs(row, macro=fbnet.IMAGENET)


def test_fbnet_blocks_hold_what_their_names_say() -> None:
    skips = graph_of(FAMILIES["fbnet"], (8,) * 22)
    convs = [op for op in skips.operators if op.kind == "Conv"]
    assert (
        len(convs) == 2 + 6
    )  # stem and head; where channels change, a 1x1 convolution stands for the identity
    grouped = graph_of(FAMILIES["fbnet"], (5,) * 22)
    kinds = Counter(op.kind for op in grouped.operators)
    assert kinds["Transpose"] == 22
    assert kinds["Add"] == 16
    groups = Counter(op.attributes["group"] for op in grouped.operators if op.kind == "Conv")
    assert groups[2] == 44


# ---- Once-for-All ----------------------------------------------------------------------------------


def test_ofa_has_mobilenet_v3_layers_where_they_belong() -> None:
    graph = graph_of(FAMILIES["ofa"], OFA_LARGEST)
    kinds = Counter(op.kind for op in graph.operators)
    assert kinds["HardSigmoid"] == 12  # stages 2, 4 and 5
    assert kinds["HardSwish"] == 1 + 2 * 12 + 2
    assert kinds["Conv"] == 1 + 2 + 3 * 20 + 2 * 12 + 2
    assert kinds["Add"] == 1 + 5 * 3
    widths = [
        graph.tensors[op.outputs[0]].shape[1]
        for op in graph.operators
        if op.attributes.get("group", 1) == 1 and op.kind == "Conv"
    ]
    assert {24, 32, 48, 96, 136, 192, 1152, 1536} <= set(widths)
    assert graph.outputs[0].shape == (1, 1000)


def test_ofa_depth_resolution_and_kernels_count() -> None:
    small, large = (graph_of(FAMILIES["ofa"], row) for row in (OFA_SMALLEST, OFA_LARGEST))
    assert small.inputs[0].shape == (1, 3, 128, 128)
    depthwise = [op for op in small.operators if op.kind == "Conv" and op.attributes["group"] != 1]
    assert len(depthwise) == 1 + 5 * 2
    assert max(op.attributes["kernel_shape"] for op in large.operators if op.kind == "Conv") == (7, 7)


@pytest.mark.parametrize(
    ("value", "width"), [(19.2, 24), (28.8, 32), (134.4, 136), (4, 8), (60, 64), (44, 48)]
)
def test_widths_are_rounded_as_published(value: float, width: int) -> None:
    assert divisible(value) == width


def test_kernels_fuse_what_follows_a_convolution() -> None:
    graph = graph_of(FAMILIES["fbnet"], (0,) * 22)
    kernels = kernels_of(graph, fuses_chains=False)
    assert Counter(kernel.anchor.kind for kernel in kernels) == {
        "Conv": 2 + 66,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
