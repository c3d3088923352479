"""The one change that a converter needs in a file: weights that are listed among the graph's inputs, as files
of IR version 3 are written, taken off that list.

The agent has no library for ONNX files, and needs none for this: a message of protocol buffers is a row of
fields, each a number, a kind and a value (protobuf.dev/programming-guides/encoding). Field numbers are those
of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator

from devices.errors import ModelRejected

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of a field's value
GRAPH_OF_MODEL = 7
INITIALIZER_OF_GRAPH, INPUT_OF_GRAPH = 5, 11
NAME_OF_TENSOR, NAME_OF_VALUE = 8, 1


def without_weights_among_inputs(model: bytes) -> bytes:
    """The same model, whose inputs are those that a caller must give. Raises `ModelRejected` for what is no
    model.
    """
    parts: list[bytes | bytearray | memoryview] = []
    for number, whole, value in _fields(model):
        if number == GRAPH_OF_MODEL and value is not None:
            graph = _graph_without(value)
            parts += [_tag(number), as_varint(len(graph)), graph]
        else:
            parts.append(whole)
    return b"".join(parts)


def _graph_without(graph: memoryview) -> bytes:
    fields = list(_fields(graph))
    weights = {
        _name(value, NAME_OF_TENSOR)
        for number, _, value in fields
        if number == INITIALIZER_OF_GRAPH and value is not None
    }
    return b"".join(
        whole
        for number, whole, value in fields
        if number != INPUT_OF_GRAPH or value is None or _name(value, NAME_OF_VALUE) not in weights
    )


def _name(message: memoryview, field: int) -> bytes:
    return next((bytes(value) for number, _, value in _fields(message) if number == field and value), b"")


def _fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Number, whole field with its head, and value (of fields of bytes alone)."""
    data, at = memoryview(message), 0
    while at < len(data):
        start = at
        head, at = _read_varint(data, at)
        number, kind = head >> 3, head & 7
        value: memoryview | None = None
        if kind == VARINT:
            _, at = _read_varint(data, at)
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        elif kind == BYTES:
            size, at = _read_varint(data, at)
            value = data[at : at + size]
            at += size
        else:
            raise ModelRejected(f"the file is no ONNX model: a field of kind {kind} at byte {start}")
        if at > len(data):
            raise ModelRejected(f"the file is no ONNX model: a field ends at byte {at} of {len(data)}")
        yield number, data[start:at], value


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least significant first, and where it ends."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
    raise ModelRejected(f"the file is no ONNX model: it ends within a number, at byte {at}")


def as_varint(value: int) -> bytearray:
    """A number as protocol buffers write it: seven bits a byte, least significant first."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return found


def _tag(number: int) -> bytearray:
    return as_varint(number << 3 | BYTES)
