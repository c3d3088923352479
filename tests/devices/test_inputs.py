"""Made-up inputs: the rules by dtype and name, the same values for the same seed, refusals that name the
input.
"""

from __future__ import annotations

import numpy as np
import pytest

from devices.errors import FailureCode, ModelRejected
from devices.inputs import SUPPORTED_DTYPES, make_tensors
from devices.model_ref import InputSpec


def spec(name: str, dtype: str) -> InputSpec:
    return InputSpec(name=name, dtype=dtype, shape=(None,))


def make(name: str, dtype: str, shape: tuple[int, ...] = (4, 250), seed: int = 0) -> np.ndarray:
    return make_tensors([spec(name, dtype)], {name: shape}, seed=seed)[name]


@pytest.mark.parametrize("dtype", SUPPORTED_DTYPES)
def test_every_supported_dtype_is_made_as_asked(dtype: str) -> None:
    tensor = make("x", dtype, (3, 5))
    assert (tensor.dtype, tensor.shape, tensor.flags.c_contiguous) == (np.dtype(dtype), (3, 5), True)


@pytest.mark.parametrize(
    ("name", "dtype", "lowest", "highest"),
    [
        ("image", "float32", 0.0, 1.0),
        ("half", "float16", 0.0, 1.0),
        ("input_ids", "int64", 1, 9),
        ("attention_mask", "int64", 1, 1),
        ("token_type_ids", "int32", 0, 0),
        ("pixels", "uint8", 0, 255),
        ("quantised", "int8", -128, 127),
        ("flags", "bool", 0, 1),
    ],
)
def test_values_stay_in_the_range_of_their_kind(name: str, dtype: str, lowest: float, highest: float) -> None:
    tensor = make(name, dtype, (100, 100)).astype(np.float64)
    assert (tensor.min(), tensor.max()) == pytest.approx((lowest, highest), abs=1e-3)


def test_a_sampling_rate_is_a_scalar_of_16_khz() -> None:
    assert make("sr", "int64", ()) == 16_000
    assert make("sr", "int64", (2,)).max() <= 9  # two of them are no sampling rate


def test_the_seed_decides() -> None:
    assert (make("x", "float32", seed=1) == make("x", "float32", seed=1)).all()
    assert (make("x", "float32", seed=1) != make("x", "float32", seed=2)).any()


@pytest.mark.parametrize("dtype", ["string", "bfloat16", "int4"])
def test_other_types_are_refused_by_name(dtype: str) -> None:
    with pytest.raises(ModelRejected, match=f"'words' is of type {dtype}") as caught:
        make("words", dtype)
    assert caught.value.code is FailureCode.INPUTS_INVALID


def test_a_mistyped_size_is_refused_before_it_is_allocated() -> None:
    with pytest.raises(ModelRejected, match="the limit is"):
        make("x", "float32", (1 << 20, 1 << 20))
