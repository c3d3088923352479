"""Identifiers: a readable prefix and 128 bits, of which the first 48 are the time, in Crockford's base 32
(the layout of ULID).

Ids made by one process sort by creation even within a millisecond; between processes they sort to the
millisecond.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import Literal

Prefix = Literal["prj", "key", "tok", "dev", "agt", "tgt", "mdl", "mea", "prd", "job", "sea"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 26  # characters for 128 bits
_RANDOM_BITS = 80
_lock = threading.Lock()
_last = 0


def new_id(prefix: Prefix) -> str:
    """A fresh id such as `job_01jx3k...`: greater than every id that this process made before."""
    global _last
    fresh = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    with _lock:
        _last = fresh = max(fresh, _last + 1)
    return f"{prefix}_{_encode(fresh)}"


def _encode(number: int) -> str:
    return "".join(_ALPHABET[number >> 5 * position & 31] for position in reversed(range(_LENGTH)))
