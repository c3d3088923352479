"""Damaged ONNX files: bytes changed without knowing what they mean, and graphs changed so that they still
parse. All of it from a generator that is passed in: the same seed makes the same files.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # onnx brings it, without stubs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

Mutation = Callable[[ModelProto, random.Random], None]

HUGE = (2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
ODD_SIZES = (-(2**63), -(2**31), -2, -1, 0, 1, 3, 1024, *HUGE)
_ODD_FLOATS = (float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 1e38, 1e-45, 2.5)
_PATHS = (
    "../../../../etc/passwd",
    "/etc/passwd",
    "/proc/self/mem",
    "http://127.0.0.1/x",
    "file:///etc",
    "",
    "\0",
)
_KINDS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "Resize", "Upsample", "Loop", "If", "Scan",
    "Split",
    "Einsum", "QLinearConv", "Pad", "Attention", "Expand", "Tile", "Range", "ConstantOfShape", "OneHot",
    "NonZero",
    "Concat", "Slice", "Gather", "GatherND", "ScatterND", "TopK", "Unique", "NonMaxSuppression", "Reshape",
    "Cast",
    "Transpose", "Squeeze", "Unsqueeze", "ReduceSum", "CumSum", "MaxPool", "AveragePool", "RoiAlign",
    "GridSample",
    "STFT", "DFT", "MelWeightMatrix", "Col2Im", "CenterCropPad", "SequenceInsert", "SequenceAt",
    "SplitToSequence",
    "ConcatFromSequence", "SequenceMap", "Optional", "DequantizeLinear", "QuantizeLinear", "EyeLike",
    "Multinomial",
    "BatchNormalization", "LayerNormalization", "GroupNormalization", "SpaceToDepth", "DepthToSpace", "Shape",
    "StringNormalizer", "Constant", "Identity", "Dropout", "Where", "Clip", "Mod", "BitShift", "Det",
    "Compress",
    "MatMulNBits", "MultiHeadAttention", "GroupQueryAttention", "SkipLayerNormalization", "QAttention",
    "FusedConv",
    "QLinearConcat", "GatherBlockQuantized", "EmbedLayerNormalization", "FusedMatMul", "QGemm",
)  # fmt: skip
_DOMAINS = ("", "ai.onnx", "com.microsoft", "ai.onnx.ml", "ai.onnx.training", "x", "own", "a" * 300)
_SMALL_BYTES = 1 << 18  # a copy of anything larger would only make the campaign slow


def mutated_bytes(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """One to six changes: bits flipped, bytes set, stretches cut out, doubled, moved, inserted, the end cut
    off, or a stretch of another file in their place.
    """
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        if not changed:
            break
        # Structure stands in front of and between weights: half of the changes go to the first kilobyte.
        at = rng.randrange(min(len(changed), 1024) if rng.random() < 0.5 else len(changed))
        length = rng.choice((1, 2, 3, 8, 40, 400))
        change = rng.randrange(8)
        if change == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif change == 2:
            del changed[at : at + length]
        elif change == 3:
            changed[at:at] = changed[at : at + length]
        elif change == 4:
            changed[at:at] = rng.randbytes(length)
        elif change == 5:
            changed[at : at + 10] = (
                b"\xff" * 9 + b"\x01"
            )  # the longest number there is, as a length or a value
        elif change == 6 and rng.random() < 0.3:
            del changed[at:]
        elif others:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            changed[at : at + length] = other[start : start + rng.choice((8, 100, 1000))]
    return bytes(changed)


def mutated_graph(data: bytes, rng: random.Random) -> bytes:
    """One to four changes of the graph. Bytes that do not parse stay as they are."""
    try:
        model = ModelProto.FromString(data)
    except DecodeError:
        return data
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not model.graph.node:
            break
        name = rng.choice(list(MUTATIONS))
        try:
            MUTATIONS[name](model, rng)
        except (ValueError, IndexError, DecodeError):
            continue  # there is nothing of that sort in this graph
    changed: bytes = model.SerializeToString()
    return changed


def _graphs(model: ModelProto) -> list[GraphProto]:
    """The graph and those nested in it, at any depth."""
    found, waiting = [], [model.graph]
    while waiting:
        graph = waiting.pop()
        found.append(graph)
        for node in graph.node:
            waiting += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found


def _node(model: ModelProto, rng: random.Random) -> NodeProto:
    node: NodeProto = rng.choice(rng.choice(_graphs(model)).node)
    return node


def _names(model: ModelProto) -> list[str]:
    found = [name for node in model.graph.node for name in (*node.input, *node.output)]
    return [*found, *(tensor.name for tensor in model.graph.initializer), "", "nothing"]


def _rewire(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    node.input[rng.randrange(len(node.input))] = rng.choice(_names(model))


def _cycle(model: ModelProto, rng: random.Random) -> None:
    first, last = sorted(rng.sample(range(len(model.graph.node)), 2))
    model.graph.node[first].input.append(rng.choice(model.graph.node[last].output))


def _delete_node(model: ModelProto, rng: random.Random) -> None:
    graph = rng.choice(_graphs(model))
    del graph.node[rng.randrange(len(graph.node))]


def _double_node(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    if node.ByteSize() < _SMALL_BYTES:
        model.graph.node.add().CopyFrom(node)


def _shuffle(model: ModelProto, rng: random.Random) -> None:
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _outputs(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    change = rng.randrange(4)
    if change == 0:
        node.output.append(rng.choice(["extra", "", *node.output]))
    elif change == 1:
        del node.output[rng.randrange(len(node.output))]
    elif change == 2:
        node.output[rng.randrange(len(node.output))] = rng.choice(_names(model))
    else:
        node.output.extend(f"more{i}" for i in range(rng.choice((3, 300))))


def _inputs(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if rng.random() < 0.5:
        del node.input[rng.randrange(len(node.input)) :]
    else:
        node.input.extend(rng.choice(_names(model)) for _ in range(rng.choice((1, 2, 50))))


def _kind(model: ModelProto, rng: random.Random) -> None:
    _node(model, rng).op_type = rng.choice((*_KINDS, "", "x" * 1000))


def _domain(model: ModelProto, rng: random.Random) -> None:
    _node(model, rng).domain = rng.choice(_DOMAINS)


def _opset(model: ModelProto, rng: random.Random) -> None:
    version = rng.choice((-1, 0, 1, 5, 7, 9, 11, 13, 18, 21, 23, 25, 99, 2**40))
    if rng.random() < 0.3:
        model.opset_import.append(helper.make_opsetid(rng.choice(_DOMAINS), max(version, 1)))
    else:
        rng.choice(model.opset_import).version = version
    if rng.random() < 0.2:
        model.ir_version = rng.choice((0, 1, 2, 3, 4, 8, 99, 2**62))


def _attribute(model: ModelProto, rng: random.Random) -> None:
    attribute = rng.choice(_node(model, rng).attribute)
    change = rng.randrange(7)
    if change == 0:
        attribute.i = rng.choice(ODD_SIZES)
    elif change == 1:
        attribute.ints[:] = [rng.choice(ODD_SIZES) for _ in range(rng.choice((0, 1, 2, 4, 5, 40)))]
    elif change == 2:
        attribute.f = rng.choice(_ODD_FLOATS)
        attribute.floats[:] = [rng.choice(_ODD_FLOATS) for _ in range(rng.choice((0, 1, 4)))]
    elif change == 3:
        attribute.type = rng.randrange(15)
    elif change == 4:
        attribute.s = rng.choice((b"", b"\xff\xfe", b"SAME_UPPER", b"a,b,c->", b"x" * 100_000))
    elif change == 5:
        attribute.name = rng.choice(("axis", "to", "value", "body", "perm", "kernel_shape", "group", "K", ""))
    else:
        attribute.ref_attr_name = "elsewhere"


def _add_attribute(model: ModelProto, rng: random.Random) -> None:
    names = ("axis", "to", "auto_pad", "group", "keepdims", "blocksize", "hidden_size", "mode", "equation")
    value = rng.choice(
        (rng.choice(ODD_SIZES), 1.5, float("nan"), "SAME_LOWER", [1, 2], [0.5], ["a"], [-1, 2**62])
    )
    _node(model, rng).attribute.append(helper.make_attribute(rng.choice(names), value))


def _dims(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(_tensors(model))
    if rng.random() < 0.5 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(ODD_SIZES)
    else:
        tensor.dims[:] = [rng.choice(ODD_SIZES) for _ in range(rng.choice((0, 1, 2, 4, 5, 40)))]


def _tensors(model: ModelProto) -> list[TensorProto]:
    found = [tensor for graph in _graphs(model) for tensor in graph.initializer]
    for graph in _graphs(model):
        found += [a.t for node in graph.node for a in node.attribute if a.type == AttributeProto.TENSOR]
    return found


def _tensor(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(_tensors(model))
    change = rng.randrange(5)
    if change == 0:
        tensor.data_type = rng.choice((*range(-1, 30), 2**31 - 1))
    elif change == 1:
        tensor.raw_data = rng.randbytes(rng.choice((0, 1, 7, 8, 64)))
    elif change == 2:
        tensor.int64_data[:] = [rng.choice(ODD_SIZES) for _ in range(rng.choice((0, 1, 4)))]
    elif change == 3:
        tensor.name = rng.choice(_names(model))
    else:
        tensor.ClearField("raw_data")


def _values(model: ModelProto, rng: random.Random) -> None:
    """Other numbers in a small tensor: axes, shapes and repetitions become odd."""
    few = [
        t for t in _tensors(model) if t.data_type == TensorProto.INT64 and len(t.raw_data) in range(8, 80, 8)
    ]
    tensor = rng.choice(few)
    count = len(tensor.raw_data) // 8
    tensor.raw_data = b"".join(rng.choice(ODD_SIZES).to_bytes(8, "little", signed=True) for _ in range(count))


def _external(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(_tensors(model))
    if rng.random() < 0.8:
        tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", rng.choice(_PATHS)), ("offset", "-1"), ("length", "9" * 30)):
        tensor.external_data.add(key=key, value=value)


def _sparse(model: ModelProto, rng: random.Random) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.dims[:] = [rng.choice(ODD_SIZES) for _ in range(rng.choice((0, 1, 2, 40)))]
    sparse.values.name = rng.choice(_names(model))
    sparse.values.data_type = rng.choice((0, 1, 7, 99))


def _declared(model: ModelProto, rng: random.Random) -> None:
    declared = rng.choice([*model.graph.input, *model.graph.output])
    change = rng.randrange(5)
    dims = declared.type.tensor_type.shape.dim
    if change == 0:
        rng.choice(dims).dim_value = rng.choice(ODD_SIZES)
    elif change == 1:
        dims.add(dim_value=rng.choice((0, 1, 5, 2**31)))
    elif change == 2:
        del dims[rng.randrange(len(dims)) :]
    elif change == 3:
        declared.type.tensor_type.elem_type = rng.choice((0, 1, 7, 8, 9, 16, 22, 99))
    else:
        declared.type.sequence_type.elem_type.tensor_type.elem_type = 1


def _nest(model: ModelProto, rng: random.Random) -> None:
    """Put some node into bodies in bodies."""
    node = rng.choice(model.graph.node)
    if node.ByteSize() > _SMALL_BYTES or not node.output:
        return
    inner = NodeProto.FromString(node.SerializeToString())
    condition = rng.choice(_names(model))
    for level in range(rng.choice((1, 3, 12, 20))):
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner.output]
        graph = helper.make_graph([inner], f"g{level}", [], results)
        kind = rng.choice(("If", "Loop", "Scan"))
        graphs = (
            {"then_branch": graph, "else_branch": graph} if kind == "If" and level < 6 else {"body": graph}
        )
        inner = helper.make_node(kind, [condition], list(inner.output), **graphs)
    node.CopyFrom(inner)


def _function(model: ModelProto, rng: random.Random) -> None:
    """Make a kind that occurs a function of the model, possibly one that calls itself."""
    node = rng.choice(model.graph.node)
    if node.ByteSize() > _SMALL_BYTES:
        return
    own = model.functions.add(name=node.op_type, domain=rng.choice((node.domain, "own")))
    own.input.extend(f"i{i}" for i in range(len(node.input)))
    own.output.extend(f"o{i}" for i in range(len(node.output)))
    body = own.node.add()
    body.CopyFrom(node)
    body.input[:], body.output[:] = list(own.input), list(own.output)
    if rng.random() < 0.5:
        body.op_type = rng.choice(("Relu", "Identity", "Exp", "Loop"))
    own.opset_import.append(helper.make_opsetid(rng.choice(_DOMAINS), rng.choice((1, 17, 2**40))))
    node.domain = own.domain
    if own.domain == "own" and rng.random() < 0.8:
        model.opset_import.append(helper.make_opsetid("own", 1))


def _names_that_are_no_text(model: ModelProto, rng: random.Random) -> None:
    """Written past the setter, which refuses them."""
    damaged = onnx.NodeProto.FromString(b"\x22\x02\xff\xfe" + b"\x0a\x02\xc3\x28")
    model.graph.node.add().CopyFrom(damaged)
    if rng.random() < 0.5:
        model.graph.node[-1].op_type = "Relu"


MUTATIONS: Mapping[str, Mutation] = {
    "rewire": _rewire, "cycle": _cycle, "delete": _delete_node, "double": _double_node, "shuffle": _shuffle,
    "outputs": _outputs, "inputs": _inputs, "kind": _kind, "domain": _domain, "opset": _opset,
    "attribute": _attribute, "add attribute": _add_attribute, "dims": _dims, "tensor": _tensor,
    "values": _values,
    "external": _external, "sparse": _sparse, "declared": _declared, "nest": _nest, "function": _function,
    "no text": _names_that_are_no_text,
}  # fmt: skip
