"""A search's state as it is stored: compressed, because a long search stores it hundreds of times."""

from __future__ import annotations

import zlib

from search.loop import SearchRequest, SearchState
from service.worker.failures import WorkRefused

MEDIA_TYPE = "application/vnd.laptime.search-state+zlib"
MAX_CHECKPOINTS = 200  # of one search, about


def pack(state: SearchState) -> bytes:
    """The bytes of a state: the same for equal states."""
    return zlib.compress(state.to_bytes(), 6)


def unpack(data: bytes) -> SearchState:
    """The state again. Raises `WorkRefused` for bytes that are no packed state, `StateRejected` for another
    version's.
    """
    try:
        return SearchState.from_bytes(zlib.decompress(data))
    except zlib.error as error:
        raise WorkRefused("checkpoint_damaged", f"the search's checkpoint cannot be read: {error}") from None


def trials_per_step(request: SearchRequest) -> int:
    """How many trials to score between two checkpoints. A long search stores fewer of them, and loses a
    little more when it is killed.
    """
    return max(1, request.trial_count // MAX_CHECKPOINTS)
