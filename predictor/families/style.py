"""How an exporter would have written a model: the same network comes in many dialects."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

_OPSETS = (9, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 20)
_IR_VERSIONS = {9: 3, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 20: 9}


@dataclass(frozen=True, slots=True)
class Style:
    """One dialect."""

    opset: int
    ir_version: int
    has_batch_norm: bool  # batch normalisation as a node of its own, not folded into the convolution
    has_constant_nodes: bool  # weights as Constant nodes instead of initializers
    has_listed_weights: bool  # weights also listed as inputs of the graph, as IR version 3 wants it
    has_gemm: bool  # Gemm for dense layers instead of MatMul and Add
    flattening: int  # 0 Flatten, 1 Reshape, 2 Reshape with the batch size read from Shape
    has_mean_pool: bool  # ReduceMean instead of GlobalAveragePool
    has_plain_relu6: bool  # Clip written as Max and Min
    has_decomposed_curves: bool  # HardSwish, LayerNormalization, Gelu spelt out though the opset has them


def style_of(name: str, *, least_opset: int) -> Style:
    """The dialect that belongs to a name; the same on every machine."""
    bits = zlib.crc32(name.encode())
    opset = max(_OPSETS[bits % len(_OPSETS)], least_opset)
    return Style(
        opset=opset,
        ir_version=_IR_VERSIONS[opset],
        has_batch_norm=bits >> 8 & 3 == 0,
        has_constant_nodes=bits >> 10 & 3 == 0 and opset >= 11,
        has_listed_weights=opset == 9,
        has_gemm=bits >> 12 & 1 == 0,
        flattening=(bits >> 13) % 3,
        has_mean_pool=bits >> 16 & 3 == 0,
        has_plain_relu6=bits >> 18 & 7 == 0,
        has_decomposed_curves=bits >> 21 & 1 == 0,
    )
