"""Lower-precision copies of a draft, in the forms in which quantisers write them.

`to_qdq`: static int8 between QuantizeLinear and DequantizeLinear, activations unsigned with a zero point,
weights signed with a scale per channel. `to_dynamic`: activations quantised while running. `to_four_bits`:
weights of matrix products in blocks (com.microsoft MatMulNBits). `to_eight_bits`: such weights as integers
that the file itself casts and scales. `to_half`: float16 inside, float32 outside.
Each changes the draft it is given.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from predictor.families.draft import Draft, Step, Tensor

CONV_KINDS = frozenset((
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat", "MaxPool", "AveragePool",
    "GlobalAveragePool", "Reshape", "Flatten", "Transpose", "Resize", "LeakyRelu", "Split",
))  # fmt: skip
MATRIX_KINDS = frozenset(("MatMul", "Gemm", "Add"))
_WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0, "MatMul": 1}  # which axis of the weight has scales
_KEEP_RANGE = frozenset((
    "MaxPool", "Reshape", "Flatten", "Transpose", "Resize", "Split", "AveragePool",
))  # fmt: skip
_TAKE_CURVE = frozenset(("Conv", "ConvTranspose", "Gemm", "Add"))
_REACH = 4.0  # the range of an activation, in root mean squares
_BLOCK = 32


def to_qdq(draft: Draft, kinds: frozenset[str]) -> None:
    """Every float tensor that an operator of `kinds` reads or writes passes through eight bits."""
    _fold_batch_norms(draft)
    _fold_curves(draft, kinds)
    wanted = _activations(draft, kinds)
    scales: dict[str, tuple[str, str]] = {}
    renamed: dict[str, str] = {}
    old, draft.steps = draft.steps, []
    for name in draft.inputs:
        if name in wanted:
            _pass_eight_bits(draft, name, scales, renamed)
    for step in old:
        source = step.inputs[0]
        step.inputs = [renamed.get(name, name) for name in step.inputs]
        if step.kind in kinds and step.kind in _WEIGHTED and source in scales:
            _quantise_weights(draft, step, scales[source][0])
        draft.steps.append(step)
        for name in step.outputs:
            if name in wanted:
                if step.kind in _KEEP_RANGE and source in scales:
                    scales[name] = scales[source]
                _pass_eight_bits(draft, name, scales, renamed)
    draft.outputs = [renamed.get(name, name) for name in draft.outputs]


def to_dynamic(draft: Draft) -> None:
    """MatMul by a constant becomes DynamicQuantizeLinear, MatMulInteger, Cast, Mul, Mul; one quantisation
    serves all products of a tensor. Gemm is split into MatMul and Add first; LSTM becomes com.microsoft
    DynamicQuantizeLSTM.
    """
    _split_gemms(draft)
    quantised: dict[str, list[str]] = {}
    old, draft.steps = draft.steps, []
    for step in old:
        if step.kind == "LSTM":
            draft.steps.append(_dynamic_lstm(draft, step))
            continue
        if not _is_weighted_matmul(draft, step):
            draft.steps.append(step)
            continue
        x = step.inputs[0]
        if x not in quantised:
            quantised[x] = draft.ops("DynamicQuantizeLinear", (x,), 3)
            draft.learn(quantised[x][0], draft.shape(x), dtype="uint8")
            draft.learn(quantised[x][1], ())
            draft.learn(quantised[x][2], (), dtype="uint8")
        _dynamic_product(draft, step, quantised[x])


def _dynamic_product(draft: Draft, step: Step, activation: list[str]) -> None:
    whole = draft.constants[step.inputs[1]].astype(np.float32)
    scale = float(np.abs(whole).max()) / 127.0
    weight = draft.const(np.rint(whole / scale), "int8")
    values, scale_x, zero_x = activation
    shape = draft.shape(step.outputs[0])
    zero = draft.const(0, "int8")
    sums = draft.op("MatMulInteger", values, weight, zero_x, zero, shape=shape, dtype="int32")
    floats = draft.op("Cast", sums, dtype="float32", to=TensorProto.FLOAT)
    scales = draft.op("Mul", scale_x, draft.const(scale))
    draft.steps.append(Step("Mul", [floats, scales], step.outputs))


def _split_gemms(draft: Draft) -> None:
    old, draft.steps = draft.steps, []
    for step in old:
        if step.kind != "Gemm":
            draft.steps.append(step)
            continue
        weight = draft.const(draft.constants[step.inputs[1]].T)
        (product,) = draft.ops("MatMul", (step.inputs[0], weight), 1)
        draft.learn(product, draft.shape(step.outputs[0]))
        draft.steps.append(Step("Add", [product, step.inputs[2]], step.outputs))


def _dynamic_lstm(draft: Draft, step: Step) -> Step:
    """Weights (ways, N, 4 hidden) in int8 with one scale per way."""
    inputs = list(step.inputs) + [""] * (8 - len(step.inputs))
    scales: list[str] = []
    for index in (1, 2):
        whole = draft.constants[inputs[index]].astype(np.float32).transpose(0, 2, 1)
        each = np.abs(whole).max(axis=(1, 2)) / 127.0
        inputs[index] = draft.const(np.rint(whole / each[:, None, None]), "int8")
        scales += [draft.const(each), draft.const(np.zeros(each.size), "int8")]
    return Step("DynamicQuantizeLSTM", [*inputs, *scales], step.outputs, step.attributes, "com.microsoft")


def to_four_bits(draft: Draft) -> None:
    """MatMul by a constant (K, N) becomes MatMulNBits: blocks of 32 weights along K with a scale each, no
    zero points, products on int8 activations (accuracy_level 4).
    """
    old, draft.steps = draft.steps, []
    for step in old:
        if not _is_weighted_matmul(draft, step):
            draft.steps.append(step)
            continue
        whole = draft.constants[step.inputs[1]].astype(np.float32)
        inner, columns = whole.shape
        blocks = math.ceil(inner / _BLOCK)
        padded = np.zeros((columns, blocks * _BLOCK), np.float32)
        padded[:, :inner] = whole.T
        each = padded.reshape(columns, blocks, _BLOCK)
        scales = np.maximum(np.abs(each).max(axis=2) / 7.0, 1e-6)
        levels = (np.rint(each / scales[:, :, None]) + 8).astype(np.uint8)
        packed = levels[:, :, 0::2] | levels[:, :, 1::2] << 4
        weight = draft.const(packed, "uint8")
        inputs = [step.inputs[0], weight, draft.const(scales.ravel())]
        attributes = {
            "K": inner, "N": columns, "bits": 4, "block_size": _BLOCK, "accuracy_level": 4,
        }  # fmt: skip
        draft.steps.append(Step("MatMulNBits", inputs, step.outputs, dict(attributes), "com.microsoft"))


def to_eight_bits(draft: Draft) -> None:
    """The constant (K, N) of a MatMul becomes int8 with a scale per column, a Cast and a Mul."""
    old, draft.steps = draft.steps, []
    for step in old:
        if _is_weighted_matmul(draft, step):
            whole = draft.constants[step.inputs[1]].astype(np.float32)
            scales = np.maximum(np.abs(whole).max(axis=0, keepdims=True) / 127.0, 1e-6)
            stored = draft.const(np.rint(whole / scales), "int8")
            (floats,) = draft.ops("Cast", (stored,), 1, to=TensorProto.FLOAT)
            draft.learn(floats, whole.shape)
            step.inputs[1] = draft.op("Mul", floats, draft.const(scales), shape=whole.shape)
        draft.steps.append(step)


def to_half(draft: Draft) -> None:
    """Weights and activations float16; casts at float inputs and outputs; sizes of Resize stay float32."""
    kept = {name for step in draft.steps if step.kind == "Resize" for name in step.inputs[1:]}
    for name, array in draft.constants.items():
        if array.dtype == np.float32 and name not in kept:
            draft.constants[name] = array.astype(np.float16)
    renamed: dict[str, str] = {}
    old, draft.steps = draft.steps, []
    for name, tensor in draft.inputs.items():
        if tensor.dtype == "float32":
            renamed[name] = draft.op("Cast", name, dtype="float16", to=TensorProto.FLOAT16)
    for step in old:
        step.inputs = [renamed.get(name, name) for name in step.inputs]
        if step.kind == "Cast" and step.attributes["to"] == TensorProto.FLOAT:
            step.attributes["to"] = TensorProto.FLOAT16
        draft.steps.append(step)
    draft.outputs = [
        draft.op("Cast", name, dtype="float32", to=TensorProto.FLOAT)
        if draft.tensors[name].dtype == "float32"
        else name
        for name in draft.outputs
    ]


def _is_weighted_matmul(draft: Draft, step: Step) -> bool:
    return (
        step.kind == "MatMul" and step.inputs[1] in draft.constants and len(draft.shape(step.inputs[1])) == 2
    )


def _fold_batch_norms(draft: Draft) -> None:
    """Batch normalisation goes into the convolution before it, as quantisers want it."""
    makers = {name: step for step in draft.steps for name in step.outputs}
    kept: list[Step] = []
    for step in draft.steps:
        maker = makers.get(step.inputs[0])
        if (
            step.kind != "BatchNormalization"
            or maker is None
            or maker.kind != "Conv"
            or len(maker.inputs) > 2
        ):
            kept.append(step)
            continue
        scale, bias, mean, variance = (draft.constants[name].astype(np.float32) for name in step.inputs[1:])
        factor = scale / np.sqrt(variance + np.float32(1e-5))
        whole = draft.constants[maker.inputs[1]].astype(np.float32)
        across = factor.reshape(-1, *[1] * (whole.ndim - 1))
        maker.inputs = [maker.inputs[0], draft.const(whole * across), draft.const(bias - mean * factor)]
        maker.outputs = list(step.outputs)
        makers[step.outputs[0]] = maker
    draft.steps = kept


def _fold_curves(draft: Draft, kinds: frozenset[str]) -> None:
    """Relu and Clip from 0 behind a quantised operator go: rounding to unsigned numbers cuts at zero."""
    makers = {name: step for step in draft.steps for name in step.outputs}
    readers: dict[str, int] = {}
    for name in [name for step in draft.steps for name in step.inputs] + draft.outputs:
        readers[name] = readers.get(name, 0) + 1
    kept: list[Step] = []
    for step in draft.steps:
        maker = makers.get(step.inputs[0])
        is_folded = (
            step.kind in ("Relu", "Clip")
            and maker is not None
            and maker.kind in (kinds & _TAKE_CURVE)
            and not _is_shift(draft, maker)
            and readers[step.inputs[0]] == 1
            and draft.tensors[step.outputs[0]].is_positive
        )
        if is_folded and maker is not None:
            maker.outputs = list(step.outputs)
            makers[step.outputs[0]] = maker
        else:
            kept.append(step)
    draft.steps = kept


def _activations(draft: Draft, kinds: frozenset[str]) -> set[str]:
    found: set[str] = set()
    for step in draft.steps:
        if step.kind in kinds and not _is_shift(draft, step):
            found.update(name for name in (*step.inputs, *step.outputs) if name in draft.tensors)
    return {name for name in found if draft.tensors[name].dtype == "float32"}


def _is_shift(draft: Draft, step: Step) -> bool:
    """Adding or multiplying by one number, as spelt-out curves and normalisations do, stays in float."""
    return step.kind in ("Add", "Mul") and any(
        name in draft.constants and draft.constants[name].size == 1 for name in step.inputs
    )


def _pass_eight_bits(
    draft: Draft, name: str, scales: dict[str, tuple[str, str]], renamed: dict[str, str]
) -> None:
    tensor: Tensor = draft.tensors[name]
    if name not in scales:
        reach = _REACH * max(tensor.level, 1e-3)
        zero = 0 if tensor.is_positive else 118 + zlib.crc32(name.encode()) % 20
        scales[name] = (
            draft.const(reach / 255.0 if tensor.is_positive else 2.0 * reach / 255.0),
            draft.const(zero, "uint8"),
        )
    pair = scales[name]
    levels = draft.op("QuantizeLinear", name, *pair, shape=tensor.shape, dtype="uint8")
    renamed[name] = draft.op("DequantizeLinear", levels, *pair, shape=tensor.shape, dtype="float32")


def _quantise_weights(draft: Draft, step: Step, scale_x: str) -> None:
    """The weight in int8 with a scale per channel; the bias in int32 with the product of both scales."""
    if len(step.inputs) < 2 or step.inputs[1] not in draft.constants:
        return
    whole: NDArray[np.float32] = draft.constants[step.inputs[1]].astype(np.float32)
    axis = _WEIGHTED[step.kind]
    others = tuple(index for index in range(whole.ndim) if index != axis)
    scales = np.maximum(np.abs(whole).max(axis=others) / 127.0, 1e-6).astype(np.float32)
    across = scales.reshape([-1 if index == axis else 1 for index in range(whole.ndim)])
    stored = draft.const(np.rint(whole / across), "int8")
    step.inputs[1] = _constant_dequantised(draft, stored, scales, axis)
    if (
        len(step.inputs) > 2
        and step.inputs[2] in draft.constants
        and scales.size == draft.shape(step.inputs[2])[0]
    ):
        both = scales * np.float32(draft.constants[scale_x])
        bias = draft.const(np.rint(draft.constants[step.inputs[2]].astype(np.float32) / both), "int32")
        step.inputs[2] = _constant_dequantised(draft, bias, both, 0)


def _constant_dequantised(draft: Draft, stored: str, scales: NDArray[np.float32], axis: int) -> str:
    array = draft.constants[stored]
    zeros = draft.const(np.zeros(scales.size), str(array.dtype))
    (name,) = draft.ops("DequantizeLinear", (stored, draft.const(scales), zeros), 1, axis=axis)
    return draft.learn(name, array.shape)
