"""How much memory an ONNX file takes once it is parsed, told from its bytes before anything parses them.

An empty message takes two bytes in a file and up to 200 in memory, so eight megabytes of them take most of a
gigabyte, and what one upload may hold takes any server down. Counted are messages, texts and numbers, by the
wire format (https://protobuf.dev/programming-guides/encoding/); raw weights are jumped over.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx
from google.protobuf.descriptor import (  # type: ignore[import-untyped]  # onnx brings it, without stubs
    Descriptor,
    FieldDescriptor,
)

from predictor.errors import GraphCode, GraphRejected

MAX_STRUCTURE_BYTES = 1 << 27  # of messages and texts in memory
MAX_NUMBER_BYTES = 1 << 30  # of numbers that are not stored raw
_UNSCANNED_BYTES = 1 << 20  # a file up to here cannot come to more than a hundred times its size
_MESSAGE_BYTES = 200
_TEXT_BYTES = 24  # one of a list of texts
_NUMBER_BYTES = 16  # for a number in one byte: a list of them doubles its room as it grows
_FIXED_NUMBER_BYTES = 2
_MAX_DEPTH = 100  # protobuf refuses more
_WHOLE_BYTES = 1 << 11  # a message up to here is not looked into at first
_MOST_PER_BYTE = 100  # bytes in memory

_VARINT, _EIGHT, LENGTH, _FOUR = 0, 1, 2, 5


@dataclass(slots=True, eq=False)
class _Message:
    """What the fields of a kind of message hold: messages, or lists of texts or numbers."""

    messages: dict[int, _Message] = field(default_factory=dict)
    texts: set[int] = field(default_factory=set)
    numbers: dict[int, int] = field(default_factory=dict)  # and bytes in memory for each in the file


def check_parsed_size(data: bytes) -> None:
    """Raise `GraphRejected` where parsing takes too much memory (too_large), and where the bytes are no
    protobuf (malformed). Small files are let through: they cannot come to much.
    """
    if len(data) <= _UNSCANNED_BYTES:
        return
    structure_bytes, guessed_bytes, number_bytes = _parsed_size(data, is_exact=False)
    if structure_bytes <= MAX_STRUCTURE_BYTES < structure_bytes + guessed_bytes:
        structure_bytes, _, number_bytes = _parsed_size(data, is_exact=True)
    if structure_bytes > MAX_STRUCTURE_BYTES or number_bytes > MAX_NUMBER_BYTES:
        raise GraphRejected(
            f"the file of {len(data)} bytes takes more than {max(structure_bytes, number_bytes)} bytes once "
            f"it is parsed, at most {MAX_STRUCTURE_BYTES} of names and nodes and {MAX_NUMBER_BYTES} of "
            "numbers are allowed; store tensors as raw data",
            GraphCode.TOO_LARGE,
        )


def _parsed_size(data: bytes, *, is_exact: bool) -> tuple[int, int, int]:
    """Bytes of structure, at most so many more in messages that were not looked into, and bytes of numbers.
    Stops where a bound is passed.
    """
    structure, guessed, numbers = 0, 0, 0
    message, at, end = _MODEL, 0, len(data)
    outer: list[tuple[_Message, int, int]] = []
    while True:
        while at < end:
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = varint(data, at - 1, end)
            number, wire = tag >> 3, tag & 7
            if wire != LENGTH:
                at = after_number(data, at, end, wire)
                numbers += _NUMBER_BYTES
                continue
            length, at = varint(data, at, end)
            begin, at = at, at + length
            if at > end:
                raise cut_off()
            inner = message.messages.get(number)
            if inner is None:
                structure += _TEXT_BYTES + length if number in message.texts else 0
                numbers += message.numbers.get(number, 0) * length
            elif length and (is_exact or length > _WHOLE_BYTES):
                structure += _MESSAGE_BYTES
                outer.append((message, at, end))
                message, at, end = inner, begin, at
            else:
                structure += _MESSAGE_BYTES
                guessed += _MOST_PER_BYTE * length
            if structure + guessed > MAX_STRUCTURE_BYTES or numbers > MAX_NUMBER_BYTES:
                return structure, guessed, numbers
            if len(outer) > _MAX_DEPTH:
                raise cut_off()
        if not outer:
            return structure, guessed, numbers
        message, at, end = outer.pop()


def after_number(data: bytes, at: int, end: int, wire: int) -> int:
    """Where a number of this wire type ends. Raises `GraphRejected` where it is none, or cut off."""
    if wire == _VARINT:
        return varint(data, at, end)[1]
    if wire not in (_FOUR, _EIGHT):
        raise cut_off()
    return at + (4 if wire == _FOUR else 8)


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number, and where it ends. Raises `GraphRejected` where it is cut off."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise cut_off()


def cut_off() -> GraphRejected:
    """The refusal of a message that ends too early."""
    return GraphRejected("these bytes are not an ONNX file, or it is cut off", GraphCode.MALFORMED)


def _described(descriptor: Descriptor, known: dict[str, _Message]) -> _Message:
    """The fields of a kind of message, from onnx's own description of its format."""
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    message = known[descriptor.full_name] = _Message()
    for each in descriptor.fields:
        if each.type == FieldDescriptor.TYPE_MESSAGE:
            message.messages[each.number] = _described(each.message_type, known)
        elif each.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            if each.is_repeated:
                message.texts.add(each.number)
        elif each.is_repeated:
            is_fixed = each.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)
            message.numbers[each.number] = _FIXED_NUMBER_BYTES if is_fixed else _NUMBER_BYTES
    return message


_MODEL = _described(onnx.ModelProto.DESCRIPTOR, {})
