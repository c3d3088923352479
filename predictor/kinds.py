"""Every operator that has a known cost: which family it belongs to, and what it does per element.

A kind that is not in `KINDS` is refused by the reader, by name. The figures are round: they are nominal, and
a target's real speed is learned (`predictor.adapt`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from predictor.mac_rules import (
    MacRule,
    attention,
    conv,
    conv_transpose,
    determinant,
    einsum,
    linear_attention,
    matmul,
    packed_attention,
    recurrent,
    transform,
)


class Family(StrEnum):
    """Kinds that runtimes treat alike."""

    CONV = "conv"
    MATMUL = "matmul"
    RECURRENT = "recurrent"
    ELEMENTWISE = "elementwise"
    NORMALISE = "normalise"
    REDUCE = "reduce"
    POOL = "pool"
    MOVE = "move"
    CONVERT = "convert"
    SEARCH = "search"  # sorting, top k, suppression: cost depends on the data
    VIEW = "view"  # renames memory: nothing is moved
    CONTROL = "control"


class Traffic(StrEnum):
    """Which of its inputs an operator reads."""

    ALL = "all"
    PICKED = "picked"  # of the first input only as much as is written; the others whole
    LOOKUP = "lookup"  # a few rows of each table
    NONE = "none"  # neither reads nor writes


@dataclass(frozen=True, slots=True)
class Kind:
    """How to cost one operator type. `work`: simple vector operations per output element, beside its
    multiply-accumulates.
    """

    family: Family
    work: float = 1.0
    macs: MacRule | None = None
    traffic: Traffic = Traffic.ALL


def _of(family: Family, kinds: str, *, work: float = 1.0, traffic: Traffic = Traffic.ALL) -> dict[str, Kind]:
    return {name: Kind(family, work=work, traffic=traffic) for name in kinds.split()}


_MS = "com.microsoft/"
DEQUANTISES = frozenset(("DequantizeLinear", _MS + "DequantizeLinear"))


def _contrib(
    family: Family, kinds: str, *, work: float = 1.0, traffic: Traffic = Traffic.ALL
) -> dict[str, Kind]:
    return {_MS + name: kind for name, kind in _of(family, kinds, work=work, traffic=traffic).items()}


def _multiplying(family: Family, rules: Mapping[str, MacRule], prefix: str = "") -> dict[str, Kind]:
    return {prefix + name: Kind(family, macs=rule) for name, rule in rules.items()}


# How many vector operations an exponential, error function or the like takes where a sum takes one: about
# ten in the polynomial kernels of CPU libraries. Divisions and square roots take about four.
_CURVE = 10.0
_ROOT = 4.0

KINDS: Mapping[str, Kind] = {
    **_multiplying(Family.CONV, {
        "Conv": conv(1), "ConvInteger": conv(1), "QLinearConv": conv(3), "DeformConv": conv(1),
        "CausalConvWithState": conv(1), "ConvTranspose": conv_transpose,
    }),
    **_multiplying(Family.CONV, {"FusedConv": conv(1)}, _MS),
    **_multiplying(Family.MATMUL, {
        "MatMul": matmul, "Gemm": matmul, "MatMulInteger": matmul, "QLinearMatMul": matmul,
        "Einsum": einsum, "Attention": attention(4), "LinearAttention": linear_attention,
        "DFT": transform(99), "STFT": transform(2), "Det": determinant,
    }),
    **_multiplying(Family.MATMUL, {
        "MatMulNBits": matmul, "DynamicQuantizeMatMul": matmul, "MatMulIntegerToFloat": matmul,
        "QGemm": matmul, "FusedGemm": matmul, "FusedMatMul": matmul, "TransposeMatMul": matmul,
        "Attention": packed_attention, "QAttention": packed_attention,
        "MultiHeadAttention": attention(6), "GroupQueryAttention": attention(3),
    }, _MS),
    **_multiplying(Family.RECURRENT, {"LSTM": recurrent, "GRU": recurrent, "RNN": recurrent}),
    **_multiplying(Family.RECURRENT, {"DynamicQuantizeLSTM": recurrent}, _MS),
    **_of(
        Family.ELEMENTWISE,
        "Abs Add And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Clip Equal Floor Greater"
        " GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Max Mean Min Mul"
        " Neg Not Or PRelu Relu Round Shrink Sign Sub Sum ThresholdedRelu Where Xor Affine ImageScaler"
        " Scale",
    ),
    **_of(Family.ELEMENTWISE, "Div Mod Reciprocal Sqrt Softsign", work=_ROOT),
    **_of(
        Family.ELEMENTWISE,
        "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu Log Mish Pow Selu Sigmoid Sin"
        " Sinh Softplus SwiGLU Swish Tan Tanh ParametricSoftplus ScaledTanh Bernoulli RandomNormal"
        " RandomNormalLike RandomUniform RandomUniformLike Multinomial BlackmanWindow HammingWindow"
        " HannWindow MelWeightMatrix",
        work=_CURVE,
    ),
    **_contrib(Family.ELEMENTWISE, "QLinearAdd QLinearMul QLinearLeakyRelu BiasAdd", work=_ROOT),
    **_contrib(
        Family.ELEMENTWISE,
        "Gelu FastGelu BiasGelu QuickGelu QLinearSigmoid RotaryEmbedding BiasSplitGelu",
        work=_CURVE,
    ),
    **_of(Family.ELEMENTWISE, "RotaryEmbedding", work=_ROOT),
    **_of(
        Family.NORMALISE,
        "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization"
        " MeanVarianceNormalization RMSNormalization SimplifiedLayerNormalization",
        work=_ROOT,
    ),
    **_of(
        Family.NORMALISE,
        "Softmax LogSoftmax LRN SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss",
        work=1.5 * _CURVE,
    ),
    **_contrib(Family.NORMALISE, "SkipLayerNormalization SkipSimplifiedLayerNormalization", work=_ROOT),
    **_contrib(Family.NORMALISE, "EmbedLayerNormalization", work=_ROOT, traffic=Traffic.LOOKUP),
    **_contrib(Family.NORMALISE, "QLinearSoftmax", work=1.5 * _CURVE),
    **_of(
        Family.REDUCE,
        "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
        " ArgMax ArgMin CumSum CumProd Hardmax",
    ),
    **_of(Family.REDUCE, "ReduceLogSum ReduceLogSumExp", work=_CURVE),
    **_of(Family.POOL, "GlobalAveragePool GlobalLpPool GlobalMaxPool"),
    **_of(Family.POOL, "AveragePool LpPool MaxPool MaxRoiPool RoiAlign", work=_ROOT),
    **_contrib(Family.POOL, "QLinearAveragePool QLinearGlobalAveragePool", work=_ROOT),
    **_of(
        Family.MOVE,
        "Concat Transpose Split Pad Tile Expand ScatterElements ScatterND Scatter TensorScatter DepthToSpace"
        " SpaceToDepth ReverseSequence Trilu OneHot EyeLike Range ConstantOfShape CenterCropPad Col2Im"
        " MaxUnpool",
    ),
    **_of(Family.MOVE, "Slice Gather GatherElements GatherND Crop Compress", traffic=Traffic.PICKED),
    **_contrib(Family.MOVE, "GatherBlockQuantized", work=_ROOT, traffic=Traffic.PICKED),
    **_contrib(Family.MOVE, "QLinearConcat", work=_ROOT),
    **_of(Family.MOVE, "Resize Upsample AffineGrid", work=_ROOT),
    **_of(Family.MOVE, "GridSample", work=_CURVE),
    **_of(Family.CONVERT, "Cast CastLike BitCast"),
    **_of(Family.CONVERT, "QuantizeLinear DequantizeLinear", work=_ROOT),
    **_contrib(Family.CONVERT, "QuantizeLinear DequantizeLinear", work=_ROOT),
    **_of(Family.CONVERT, "DynamicQuantizeLinear", work=1.5 * _ROOT),
    **_of(Family.SEARCH, "TopK NonMaxSuppression Unique NonZero", work=2 * _CURVE),
    **_of(Family.VIEW, "Reshape Flatten Squeeze Unsqueeze Identity Dropout Shape Size", traffic=Traffic.NONE),
    **_of(Family.CONTROL, "If Loop Scan", traffic=Traffic.NONE),
}  # fmt: skip
