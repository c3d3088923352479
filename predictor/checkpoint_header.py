"""The header of both kinds of checkpoint: our JSON in a safetensors file, read before anything else is."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

from pydantic import BaseModel

from predictor.errors import CheckpointRejected
from predictor.kernel_costs.features import FEATURE_VERSION


def header_text(described: BaseModel) -> str:
    """What goes into the header; the same text for the same facts."""
    return json.dumps(described.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def read_header(
    data: bytes, key: str, *, most_bytes: int, versions: Mapping[str, int], name: str, remedy: str
) -> Mapping[str, object]:
    """The JSON under `key`, of the versions that this code reads: `versions`, and that of the features.

    `name` and `remedy` are what the refusal says: `the checkpoint`, and what to do about another version.
    Raises `CheckpointRejected` for too many bytes, other bytes, and other versions.
    """
    if len(data) > most_bytes:
        raise CheckpointRejected(f"the checkpoint has {len(data)} bytes, at most {most_bytes} are allowed")
    described = _described(data, key)
    for field, expected in (*versions.items(), ("feature_version", FEATURE_VERSION)):
        if described.get(field) != expected:
            raise CheckpointRejected(
                f"{name} has {field} {described.get(field)!r}, this version reads {expected}; {remedy}"
            )
    return described


def _described(data: bytes, key: str) -> Mapping[str, object]:
    """8 bytes of length, then JSON, as safetensors defines it."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        described = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][key])
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointRejected("these bytes are not a checkpoint of this project") from error
    if not isinstance(described, dict):
        raise CheckpointRejected("these bytes are not a checkpoint of this project")
    return described
