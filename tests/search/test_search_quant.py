"""Quantisation arithmetic, worked by hand, and which hardware needs fewer weight bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.target import Hardware
from search.quant import (
    MAX_BIAS_LEVEL,
    Affine,
    LayerQuant,
    QuantConfig,
    TensorQuant,
    affine_of_range,
    int8_layer,
    quantise_layer,
    sqnr_db,
    weight_bits_for,
)

ASYMMETRIC = TensorQuant(bits=8, is_symmetric=False, is_per_channel=False)
SYMMETRIC = TensorQuant(bits=8, is_symmetric=True, is_per_channel=False)


def hardware(architecture: str, *flags: str) -> Hardware:
    return Hardware(
        cpu_model="test",
        architecture=architecture,
        physical_cores=1,
        logical_cores=1,
        memory_bytes=1 << 30,
        isa_flags=flags,
        operating_system="test",
    )


@pytest.mark.parametrize(
    ("machine", "bits"),
    [
        (hardware("x86_64", "avx2"), 7),
        (hardware("x86_64", "avx2", "avx512f", "avx512bw"), 7),
        (hardware("x86_64", "avx2", "avx_vnni"), 8),
        (hardware("x86_64", "avx512f", "avx512_vnni"), 8),
        (hardware("AMD64"), 7),
        (hardware("aarch64", "neon", "asimddp"), 8),
    ],
)
def test_weights_lose_a_bit_where_pairs_saturate(machine: Hardware, bits: int) -> None:
    assert weight_bits_for(machine) == bits


def test_activation_quantisers_by_hand() -> None:
    assert affine_of_range(0.0, 2.55, ASYMMETRIC) == Affine(pytest.approx(0.01), 0)
    assert affine_of_range(-1.0, 1.55, ASYMMETRIC) == Affine(pytest.approx(0.01), 100)
    assert affine_of_range(1.0, 2.55, ASYMMETRIC) == Affine(pytest.approx(0.01), 0)  # widened to hold 0
    assert affine_of_range(-1.27, 0.5, SYMMETRIC) == Affine(pytest.approx(0.01), 128)
    assert affine_of_range(0.0, 0.0, ASYMMETRIC) == Affine(1.0, 0)


def test_weights_by_hand() -> None:
    weights = np.array([[127.0, -63.5], [0.1, -0.2], [0.0, 0.0]], dtype=np.float32)
    bias = np.array([1.0, 0.5, 3.0], dtype=np.float32)
    per_channel = quantise_layer(weights, bias, int8_layer(8).weights or SYMMETRIC, input_scale=0.5)
    np.testing.assert_allclose(per_channel.weight_scale[:2], [1.0, 0.2 / 127], rtol=1e-6)
    assert per_channel.weights[:2].tolist() == [[127, -64], [64, -127]]
    assert per_channel.weights[2].tolist() == [0, 0]
    np.testing.assert_allclose(per_channel.bias * per_channel.bias_scale, bias, rtol=1e-3)

    per_tensor = quantise_layer(weights, bias, SYMMETRIC, input_scale=0.5)
    assert per_tensor.weight_scale.shape == ()
    assert per_tensor.weights.tolist() == [[127, -64], [0, 0], [0, 0]]

    reduced = quantise_layer(weights, bias, int8_layer(7).weights or SYMMETRIC, input_scale=0.5)
    assert np.abs(reduced.weights).max() == 63


@given(st.floats(0, 1e30), st.floats(-1e30, 1e30), st.floats(1e-6, 1e3))
def test_biases_fit_their_integers(weight: float, bias: float, input_scale: float) -> None:
    q = quantise_layer(
        np.array([[weight]], dtype=np.float32), np.array([bias], dtype=np.float32), SYMMETRIC, input_scale
    )
    assert abs(int(q.bias[0])) <= 1.01 * MAX_BIAS_LEVEL


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_that_no_int8_holds_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"between 2 and 8, got {bits}"):
        TensorQuant(bits=bits, is_symmetric=True, is_per_channel=True)


def test_what_does_not_execute_is_refused() -> None:
    with pytest.raises(ValueError, match="symmetric"):
        quantise_layer(np.ones((1, 1), np.float32), np.ones(1, np.float32), ASYMMETRIC, 1.0)
    with pytest.raises(ValueError, match="8 bits per tensor"):
        affine_of_range(0, 1, TensorQuant(bits=4, is_symmetric=False, is_per_channel=False))


def test_layers_without_an_entry_are_float() -> None:
    config = QuantConfig.uniform(["a"], int8_layer(8))
    assert config.of("a") == int8_layer(8)
    assert config.of("b") == LayerQuant(None, None)


def test_signal_to_noise_by_hand() -> None:
    reference = np.array([3.0, 4.0])
    assert sqnr_db(reference, reference) == float("inf")
    assert sqnr_db(reference, reference + np.array([0.5, 0.0])) == pytest.approx(20.0)
    assert sqnr_db(np.zeros(2), np.ones(2)) == -float("inf")
