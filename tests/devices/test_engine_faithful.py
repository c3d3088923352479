"""What counts as the same numbers, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from onnx import TensorProto, helper

from devices.engine import Tensors
from devices.engines.faithful import (
    NOT_COMPARED,
    check_faithful,
    find_fault,
    forget_peak_memory,
    run_reference,
    signal_to_noise_db,
)
from devices.errors import FailureCode, MissingInputSizes, ModelRejected
from devices.model_ref import InputSpec
from tests.devices import onnx_models

NAN, INF = math.nan, math.inf
NOISE = np.random.default_rng(0).standard_normal(1000).astype(np.float32)


class Answering:
    """A session that gives the same outputs whatever it is asked."""

    inputs: Sequence[InputSpec] = ()
    notes: Sequence[str] = ()

    def __init__(self, **outputs: np.ndarray) -> None:
        self._outputs = outputs

    def run(self, tensors: Tensors) -> Tensors:
        return self._outputs


def test_the_ratio_is_that_of_energies() -> None:
    """Energy 3^2 + 4^2 = 25, of the difference 0.5^2 = 0.25: a hundredth, 20 dB."""
    assert signal_to_noise_db(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(20)
    assert signal_to_noise_db(np.array([3.0]), np.array([3.0])) == math.inf
    assert signal_to_noise_db(np.array([0.0]), np.array([1.0])) == -math.inf


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        pytest.param(NOISE, NOISE * 1.001, id="rounding"),
        pytest.param(NOISE.reshape(1, 10, 100), NOISE, id="another shape of the same size"),
        pytest.param([0.0, 0.0], [0.0, 1e-7], id="zeros"),
        pytest.param([1e-7, 2e-7], [2e-7, 1e-7], id="nothing but rounding"),
        pytest.param([NAN, 1.0], [NAN, 1.0], id="not finite in both"),
        pytest.param([-3.4e38, 2.0], [-INF, 2.0], id="a mask and an infinity"),
        pytest.param(np.array([7, 200], np.uint8), np.array([8, 199], np.uint8), id="a step of eight bits"),
        pytest.param(np.array([7, 9], np.int64), np.array([7, 9], np.int32), id="integers of other widths"),
        pytest.param(np.array([True, False]), np.array([1, 0]), id="booleans"),
        pytest.param(np.array(["a"]), np.array(["b"]), id="text"),
    ],
)
def test_what_correct_runtimes_differ_in_is_let_through(expected: object, found: object) -> None:
    assert find_fault({"y": np.asarray(expected)}, {"y": np.asarray(found)}, is_rounded=False) is None


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        pytest.param(NOISE, NOISE * 1.1, "20.0 dB, at least 27", id="a wrong scale"),
        pytest.param(NOISE, NOISE[::-1], "dB", id="another order"),
        pytest.param(NOISE, np.zeros_like(NOISE), "0.0 dB", id="nothing"),
        pytest.param([0.0, 0.0], [0.0, 1.0], "-inf dB", id="something where nothing is"),
        pytest.param([1.0, 1.0], [NAN, 1.0], "1 of 2 values that are not finite", id="not a number"),
        pytest.param(NOISE, NOISE[:-1], "shape", id="another size"),
        pytest.param(np.array([7], np.int64), np.array([8], np.int64), "1 of 1", id="another label"),
        pytest.param(np.array([7], np.uint8), np.array([9], np.uint8), "1 of 1", id="two steps"),
    ],
)
def test_other_numbers_are_refused_with_value_and_bound(expected: object, found: object, words: str) -> None:
    fault = find_fault({"y": np.asarray(expected)}, {"y": np.asarray(found)}, is_rounded=False)
    assert fault is not None
    assert words in fault
    assert "'y'" in fault


def test_a_missing_output_is_named() -> None:
    assert find_fault({"y": NOISE}, {"z": NOISE}, is_rounded=False) == "output 'y' is missing"


def test_a_quantised_model_is_held_to_less() -> None:
    noisy = NOISE + 0.2 * NOISE[::-1]  # 14 dB
    assert find_fault({"y": NOISE}, {"y": noisy}, is_rounded=False) is not None
    assert find_fault({"y": NOISE}, {"y": noisy}, is_rounded=True) is None
    fault = find_fault({"y": NOISE}, {"y": -NOISE}, is_rounded=True)
    assert fault is not None
    assert "cosine of -1.000" in fault


def test_scores_that_agree_vouch_for_a_label_that_ties() -> None:
    expected = {"label": np.array([3]), "scores": NOISE}
    assert find_fault(expected, {"label": np.array([5]), "scores": NOISE}, is_rounded=False) is None


def test_the_reference_is_the_files_own_arithmetic() -> None:
    reference = run_reference(onnx_models.two_layers(), {"x": (2, 8)})
    weights = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
    x = np.asarray(reference.tensors["x"])
    np.testing.assert_allclose(reference.outputs["y"], np.maximum(x @ weights, 0), rtol=1e-5)
    assert reference.shapes == {"x": (2, 8)}
    assert not reference.is_rounded
    assert run_reference(onnx_models.two_layers(), {"x": (2, 8)}, precision="bf16").is_rounded


def test_sizes_are_asked_for_and_other_files_refused() -> None:
    with pytest.raises(MissingInputSizes):
        run_reference(onnx_models.two_layers(), {})
    with pytest.raises(ModelRejected):
        run_reference(onnx_models.external_data("../../etc/passwd"), {})


def test_an_unfaithful_session_is_refused_with_the_remedy() -> None:
    model = onnx_models.two_layers()
    reference = run_reference(model, {"x": (2, 8)})
    good = np.asarray(reference.outputs["y"])
    assert check_faithful(Answering(y=good), reference, model=model, library="it") == ()
    with pytest.raises(ModelRejected, match=r"it computes other numbers .* another engine") as caught:
        check_faithful(Answering(y=good + 1), reference, model=model, library="it")
    assert caught.value.code is FailureCode.CONVERSION_UNFAITHFUL


def test_random_outputs_are_not_compared() -> None:
    model = onnx_models.file(
        [helper.make_node("RandomUniformLike", ["x"], ["y"], dtype=TensorProto.FLOAT)],
        [onnx_models.value("x", [1, 100])],
    )
    reference = run_reference(model, {})
    session = Answering(y=NOISE[:100])
    assert check_faithful(session, reference, model=model, library="it") == (NOT_COMPARED,)


def test_the_peak_of_memory_begins_anew() -> None:
    program_holds = np.ones(1 << 24, np.uint8)
    forget_peak_memory()  # never raises, wherever it runs
    assert program_holds.size
