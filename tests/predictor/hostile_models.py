"""ONNX files made to hurt whoever reads them, each with what reading it comes to: the code of the refusal, or
"graph".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.predictor.onnx_graphs import Shape, five_nodes, model_of, noise

_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
_MANY = 700_000  # messages, of two bytes each
_MORE = 1_100_000  # texts and numbers, which take less


def hostile_models() -> dict[str, tuple[bytes, str]]:
    """Bytes and outcome by what is wrong with them."""
    parts = (_bytes, _bombs, _wiring, _values, _declared, _control, _functions, _elsewhere)
    return {name: made for part in parts for name, made in part().items()}


def _node(kind: str, inputs: Sequence[str], *outputs: str, **attributes: object) -> NodeProto:
    return helper.make_node(kind, inputs, outputs or ["y"], **attributes)  # type: ignore[arg-type]


def _one(node: NodeProto, inputs: Mapping[str, Shape], **stored: NDArray[np.generic]) -> bytes:
    opsets = {"": 17, "com.microsoft": 1}
    return _written(model_of([node], inputs, ["y"], stored=stored, opsets=opsets))


def _written(model: ModelProto) -> bytes:
    data: bytes = model.SerializeToString()
    return data


def _changed(change: Callable[[ModelProto], object]) -> bytes:
    changed = five_nodes()
    change(changed)
    return _written(changed)


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes in protobuf's wire format."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*groups, value))


def _file(graph: bytes, rest: bytes = b"") -> bytes:
    """A model with these fields of its graph, and an output."""
    return b"\x08\x08" + _field(7, graph + _field(12, _field(1, b"y"))) + rest


def _int64(*values: int) -> NDArray[np.int64]:
    return np.asarray(values, np.int64)


def _bytes() -> dict[str, tuple[bytes, str]]:
    deep = b""
    for _ in range(300):
        deep = _field(1, _field(5, _field(6, deep)))  # node, attribute, graph
    relu = _field(4, b"Relu")
    return {
        "nothing": (b"", "malformed"),
        "a zero": (b"\0", "malformed"),
        "a page": (b"<!DOCTYPE html><html><body>not found</body></html>", "malformed"),
        "an archive": (b"PK\x03\x04" + bytes(60), "malformed"),
        "ones": (b"\xff" * 4096, "malformed"),
        "more announced than there is": (b"\x3a\xff\xff\xff\x7f" + b"x" * 100, "malformed"),
        "a length of 2^63": (b"\x3a" + b"\xff" * 9 + b"\x01", "malformed"),
        "groups that never end": (b"\x3b" * 5000, "malformed"),
        "messages in messages": (_file(deep), "malformed"),
        "no graph": (b"\x08\x08", "malformed"),
        "no output": (model_of([_node("Relu", ["x"])], {"x": [1]}, []).SerializeToString(), "malformed"),
        "an output without a name that is text": (
            b"\x08\x08" + _field(7, _field(12, _field(1, b"\xff\xfe"))), "malformed",
        ),
        "an input that is no text": (_file(_field(1, relu + _field(1, b"\xc3\x28"))), "malformed"),
        "a kind that is no text": (_file(_field(1, _field(4, b"\xff"))), "malformed"),
        "a domain that is no text": (_file(b"", _field(8, _field(1, b"\xff"))), "malformed"),
        "an axis that is no text": (
            _file(_field(11, _field(1, b"x") + _field(2, _field(1, b"\x08\x01" + _field(
                2, _field(1, _field(2, b"\xff"))))))), "malformed",
        ),
        "a name of a megabyte": (_changed(lambda m: setattr(m.graph.node[1], "name", "n" * 1_000_000)),
            "graph"),
        "a kind of a megabyte": (
            _changed(lambda m: setattr(m.graph.node[1], "op_type", "K" * 1_000_000)), "malformed",
        ),
    }  # fmt: skip


def _bombs() -> dict[str, tuple[bytes, str]]:
    """Few bytes that take much memory, or time."""
    relu = _field(4, b"Relu")
    return {
        "empty nodes": (_file(b"\x0a\x00" * _MANY), "too_large"),
        "empty tensors": (_file(b"\x2a\x00" * _MANY), "too_large"),
        "empty sparse tensors": (_file(b"\x7a\x00" * _MANY), "too_large"),
        "empty inputs": (_file(b"\x5a\x00" * _MANY), "too_large"),
        "empty value infos": (_file(b"\x6a\x00" * _MANY), "too_large"),
        "empty attributes": (_file(_field(1, relu + b"\x2a\x00" * _MANY)), "too_large"),
        "empty names": (_file(_field(1, relu + b"\x0a\x00" * _MORE)), "too_large"),
        "empty domains": (_file(b"", b"\x42\x00" * _MANY), "too_large"),
        "empty functions": (_file(b"", b"\xca\x01\x00" * _MANY), "too_large"),
        "empty axes": (
            _file(_field(11, _field(1, b"x") + _field(2, _field(1, _field(2, b"\x0a\x00" * _MANY))))),
                "too_large",
        ),
        "axes of a tensor": (_file(_field(5, _field(1, b"\x01" * _MORE))), "too_large"),
        "numbers in an attribute": (
            _file(_field(1, relu + _field(5, _field(1, b"a") + b"\xa0\x01\x07" + _field(8,
                b"\x01" * _MORE)))),
            "too_large",
        ),
        "nodes beyond the bound": (_file(_field(1, relu) * 60_000), "too_large"),
        "a text attribute of a megabyte": (_one(_node("Relu", ["x"], note="t" * 1_000_000), {"x": [4]}),
                                           "inputs_invalid"),
        "an equation of a megabyte": (
            _one(_node("Einsum", ["x", "x"], equation="a," * 500_000 + "a->a"), {"x": [4]}), "inputs_invalid",
        ),
    }  # fmt: skip


def _wiring() -> dict[str, tuple[bytes, str]]:
    def pair(first: str, second: str) -> bytes:
        nodes = [_node("Add", ["x", first], "a"), _node("Add", ["a", second], "y")]
        return _written(model_of(nodes, {"x": [4]}, ["y"]))

    doubled = model_of([_node("Relu", ["x"]), _node("Exp", ["x"])], {"x": [4]}, ["y"])
    wide = [_node("Relu", ["x"], *(f"o{i}" for i in range(5000)))]
    return {
        "a node that reads itself": (pair("a", "x"), "malformed"),
        "two nodes that read each other": (pair("y", "x"), "malformed"),
        "a tensor written twice": (doubled.SerializeToString(), "malformed"),
        "an input that is written": (
            model_of([_node("Relu", ["x"], "x")], {"x": [4]}, ["x"]).SerializeToString(), "malformed",
        ),
        "an output from nowhere": (model_of([_node("Relu", ["x"], "z")], {"x": [4]},
            ["y"]).SerializeToString(),
                                   "malformed"),
        "an input from nowhere": (pair("nowhere", "x"), "malformed"),
        "an input declared twice": (_changed(lambda m: m.graph.input.add().CopyFrom(m.graph.input[0])),
            "malformed"),
        "five thousand outputs": (model_of(wide, {"x": [4]}, ["o0"]).SerializeToString(), "inputs_invalid"),
        "a domain from nowhere": (_changed(lambda m: setattr(m.graph.node[1], "domain", "nowhere")),
            "malformed"),
        "a kind that passes for another's": (
            _changed(lambda m: setattr(m.graph.node[1], "op_type", "com.microsoft/Gelu")), "malformed",
        ),
        "opset 0": (_changed(lambda m: setattr(m.opset_import[0], "version", 0)), "malformed"),
        "opset 2^62": (_changed(lambda m: setattr(m.opset_import[0], "version", 2**62)), "malformed"),
        "no opset": (_changed(lambda m: m.ClearField("opset_import")), "malformed"),
    }  # fmt: skip


def _values() -> dict[str, tuple[bytes, str]]:
    along = {
        name: np.zeros([1024 if axis == at else 1 for axis in range(4)], np.int64)
        for at, name in enumerate("abcd")
    }
    letters = {name: [1 << 18] for name in ("x", "p", "q", "r")}
    many_axes = np.zeros([1] * 32, np.int64)
    spread = _node("ConstantOfShape", ["s"], value=numpy_helper.from_array(np.zeros(1, np.float32)))
    scaled = _node("Resize", ["x", "", "s"], mode="nearest")
    image = {"x": [1, 1, 8, 8]}

    return {
        "four vectors along four axes": (_one(_node("Max", list("abcd")), {}, **along), "too_large"),
        "a product of everything": (_one(_node("Einsum", list(letters), equation="a,b,c,d->"), letters),
            "too_large"),
        "an empty axis beside a huge one": (
            _one(_node("Expand", ["x", "s"]), {"x": [1]}, s=_int64(0, 1 << 40)), "too_large",
        ),
        "an expansion to 2^62": (_one(_node("Expand", ["x", "s"]), {"x": [1]}, s=_int64(2**62)), "too_large"),
        "an expansion to 2^40 of a constant": (_one(_node("Expand", ["k", "s"]), {}, k=_int64(1),
            s=_int64(2**40)),
                                               "too_large"),
        "forty axes": (_one(_node("Expand", ["x", "s"]), {"x": [1]}, s=_int64(*[1] * 40)), "too_large"),
        "forty axes of a constant": (
            _one(_node("Expand", ["k", "s"]), {}, k=_int64(1), s=_int64(*[1] * 40)), "too_large",
        ),
        "axes beyond numpy's": (
            _one(_node("Unsqueeze", ["k", "a"]), {}, k=many_axes, a=_int64(*range(40))), "too_large",
        ),
        "a sum along axes beyond numpy's": (
            model_of(
                [_node("Unsqueeze", ["k", "a"], "u"), _node("Add", ["u", "k"])], {}, ["y"],
                stored={"k": many_axes, "a": _int64(*range(30))},
            ).SerializeToString(), "too_large",
        ),
        "a tile of 2^40": (_one(_node("Tile", ["x", "s"]), {"x": [4]}, s=_int64(2**40)), "too_large"),
        "a tile of minus one": (_one(_node("Tile", ["x", "s"]), {"x": [4]}, s=_int64(-1)), "inputs_invalid"),
        "a fill of 2^40": (_one(spread, {}, s=_int64(2**40)), "too_large"),
        "a fill of minus one": (_one(spread, {}, s=_int64(-1)), "inputs_invalid"),
        "a range to 2^62": (
            _one(_node("Range", list("abc")), {}, a=np.asarray(np.int64(0)), b=np.asarray(np.int64(2**62)),
                c=np.asarray(np.int64(1))), "inputs_invalid",
        ),
        "a fill of nothing by 2^62": (_one(spread, {}, s=_int64(0, 2**62)), "too_large"),
        "a range in steps of zero": (
            _one(_node("Range", list("abc")), {}, a=np.asarray(np.int64(0)), b=np.asarray(np.int64(5)),
                c=np.asarray(np.int64(0))), "inputs_invalid",
        ),
        "a range to infinity": (
            _one(_node("Range", list("abc")), {}, a=np.asarray(np.float32(0)),
                b=np.asarray(np.float32("inf")), c=np.asarray(np.float32(1))),
            "inputs_invalid",
        ),
        "one hot of 2^40": (
            _one(_node("OneHot", ["x", "d", "v"]), {"x": [4]}, d=_int64(2**40), v=noise(2)), "too_large",
        ),
        "padding by 2^62": (_one(_node("Pad", ["x", "p"]), {"x": [4]}, p=_int64(2**62, 2**62)),
            "inputs_invalid"),
        "a scale of infinity": (
            _one(scaled, image, s=np.asarray([1, 1, np.inf, 1], np.float32)), "operator_unsupported",
        ),
        "a scale that is no number": (
            _one(scaled, image, s=np.asarray([1, 1, np.nan, 1], np.float32)), "operator_unsupported",
        ),
        "a shape of 2^62": (_one(_node("Reshape", ["x", "s"]), {"x": [4]}, s=_int64(2**62, 4)),
            "inputs_invalid"),
        "two sizes left open": (_one(_node("Reshape", ["x", "s"]), {"x": [4]}, s=_int64(-1, -1)),
            "inputs_invalid"),
    }  # fmt: skip


def _declared() -> dict[str, tuple[bytes, str]]:
    """Inputs, weights and attributes that say odd things of themselves."""
    grouped = helper.make_node(
        "GroupQueryAttention", ["x", "", ""], ["y"], domain="com.microsoft", num_heads=2, kv_num_heads=-1
    )

    def sized(*sizes: int) -> bytes:
        return _one(_node("Relu", ["x"]), {"x": list(sizes)})

    def weight(change: Callable[[TensorProto], object]) -> bytes:
        return _changed(lambda m: change(m.graph.initializer[0]))

    return {
        "an input of 2^31 elements": (sized(2**31 - 1), "too_large"),
        "an input of 2^62 by 2^62 elements": (sized(2**62, 2**62), "too_large"),
        "an input of forty axes": (sized(*[1] * 40), "too_large"),
        "an input of no declared size": (sized(0), "missing_input_sizes"),
        "a group of no heads": (_one(grouped, {"x": [1, 4, 8]}), "inputs_invalid"),
        "a text as a number": (_one(_node("Constant", [], value_int="many"), {}), "malformed"),
        "a cast to half a type": (_one(_node("Cast", ["k"], to=1.5), {}, k=_int64(1)), "inputs_invalid"),
        "an alpha that is no number": (_one(_node("LeakyRelu", ["x"], alpha=float("nan")), {"x": [4]}),
            "graph"),
        "a weight without data": (weight(lambda t: t.ClearField("raw_data")), "graph"),
        "a weight of 2^62 elements": (weight(lambda t: t.dims.__setitem__(0, 2**62)), "too_large"),
        "a weight of a negative size": (weight(lambda t: t.dims.__setitem__(0, -4)), "malformed"),
        "a weight of no known type": (weight(lambda t: setattr(t, "data_type", 99)), "malformed"),
        "a weight of texts": (weight(lambda t: setattr(t, "data_type", 8)), "malformed"),
        "no number of axes": (_changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
                              "inputs_invalid"),
        "an input that is a sequence": (
            _changed(lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.CopyFrom(
                onnx.TypeProto.Tensor(elem_type=1))), "operator_unsupported",
        ),
    }  # fmt: skip


def _value(name: str, code: int, shape: list[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def looped(depth: int, trips: int | float = 1_000_000) -> ModelProto:
    """A Relu in loops in loops."""
    inner = _node("Relu", ["v"], "w")
    for _ in range(depth):
        ins = [_value("i", _INT64, []), _value("go", _BOOL, []), _value("v", _FLOAT, [4])]
        outs = [_value("on", _BOOL, []), _value("w", _FLOAT, [4])]
        body = helper.make_graph([_node("Identity", ["go"], "on"), inner], "body", ins, outs)
        inner = _node("Loop", ["n", "", "v"], "w", body=body)
    inner.input[2], inner.output[0] = "x", "y"
    return model_of([inner], {"x": [4]}, ["y"], stored={"n": np.asarray(trips)})


def _nested(node: NodeProto, depth: int) -> NodeProto:
    """A node in branches in branches, each beside a Relu."""
    for level in range(depth):
        name = node.output[0]
        out = [_value(name, _FLOAT, None)]
        branch = helper.make_graph([node], f"g{level}", [], out)
        other = helper.make_graph([_node("Relu", ["a"], name)], "e", [], out)
        node = _node("If", ["c"], f"o{level}", then_branch=branch, else_branch=other)
    return node


def _control() -> dict[str, tuple[bytes, str]]:
    element, result = [_value("e", _FLOAT, [4])], [_value("o", _FLOAT, [4])]
    body = helper.make_graph([_node("Relu", ["e"], "o")], "body", element, result)
    scan = _node("Scan", ["x"], body=body, num_scan_inputs=1, scan_input_axes=[0, 0])
    deep = model_of(
        [_nested(_node("Exp", ["a"], "z"), 25)], {"a": [4], "c": []}, ["o24"], dtypes={"c": _BOOL}
    )
    cyclic = helper.make_graph(
        [_node("Add", ["x", "q"], "p"), _node("Add", ["p", "x"], "q")], "t", [], [_value("q", _FLOAT, None)]
    )
    branches = _node("If", ["c"], then_branch=cyclic, else_branch=cyclic)
    whole = [_node("SplitToSequence", ["x"], "s"), _node("ConcatFromSequence", ["s"], axis=0)]
    growing = [_node("SequenceConstruct", ["x"], "s0")]
    growing += [_node("SequenceInsert", [f"s{i}", "x"], f"s{i + 1}") for i in range(3000)]
    growing += [_node("ConcatFromSequence", ["s3000"], axis=0)]
    unending = _node("Loop", ["n", "", "x"], body=looped(1).graph.node[0].attribute[0].g)
    return {
        "loops in loops": (looped(4).SerializeToString(), "too_large"),
        "a loop of 2^40 trips": (looped(1, 2**40).SerializeToString(), "operator_unsupported"),
        "a loop of minus one trips": (looped(1, -1).SerializeToString(), "graph"),
        "a trip count that is no number": (_one(unending, {"x": [4]}, n=np.asarray(np.nan, np.float32)),
                                           "operator_unsupported"),
        "a loop without a body": (_one(_node("Loop", ["n", "", "x"]), {"x": [4]}, n=_int64(3)), "malformed"),
        "a condition without branches": (_one(_node("If", ["x"]), {"x": [1]}), "malformed"),
        "axes for more than is scanned": (_one(scan, {"x": [9, 4]}), "malformed"),
        "branches in branches": (deep.SerializeToString(), "too_large"),
        "a cycle in a branch": (
            model_of([branches], {"x": [4], "c": []}, ["y"], dtypes={"c": _BOOL}).SerializeToString(),
                "malformed",
        ),
        "a sequence without end": (model_of(whole, {"x": [2_000_000]}, ["y"]).SerializeToString(),
                                   "operator_unsupported"),
        "a sequence that grows": (model_of(growing, {"x": [4]}, ["y"]).SerializeToString(),
            "operator_unsupported"),
    }  # fmt: skip


def _function(name: str, nodes: list[NodeProto]) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a", "c"], ["b"], nodes, imports)


def _calling(*functions: onnx.FunctionProto, calls: int = 1) -> bytes:
    nodes = [
        helper.make_node(functions[0].name, [f"t{i}", "c"], [f"t{i + 1}"], domain="own") for i in range(calls)
    ]
    model = model_of(
        nodes, {"t0": [1], "c": []}, [f"t{calls}"], opsets={"": 17, "own": 1}, dtypes={"c": _BOOL}
    )
    model.functions.extend(functions)
    return _written(model)


def _functions() -> dict[str, tuple[bytes, str]]:
    def call(name: str, first: str = "a", result: str = "b") -> NodeProto:
        return helper.make_node(name, [first, "c"], [result], domain="own")

    megabyte = numpy_helper.from_array(np.zeros(1 << 18, np.float32))
    heavy = _function("Heavy", [_node("Constant", [], "k", value=megabyte), _node("Add", ["a", "k"], "b")])
    doubling = [_function(f"F{i}", [call(f"F{i + 1}", "a", "m"), call(f"F{i + 1}", "m")]) for i in range(14)]
    doubling += [
        _function("F14", [call("F15", "a", "m"), call("F15", "m")]),
        _function("F15", [_node("Exp", ["a"], "b")]),
    ]
    outer = _nested(call("Inner", "a", "z"), 10)
    inner = _nested(_node("Exp", ["a"], "z"), 10)
    outer.output[0] = inner.output[0] = "b"
    lent = _changed(lambda m: setattr(m.graph.node[0].attribute[0], "ref_attr_name", "elsewhere"))
    return {
        "a function that calls itself": (_calling(_function("F", [call("F")])), "malformed"),
        "functions that call each other": (
            _calling(_function("F", [call("G")]), _function("G", [call("F")])), "malformed",
        ),
        "functions that double": (_calling(*doubling), "too_large"),
        "a function copied often": (_calling(heavy, calls=300), "too_large"),
        "functions that nest": (_calling(_function("Outer", [outer]), _function("Inner", [inner])),
            "too_large"),
        "two functions of one name": (
            _calling(_function("F", [_node("Exp", ["a"], "b")]), _function("F", [_node("Abs", ["a"], "b")])),
            "malformed",
        ),
        "a function's attribute outside of one": (lent, "malformed"),
    }  # fmt: skip


def _elsewhere() -> dict[str, tuple[bytes, str]]:
    """Data in other files."""

    def moved(tensor: TensorProto, location: str) -> TensorProto:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "4096")):
            tensor.external_data.add(key=key, value=value)
        return tensor

    def stored(location: str) -> bytes:
        return _changed(lambda m: moved(m.graph.initializer[0], location))

    few = moved(TensorProto(data_type=1, dims=[1], name="k"), "/etc/passwd")
    branch = helper.make_graph([_node("Add", ["x", "k"], "z")], "t", [], [_value("z", _FLOAT, None)], [few])
    nested = _node("If", ["c"], then_branch=branch, else_branch=branch)

    def sparse(model: ModelProto) -> None:
        entry = model.graph.sparse_initializer.add(dims=[4])
        entry.values.CopyFrom(moved(TensorProto(name="sp", data_type=1, dims=[1]), "/etc/passwd"))

    def huge_sparse(model: ModelProto) -> None:
        entry = model.graph.sparse_initializer.add(dims=[2**40, 2**20])
        entry.values.CopyFrom(TensorProto(name="sp", data_type=1, dims=[0]))

    return {
        **{f"weights in {place!r}": (stored(place), "external_data") for place in (
            "../../../../etc/passwd", "/etc/passwd", "http://127.0.0.1:1/w", "", "weights.bin")},
        "a constant in another file": (_one(_node("Constant", [], value=few), {}), "external_data"),
        "a fill in another file": (
            _one(_node("ConstantOfShape", ["s"], value=few), {}, s=_int64(4)), "external_data",
        ),
        "a branch's weights in another file": (
            model_of([nested], {"x": [1], "c": []}, ["y"], dtypes={"c": _BOOL}).SerializeToString(),
                "external_data",
        ),
        "sparse weights in another file": (_changed(sparse), "external_data"),
        "sparse weights of 2^60 elements": (_changed(huge_sparse), "too_large"),
    }  # fmt: skip
