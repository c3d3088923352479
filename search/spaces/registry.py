"""The spaces by name, without what trains in them: the API can list them and never loads PyTorch."""

from __future__ import annotations

from collections.abc import Callable

from devices.target import Hardware
from search.space import SearchSpace
from search.spaces import digits_cnn

SPACES: dict[str, Callable[[Hardware], SearchSpace]] = {
    digits_cnn.NAME: digits_cnn.DigitsCnn.for_hardware,
}
