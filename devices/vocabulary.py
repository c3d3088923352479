"""The base of every value that crosses the wire: immutable, and tolerant of fields that a newer peer adds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A frozen value. Unknown fields are ignored: an older agent and a newer server understand each other."""

    model_config = ConfigDict(frozen=True, extra="ignore")
