"""The reference set: ten models whose bytes never change, small, and spread over what matters."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest

from devices.target import Hardware, Runtime
from predictor.kernel_costs.nominal import nominal_times
from predictor.kernel_costs.table import CLASSES, View, table_of
from predictor.onnx_reader import read_graph
from predictor.reference_set import ReferenceModel, reference_models
from predictor.roofline import KernelClass, machine_of

# Another hash is another set: measurements of the old one no longer mean the same.
GOLDEN = {
    "residual-convs": "86eba2d5db89be97d08070c5dd51952a91a9d7dac95412cd978e6eded3477f5d",
    "inverted-residuals": "b48400b7c04e769b88c846ddbe8ba6e1921531c907bf6ac64b919edff3959b86",
    "deep-and-narrow": "bd66a739352e49e4253000b85404c775a591b53ec35416d1ae48ec481f9bb493",
    "encoder": "4a96440d65a520dd475af30354f58515523c9b86076a543475fa85119066156e",
    "decoder-step": "2e0b2e7c861832ca7f3a7588e7ae11e78ea733b7987cb206631cac00ba7a34d1",
    "recurrent": "c4639760a62def374613403902cada5d5a3fda2779b5f2ac739a6ce1c48fc538",
    "quantised-convs": "e3a4345b56c5b1259ccc8ec555c28482e3b52c0d757c55bf1b437ff8a38afaa3",
    "upscaler": "0c807fbcc6cf44daad97b80158b5000526848469f4d0ccd64a658ea3e7b31641",
    "pyramid": "46cc903a90ad735f72b6b35c0494641f3d91ea4f10fef0ecfa116affe7b0a367",
    "small-mlp": "8b9e2f2668e73b14a1362375a93ec68fbea6b817de4bf74cb48b4d0bc426cc4e",
}


@pytest.mark.parametrize("model", reference_models(), ids=lambda model: model.name)
def test_bytes_are_the_same_everywhere(model: ReferenceModel) -> None:
    assert hashlib.sha256(model.model).hexdigest() == GOLDEN[model.name]


def test_ten_small_models_each_with_a_reason() -> None:
    models = reference_models()
    assert len(models) == len({model.name for model in models}) == len(GOLDEN) == 10
    assert all(model.why for model in models)
    assert sum(len(model.model) for model in models) < 3 << 20
    for model in models:
        onnx.checker.check_model(onnx.load_model_from_string(model.model))


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
    assert np.all((times.sum(axis=1) > 0.15) & (times.sum(axis=1) < 60))
    shares = times / times.sum(axis=1, keepdims=True)
    largest = dict(zip(CLASSES, shares.max(axis=0), strict=True))
    # no model of the set is short enough to show what a call costs: that factor stays the prior's
    beyond_standard = {KernelClass.LOW_BIT, KernelClass.CONVERT, KernelClass.CALL}
    assert {kind for kind, share in largest.items() if share < 0.09} <= beyond_standard
    assert np.linalg.matrix_rank(shares, tol=0.05) >= 8
