"""The reference set: ten models and their stand-ins, whose bytes never change, small, and spread over what
matters.
"""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest

from devices.target import Hardware, Runtime
from predictor.kernel_costs.nominal import nominal_times
from predictor.kernel_costs.table import CLASSES, View, table_of
from predictor.reading.reader import read_graph
from predictor.reference_set import ReferenceModel, reference_candidates, reference_models, stand_ins, telling
from predictor.roofline import KernelClass, machine_of

# Another hash is another set: measurements of the old one no longer mean the same.
GOLDEN = {
    "mixed-convs": "5aeb217c88ff572a261e97e45e8fbb45cdd87a9a1fa3616c53c7217f4a660caa",
    "dense-convs": "36c2f21286e3c3a58292ded6dd8df4323b6bccf3964b895131b2bd101d6ea464",
    "light-convs": "711b1e1970ed786ab9f9453965d88d75db6320495cd8f29aaebc81f1736eca3e",
    "small-image": "8de34e10e5dd7803ccd9229d3e4cac0c61f0c05a567c5aba782ba7959e713f8a",
    "mixed-rows": "9c497996ca8810cb5d88396549ae0f405202f8b4276895cd5d9af8852b3bac38",
    "sequence-step": "ba3ee05990f50e1562c9f471b9a310a96c33cd3b6374eafeb664667139b622c1",
    "recurrent-frames": "d74f4689c5ae73f34fcee74d2fe9ad0d507dad9a5e931a84372dad0f917e4cdc",
    "quantised-convs": "4e28445d3be7f548c5030db4b5804229cace6e9a7cecc23099df2f10c5744db0",
    "dynamic-rows": "b5953b0f898a343d03a7e4588d27ee1db46c981678b8d952fc4cf247d73ed3a8",
    "four-bit-step": "2429e11b5451c8ea2e1e20f7e2469eb0d27861140aebbfaf840c2e682c06b385",
    "long-rows": "ee58ada762d8dca5b154d7828b8de5677a57fb4a000fd72ee74c6ae222bf47f7",
    "float16-convs": "a4c7a36b5154cac19556a10cbfe3aad9f6e651fb06bf4a4a38d6381efff6cf92",
    "large-images": "9f4b6c13a5611f62645c2fe52500626a7a27c2ad22e45ec462174e1d22e57694",
    "many-convs": "b3f8bbd99675c5b39c91e17468503b5fd416073fac75449dcdc9ef1e55fa52a5",
    "wide-images": "5af6ad6ed30a44fff687da9e137e649f9d9ee880a94cec78dcba34722ff33454",
}


@pytest.mark.parametrize("model", reference_candidates(), ids=lambda model: model.name)
def test_bytes_are_the_same_everywhere(model: ReferenceModel) -> None:
    assert hashlib.sha256(model.model).hexdigest() == GOLDEN[model.name]


def test_ten_small_models_each_with_a_reason() -> None:
    models = reference_candidates()
    assert len(models) == len({model.name for model in models}) == len(GOLDEN) == 15
    assert len(reference_models()) == 10
    assert all(model.why for model in models)
    assert sum(len(model.model) for model in models) < 32 << 20
    for model in models:
        onnx.checker.check_model(onnx.load_model_from_string(model.model))


def test_a_target_is_told_by_the_first_ten_that_it_runs() -> None:
    ten = tuple(model.name for model in reference_models())
    others = tuple(model.name for model in stand_ins())
    assert telling([*others, *ten, "somebody's own"]) == ten
    refused = {"quantised-convs", "dynamic-rows", "four-bit-step"}
    run = [name for name in (*ten, *others) if name not in refused]
    assert telling(run) == (*(name for name in ten if name not in refused), *others[:3])
    assert telling(["small-image"]) == ("small-image",)


def test_stand_ins_are_float32() -> None:
    """Whatever converts models converts those."""
    for model in stand_ins():
        graph = onnx.load_model_from_string(model.model).graph
        stored = {one.data_type for one in graph.initializer}
        assert stored <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
        assert {one.type.tensor_type.elem_type for one in graph.input} == {onnx.TensorProto.FLOAT}


def test_together_they_tell_the_classes_apart() -> None:
    """Each class that standard operators express has a real share of some model."""
    hardware = Hardware(
        cpu_model="a laptop", architecture="x86_64", physical_cores=4, logical_cores=8, memory_bytes=1 << 34,
        isa_flags=("avx", "avx2", "fma"), operating_system="Linux",
    )  # fmt: skip
    runtime = Runtime(engine="onnxruntime", version="1.32.0", provider="cpu", threads=1)
    times = np.zeros((10, len(CLASSES)))
    for number, model in enumerate(reference_models()):
        table = table_of(read_graph(model.model, model.input_shapes), View.FUSED)
        nominal = nominal_times(table, machine_of(runtime, hardware))
        np.add.at(times[number], table.classes, nominal.own)
        times[number, CLASSES.index(KernelClass.LAUNCH)] += nominal.launch[:-1].sum()
        times[number, CLASSES.index(KernelClass.CALL)] += nominal.launch[-1]
    assert np.all((times.sum(axis=1) > 0.1) & (times.sum(axis=1) < 60))
    shares = times / times.sum(axis=1, keepdims=True)
    largest = dict(zip(CLASSES, shares.max(axis=0), strict=True))
    # of what takes little everywhere, and of the call, the factors stay the prior's
    left_to_the_prior = {KernelClass.MOVE, KernelClass.CONVERT, KernelClass.CALL}
    assert {kind for kind, share in largest.items() if share < 0.09} <= left_to_the_prior
    assert np.linalg.matrix_rank(shares, tol=0.05) >= 8
