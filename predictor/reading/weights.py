"""An ONNX file without its weights, cut out before anything parses or copies them: they are nearly all of
most files, and of each only its size is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from devices.engines.onnx_bytes import as_varint
from predictor.errors import GraphRejected
from predictor.reading.values import MAX_VALUE_ELEMENTS
from predictor.reading.wire import LENGTH, after_number, cut_off, varint

_LEAST_BYTES = 16 * MAX_VALUE_ELEMENTS  # of a weight: no value that is ever looked at has so many
_LEAST_FILE_BYTES = 1 << 18  # smaller ones are parsed faster than cut
_LEAST_SHARE = 0.5  # of a file: the rest is copied
# Fields of a model, a graph and a tensor; with more, nothing bounds the time that looking at them takes.
_MOST_IN_MODEL, _MOST_IN_GRAPH, _MOST_IN_TENSOR = 1 << 14, 1 << 18, 1 << 6
_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER << 3 | LENGTH
_FUNCTIONS = onnx.ModelProto.FUNCTIONS_FIELD_NUMBER << 3 | LENGTH
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER << 3 | LENGTH
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER << 3 | LENGTH

_Field = tuple[int, int, int, int]  # its tag, where it starts, and where the value behind the length is


class _Odd(Exception):
    """Not what files look like that programs write."""


@dataclass(frozen=True, slots=True)
class Weightless:
    """A model without the raw data of its large initializers. `cut_bytes`: how many were cut out of each, by
    its place.
    """

    model: bytes
    cut_bytes: Mapping[int, int]


def without_weights(model: bytes) -> Weightless | None:
    """The model as far as it is read; None where cutting is not worth it, and where the file is odd in any
    way: then all of it has to be looked at.
    """
    if len(model) < _LEAST_FILE_BYTES:
        return None
    try:
        return _cut(model)
    except (_Odd, GraphRejected, IndexError):  # the others where it is cut off
        return None


def _cut(model: bytes) -> Weightless | None:
    _, graph_start, graph_begin, graph_end = _graph_in(model)
    part_of = memoryview(model)
    kept: list[bytearray | memoryview] = []  # of the graph
    cut_bytes: dict[int, int] = {}
    place, at = -1, graph_begin
    for tag, start, begin, end in _fields(model, graph_begin, graph_end, most=_MOST_IN_GRAPH):
        if tag != _INITIALIZER:
            continue
        place += 1
        raw = _only(_RAW_DATA, model, begin, end) if end - begin > _LEAST_BYTES else None
        if raw is not None and raw[3] - raw[2] > _LEAST_BYTES:
            _, raw_start, raw_begin, raw_end = raw
            length = as_varint(end - begin - (raw_end - raw_start))
            kept += (part_of[at : start + 1], length, part_of[begin:raw_start], part_of[raw_end:end])
            cut_bytes[place], at = raw_end - raw_begin, end
    if sum(cut_bytes.values()) < _LEAST_SHARE * len(model):
        return None
    kept.append(part_of[at:graph_end])
    length = as_varint(sum([len(part) for part in kept]))
    return Weightless(b"".join((part_of[: graph_start + 1], length, *kept, part_of[graph_end:])), cut_bytes)


def _graph_in(model: bytes) -> _Field:
    """The graph of a model without functions."""
    fields = _fields(model, 0, len(model), most=_MOST_IN_MODEL)
    found = [field for field in fields if field[0] in (_GRAPH, _FUNCTIONS)]
    if len(found) != 1 or found[0][0] != _GRAPH:
        raise _Odd
    return found[0]


def _only(tag: int, model: bytes, begin: int, end: int) -> _Field | None:
    """A tensor's only field of this tag; None where there are none or several."""
    found = [field for field in _fields(model, begin, end, most=_MOST_IN_TENSOR) if field[0] == tag]
    return found[0] if len(found) == 1 else None


def _fields(data: bytes, at: int, end: int, *, most: int) -> Iterator[_Field]:
    """Of a message; numbers are jumped over. Raises `GraphRejected` or IndexError where it is cut off, and
    `_Odd` where there are more than so many, or a tag is longer than it has to be.
    """
    while at < end:
        start = at
        most -= 1
        if most < 0:
            raise _Odd
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = varint(data, start, end)
            if tag < 0x80:
                raise _Odd
        if tag & 7 != LENGTH:
            at = after_number(data, at, end, tag & 7)
            continue
        length = data[at]
        at += 1
        if length >= 0x80:
            length, at = varint(data, at - 1, end)
        begin, at = at, at + length
        if at > end:
            raise cut_off()
        yield tag, start, begin, at
