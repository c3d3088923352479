"""QuantConfig: per layer, how weights and activations are quantised, and the arithmetic of doing so.

`bits` are storage bits: what accuracy and size follow from. What executes is int8, because no mainstream
runtime executes fewer: levels of a b-bit weight are kept within an int8 tensor, which is bit-exact to b
bits and runs at int8 speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.target import Hardware

FULL_WEIGHT_BITS = 8
REDUCED_WEIGHT_BITS = 7
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # below, float32 loses digits and then all
MAX_BIAS_LEVEL = 2**30  # half of what an int32 bias can hold, so that the sum with the products still fits
_X86 = ("x86_64", "amd64", "i686")
_INT8_DOT_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8")


@dataclass(frozen=True, slots=True)
class TensorQuant:
    """How one tensor is quantised. Per channel: a scale for each output channel; else one for the tensor."""

    bits: int
    is_symmetric: bool
    is_per_channel: bool

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be between 2 and 8, got {self.bits}")


@dataclass(frozen=True, slots=True)
class LayerQuant:
    """Of one layer: its weights and the activations that it reads. None: floating point."""

    weights: TensorQuant | None = None
    activations: TensorQuant | None = None


@dataclass(frozen=True, slots=True)
class QuantConfig:
    """The quantisation of each layer by name; a layer that is not named computes in floating point."""

    layers: tuple[tuple[str, LayerQuant], ...] = ()

    @classmethod
    def uniform(cls, names: Sequence[str], quant: LayerQuant) -> QuantConfig:
        """All the named layers alike."""
        return cls(tuple((name, quant) for name in names))

    def of(self, name: str) -> LayerQuant:
        """The quantisation of one layer."""
        return dict(self.layers).get(name, LayerQuant())


def int8_layer(weight_bits: int) -> LayerQuant:
    """The int8 form that x86 runtimes execute fastest: U8 asymmetric activations, S8 symmetric weights per
    channel.
    """
    return LayerQuant(
        weights=TensorQuant(bits=weight_bits, is_symmetric=True, is_per_channel=True),
        activations=TensorQuant(bits=8, is_symmetric=False, is_per_channel=False),
    )


def weight_bits_for(hardware: Hardware) -> int:
    """7 on x86 without int8 dot-product instructions, else 8.

    There, products of U8 and S8 are added in pairs within 16 bits, which saturates with 8-bit weights and
    cannot with 7-bit ones. It costs no latency.
    """
    is_x86 = hardware.architecture.lower() in _X86
    has_dot = any(flag in hardware.isa_flags for flag in _INT8_DOT_FLAGS)
    return REDUCED_WEIGHT_BITS if is_x86 and not has_dot else FULL_WEIGHT_BITS


@dataclass(frozen=True, slots=True)
class Affine:
    """Activation quantisation: real = scale * (level - zero_point), levels 0 to 255."""

    scale: float
    zero_point: int


def affine_of_range(low: float, high: float, quant: TensorQuant) -> Affine:
    """The U8 quantiser whose levels span [low, high], widened to hold 0.

    Symmetric: [-m, m] with zero point 128. The scale is rounded to float32, as the file stores it; a range
    without extent gets scale 1.
    """
    if quant.bits != 8 or quant.is_per_channel:
        raise ValueError(f"activations execute as 8 bits per tensor, got {quant}")
    low, high = min(low, 0.0), max(high, 0.0)
    if quant.is_symmetric:
        bound = max(-low, high)
        return Affine(scale=_float32(bound / 127.0) or 1.0, zero_point=128)
    scale = _float32((high - low) / 255.0) or 1.0
    return Affine(scale=scale, zero_point=int(np.clip(np.rint(-low / scale), 0, 255)))


@dataclass(frozen=True, slots=True)
class QuantisedLayer:
    """Integer weights `(O, ...)` int8 and bias `(O,)` int32 with their scales `(O,)` or `()` float32."""

    weights: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    bias_scale: NDArray[np.float32]


def quantise_layer(
    weights: NDArray[np.float32], bias: NDArray[np.float32], quant: TensorQuant, input_scale: float
) -> QuantisedLayer:
    """Symmetric weights `(O, ...)` to int8 levels, bias `(O,)` to int32 at input times weight scale.

    Levels have at most `quant.bits` bits. The scale of a channel whose bias is huge beside its weights is
    raised until the bias fits.
    """
    if not quant.is_symmetric:
        raise ValueError(f"weights execute as symmetric int8, got {quant}")
    top = 2 ** (quant.bits - 1) - 1
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    bound = np.maximum(np.abs(flat).max(axis=1) / top, np.abs(bias) / (input_scale * MAX_BIAS_LEVEL))
    if not quant.is_per_channel:
        bound = np.full_like(bound, bound.max())
    scale = np.maximum(np.where(bound > 0, bound, 1.0), SMALLEST_SCALE).astype(np.float32)
    levels = np.clip(np.rint(flat / scale[:, None].astype(np.float64)), -top, top)
    bias_scale = (np.float32(input_scale) * scale).astype(np.float32)
    bias_levels = np.rint(bias.astype(np.float64) / bias_scale.astype(np.float64))
    return QuantisedLayer(
        weights=levels.reshape(weights.shape).astype(np.int8),
        weight_scale=scale if quant.is_per_channel else scale[0],
        bias=bias_levels.astype(np.int32),
        bias_scale=bias_scale,
    )


def sqnr_db(reference: NDArray[np.floating], actual: NDArray[np.floating]) -> float:
    """Signal to quantisation noise in decibels: reference over difference; infinite if they are equal."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(actual.astype(np.float64) - reference.astype(np.float64)).sum())
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def _float32(value: float) -> float:
    return float(np.float32(value))
